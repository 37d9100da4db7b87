"""How eager should a race be? Simulated searches at a fixed number of calls, with no model involved.

    uv run python experiments/race_simulation.py --out experiments/results/race_simulation.json

A search spends `budget` evaluations on candidates whose true score differs from the parent's by a normal gain; single
scores are 0 or 1 and correlate between candidates, because some examples are easy for all. Compared is the true gain of
the incumbent at the end: without racing, and for `RaceRule` at several values of `min_chance`; each with races over all
of dev, and with races that grow: so many blocks at first, and one more after so many races.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from optimizer.search.race import FloatArray, RaceRule

ROOT = Path(__file__).parent.parent
BLOCKS = (5, 10)
BASE = 0.5  # true score of the seed
SHARED = 0.6  # share of examples that are equally hard for every candidate
SIZES = ((50, 250), (100, 900), (100, 3000))  # dev rows, evaluations
GAINS = ((-0.03, 0.06), (-0.05, 0.1), (-0.1, 0.15))  # mean and spread of the candidates' true gains
CHANCES = (None, 0.1, 0.2, 0.3, 0.4)
GROWTHS = (None, (2, 2), (2, 4), (4, 1), (4, 2), (4, 4), (4, 8))  # first blocks, races for each further block

Draw = Callable[[float], FloatArray]


def search(
    rule: RaceRule | None,
    *,
    n_dev: int,
    budget: int,
    gains: tuple[float, float],
    is_evolving: bool,
    block: int,
    growth: tuple[int, int] | None,
    rng: np.random.Generator,
) -> float:
    """Return the true gain of the incumbent over the seed when the budget is spent.

    Args:
        is_evolving: candidates are made from the incumbent and not from the seed.
        growth: blocks of the first races, and races for each further block; None: all races go over all of dev.
    """
    draw, incumbent_true = _examples(n_dev, rng), BASE
    incumbent = draw(BASE)
    n_first, races_per_block = growth or (n_dev, 1)
    n_raced = min(n_dev, n_first * block)
    spent, n_races = n_raced, 0
    while spent < budget:
        true = float(np.clip((incumbent_true if is_evolving else BASE) + rng.normal(*gains), 0.02, 0.98))
        candidate = draw(true)
        n_scored, is_dropped = _race(rule, candidate[:n_raced], incumbent[:n_raced], block)
        spent, n_races = spent + n_scored, n_races + 1
        if not is_dropped and candidate[:n_raced].mean() > incumbent[:n_raced].mean():
            incumbent, incumbent_true = candidate, true
        if n_raced < n_dev and n_races % races_per_block == 0:
            n_raced, spent = min(n_dev, n_raced + block), spent + block
    return incumbent_true - BASE


def _examples(n_dev: int, rng: np.random.Generator) -> Draw:
    hardness = rng.random(n_dev)

    def draw(true: float) -> FloatArray:
        return (np.where(rng.random(n_dev) < SHARED, hardness, rng.random(n_dev)) < true).astype(np.float64)

    return draw


def _race(rule: RaceRule | None, candidate: FloatArray, incumbent: FloatArray, block: int) -> tuple[int, bool]:
    """Return how many examples were scored, and whether the candidate was dropped."""
    n = len(candidate)
    for n_scored in range(block, n, block):
        if rule is not None and rule.decide(candidate[:n_scored], incumbent).action == "drop":
            return n_scored, True
    return n, False


def mean_gain(rule: RaceRule | None, block: int, growth: tuple[int, int] | None, *, n_runs: int) -> float:
    """Return the true gain of the final incumbent, averaged over all settings and runs."""
    found = [
        search(
            rule,
            n_dev=n_dev,
            budget=budget,
            gains=gains,
            is_evolving=is_evolving,
            block=block,
            growth=growth,
            rng=np.random.default_rng(seed),
        )
        for n_dev, budget in SIZES
        for gains in GAINS
        for is_evolving in (False, True)
        for seed in range(n_runs)
    ]
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, help="searches for each setting, NumPy seeds 0 to RUNS - 1")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/race_simulation.json")
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for block, growth, chance in itertools.product(BLOCKS, GROWTHS, CHANCES):
        rule = None if chance is None else RaceRule(min_chance=chance)
        gain = round(mean_gain(rule, block, growth, n_runs=args.runs), 4)
        rows.append({"block": block, "growth": growth, "min_chance": chance, "mean_gain": gain})
        print(json.dumps(rows[-1]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"runs": args.runs, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
