"""Training steps of ViT-B/32's image tower, here and in PyTorch, in turns on the same cores.

    pip install torch transformers
    python benchmarks/train/compare.py [--threads 1 2] [--batches 8 32] [--rounds 3] [--bf16] [--ours BINARY]

Prints medians over the rounds, and the ratios of time and peak memory as medians of each round's own ratio: below 1
we are ahead. Processor seconds count all threads. They are what to look at on a machine that others use as well, with
one thread: PyTorch's threads wait for each other by spinning, which counts as computing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS = {8: 6, 32: 3}


def run(command, environment):
    output = subprocess.run(command, cwd=HERE.parent.parent, check=True, capture_output=True, text=True,
                            env={**os.environ, **environment})
    result = json.loads(output.stdout.strip().splitlines()[-1])
    return statistics.median(result["seconds"]), statistics.median(result["cpu_seconds"]), result["peak_mib"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="products of bfloat16; in PyTorch under autocast")
    parser.add_argument("--ours", help="the benchmark as cargo built it; left out, cargo runs it")
    arguments = parser.parse_args()
    ours = [arguments.ours] if arguments.ours else ["cargo", "bench", "--locked", "--bench", "train", "--"]
    theirs = [sys.executable, str(HERE / "torch_step.py")]
    print("| threads | batch | s/step | PyTorch | ratio | processor s | PyTorch | ratio | MiB | PyTorch | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for threads in arguments.threads:
        for batch in arguments.batches:
            size = ["--batch", str(batch), "--steps", str(STEPS.get(batch, 3))]
            size += ["--bf16"] * arguments.bf16
            # As `handclip train` does: freed memory is kept for the next step.
            environment = {"MIMALLOC_PURGE_DELAY": "-1", "RAYON_NUM_THREADS": str(threads)}
            rounds = [(run(ours + size, environment), run(theirs + [*size, "--threads", str(threads)], {}))
                      for _ in range(arguments.rounds)]
            cells = []
            for what, digits in ((0, 3), (1, 3), (2, 0)):
                a, b = (statistics.median(pair[side][what] for pair in rounds) for side in (0, 1))
                ratio = statistics.median(pair[0][what] / pair[1][what] for pair in rounds)
                cells += [f"{a:.{digits}f}", f"{b:.{digits}f}", f"{ratio:.2f}"]
            print(f"| {threads} | {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
