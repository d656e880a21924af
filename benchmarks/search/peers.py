"""Builds and searches an index of hnswlib, faiss, usearch or pgvector. Called by compare.py; one line of JSON."""

import argparse
import json
import time
from pathlib import Path

import numpy as np

LINKS, BUILD_WIDTH = 16, 200
# A filter admits one in so many.
SHARES = (10, 100, 1000)


def hnswlib_index(rows, threads):
    import hnswlib

    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=LINKS, ef_construction=BUILD_WIDTH)
    index.set_num_threads(threads)
    index.add_items(rows)
    index.set_num_threads(1)

    def search(query, count, width, share=1):
        index.set_ef(width)
        admits = None if share == 1 else lambda row: row % share == 0
        try:
            return index.knn_query(query[None], k=count, filter=admits)[0][0]
        except RuntimeError:
            # It cannot return fewer than it was asked for, and has not found so many.
            return []

    return search


def faiss_index(rows, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(rows.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_WIDTH
    index.add(rows)
    faiss.omp_set_num_threads(1)

    selectors = {}

    def search(query, count, width, share=1):
        if share == 1:
            index.hnsw.efSearch = width
            return index.search(query[None], count)[1][0]
        if share not in selectors:
            admitted = np.zeros(len(rows), dtype=bool)
            admitted[::share] = True
            bits = np.packbits(admitted, bitorder="little")
            selectors[share] = bits, faiss.IDSelectorBitmap(bits)
        wanted = faiss.SearchParametersHNSW(sel=selectors[share][1], efSearch=width)
        return index.search(query[None], count, params=wanted)[1][0]

    return search


def usearch_index(rows, threads):
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=LINKS, expansion_add=BUILD_WIDTH)
    index.add(np.arange(len(rows)), rows, threads=threads)

    def search(query, count, width, share=1):
        index.expansion_search = width
        return index.search(query, count, threads=1).keys

    return search


def pgvector_index(rows, threads):
    """A server of its own, over a socket of the same machine. Counted is what table and index take on the disk."""
    import atexit
    import tempfile

    import pgserver
    import psycopg

    folder = tempfile.TemporaryDirectory()
    server = pgserver.get_server(folder.name)
    atexit.register(folder.cleanup)
    atexit.register(server.cleanup)
    database = psycopg.connect(server.get_uri(), autocommit=True)
    database.execute("CREATE EXTENSION vector")
    database.execute(f"CREATE TABLE sample (id int PRIMARY KEY, template vector({rows.shape[1]}))")
    with database.cursor() as cursor, cursor.copy("COPY sample FROM STDIN") as copy:
        for at, row in enumerate(rows):
            copy.write(f"{at}\t[{','.join(map(str, row.tolist()))}]\n")
    database.execute("SET maintenance_work_mem = '4GB'")
    database.execute(f"SET max_parallel_maintenance_workers = {threads - 1}")
    index = f"USING hnsw (template vector_ip_ops) WITH (m = {LINKS}, ef_construction = {BUILD_WIDTH})"
    database.execute(f"CREATE INDEX ON sample {index}")
    database.execute("ANALYZE sample")
    database.execute("SET max_parallel_workers_per_gather = 0")
    version = database.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()[0]
    if tuple(map(int, version.split("."))) >= (0, 8):
        # It goes on until a filter has let enough through.
        database.execute("SET hnsw.iterative_scan = relaxed_order")
        database.execute(f"SET hnsw.max_scan_tuples = {len(rows)}")
    size = database.execute("SELECT pg_total_relation_size('sample')").fetchone()[0]

    def search(query, count, width, share=1):
        # It takes no more.
        database.execute(f"SET hnsw.ef_search = {min(width, 1000)}")
        admitted = f"WHERE id %% {share} = 0" if share > 1 else ""
        near = "[" + ",".join(map(str, query.tolist())) + "]"
        asked = f"SELECT id FROM sample {admitted} ORDER BY template <#> %s::vector LIMIT {count}"
        return [row[0] for row in database.execute(asked, (near,)).fetchall()]

    search.mib = size / 2**20
    return search


def resident():
    """MiB of memory that are held now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["hnswlib", "faiss", "usearch", "pgvector"], required=True)
    for name in ("--rows", "--queries", "--truth", *(f"--truth-{share}" for share in SHARES)):
        parser.add_argument(name, required=True)
    for name in ("--dim", "--threads", "--count"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    rows, queries = (np.fromfile(path, dtype="<f4").reshape(-1, options.dim) for path in (options.rows, options.queries))
    truth = np.fromfile(options.truth, dtype="<u4").reshape(len(queries), -1)[:, : options.count]
    before = resident()
    at = time.perf_counter()
    build = {"hnswlib": hnswlib_index, "faiss": faiss_index, "usearch": usearch_index, "pgvector": pgvector_index}[options.engine]
    search = build(rows, options.threads)
    built = time.perf_counter() - at
    grown = getattr(search, "mib", resident() - before)
    def measure(name, truth, width, share=1):
        found, seconds = 0, []
        for query, wanted in zip(queries, truth):
            at = time.perf_counter()
            keys = search(query, options.count, max(width, options.count), share)
            seconds.append(time.perf_counter() - at)
            found += len(set(map(int, keys)) & set(map(int, wanted)))
        return {"way": name, "recall": found / truth.size, "us": 1e6 * float(np.median(seconds))}

    points = [measure(width, truth, width) for width in (10, 20, 40, 80, 160, 320)]
    filtered = []
    if options.engine != "usearch":
        queries = queries[:100]
        for share in SHARES:
            truth = np.fromfile(getattr(options, f"truth_{share}"), dtype="<u4").reshape(-1, options.count)[:100]
            filtered += [measure(f"1/{share} width {width}", truth, width, share) for width in (160, 1280)]
    print(json.dumps({"build_s": built, "mib": grown, "points": points, "filtered": filtered}))


if __name__ == "__main__":
    main()
