"""Retrains a live server on photographs, end to end, and asks it who is who before, after, and after a rollback.

    cargo build --release --locked
    python benchmarks/deployment/end_to_end.py ../shared/data/hands11k

Needs nothing but Python: the images are linked into a temporary folder, half of the subjects to train on, the other half
enrolled and asked about. Serves nano, enrols, fine-tunes through REST, evaluates both models on the half that nothing was
trained on, passes the gate, re-embeds, swaps, and rolls back.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent.parent


def call(base, method, path, body=None, content_type="application/json"):
    """(status, answer)."""
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    request = urllib.request.Request(base + path, data, {"content-type": content_type}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def ok(base, method, path, body=None, content_type="application/json"):
    status, answer = call(base, method, path, body, content_type)
    if status >= 300:
        raise SystemExit(f"{method} {path}: {status} {answer}")
    return answer


def ended(base, job):
    while True:
        now = ok(base, "GET", f"/v1/jobs/{job['job']}")
        if now["state"] not in ("queued", "running"):
            if now["state"] != "succeeded":
                raise SystemExit(f"{now['kind']} {now['state']}: {now['error']}")
            return now
        time.sleep(0.3)


def divide(source, out, seed):
    """Two data sets in the layout of 11k Hands with nobody in both."""
    with open(source / "HandInfo.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["accessories"] == "0" and (source / "Hands" / row["imageName"]).is_file()]
    people = sorted({row["id"] for row in rows})
    random.Random(seed).shuffle(people)
    chosen = set(people[: len(people) // 2])
    sides = {"train": [r for r in rows if r["id"] in chosen], "test": [r for r in rows if r["id"] not in chosen]}
    for name, side in sides.items():
        hands = out / name / "Hands"
        hands.mkdir(parents=True)
        for row in side:
            shutil.copyfile(source / "Hands" / row["imageName"], hands / row["imageName"])
        with open(out / name / "HandInfo.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(side)
    return sides["test"]


def kind(row):
    aspect, side = row["aspectOfHand"].split()
    return urllib.parse.urlencode({"aspect": aspect, "side": side})


def rank1(base, folder, probes):
    """By the API alone: hands of the probe's kind, the best subject."""
    right, models = 0, set()
    for row in probes:
        image = (folder / row["imageName"]).read_bytes()
        answer = ok(base, "POST", f"/v1/galleries/staff:identify?limit=1&{kind(row)}", image, "image/jpeg")
        right += answer["candidates"][0]["subject"] == row["id"]
        models.add((answer["model"], answer["generation"]))
    (model, generation), = models
    return f"{100 * right / len(probes):.1f} % ({right} of {len(probes)}; {model}, generation {generation})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hands", type=Path)
    parser.add_argument("--binary", default=str(HERE / "target/release/handclip"))
    parser.add_argument("--recipe", type=Path, default=HERE / "recipes/nano-photos.toml")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        test = divide(options.hands, folder / "lab", options.seed)
        # So few subjects support an FPIR of 0.2 at best, and cannot tell five points of text recall from none.
        server = subprocess.Popen(
            [options.binary, "serve", "--data-dir", folder / "data", "--listen", "127.0.0.1:0", "--job-threads", "2",
             "--data-root", f"lab={folder / 'lab'}", "--gate-fpir", "0.2", "--gate-text-recall", "0.1"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            base = server.stdout.readline().strip().removeprefix("listening on ")
            run(base, folder / "lab" / "test" / "Hands", test, options.recipe)
        finally:
            server.terminate()
            server.wait()


def run(base, images, test, recipe):
    hands = defaultdict(list)
    for row in test:
        hands[row["id"], row["aspectOfHand"]].append(row)
    gallery = [rows[0] for rows in hands.values()]
    probes = [row for rows in hands.values() for row in rows[1:]]
    ok(base, "POST", "/v1/galleries", {"id": "staff", "retain_images": True})
    for row in gallery:
        path = f"/v1/galleries/staff/subjects/{row['id']}/samples?{kind(row)}"
        ok(base, "POST", path, (images / row["imageName"]).read_bytes(), "image/jpeg")
    print(f"enrolled {len(gallery)} images of {len({r['id'] for r in gallery})} subjects, {len(probes)} probes")
    print("before:       rank-1", rank1(base, images, probes))

    began = time.time()
    job = ok(base, "POST", "/v1/training-runs", {
        "model": "champion", "data": {"directory": "lab/train"}, "recipe": recipe.read_text(), "hold_out": 0.0,
        "name": "photos"})
    trained = ended(base, job)["output"]
    print(f"trained on {trained['images'][0]} images of {trained['subjects'][0]} subjects in {time.time() - began:.0f} s")

    job = ok(base, "POST", "/v1/evaluations", {"models": ["champion", "photos"], "data": {"directory": "lab/test"}})
    ended(base, job)
    table = ok(base, "GET", f"/v1/evaluations/{job['job']}")["gate"]
    for row in table["rows"]:
        interval = row["interval"] and f"{row['interval'][0]:+.3f} to {row['interval'][1]:+.3f}"
        figures = [row[name] if row[name] is None else round(row[name], 4) for name in ("champion", "challenger")]
        print(f"gate {row['criterion']:<12} {figures} {interval} margin {row['margin']}",
              "passed" if row["passed"] else "failed", row["reason"] or "")
    print("gate:", "passed" if table["passed"] else "failed")

    began = time.time()
    body = {"evaluation": job["job"], "soak_s": 3600}
    status, deploying = call(base, "POST", "/v1/models/photos:deploy", body)
    if status == 409 and deploying["code"] == "gate_failed":
        print("refused by the gate, with the table; deploying all the same, by an override that is kept in the history")
        deploying = ok(base, "POST", "/v1/models/photos:deploy",
                       body | {"override": {"reason": "a demonstration on 45 subjects"}})
    output = ended(base, deploying)["output"]
    shadow = output["shadow"]
    print(f"deployed in {time.time() - began:.1f} s: {output['samples']} samples re-embedded, of {shadow['probes']} enrolled "
          f"samples asked about without themselves {shadow['same_top']} have the same subject first under both models")
    print("after:        rank-1", rank1(base, images, probes))
    began = time.time()
    ok(base, "POST", "/v1/deployment:rollback", {})
    print(f"rolled back in {1000 * (time.time() - began):.0f} ms")
    print("rolled back:  rank-1", rank1(base, images, probes))


if __name__ == "__main__":
    main()
