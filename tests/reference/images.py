"""Golden files for decoding: small images in the flavours that no Rust encoder here writes.

    pip install "pillow==13.*" numpy
    python tests/reference/images.py

Writes tests/golden/image/decode/: each image, and decode.json with the SHA-256 of what Pillow's
convert("RGB") makes of it. JPEG decoders may differ by a few levels, so those get a PNG to compare with.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "golden" / "image" / "decode"
WIDTH, HEIGHT = 37, 26


def source():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    rgb = np.stack([x * 6 + 20, y * 9 + 10, 128 + 90 * np.sin(x / 5 + y / 7)], axis=-1)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rgb = source()
    grey = rgb.convert("L")
    rgba = rgb.copy()
    rgba.putalpha(grey)
    palette = rgb.quantize(16)
    files = {}

    def save(name, image, lossy=False, **options):
        path = OUT / name
        image.save(path, **options)
        try:
            files[name] = (np.asarray(Image.open(path).convert("RGB")), lossy)
        except OSError:
            files[name] = (None, lossy)

    save("baseline_420.jpg", rgb, True, quality=85, subsampling=2)
    save("baseline_444.jpg", rgb, True, quality=85, subsampling=0)
    save("progressive.jpg", rgb, True, quality=85, progressive=True)
    save("restarts.jpg", rgb, True, quality=85, restart_marker_blocks=2)
    save("grey.jpg", grey, True, quality=85)
    save("rgb_not_ycc.jpg", rgb, True, quality=85, keep_rgb=True)
    save("cmyk.jpg", rgb.convert("CMYK"), True, quality=85)
    save("grey.png", grey)
    save("bits_1.png", grey.convert("1"))
    save("palette.png", palette)
    save("palette_transparent.png", palette, transparency=3)
    save("alpha.png", rgba)
    save("grey_alpha.png", rgba.convert("LA"))
    save("rgb_transparent.png", rgb, transparency=(20, 10, 128))
    save("lossless.webp", rgb, lossless=True)
    save("lossless_alpha.webp", rgba, lossless=True, exact=True)
    save("lossy.webp", rgb, True, quality=80)
    save("lossy_alpha.webp", rgba, True, quality=80, exact=True)
    frames = [rgb, rgb.transpose(Image.Transpose.ROTATE_180)]
    save("animated.png", frames[0], save_all=True, append_images=frames[1:])
    save("animated.webp", frames[0], save_all=True, append_images=frames[1:])
    save("image.gif", rgb)
    save("image.bmp", rgb)
    save("image.tiff", rgb)
    save("image.avif", rgb)
    rows = []
    for name, (expected, lossy) in files.items():
        if lossy:
            Image.fromarray(expected).save(OUT / f"{name}.expected.png", optimize=True)
        rows.append({"name": name, "lossy": lossy, "sha256": hashlib.sha256(expected.tobytes()).hexdigest()})
    (OUT / "decode.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
