"""Times closed-set ranking by numpy and torchreid's Python ranking. Called by compare.py; one line of JSON."""

import argparse
import importlib.util
import json
import resource
import time
import warnings
from pathlib import Path

import numpy as np


def evaluate():
    """torchreid's ranking file by itself: the package imports a whole training stack."""
    package = importlib.util.find_spec("torchreid").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("rank", Path(package) / "reid" / "metrics" / "rank.py")
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module.evaluate_rank


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows")
    for name in ("--dim", "--mates", "--runs"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    evaluate_rank = evaluate()
    rows = np.fromfile(options.rows, dtype="<f4").reshape(-1, options.dim)
    half = len(rows) // 2
    labels = np.arange(half) // options.mates
    # No camera is shared, so nothing is filtered.
    query_cameras, gallery_cameras = np.zeros(half, dtype=int), np.ones(half, dtype=int)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(options.runs):
        distances = 1.0 - rows[:half] @ rows[half:].T
        cmc, mean_ap = evaluate_rank(
            distances, labels, labels, query_cameras, gallery_cameras, max_rank=half, use_cython=False)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found = {"rank1": float(cmc[0]), "map": float(mean_ap)}
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mib": peak} | found))


if __name__ == "__main__":
    main()
