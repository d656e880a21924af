"""What things cost as there is more of them: embedding by batch and threads; search, start, fitting and memory by samples enrolled.

    pip install numpy matplotlib
    python benchmarks/growth/measure.py --svg benchmarks/growth/growth.svg

Prints tables and what straight lines through the measured points (for lists: a power) say about 1, 10 and 100 million samples, and
draws the points.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "search"))
import compare  # noqa: E402

BATCHES = (1, 2, 4, 8, 16, 32, 64)
THREADS = (1, 2)
# Of the ways to search that the benchmark tries, and their names here.
WAYS = {"lists": "lists", "bits": "bits of all", "exact": "exact"}


def run(command):
    out = subprocess.run(command, cwd=HERE.parent.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def embedding(binary, model, folder):
    """Milliseconds a picture, by threads and batch."""
    pixels = f"{folder}/pixels"
    side = 96 if model == "nano" else 224
    np.random.default_rng(1).standard_normal((max(BATCHES), 3, side, side), dtype="f4").tofile(pixels)
    cases = ",".join(f"image:{batch}" for batch in BATCHES)
    found = {}
    for threads in THREADS:
        lines = run([*binary, "--model", model, "--cases", cases, "--pixels", pixels, "--threads", str(threads), "--seconds", "2"])
        found[threads] = [1e3 * float(np.median(line["seconds"])) / batch for line, batch in zip(lines, BATCHES)]
    return found


def search(binary, rows, dim):
    """What the search benchmark says of so many rows."""
    vectors, queries = compare.vectors("clustered", rows, dim, 500)
    with tempfile.TemporaryDirectory() as folder:
        files = {"rows": vectors, "queries": queries, "truth": compare.closest(vectors, queries, 10)}
        shared = ["--dim", str(dim), "--count", "10", "--threads", "2", "--mates", "10", "--dir", f"{folder}/data"]
        for name, values in files.items():
            values.tofile(f"{folder}/{name}")
            shared += [f"--{name}", f"{folder}/{name}"]
        del vectors, queries, files
        return run([*binary, *shared])[-1]


def line(sizes, values):
    """The straight line through these points that fits best relative to each: a + b n, neither below zero."""
    sizes, values = np.array(sizes, float), np.array(values, float)
    weights = 1 / values
    a, b = np.linalg.lstsq(np.stack([weights, sizes * weights], 1), np.ones(len(sizes)), rcond=None)[0]
    if a < 0:
        a, b = 0.0, float(np.mean(values / sizes))
    return float(a), float(b)


def power(sizes, values):
    """c and p of the power c n^p through the last two points."""
    p = float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))
    return values[-1] / sizes[-1] ** p, p


def draw(path, sizes, costs, embed):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "growth"
    figure, axes = plt.subplots(1, 4, figsize=(17, 4))
    for threads, values in embed.items():
        axes[0].plot(BATCHES, values, "o-", label=f"{threads} thread{'s' if threads > 1 else ''}")
    axes[0].set(title="embedding", xlabel="pictures in a batch", ylabel="ms a picture", xscale="log", ylim=(0, None))
    axes[0].set_xticks(BATCHES, map(str, BATCHES))
    for way, name in WAYS.items():
        axes[1].plot(sizes, costs[way], "o-", label=name)
    axes[1].set(title="a search, one thread", xlabel="samples", ylabel="microseconds", xscale="log", yscale="log")
    for key, name in (("start_s", "start"), ("build_s", "fitting bits"), ("lists_s", "making lists")):
        axes[2].plot(sizes, costs[key], "o-", label=name)
    axes[2].set(title="start and preparation", xlabel="samples", ylabel="seconds", xscale="log", yscale="log")
    axes[3].plot(sizes, costs["mib"], "o-", label="templates and codes")
    axes[3].plot(sizes, [s * costs["dim"] * 4 / 2**20 for s in sizes], "--", label="templates alone")
    axes[3].set(title="memory", xlabel="samples", ylabel="MiB", xscale="log", yscale="log")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="10000,30000,100000,300000")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--search-binary", help="a built benchmark, instead of cargo bench")
    parser.add_argument("--embedding-binary", help="the same")
    parser.add_argument("--svg", help="where to draw")
    options = parser.parse_args()
    binary = lambda built, name: [built] if built else ["cargo", "bench", "--locked", "--bench", name, "--"]
    with tempfile.TemporaryDirectory() as folder:
        embed = embedding(binary(options.embedding_binary, "embedding"), options.model, folder)
    print(f"ms a picture, {options.model}\n\n| threads | " + " | ".join(map(str, BATCHES)) + " |\n|" + "---|" * (len(BATCHES) + 1))
    for threads, values in embed.items():
        print(f"| {threads} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    sizes = [int(size) for size in options.sizes.split(",")]
    costs = {"dim": options.dim}
    names = {"start_s": "start s", "build_s": "fitting s", "lists_s": "lists s", "mib": "MiB"}
    columns = [f"{name}, us (recall)" for name in WAYS.values()] + list(names.values())
    print(f"\n{options.dim} values, clustered\n\n| samples | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for size in sizes:
        found = search(binary(options.search_binary, "search"), size, options.dim)
        points = {point["way"]: point for point in found["points"]}
        for way in WAYS:
            costs.setdefault(way, []).append(points[way]["us"])
        for key in names:
            costs.setdefault(key, []).append(found[key])
        cells = [f"{points[way]['us']:.0f} ({points[way]['recall']:.4f})" for way in WAYS] + [f"{found[key]:.2f}" for key in names]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)
    for size in (1_000_000, 10_000_000, 100_000_000):
        cells = []
        for key in [*WAYS, *names]:
            if key == "lists_s":
                # The more lists there are, the more each template is compared with.
                c, p = power(sizes, costs[key])
                cells.append(f"{c * size**p:.0f}")
                continue
            a, b = line(sizes, costs[key])
            cells.append(f"{a + b * size:.0f}")
        print(f"| {size}, predicted | " + " | ".join(cells) + " |")
    if options.svg:
        draw(options.svg, sizes, costs, embed)


if __name__ == "__main__":
    main()
