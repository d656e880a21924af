"""Writes tests/golden/evaluation/*.json: figures of merit by other tools, on small data with real ties.

    pip install "numpy<2" scipy scikit-learn bob.measure==6.1.1
    pip install --no-deps torchreid==0.2.5
    python tests/reference/evaluation.py

Embeddings are made of four entries of plus or minus one half, so that similarities are multiples of a quarter,
exact in any order of summation. Scores are multiples of 1/64. torchreid's ranking is asked where nothing ties,
as its argsort is not stable; where there are ties, the plain ranking below is.
"""

import importlib.util
import json
import warnings
from pathlib import Path

import bob.measure
import numpy as np
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.stats import beta
from sklearn.metrics import average_precision_score, det_curve, roc_curve

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "evaluation"


def torchreid_rank():
    """torchreid's ranking file by itself: the package imports a whole training stack."""
    found = importlib.util.find_spec("torchreid")
    path = Path(found.submodule_search_locations[0]) / "reid" / "metrics" / "rank.py"
    spec = importlib.util.spec_from_file_location("torchreid_rank", path)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


def halves(rng, count, dim=12):
    rows = np.zeros((count, dim), dtype=np.float32)
    for row in rows:
        row[rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return rows


def near_subjects(rng, labels, dim=16):
    centres = {label: rng.normal(size=dim) for label in sorted(set(labels))}
    rows = np.stack([centres[label] + rng.normal(size=dim) for label in labels])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain_ranking(case, filtered):
    """Every probe by itself, a stable sort of the gallery, the formulas as they are written down."""
    rows, labels = case["rows"], case["labels"]
    outcomes, strangers = [], 0
    gallery, probes = case["gallery"], case["probes"]
    first = np.zeros(len(gallery))
    for probe in probes:
        kept = [
            g for g in gallery
            if not (filtered and labels[g] == labels[probe] and case["captures"][g] == case["captures"][probe])
        ]
        similarities = rows[kept] @ rows[probe]
        order = np.argsort(-similarities, kind="stable")
        hits = [rank for rank, at in enumerate(order) if labels[kept[at]] == labels[probe]]
        if not hits:
            strangers += 1
            continue
        standard = np.mean([(n + 1) / (rank + 1) for n, rank in enumerate(hits)])
        trapezoid, before, rank_before = 0.0, 1.0, 0
        hit = 0
        for rank in range(len(order)):
            if rank in hits:
                hit += 1
                precision = hit / (rank + 1)
                before = 1.0 if rank == 0 else (hit - 1) / rank
                trapezoid += (before + precision) / 2 / len(hits)
        first[hits[0]] += 1
        outcomes.append({
            "probe": probes.index(probe), "rank": hits[0] + 1, "standard": standard,
            "trapezoid": trapezoid, "inp": len(hits) / (hits[-1] + 1),
        })
    return {
        "outcomes": outcomes,
        "without_mate": strangers,
        "cmc": (np.cumsum(first) / len(outcomes)).tolist(),
        "map": float(np.mean([o["standard"] for o in outcomes])),
        "map_trapezoid": float(np.mean([o["trapezoid"] for o in outcomes])),
        "minp": float(np.mean([o["inp"] for o in outcomes])),
    }


def ranking():
    rng = np.random.default_rng(4)
    cases = {}
    for name in ("ties", "no_ties"):
        labels = rng.integers(0, 14, 90).tolist()
        gallery = list(range(0, 90, 2))
        probes = list(range(1, 90, 2))
        # Three subjects that nobody enrolled.
        for row in probes[:3]:
            labels[row] = 100 + row
        case = {
            "labels": labels, "captures": rng.integers(0, 3, 90).tolist(), "gallery": gallery, "probes": probes,
            "rows": halves(rng, 90) if name == "ties" else near_subjects(rng, labels),
        }
        expected = {"plain": plain_ranking(case, False), "filtered": plain_ranking(case, True)}
        if name == "no_ties":
            rows, labels = case["rows"], np.array(labels)
            similarities = rows[probes] @ rows[gallery].T
            gaps = np.diff(np.sort(similarities, axis=1), axis=1)
            assert gaps.min() > 1e-6, gaps.min()
            captures = np.array(case["captures"])
            for filtered, there in (("plain", np.full(90, -1)), ("filtered", captures)):
                mine = expected[filtered]
                asked = np.zeros(90, dtype=int) if filtered == "plain" else captures
                cmc, mean_ap = torchreid_rank().evaluate_rank(
                    1 - similarities, labels[probes], labels[gallery], asked[probes],
                    there[gallery], max_rank=20, use_cython=False)
                assert np.allclose(mine["cmc"][:len(cmc)], cmc, atol=1e-6)
                assert np.isclose(mine["map"], mean_ap)
                mine["torchreid_cmc"], mine["torchreid_map"] = np.asarray(cmc, dtype=float).tolist(), float(mean_ap)
            mates = labels[probes][:, None] == labels[gallery][None, :]
            expected["plain"]["sklearn_map"] = float(np.mean([
                average_precision_score(mate, row) for mate, row in zip(mates, similarities) if mate.any()]))
        case["rows"] = case["rows"].astype(float).tolist()
        cases[name] = case | {"expected": expected}
    return cases


def verification():
    rng = np.random.default_rng(9)
    cases = []
    for genuine, impostor, mean in ((40, 300, 0.6), (500, 4000, 0.35), (30, 30, 0.0), (60, 2000, 0.95)):
        def scores(count, centre):
            return np.clip(np.round(rng.normal(centre, 0.18, count) * 64) / 64, -1, 1)
        positives, negatives = scores(genuine, mean), scores(impostor, 0.0)
        truth = np.r_[np.ones(genuine), np.zeros(impostor)]
        both = np.r_[positives, negatives]
        fpr, tpr, _ = roc_curve(truth, both, drop_intermediate=False)
        eer = brentq(lambda x: 1.0 - x - interp1d(fpr, tpr)(x), 0.0, 1.0, xtol=1e-14)
        fmr, fnmr, thresholds = det_curve(truth, both)
        points = []
        for target in (1.0, 0.1, 1e-2, 1e-3, 0.0):
            union = np.unique(both)
            ok = [t for t in union if np.mean(negatives >= t) <= target]
            ours = ok[0] if ok else float(np.nextafter(np.float32(union[-1]), np.float32(2)))
            far, frr = bob.measure.farfrr(negatives, positives, ours)
            theirs = bob.measure.farfrr(negatives, positives, bob.measure.far_threshold(negatives, positives, target))
            points.append({
                "target": target, "threshold": float(ours), "fmr": far, "fnmr": frr,
                "bob_fmr": theirs[0], "bob_fnmr": theirs[1],
            })
        cases.append({
            "genuine": positives.tolist(), "impostor": negatives.tolist(), "eer": eer,
            "bob_eer": bob.measure.eer(negatives, positives), "points": points,
            "det": [{"threshold": float(t), "fmr": float(a), "fnmr": float(b)}
                    for t, a, b in zip(thresholds, fmr, fnmr)],
        })
    return cases


def open_set():
    rng = np.random.default_rng(17)
    rows = halves(rng, 120)
    labels = rng.integers(0, 20, 120).tolist()
    gallery = [row for row in range(60) if labels[row] < 14]
    probes = list(range(60, 120))
    # bob counts a tie of a mate and another against the system; here that takes a gallery that is ordered
    # so, probe by probe: only probes where it does not matter are asked.
    def strict(probe):
        mates = [rows[g] @ rows[probe] for g in gallery if labels[g] == labels[probe]]
        others = [rows[g] @ rows[probe] for g in gallery if labels[g] != labels[probe]]
        return not mates or max(mates) not in others
    probes = [probe for probe in probes if strict(probe)]
    scores = []
    for probe in probes:
        similarities = {g: float(rows[g] @ rows[probe]) for g in gallery}
        mates = [s for g, s in similarities.items() if labels[g] == labels[probe]]
        others = [s for g, s in similarities.items() if labels[g] != labels[probe]]
        scores.append((np.array(others), np.array(mates) if mates else None))
    points = [{
        "threshold": threshold, "rank": rank,
        "tpir": bob.measure.detection_identification_rate(scores, threshold, rank),
        "fpir": bob.measure.false_alarm_rate(scores, threshold),
    } for threshold in (-0.25, 0.25, 0.5, 0.75, 1.0) for rank in (1, 3, 10)]
    return {"rows": rows.astype(float).tolist(), "labels": labels, "gallery": gallery, "probes": probes,
            "mated": sum(mates is not None for _, mates in scores), "points": points}


def intervals():
    cases = []
    for errors, trials in ((0, 1), (0, 2485), (1, 20), (3, 2485), (7, 971), (485, 971), (971, 971), (970, 971),
                           (12, 1_000_000), (25_000, 25_000_000), (1, 25_000_000)):
        for level in (0.9, 0.95, 0.99):
            tail = (1 - level) / 2
            low = beta.ppf(tail, errors, trials - errors + 1) if errors else 0.0
            high = beta.ppf(1 - tail, errors + 1, trials - errors) if errors < trials else 1.0
            cases.append({"errors": errors, "trials": trials, "level": level, "low": float(low), "high": float(high)})
    return cases


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, make in (("ranking", ranking), ("verification", verification), ("open_set", open_set),
                       ("intervals", intervals)):
        (GOLDEN / f"{name}.json").write_text(json.dumps(make()) + "\n")


if __name__ == "__main__":
    main()
