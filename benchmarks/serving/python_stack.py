"""What one would put together otherwise: FastAPI, transformers' CLIP in PyTorch, hnswlib. Called by compare.py."""

import argparse
import io
import sys
from pathlib import Path

import hnswlib
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fill", help="templates of strangers, `[rows, dim]` little-endian f32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = CLIPModel.from_pretrained(options.model).eval()
    processor = CLIPImageProcessorPil.from_pretrained(options.model)

    def embed(files):
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            output = model.get_image_features(pixel_values=pixels)
        features = getattr(output, "pooler_output", output).numpy()
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    paths = sorted(Path(options.photos).rglob("*.jpg"))
    index = hnswlib.Index(space="cosine", dim=model.config.projection_dim)
    strangers = np.fromfile(options.fill, "<f4").reshape(-1, index.dim) if options.fill else np.empty((0, index.dim), "f4")
    index.init_index(max_elements=len(paths) + len(strangers), M=16, ef_construction=200)
    index.set_ef(64)
    for start in range(0, len(paths), 32):
        files = [path.read_bytes() for path in paths[start : start + 32]]
        index.add_items(embed(files), np.arange(start, start + len(files)))
    index.add_items(strangers, np.arange(len(paths), len(paths) + len(strangers)), num_threads=options.threads)
    app = FastAPI()

    def name(at):
        return paths[at].name if at < len(paths) else f"s{at - len(paths)}"

    def answer(data):
        labels, distances = index.knn_query(embed([data]), k=10)
        return [{"sample": name(at), "similarity": 1.0 - float(far)} for at, far in zip(labels[0], distances[0])]

    @app.post("/identify")
    async def identify(request: Request):
        data = await request.body()
        return {"candidates": await run_in_threadpool(answer, data)}

    @app.get("/ready")
    def ready():
        return {"samples": len(paths)}

    sys.stdout.flush()
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error")


if __name__ == "__main__":
    main()
