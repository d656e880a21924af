"""Times CLIP's towers in PyTorch or ONNX Runtime. Called by compare.py; a line of JSON for each case."""

import argparse
import json
import resource
import sys
import time
from pathlib import Path


def cases(text):
    """`image:8,text:1` as pairs."""
    return [(kind, int(batch)) for kind, batch in (case.split(":") for case in text.split(","))]


def torch_engine(model_dir, threads, dtype):
    import torch
    from transformers import CLIPModel

    torch.set_num_threads(threads)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = CLIPModel.from_pretrained(model_dir, dtype=kind, attn_implementation="sdpa").eval()

    def features(output):
        return getattr(output, "pooler_output", output)

    def run(kind_of, batch, values):
        with torch.inference_mode():
            if kind_of == "image":
                pixels = torch.from_numpy(values).to(kind)
                return lambda: features(model.get_image_features(pixel_values=pixels)).float().numpy()
            ids = torch.from_numpy(values)
            return lambda: features(model.get_text_features(input_ids=ids)).float().numpy()

    def timed(kind_of, batch, values):
        call = run(kind_of, batch, values)

        def inside():
            with torch.inference_mode():
                return call()

        return inside

    return timed


def onnx_engine(model_dir, threads, dtype):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    sessions = {}

    def timed(kind_of, batch, values):
        suffix = "-int8" if dtype == "int8" else ""
        if kind_of not in sessions:
            path = str(Path(model_dir) / f"{kind_of}{suffix}.onnx")
            sessions[kind_of] = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session = sessions[kind_of]
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: values})[0]

    return timed


def inputs(kind_of, batch, side, pixels, model_dir, padded):
    import numpy as np

    if kind_of == "image":
        return np.fromfile(pixels, dtype="<f4").reshape(-1, 3, side, side)[:batch]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model_dir) / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=49407, length=padded)
    prompts = [f"a dorsal right hand with ring number {i}" for i in range(batch)]
    return np.array([encoded.ids for encoded in tokenizer.encode_batch(prompts)], dtype="int64")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", choices=["torch", "onnx"], required=True)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--pixels", required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    start = time.perf_counter()
    config = json.loads((Path(options.model) / "config.json").read_text())
    side = config["vision_config"]["image_size"]
    engine = {"torch": torch_engine, "onnx": onnx_engine}[options.engine]
    timed = engine(options.model, options.threads, options.dtype)
    first = None
    for kind_of, batch in cases(options.cases):
        # ONNX graphs have the fixed length that exporters give them; PyTorch is spared the filling.
        padded = 77 if options.engine == "onnx" else None
        call = timed(kind_of, batch, inputs(kind_of, batch, side, options.pixels, options.model, padded))
        features = call()
        first = first or time.perf_counter() - start
        call()
        seconds, cpu = [], []
        end = time.perf_counter() + options.seconds
        while time.perf_counter() < end or len(seconds) < 3:
            at, cpu_at = time.perf_counter(), time.process_time()
            call()
            seconds.append(time.perf_counter() - at)
            cpu.append(time.process_time() - cpu_at)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        line = {"case": f"{kind_of}:{batch}", "seconds": seconds, "cpu": cpu, "peak_mib": peak,
                "first": first, "feature": features[0].tolist()}
        print(json.dumps(line))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
