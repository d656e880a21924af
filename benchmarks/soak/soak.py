"""A server under mixed load for a while, then under more than it can take: does it grow, leak descriptors, answer wrongly,
or stay slow?

    cargo build --release --locked
    python benchmarks/soak/soak.py --minutes 60

Needs Python 3 alone. Ends with an error where a promise is broken: an answer that is none of those allowed, memory that grows by more
than --growth of its size an hour (in less than 20 minutes: by 48 MiB) and what is stored meanwhile, descriptors that grow, accepted requests that take over twice as long under five times as
many clients, or a server that is not back to normal five seconds after. Prints what it saw as JSON.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

# Requests that the server answers at a time, and clients that it is asked by at first.
CAPACITY = 16
# Shorter runs cannot tell growth from warming up: the store keeps some megabytes of what it read.
WARM_MINUTES = 20
# Every change leaves two lines in the audit log, and an erasure a tombstone; the store remembers where each record lies (measured: 83 to
# 100 bytes).
BYTES_A_CHANGE = 128


class Client:
    def __init__(self, port):
        self.port = port
        self.connection = None

    def ask(self, method, path, body=None, kind="application/json"):
        """Status, headers and body; a connection that the server closed is opened anew."""
        for attempt in range(2):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                self.connection.request(method, path, body, {"content-type": kind} if body else {})
                answer = self.connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except (http.client.HTTPException, ConnectionError):
                self.connection = None
                if attempt:
                    raise


def mixed(port, images, number, stop, counts, errors):
    """One of the clients: recognises, enrols, erases."""
    rng = random.Random(number)
    client = Client(port)
    mine = []
    turn = 0
    while not stop.is_set():
        turn += 1
        image = rng.choice(images)
        draw = rng.random()
        if draw < 0.55:
            what = client.ask("POST", "/v1/galleries/soak:identify", image, "image/jpeg")
        elif draw < 0.7:
            prompt = json.dumps({"prompt": rng.choice(["a left hand", "a palmar right hand", "a ring"])})
            what = client.ask("POST", "/v1/galleries/soak:search", prompt)
        elif draw < 0.75:
            what = client.ask("GET", "/v1/galleries/soak/subjects?limit=100")
        elif draw < 0.9 or not mine:
            subject = f"c{number}-{turn}"
            path = f"/v1/galleries/soak/subjects/{subject}/samples"
            what = client.ask("POST", path, image, "image/jpeg")
            if what[0] == 201:
                mine.append(subject)
        else:
            subject = mine.pop(rng.randrange(len(mine)))
            what = client.ask("DELETE", f"/v1/galleries/soak/subjects/{subject}")
        # So that the gallery stays about as large as it is.
        while len(mine) > 40:
            client.ask("DELETE", f"/v1/galleries/soak/subjects/{mine.pop(0)}")
        counts[what[0]] = counts.get(what[0], 0) + 1
        counts["changes"] = counts.get("changes", 0) + (draw >= 0.75)
        if what[0] not in (200, 201, 429, 503):
            errors.append((what[0], what[2][:300].decode(errors="replace")))


def hammer(port, image, until, times, refused, errors):
    """One of the clients of the second part: as fast as it goes. Keeps what the server itself measured."""
    client = Client(port)
    while time.monotonic() < until:
        status, headers, body = client.ask("POST", "/v1/galleries/soak:identify", image, "image/jpeg")
        if status == 200:
            times.append(json.loads(body)["timings"]["total_us"])
        elif status in (429, 503) and headers.get("retry-after"):
            refused.append(status)
            time.sleep(0.02)
        else:
            errors.append((status, body[:300].decode(errors="replace")))


def burst(port, image, clients, seconds):
    times, refused, errors = [], [], []
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=hammer, args=(port, image, until, times, refused, errors))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    return {
        "clients": clients,
        "accepted": len(times),
        "refused": len(refused),
        "p50_ms": times[len(times) // 2] / 1e3,
        "p99_ms": times[len(times) * 99 // 100] / 1e3,
    }, errors


def slope(samples):
    """Least squares: kilobytes a second."""
    n = len(samples)
    mean_t = sum(t for t, _ in samples) / n
    mean_v = sum(v for _, v in samples) / n
    above = sum((t - mean_t) * (v - mean_v) for t, v in samples)
    below = sum((t - mean_t) ** 2 for t, _ in samples)
    return above / below


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--growth", type=float, default=0.1, help="of the memory, an hour")
    parser.add_argument("--without-overload", action="store_true", help="nothing whose outcome depends on how fast the machine is")
    parser.add_argument("--handclip", default="target/release/handclip")
    options = parser.parse_args()
    if not os.path.isdir("/proc/self"):
        sys.exit("memory and descriptors are read from /proc, which is not here")

    with tempfile.TemporaryDirectory() as folder:
        hands = pathlib.Path(folder) / "hands"
        drawn = [options.handclip, "synth", "--subjects", "20", "--images", "2", "--seed", "5", str(hands)]
        subprocess.run(drawn, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        images = [path.read_bytes() for path in sorted(hands.glob("Hands/*.jpg"))]
        server = subprocess.Popen(
            [options.handclip, "serve", "--data-dir", str(pathlib.Path(folder) / "data"), "--listen", "127.0.0.1:0",
             "--max-requests", str(CAPACITY)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            port = int(server.stdout.readline().rsplit(":", 1)[1])
            report, broken = run(options, server.pid, port, images)
        finally:
            server.terminate()
            code = server.wait(60)
        if code != 0:
            broken.append(f"the server ended with {code}")
        report["broken"] = broken
        print(json.dumps(report, indent=2))
        sys.exit(1 if broken else 0)


def memory(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS:")).split()[1])


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def run(options, pid, port, images):
    broken = []
    client = Client(port)
    assert client.ask("POST", "/v1/galleries", json.dumps({"id": "soak"}))[0] == 201
    stop, counts, errors = threading.Event(), {}, []
    threads = [
        threading.Thread(target=mixed, args=(port, images, n, stop, counts, errors), daemon=True)
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    samples, changes = [], []
    while time.monotonic() - begun < options.minutes * 60:
        time.sleep(2)
        samples.append((time.monotonic() - begun, memory(pid), descriptors(pid)))
        changes.append(counts.get("changes", 0))
    stop.set()
    for thread in threads:
        thread.join(60)
    # The first half is warming up.
    half = samples[len(samples) // 2:]
    changed = changes[-1] - changes[len(changes) // 2]
    seconds = half[-1][0] - half[0][0]
    grown_per_s = slope([(t, v) for t, v, _ in half])
    growth = (grown_per_s - changed / seconds * BYTES_A_CHANGE / 1024) * 3600 / half[0][1]
    report = {
        "minutes": options.minutes,
        "answers": {status: count for status, count in counts.items() if status != "changes"},
        "memory_mib": {"after_half": half[0][1] // 1024, "at_the_end": half[-1][1] // 1024},
        "memory_mib_in_twelfths": [samples[(len(samples) - 1) * k // 12][1] // 1024 for k in range(13)],
        "growth_of_memory_mib_an_hour": round(grown_per_s * 3600 / 1024, 1),
        "changes_in_second_half": changed,
        "growth_beyond_what_is_stored": round(growth, 3),
        "descriptors": {"after_half": half[0][2], "at_the_end": half[-1][2]},
    }
    if errors:
        broken.append(f"answers that are none: {errors[:3]}")
    grown = half[-1][1] - half[0][1]
    warming = options.minutes < WARM_MINUTES
    if grown > 48 * 1024 if warming else growth > options.growth and grown > 8 * 1024:
        broken.append(f"memory grows by {growth:.0%} an hour beyond what is stored")
    if half[-1][2] > half[0][2] + 4:
        broken.append("descriptors grow")

    if options.without_overload:
        return report, broken
    before = memory(pid)
    normal, wrong = burst(port, images[0], CAPACITY, 8)
    over, more = burst(port, images[0], 5 * CAPACITY, 8)
    after_load = memory(pid)
    time.sleep(5)
    again, last = burst(port, images[0], CAPACITY, 4)
    report["at_capacity"], report["five_times"], report["five_seconds_after"] = normal, over, again
    report["memory_mib"]["before_overload"] = before // 1024
    report["memory_mib"]["after_overload"] = after_load // 1024
    if wrong + more + last:
        broken.append(f"answers that are none: {(wrong + more + last)[:3]}")
    if not over["refused"]:
        broken.append("nobody was refused: this was no overload")
    if over["p99_ms"] > 2 * normal["p99_ms"]:
        broken.append("what was accepted took more than twice as long")
    if again["p50_ms"] > 1.5 * normal["p50_ms"]:
        broken.append("it is not back to normal after five seconds")
    if after_load > before * 1.3 + 32 * 1024:
        broken.append("memory grows under overload")
    return report, broken


if __name__ == "__main__":
    main()
