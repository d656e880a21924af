"""Twenty swaps of the model, and a training run, under a steady load, and what callers notice.

    cargo build --release --locked
    python benchmarks/deployment/swaps.py

Measures how many requests a second the server takes (identify, enrol, erase and text queries in turn, over drawn hands), then
offers 70 % of that by the clock: first with nothing else going on, then while one model takes the other's place again and
again, then while a model is fine-tuned. Prints failures, and p50 and p99 of the time from when a request was due to its
answer, before and during: only their ratios are a claim.
"""

import argparse
import json
import queue
import random
import shutil
import subprocess
import tempfile
import threading
import time
import http.client
from pathlib import Path
from urllib.parse import urlparse

HERE = Path(__file__).resolve().parent.parent.parent


class Client:
    def __init__(self, base):
        self.host = urlparse(base).netloc
        self.connection = None

    def call(self, method, path, body=None, content_type="application/json"):
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.host, timeout=60)
        self.connection.request(method, path, body, {"content-type": content_type})
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


class Load:
    """Requests by number; each kind in its turn."""

    def __init__(self, base, images):
        self.base, self.images = base, images
        self.lock = threading.Lock()
        self.enrolled, self.erased, self.generations = {}, set(), set()
        self.failures, self.number = [], 0

    def one(self, client):
        with self.lock:
            self.number += 1
            number = self.number
        image = self.images[number % len(self.images)]
        turn = number % 8
        if turn in (0, 1, 2, 3):
            with self.lock:
                gone = set(self.erased)
            status, answer = client.call("POST", "/v1/galleries/g:identify?limit=5", image, "image/jpeg")
            if status == 200:
                if any(candidate["subject"] in gone for candidate in answer["candidates"]):
                    self.failures.append("somebody who was erased was found")
                self.generations.add((answer["generation"], answer["fingerprint"]))
        elif turn in (4, 5):
            status, answer = client.call("POST", "/v1/galleries/g:search", {"prompt": "a palmar left hand", "limit": 5})
            if status == 200:
                self.generations.add((answer["generation"], answer["fingerprint"]))
        elif turn == 6 or len(self.enrolled) < 20:
            name = f"n{number}"
            status, answer = client.call("POST", f"/v1/galleries/g/subjects/{name}/samples", image, "image/jpeg")
            if status < 300:
                with self.lock:
                    self.enrolled[name] = image
        else:
            with self.lock:
                name = next(iter(self.enrolled))
                del self.enrolled[name]
            status, answer = client.call("DELETE", f"/v1/galleries/g/subjects/{name}")
            if status == 200:
                with self.lock:
                    self.erased.add(name)
        if status >= 300:
            self.failures.append((status, answer))

    def flat_out(self, seconds, clients):
        """Requests a second when everybody asks as soon as they are answered."""
        until, counts = time.monotonic() + seconds, []

        def ask():
            client, count = Client(self.base), 0
            while time.monotonic() < until:
                self.one(client)
                count += 1
            counts.append(count)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        return sum(counts) / seconds

    def steady(self, rate, during, clients):
        """Seconds from when each request was due to its answer, while `during` runs."""
        due, times, stop = queue.Queue(), [], threading.Event()

        def ask():
            client = Client(self.base)
            while True:
                at = due.get()
                if at is None:
                    return
                self.one(client)
                times.append(time.monotonic() - at)

        def clock():
            at = time.monotonic()
            while not stop.is_set():
                due.put(at)
                at += random.expovariate(rate)
                time.sleep(max(0.0, at - time.monotonic()))
            [due.put(None) for _ in range(clients)]

        threads = [threading.Thread(target=ask) for _ in range(clients)] + [threading.Thread(target=clock)]
        [thread.start() for thread in threads]
        during()
        stop.set()
        [thread.join() for thread in threads]
        return sorted(times)


def ended(client, job):
    while True:
        _, now = client.call("GET", f"/v1/jobs/{job['job']}")
        if now["state"] not in ("queued", "running"):
            assert now["state"] == "succeeded", now
            return
        time.sleep(0.05)


def swaps(base, count):
    client = Client(base)
    for _ in range(count):
        _, deployment = client.call("GET", "/v1/deployment")
        model = "nano" if deployment["live"]["name"] == "other" else "other"
        status, job = client.call("POST", f"/v1/models/{model}:deploy", {"override": {"reason": "a benchmark"}})
        assert status == 202, job
        ended(client, job)
        status, answer = client.call("POST", "/v1/deployment:retire", {})
        assert status == 200, answer


