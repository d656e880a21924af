"""Identification over HTTP here and by FastAPI, transformers and hnswlib: the same pictures, model and cores, in turns.

    apt-get install wrk
    pip install torch transformers fastapi uvicorn hnswlib pillow
    python benchmarks/serving/compare.py --binary target/release/handclip                  # nano
    python benchmarks/serving/compare.py --binary target/release/handclip --model MODELS/b32 [--device cpu:bf16]
    python benchmarks/serving/compare.py --binary target/release/handclip --fill 100000    # strangers' templates in the gallery too

    pip install "infinity-emb[torch,vision,server]" aiohttp    # in an environment of its own: it wants older libraries
    python benchmarks/serving/compare.py --binary target/release/handclip --model MODELS/b32 --infinity ENVIRONMENT/bin/infinity_emb

The last compares embeddings alone, with Infinity, which takes pictures in base64 inside JSON. Prints requests a second, p50 and p99 for each number of clients, and the memory of each server. `batch 1` is HandCLIP without
batching.
"""

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "search"))
import compare as search  # noqa: E402

NANO = HERE.parent.parent / "src" / "model" / "nano"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(url, process):
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"a server ended: {process.args}")
            time.sleep(0.2)


def memory(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: int(line.split()[1]) // 1024 for line in lines for key in ("VmRSS", "VmHWM") if line.startswith(key)}


class Stack:
    def __init__(self, name, command, ready, path, sent):
        self.name, self.command, self.ready, self.path = name, command, ready, path
        self.pictures, self.kind = sent
        self.results, self.rss, self.start = {}, [], []

    def run(self, clients, seconds):
        port = free_port()
        command = [part.replace("PORT", str(port)) for part in self.command]
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait(f"http://127.0.0.1:{port}{self.ready}", process)
            self.start.append(time.perf_counter() - begun)
            url = f"http://127.0.0.1:{port}{self.path}"
            for number in clients:
                wrk = ["wrk", "-t1", f"-c{number}", f"-d{seconds}s", "--timeout", "30s", "-s", str(HERE / "post.lua"), url]
                output = subprocess.run(wrk, check=True, capture_output=True, text=True,
                                        env={**os.environ, "PICTURES": self.pictures, "CONTENT_TYPE": self.kind}).stdout
                self.results.setdefault(number, []).append(json.loads(output.splitlines()[-1]))
            self.rss.append(memory(process.pid)["VmRSS"])
        finally:
            process.terminate()
            process.wait()


def in_json(listed):
    """The same pictures as Infinity takes them; names the list of them."""
    bodies = []
    for path in map(Path, listed.read_text().splitlines()):
        picture = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
        bodies.append(path.with_suffix(".json"))
        bodies[-1].write_text(json.dumps({"model": "m", "input": [picture], "modality": "image"}))
    other = listed.with_suffix(".json")
    other.write_text("".join(f"{body}\n" for body in bodies))
    return str(other)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cpu", help="ours: cpu, cpu:bf16 or cpu:int8")
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subjects", type=int, default=125, help="people enrolled, with eight pictures each")
    parser.add_argument("--size", default="480", help="side of a picture, in pixels")
    parser.add_argument("--fill", type=int, default=0, help="templates of strangers that both galleries hold beside those of the pictures")
    parser.add_argument("--search-binary", help="the built search benchmark, which fills ours, instead of cargo bench")
    parser.add_argument("--infinity", help="the command of Infinity, for embeddings alone")
    options = parser.parse_args()
    os.environ["HANDCLIP_MASTER_KEY"] = "5a" * 32
    clients = [int(number) for number in options.clients.split(",")]
    binary = str(Path(options.binary).resolve())
    with tempfile.TemporaryDirectory() as folder:
        photos, data = f"{folder}/photos", f"{folder}/data"
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([binary, "synth", "--subjects", str(options.subjects), "--images", "2", "--seed", "3",
                        "--size", options.size, photos], **quiet)
        listed = Path(folder) / "pictures"
        listed.write_text("".join(f"{path}\n" for path in sorted(Path(photos).rglob("*.jpg"))[:64]))
        model = ["--model", options.model, "--device", options.device]
        subprocess.run([binary, "enrol", "--data-dir", data, "--gallery", "g", "--create", *model, photos], **quiet)
        python = [sys.executable, str(HERE / "python_stack.py"), "--port", "PORT", "--photos", photos,
                  "--model", str(NANO) if options.model == "nano" else options.model]
        if options.fill:
            config = json.loads((NANO if options.model == "nano" else Path(options.model)).joinpath("config.json").read_text())
            strangers, _ = search.vectors("clustered", options.fill, config["projection_dim"], 1)
            strangers.tofile(f"{folder}/strangers")
            filler = [options.search_binary] if options.search_binary else ["cargo", "bench", "--locked", "--bench", "search", "--"]
            subprocess.run([*filler, "--rows", f"{folder}/strangers", "--dim", str(strangers.shape[1]), "--dir", data],
                           cwd=HERE.parent.parent, **quiet)
            python += ["--fill", f"{folder}/strangers"]
        serve = [binary, "serve", "--data-dir", data, "--listen", "127.0.0.1:PORT", *model]
        files = str(listed), "image/jpeg"
        path = "/v1/embeddings" if options.infinity else "/v1/galleries/g:identify?limit=10"
        peer = Stack("Python", python, "/ready", "/identify", files)
        if options.infinity:
            command = [options.infinity, "v2", "--model-id", str(NANO) if options.model == "nano" else options.model, "--served-model-name", "m",
                       "--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--host", "127.0.0.1", "--port", "PORT"]
            peer = Stack("Infinity", command, "/health", "/embeddings", (in_json(listed), "application/json"))
        stacks = [
            Stack("HandCLIP", serve, "/readyz", path, files),
            Stack("batch 1", [*serve, "--max-batch", "1"], "/readyz", path, files),
            peer,
        ]
        for _ in range(options.rounds):
            for stack in stacks:
                stack.run(clients, options.seconds)
    report(clients, stacks)


def report(clients, stacks):
    def median(stack, number, figure):
        return statistics.median(figure(result) for result in stack.results[number])

    print("| clients | " + " | ".join(f"{s.name} req/s | p50 ms | p99 ms" for s in stacks) + " | req/s, ours to the peer's |")
    print("|---" * (2 + 3 * len(stacks)) + "|")
    for number in clients:
        rates = [median(stack, number, lambda r: r["requests"] / r["seconds"]) for stack in stacks]
        cells = []
        for stack, rate in zip(stacks, rates):
            p50, p99 = (median(stack, number, lambda r, n=name: r[n]) for name in ("p50_ms", "p99_ms"))
            cells.append(f"{rate:.0f} | {p50:.1f} | {p99:.1f}")
        print(f"| {number} | {' | '.join(cells)} | {rates[0] / rates[-1]:.1f} |")
    for stack in stacks:
        failed = sum(result["failed"] for results in stack.results.values() for result in results)
        print(f"\n{stack.name}: {statistics.median(stack.rss):.0f} MiB, ready in {statistics.median(stack.start):.1f} s, {failed} failed")


if __name__ == "__main__":
    main()
