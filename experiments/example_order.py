"""Does it pay to score a candidate first on the rows that have told earlier candidates apart? On recorded scores.

    uv run python -m experiments.example_order

A race compares a candidate with the incumbent on a part of the dev rows. Three ways to choose that part, after some
candidates have been scored on all rows: at random; the rows first on which those candidates differed most, which is
the sharpest look and is biased towards such rows; and at random with chances that grow with how much they differed,
each row weighted by the inverse of its chance, which keeps the comparison unbiased. Against the difference on all rows,
asked is how well the part tells better candidates from worse ones wherever the line is drawn (AUC), how many better
ones look worse, how many worse ones look better, and how far the difference is off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from experiments.benchmark.tasks import ROOT

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
N_KNOWN = 8  # candidates that were scored on all rows before
N_ROWS = (10, 20, 40)
SMALLEST = 0.02  # difference, on all rows, whose sign should be found


class Part(NamedTuple):
    """Rows of a race, shape [n], and what each of them counts, shape [n]."""

    rows: IntArray
    weights: FloatArray


def spread(known: FloatArray) -> FloatArray:
    """How much candidates [k, n] differ on each row, shape [n]; with one more of each kind, so that no row counts 0."""
    share = (known.sum(axis=0) + 1) / (len(known) + 2)
    found: FloatArray = np.sqrt(share * (1 - share))
    return found


def at_random(known: FloatArray, n: int, rng: np.random.Generator) -> Part:
    return Part(rng.permutation(known.shape[1])[:n], np.ones(n))


def most_telling(known: FloatArray, n: int, rng: np.random.Generator) -> Part:
    order = rng.permutation(known.shape[1])
    return Part(order[np.argsort(-spread(known)[order], kind="stable")][:n], np.ones(n))


def weighted(known: FloatArray, n: int, rng: np.random.Generator) -> Part:
    """Systematic sampling: row j is in with chance n * s_j / sum(s), at most 1, and weighs one over it."""
    wish = spread(known)
    chance = np.minimum(1.0, n * wish / wish.sum())
    order = rng.permutation(len(wish))
    marks = np.cumsum(chance[order])
    picked = order[np.unique(np.searchsorted(marks, np.arange(n) * marks[-1] / n + rng.random() * marks[-1] / n))]
    return Part(picked, 1 / chance[picked])


ORDERS = {"at random": at_random, "most telling first": most_telling, "weighted": weighted}


def replay(scores: FloatArray, n_draws: int, rng: np.random.Generator) -> dict[str, dict[str, dict[str, float]]]:
    """Return figures by number of rows and by order, of a table of scores [k, n]."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for n in N_ROWS:
        true, seen = np.empty(n_draws), {name: np.empty(n_draws) for name in ORDERS}
        for draw in range(n_draws):
            order = rng.permutation(len(scores))
            known, new = scores[order[:N_KNOWN]], scores[order[N_KNOWN]]
            differences = new - known[np.argmax(known.mean(axis=1))]
            true[draw] = differences.mean()
            for name, choose in ORDERS.items():
                part = choose(known, n, rng)
                seen[name][draw] = np.average(differences[part.rows], weights=part.weights)
        found[str(n)] = {name: figures(seen[name], true) for name in ORDERS}
    return found


def figures(seen: FloatArray, true: FloatArray) -> dict[str, float]:
    """Compare differences [n_draws] on a part of the rows with those on all."""
    better, worse = seen[true >= SMALLEST], seen[true <= -SMALLEST]
    return {
        "AUC": round(float(mannwhitneyu(better, worse).statistic) / (len(better) * len(worse)), 3),
        "better that look worse, %": round(100 * float(np.mean(better < 0)), 1),
        "worse that look better, %": round(100 * float(np.mean(worse > 0)), 1),
        "rmse, points": round(100 * float(np.sqrt(np.mean((seen - true) ** 2))), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=ROOT / "experiments/results/outcomes")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/example_order.json")
    args = parser.parse_args()
    report = {}
    for path in sorted(args.tables.glob("*.json")):
        scores = np.array(json.loads(path.read_text(encoding="utf-8"))["scores"], dtype=np.float64)
        report[path.stem] = replay(scores, args.draws, np.random.default_rng(0))
        print(path.stem, scores.shape, json.dumps(report[path.stem], indent=1), flush=True)
    settings = {"draws": args.draws, "known candidates": N_KNOWN, "smallest difference": SMALLEST}
    args.out.write_text(json.dumps({"settings": settings, "tables": report}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
