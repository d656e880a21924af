"""Training steps of ViT-B/32's image tower, here and in PyTorch, in turns on the same cores.

    pip install torch transformers
    python benchmarks/train/compare.py

Prints medians and the ratios of time and peak memory: below 1 we are ahead.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROUNDS = 3


def run(command):
    output = subprocess.run(command, cwd=HERE.parent.parent, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.strip().splitlines()[-1])


def main():
    ours = ["cargo", "bench", "--locked", "--bench", "train", "--"]
    theirs = [sys.executable, str(HERE / "torch_step.py")]
    print("| batch | HandCLIP s/step | PyTorch s/step | time | HandCLIP MiB | PyTorch MiB | memory |")
    print("|---|---|---|---|---|---|---|")
    for batch, steps in ((8, 6), (32, 3)):
        size = ["--batch", str(batch), "--steps", str(steps)]
        seconds, peaks = ([], []), ([], [])
        for _ in range(ROUNDS):
            for side, command in enumerate((ours, theirs)):
                result = run(command + size)
                seconds[side].extend(result["seconds"])
                peaks[side].append(result["peak_mib"])
        a, b = (statistics.median(times) for times in seconds)
        m, n = (statistics.median(mib) for mib in peaks)
        print(f"| {batch} | {a:.3f} | {b:.3f} | {a / b:.2f} | {m:.0f} | {n:.0f} | {m / n:.2f} |", flush=True)


if __name__ == "__main__":
    main()
