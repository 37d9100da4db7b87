"""Does it pay to score a candidate first on the rows that have told earlier candidates apart? On recorded scores.

    uv run python -m experiments.example_order

A race compares a candidate with the incumbent on a part of the dev rows. Three ways to choose that part, after some
candidates have been scored on all rows: at random; the rows first on which those candidates differed most, which is
the sharpest look and is biased towards such rows; and at random with chances that grow with how much they differed,
each row weighted by the inverse of its chance, which keeps the comparison unbiased. And two ways to compare: the mean
of the paired differences, and how far the candidate is above what is usual on its rows, which takes the difficulty of
rows out and the luck of the incumbent on them.

Against the difference on all rows, asked is how well the part tells better candidates from worse ones wherever the
line is drawn (AUC), how many better ones look worse, how many worse ones look better, and how far the difference is
off.
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


def usual(known: FloatArray) -> FloatArray:
    """Usual score on each row, shape [n], of candidates [k, n] and of two more that score the mean: none is 0 or 1."""
    found: FloatArray = (known.sum(axis=0) + 2 * known.mean()) / (len(known) + 2)
    return found


def spread(known: FloatArray) -> FloatArray:
    """How much candidates [k, n] differ on each row, shape [n]."""
    found: FloatArray = np.sqrt(usual(known) * (1 - usual(known)))
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


def paired(new: FloatArray, known: FloatArray, part: Part) -> float:
    """Mean difference to the best of the known ones."""
    differences = new - known[np.argmax(known.mean(axis=1))]
    return float(np.average(differences[part.rows], weights=part.weights))


def above_usual(new: FloatArray, known: FloatArray, part: Part) -> float:
    """Difference to the best of the known ones, which have all rows: what is new is how far from the usual `new` is.

    A candidate differs from the usual most where candidates differ at all, so the distance is in units of the spread.
    """
    distance = (new - usual(known))[part.rows].sum() / spread(known)[part.rows].sum()
    return float(usual(known).mean() + distance * spread(known).mean() - known.mean(axis=1).max())


WAYS = {
    "at random, paired": (at_random, paired),
    "most telling first, paired": (most_telling, paired),
    "weighted, paired": (weighted, paired),
    "at random, above the usual": (at_random, above_usual),
    "most telling first, above the usual": (most_telling, above_usual),
}


def replay(scores: FloatArray, n_draws: int, rng: np.random.Generator) -> dict[str, dict[str, dict[str, float]]]:
    """Return figures by number of rows and by way, of a table of scores [k, n]."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for n in N_ROWS:
        true, seen = np.empty(n_draws), {name: np.empty(n_draws) for name in WAYS}
        for draw in range(n_draws):
            order = rng.permutation(len(scores))
            known, new = scores[order[:N_KNOWN]], scores[order[N_KNOWN]]
            true[draw] = new.mean() - known.mean(axis=1).max()
            for name, (choose, compare) in WAYS.items():
                seen[name][draw] = compare(new, known, choose(known, n, rng))
        found[str(n)] = {name: figures(seen[name], true) for name in WAYS}
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
