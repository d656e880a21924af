"""The gallery's search beside hnswlib, faiss and usearch: the same vectors, probes and cores, in turns.

    pip install numpy hnswlib faiss-cpu usearch
    python benchmarks/search/compare.py --rows 100000

Vectors lie in clusters of ten, as a person's images do. Recall is against exact search. A gallery's template is also durable,
sealed, filtered and removable; the peers' are arrays in memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MATES = 10


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2, help="for building; searches take one")
    parser.add_argument("--binary", help="a built benchmark, instead of cargo bench")
    options = parser.parse_args()
    ours = [options.binary] if options.binary else ["cargo", "bench", "--locked", "--bench", "search", "--"]
    rng = np.random.default_rng(2)
    centres = rng.uniform(-0.5, 0.5, size=(options.rows // MATES, options.dim))
    rows = np.repeat(centres, MATES, axis=0) + 0.7 * rng.uniform(-0.5, 0.5, size=(options.rows, options.dim))
    of = rng.integers(0, len(centres), size=options.queries)
    queries = centres[of] + 0.7 * rng.uniform(-0.5, 0.5, size=(options.queries, options.dim))
    rows, queries = ((v / np.linalg.norm(v, axis=1, keepdims=True)).astype("<f4") for v in (rows, queries))
    truth = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, : options.count].astype("<u4")
    with tempfile.TemporaryDirectory() as folder:
        shared = ["--dim", str(options.dim), "--count", str(options.count), "--threads", str(options.threads)]
        for name, values in (("rows", rows), ("queries", queries), ("truth", truth)):
            values.tofile(f"{folder}/{name}")
            shared += [f"--{name}", f"{folder}/{name}"]
        print("| engine | build s | MiB (ours: most the process held) | width: recall, microseconds a query |\n|---|---|---|---|")
        for engine in ("HandCLIP", "hnswlib", "faiss", "usearch"):
            if engine == "HandCLIP":
                command = [*ours, *shared, "--mates", str(MATES), "--dir", f"{folder}/data"]
            else:
                command = [sys.executable, str(HERE / "peers.py"), "--engine", engine, *shared]
            run = subprocess.run(command, cwd=HERE.parent.parent, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(run.stdout.splitlines()[-1])
            name = {False: "as it is", True: "exact"}
            points = [f"{p.get('width', name.get(p.get('exact')))}: {p['recall']:.4f}, {p['us']:.0f}" for p in found["points"]]
            memory = found.get("mib", found.get("peak_mib"))
            print(f"| {engine} | {found['build_s']:.0f} | {memory:.0f} | {'; '.join(points)} |", flush=True)
            if engine == "HandCLIP":
                print(f"| | | | enrolled, durable, in {found['enrol_s']:.0f} s; opened again in {found['start_s']:.1f} s |")


if __name__ == "__main__":
    main()
