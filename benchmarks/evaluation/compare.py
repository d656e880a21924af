"""Ranking 5,000 probes in a gallery of 5,000, here and by numpy and torchreid, in turns on the same cores.

    pip install numpy && pip install --no-deps torchreid==0.2.5
    python benchmarks/evaluation/compare.py

Prints medians over rounds and the ratios of wall clock, processor time and peak memory: below 1 we are ahead.
Both must find the same Rank-1 and mAP.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SIDE, DIM = 5000, 512


def embeddings(mates):
    """Probes, then gallery: `mates` samples a subject on either side, noisy enough that ranking is not trivial."""
    rng = np.random.default_rng(mates)
    centres = rng.normal(size=(SIDE // mates, DIM))
    rows = np.tile(np.repeat(centres, mates, axis=0), (2, 1)) + 2.5 * rng.normal(size=(2 * SIDE, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


def run(command):
    output = subprocess.run(command, cwd=HERE.parent.parent, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", help="a built benchmark, instead of cargo bench")
    options = parser.parse_args()
    ours = [options.binary] if options.binary else ["cargo", "bench", "--locked", "--bench", "evaluation", "--"]
    theirs = [sys.executable, str(HERE / "torchreid_rank.py")]
    measured = (("seconds", ".2f"), ("cpu", ".2f"), ("peak_mib", ".0f"))
    names = " | ".join(f"HandCLIP {name} | torchreid {name} | ratio" for name, _ in measured)
    print(f"| mates a probe | {names} |")
    print("|---" * (1 + 3 * len(measured)) + "|")
    for mates in (1, 10):
        with tempfile.NamedTemporaryFile(suffix=".f32") as file:
            embeddings(mates).tofile(file.name)
            size = ["--rows", file.name, "--dim", str(DIM), "--mates", str(mates), "--runs", str(options.runs)]
            results = ([], [])
            for _ in range(options.rounds):
                for side, command in enumerate((ours, theirs)):
                    results[side].append(run(command + size))
                for figure in ("rank1", "map"):
                    assert abs(results[0][-1][figure] - results[1][-1][figure]) < 1e-4, results
            cells = []
            for name, form in measured:
                a, b = (statistics.median(result[name] for result in side) for side in results)
                cells += [f"{a:{form}}", f"{b:{form}}", f"{a / b:.4f}"]
            print(f"| {mates} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
