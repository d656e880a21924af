"""Golden files for image preprocessing: what transformers' CLIPImageProcessor makes of pictures.

    pip install "transformers==5.23.*" "pillow==13.*" numpy
    python tests/reference/preprocessing.py

Writes tests/golden/image/preprocessing.json and a PNG for each case. The inputs are formulas, which
tests/it/preprocessing.rs repeats, so no input is stored. The Pillow back end is the reference: the
torchvision one, transformers' default, is itself one level off.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

OUT = Path(__file__).resolve().parent.parent / "golden" / "image"
# Larger outputs are compared by hash only, to keep the files small.
LARGEST_STORED = 64 * 64


def picture(pattern, width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.uint32)
    if pattern == "noise":
        v = x * np.uint32(73856093) ^ y * np.uint32(19349663) ^ c * np.uint32(83492791)
        v = (v ^ (v >> np.uint32(13))) * np.uint32(0x5BD1E995)
        v = v ^ (v >> np.uint32(15))
    elif pattern == "waves":
        v = (x * (c + 3) + y * (5 - c)) // 2
    elif pattern == "edges":
        v = ((x // 3 + y // 5 + c) & 1) * 255
    return (v & 255).astype(np.uint8)


def clip(size, /, **changes):
    crop = {"height": size, "width": size}
    return {"size": {"shortest_edge": size}, "crop_size": crop, "resample": 3} | changes


def exact(height, width, /, **changes):
    return {"size": {"height": height, "width": width}, "do_center_crop": False} | changes


def pad(picture, config):
    """The `pad` framing, which transformers has no counterpart of."""
    height, width = config["size"]["height"], config["size"]["width"]
    from_height, from_width, _ = picture.shape
    scale = min(height / from_height, width / from_width)
    h = min(max(int(from_height * scale + 0.5), 1), height)
    w = min(max(int(from_width * scale + 0.5), 1), width)
    inner = np.asarray(Image.fromarray(picture).resize((w, h), config["resample"]))
    border = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    middle = np.sort(border, axis=0)[(len(border) - 1) // 2]
    out = np.broadcast_to(middle, (height, width, 3)).copy()
    top, left = (height - h) // 2, (width - w) // 2
    out[top : top + h, left : left + w] = inner
    return out


CASES = {
    "landscape_down": ("noise", 160, 120, clip(32)),
    "portrait_down": ("noise", 120, 163, clip(32)),
    "odd_ratio_down": ("edges", 331, 97, clip(33)),
    "photo_size_down": ("edges", 1600, 1200, clip(32)),
    "up": ("noise", 20, 15, clip(48)),
    "same_size": ("noise", 32, 32, clip(32)),
    "one_side_same": ("noise", 32, 57, clip(32)),
    "one_pixel": ("noise", 1, 1, clip(32)),
    "one_pixel_wide": ("waves", 1, 97, clip(32)),
    "one_pixel_high": ("waves", 97, 1, clip(32)),
    "ribbon": ("waves", 3000, 7, clip(32)),
    "smaller_than_crop": ("noise", 33, 25, clip(48, size={"shortest_edge": 19})),
    "crop_only": ("noise", 33, 61, clip(40, do_resize=False)),
    "crop_of_other_shape": ("noise", 75, 80, clip(40, crop_size={"height": 24, "width": 37})),
    "exact_then_crop": ("noise", 90, 70, clip(30, size={"height": 40, "width": 34})),
    "old_style_sizes": ("noise", 90, 70, {"size": 32, "crop_size": 30, "resample": 3}),
    "raw_samples": ("noise", 70, 90, clip(32, do_rescale=False, do_normalize=False)),
    "other_units": (
        "noise",
        70,
        90,
        clip(32, rescale_factor=0.00784313725490196, image_mean=[0.5, 0.6, 0.7], image_std=[1, 2, 0.3]),
    ),
    "squash_down": ("noise", 101, 67, exact(40, 32, resample=3)),
    "squash_up": ("edges", 11, 23, exact(40, 32, resample=2)),
    "clip_224": ("noise", 640, 480, clip(224)),
    "clip_224_up": ("noise", 150, 130, clip(224)),
    "pad_landscape": ("waves", 131, 60, exact(40, 40, resample=3, handclip_framing="pad")),
    "pad_portrait_up": ("noise", 9, 21, exact(40, 32, resample=3, handclip_framing="pad")),
}
for name, number in {"lanczos": 1, "bilinear": 2, "box": 4, "hamming": 5}.items():
    CASES[f"{name}_down"] = ("noise", 131, 90, clip(32, resample=number))
    CASES[f"{name}_up"] = ("noise", 13, 11, clip(32, resample=number))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, (pattern, width, height, config) in CASES.items():
        source = picture(pattern, width, height)
        if config.get("handclip_framing") == "pad":
            pixels = pad(source, config)
            processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
            values = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        else:
            image = Image.fromarray(source)
            values = CLIPImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]
            plain = CLIPImageProcessorPil(**config | {"do_rescale": False, "do_normalize": False})
            pixels = plain(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        pixels = np.ascontiguousarray(pixels)
        assert pixels.dtype == np.uint8
        stored = pixels.shape[0] * pixels.shape[1] <= LARGEST_STORED
        if stored:
            Image.fromarray(pixels).save(OUT / f"{name}.png", optimize=True)
        rows.append(
            {
                "name": name,
                "pattern": pattern,
                "width": width,
                "height": height,
                "config": config,
                "out_height": pixels.shape[0],
                "out_width": pixels.shape[1],
                "stored": stored,
                "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                "values_sha256": hashlib.sha256(
                    np.ascontiguousarray(values, dtype="<f4").tobytes()
                ).hexdigest(),
            }
        )
    (OUT / "preprocessing.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
