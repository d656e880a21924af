"""Times a JPEG's way to CLIP's pixels in Pillow and transformers. Called by compare.py; one line of JSON."""

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    data = Path(options.image).read_bytes()
    processor = CLIPImageProcessorPil()
    decode, preprocess, whole = [], [], []
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(whole) < 3:
        at = time.perf_counter()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.load()
        opened = time.perf_counter() - at
        processor(images=image, return_tensors="np")
        seconds = time.perf_counter() - at
        decode.append(opened)
        preprocess.append(seconds - opened)
        whole.append(seconds)
    # The 8-bit picture before it is normalised.
    image = Image.open(io.BytesIO(data)).convert("RGB")
    plain = CLIPImageProcessorPil(do_normalize=False, do_rescale=False)
    framed = np.asarray(plain(images=image, return_tensors="np")["pixel_values"][0]).astype(int)
    total = int(np.asarray(image).astype(np.int64).sum())
    print(json.dumps({"decode": decode, "preprocess": preprocess, "whole": whole, "decoded_sum": total,
                      "framed": framed.transpose(1, 2, 0).flatten().tolist()}))


if __name__ == "__main__":
    main()
