"""Training steps of ViT-B's image tower on a CUDA device in bf16, here and in PyTorch, in turns on the same card.

    cargo bench --features cuda --bench train --no-run      (or scripts/cuda-build.sh --bench train)
    python benchmarks/train/cuda.py --ours BINARY [--patches 32 16] [--batches 64 256] [--rounds 3] [--f32]

PyTorch runs under autocast with the fused AdamW, once as it is and once compiled. Prints medians over the rounds and
what share of PyTorch's images a second we reach: above 1 we are ahead.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

STEPS = 20


def seconds(command):
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return statistics.median(json.loads(output.stdout.strip().splitlines()[-1])["seconds"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the benchmark as cargo built it, with the feature cuda")
    parser.add_argument("--patches", type=int, nargs="+", default=[32, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--f32", action="store_true")
    arguments = parser.parse_args()
    theirs = [sys.executable, str(Path(__file__).with_name("torch_step.py"))]
    print("| patch | batch | images/s | PyTorch | share | compiled | share |")
    print("|---|---|---|---|---|---|---|")
    for patch in arguments.patches:
        for batch in arguments.batches:
            size = ["--batch", str(batch), "--steps", str(STEPS), "--patch", str(patch), "--device", "cuda:0"]
            size += [] if arguments.f32 else ["--bf16"]
            rounds = [[seconds([arguments.ours, *size]), seconds(theirs + size), seconds(theirs + size + ["--compile"])]
                      for _ in range(arguments.rounds)]
            ours, eager, compiled = (batch / statistics.median(times) for times in zip(*rounds))
            print(f"| {patch} | {batch} | {ours:.0f} | {eager:.0f} | {ours / eager:.2f} | {compiled:.0f} | "
                  f"{ours / compiled:.2f} |", flush=True)


if __name__ == "__main__":
    main()