RECIPE = """
epochs = 500
validation = 0.0
[batch]
hands = 8
images = 2
[freeze]
text = true
[losses.sup_con]
temperature = 0.1
"""


def training(base, seconds):
    """Trains for so long and stops."""
    client = Client(base)
    status, job = client.call("POST", "/v1/training-runs",
                              {"data": {"directory": "lab"}, "recipe": RECIPE, "hold_out": 0.0, "name": "never"})
    assert status == 202, job
    time.sleep(seconds)
    _, now = client.call("GET", f"/v1/jobs/{job['job']}")
    print(f"trained {now['progress'] and now['progress']['done']} steps in {seconds} s beside")
    client.call("POST", f"/v1/training-runs/{job['job']}:cancel")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=str(HERE / "target/release/handclip"))
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--enrolled", type=int, default=400, help="images that each swap re-embeds")
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run([options.binary, "synth", "--subjects", str(-(-options.enrolled // 8)), "--images", "2", "--seed", "9",
                        folder / "drawn"], check=True, capture_output=True)
        images = [path.read_bytes() for path in sorted((folder / "drawn/Hands").iterdir())][: options.enrolled]
        # nano with other numbers in its preprocessing: another fingerprint, other embeddings.
        nano = HERE / "src/model/nano"
        other = folder / "other"
        other.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.copyfile(nano / name, other / name)
        text = (nano / "preprocessor_config.json").read_text()
        (other / "preprocessor_config.json").write_text(text.replace("0.4814", "0.3"))
        subprocess.run([options.binary, "model", "import", "other", other, "--data-dir", folder / "data"], check=True,
                       capture_output=True)
        server = subprocess.Popen([options.binary, "serve", "--data-dir", folder / "data", "--listen", "127.0.0.1:0",
                                   "--data-root", f"lab={folder / 'drawn'}"],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            base = server.stdout.readline().strip().removeprefix("listening on ")
            measure(base, images, options)
        finally:
            server.terminate()
            server.wait()


def measure(base, images, options):
    client = Client(base)
    client.call("POST", "/v1/galleries", {"id": "g", "retain_images": True})
    for number, image in enumerate(images):
        status, answer = client.call("POST", f"/v1/galleries/g/subjects/s{number}/samples", image, "image/jpeg")
        assert status < 300, answer
    load = Load(base, images)
    load.flat_out(3, options.clients)
    capacity = load.flat_out(10, options.clients)
    rate = 0.7 * capacity
    print(f"capacity {capacity:.0f} requests a second; offering {rate:.0f}")
    quiet = load.steady(rate, lambda: time.sleep(20), options.clients * 4)
    began = time.monotonic()
    busy = load.steady(rate, lambda: swaps(base, options.swaps), options.clients * 4)
    seconds = time.monotonic() - began
    beside = load.steady(rate, lambda: training(base, 20), options.clients * 4)
    part = lambda times, share: 1000 * times[min(len(times) - 1, int(share * len(times)))]
    phases = (("before", quiet), (f"during {options.swaps} swaps", busy), ("while a model is trained", beside))
    for name, times in phases:
        print(f"{name}: {len(times)} requests, p50 {part(times, 0.5):.1f} ms, p99 {part(times, 0.99):.1f} ms, "
              f"longest {1000 * times[-1]:.0f} ms")
    print(f"ratio of p99: {part(busy, 0.99) / part(quiet, 0.99):.2f} during swaps, "
          f"{part(beside, 0.99) / part(quiet, 0.99):.2f} beside training; {seconds / options.swaps:.1f} s a swap of {len(images)} images")
    _, gallery = Client(base).call("GET", "/v1/galleries/g")
    expected = len(images) + len(load.enrolled)
    print(f"failed: {len(load.failures)} {load.failures[:3]}; samples {gallery['samples']}, acknowledged {expected}; "
          f"{len(load.generations)} generations answered")
    pairs = {}
    assert all(pairs.setdefault(generation, fingerprint) == fingerprint for generation, fingerprint in load.generations)
    assert not load.failures and gallery["samples"] == expected


if __name__ == "__main__":
    main()
