"""A 1600x1200 JPEG's way to the pixels that CLIP takes, here and in Pillow and transformers, in turns on one core.

    pip install torch transformers pillow
    python benchmarks/pixels/compare.py

Prints medians and ratios of theirs to ours: above 1 we are ahead; and how far the 8-bit pixels are apart.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

HERE = Path(__file__).resolve().parent


def picture(path):
    """Something like a photograph: smooth shapes, edges, and the noise of a sensor."""
    rng = np.random.default_rng(4)
    small = Image.fromarray(rng.integers(0, 256, size=(60, 80, 3), dtype=np.uint8))
    image = np.asarray(small.resize((1600, 1200), Image.BICUBIC).filter(ImageFilter.GaussianBlur(3))).astype(float)
    image[300:900, 500:1100] *= 0.6
    image += rng.normal(scale=4, size=image.shape)
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=92)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", help="another JPEG")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", default="2")
    parser.add_argument("--binary", help="a built benchmark, instead of cargo bench")
    options = parser.parse_args()
    bench = [options.binary] if options.binary else ["cargo", "bench", "--locked", "--bench", "pixels", "--"]
    with tempfile.TemporaryDirectory() as folder:
        path = options.image or str(Path(folder) / "picture.jpg")
        if not options.image:
            picture(path)
        commands = {"HandCLIP": bench, "Pillow": [sys.executable, str(HERE / "pil.py")]}
        results = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                command = [*command, "--image", path, "--seconds", options.seconds]
                run = subprocess.run(command, cwd=HERE.parent.parent, check=True, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL, text=True)
                results[name].append(json.loads(run.stdout.splitlines()[-1]))
    print("| | HandCLIP ms | Pillow ms | ratio |\n|---|---|---|---|")
    for part in ("decode", "preprocess", "whole"):
        ours, theirs = (1e3 * statistics.median(v for r in results[n] for v in r[part]) for n in commands)
        print(f"| {part} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |")
    ours, theirs = (np.array(results[name][0]["framed"]) for name in commands)
    apart = np.abs(ours - theirs)
    print(f"\nframed pixels apart: {apart.max()} at most, {apart.mean():.4f} on average")


if __name__ == "__main__":
    main()
