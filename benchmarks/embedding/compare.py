"""A CLIP model's towers here, in PyTorch and in ONNX Runtime, in turns on the same cores.

    pip install torch transformers onnx onnxscript onnxruntime
    python benchmarks/embedding/make_model.py b32 MODELS/b32
    python benchmarks/embedding/compare.py MODELS/b32

Prints medians of wall clock over all calls of all rounds, and ratios of theirs to ours: above 1 we are ahead. The cosine is that of
the first embedding with PyTorch's in f32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OURS = ("f32", "bf16", "int8")
PEERS = [("torch", "f32"), ("torch", "bf16"), ("onnx", "f32"), ("onnx", "int8")]


def run(command, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    root = HERE.parent.parent
    output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True, env=environment)
    lines = [json.loads(line) for line in output.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


def cosine(a, b):
    a, b = np.array(a), np.array(b)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--cases", default="image:1,image:8,image:32,text:1,text:8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", default="2")
    parser.add_argument("--binary", help="a built benchmark, instead of cargo bench")
    options = parser.parse_args()
    bench = [options.binary] if options.binary else ["cargo", "bench", "--locked", "--bench", "embedding", "--"]
    model = str(Path(options.model).resolve())
    side = json.loads((Path(model) / "config.json").read_text())["vision_config"]["image_size"]
    with tempfile.NamedTemporaryFile(suffix=".f32") as pixels:
        rng = np.random.default_rng(1)
        rng.normal(size=(32, 3, side, side)).astype("<f4").tofile(pixels.name)
        for threads in map(int, options.threads.split(",")):
            shared = ["--model", model, "--pixels", pixels.name, "--cases", options.cases,
                      "--threads", str(threads), "--seconds", options.seconds]
            engines = {("HandCLIP", dtype): [*bench, *shared, "--dtype", dtype] for dtype in OURS}
            for engine, dtype in PEERS:
                script = [sys.executable, str(HERE / "peers.py"), "--engine", engine, "--dtype", dtype]
                engines[engine, dtype] = [*script, *shared]
            results = {name: [] for name in engines}
            for _ in range(options.rounds):
                for name, command in engines.items():
                    results[name].append(run(command, threads))
            report(threads, options.cases.split(","), results)


def report(threads, cases, results):
    def median(name, case, figure):
        values = [value for result in results[name] for value in np.atleast_1d(result[case][figure])]
        return statistics.median(values)

    names = list(results)
    print(f"\n{threads} thread{'s' if threads > 1 else ''}; ms a call, and times ours in the same precision")
    print("| case | " + " | ".join(f"{engine} {dtype}" for engine, dtype in names) + " | cosine to torch f32: f32, bf16, int8; onnx int8 |")
    print("|---" * (2 + len(names)) + "|")
    for case in cases:
        cells = []
        for name in names:
            wall = median(name, case, "seconds")
            ratio = "" if name[0] == "HandCLIP" else f" ({wall / median(('HandCLIP', name[1]), case, 'seconds'):.2f})"
            cells.append(f"{1e3 * wall:.1f}{ratio}")
        reference = results["torch", "f32"][0][case]["feature"]
        f32, bf16, int8, peer = (cosine(results[name][0][case]["feature"], reference) for name in
                                 [*(("HandCLIP", dtype) for dtype in OURS), ("onnx", "int8")])
        print(f"| {case} | {' | '.join(cells)} | {f32:.7f}, {bf16:.6f}, {int8:.5f}; {peer:.5f} |", flush=True)
    peak = [f"{max(line['peak_mib'] for result in results[name] for line in result.values())}" for name in names]
    first = [f"{median(name, cases[0], 'first'):.2f}" for name in names]
    print(f"| peak MiB | {' | '.join(peak)} | |")
    print(f"| s to the first embedding | {' | '.join(first)} | |")


if __name__ == "__main__":
    main()
