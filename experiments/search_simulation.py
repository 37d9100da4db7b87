"""What should a search try next? Simulated studies at a fixed number of calls, with no model involved.

    uv run python experiments/search_simulation.py --out experiments/results/search_simulation.json

A prompt's true score is that of its task, plus an effect of the number of its examples, of its words and of the rows
chosen for it. A set that is half exchanged keeps `HALF` of what its parent's rows are worth, a shuffled one `SHUFFLED`:
the correlations between parents and children that we measured with the embedded model on rows of two public tasks (0.66
and 0.89; 0.30 and 0.56; forty rows, seven sets each). Compared are starts of one size or of three, and the share of
recipes that exchange half of the best prompt's examples; the others are drawn blindly, as by TPE before it has learned.
Reported is the true gain of the winner over the untouched prompt, in points, for small and large differences between
sets of rows.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from optimizer.search.elite import SHRINK_ROWS
from optimizer.search.race import FloatArray, RaceRule, race_rows

ROOT = Path(__file__).parent.parent
N_DEV, N_CALLS, BLOCK = 50, 300, 5
FINALISTS, FINALISTS_SHARE = 3, 0.2
SHARED = 0.5  # share of examples that are equally hard for every candidate
HALF, SHUFFLED, ONE_ROW = 0.75, 0.45, 0.95
SPREADS = (0.03, 0.07, 0.12, 0.18)  # standard deviation between sets of rows; measured: 0.02 to 0.18
SIZE_SPREAD, WORDS_SPREAD = 0.05, 0.04
NO_EXAMPLES = -0.15
NONE, FEW, SOME, MANY = range(-1, 3)
STARTS = {
    "one size": (NONE, MANY, MANY, FEW, MANY, MANY, NONE, MANY, NONE, NONE),
    "three sizes": (NONE, MANY, FEW, MANY, SOME, MANY, MANY, NONE, FEW, SOME),
}
REFINING = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    size: int  # which number of examples; NONE for none
    words: float = 0.0  # effect on the score
    rows: float = 0.0  # worth of the chosen rows, in standard deviations


class World:
    """A task: what its prompts are truly worth, and what scoring one shows."""

    def __init__(self, spread: float, rng: np.random.Generator) -> None:
        self.rng, self._spread = rng, spread
        self.base = float(rng.uniform(0.3, 0.65)) + NO_EXAMPLES
        self._sizes = rng.normal(-NO_EXAMPLES, SIZE_SPREAD, 3)
        self._hardness = rng.random(N_DEV)

    def true(self, prompt: Prompt) -> float:
        examples = 0.0 if prompt.size == NONE else self._sizes[prompt.size] + prompt.rows * self._spread
        return float(np.clip(self.base + prompt.words + examples, 0.02, 0.98))

    def scores(self, prompt: Prompt) -> FloatArray:
        """Return scores[n_dev], 0 or 1."""
        own = self.rng.random(N_DEV)
        hardness = np.where(self.rng.random(N_DEV) < SHARED, self._hardness, own)
        return (hardness < self.true(prompt)).astype(np.float64)

    def fresh(self, prompt: Prompt, size: int) -> Prompt:
        return replace(prompt, size=size, rows=0.0 if size == NONE else float(self.rng.normal()))

    def child(self, prompt: Prompt, kept: float) -> Prompt:
        """Return the prompt with other rows that keep a part of what its own are worth."""
        if prompt.size == NONE:
            return self.fresh(prompt, int(self.rng.integers(3)))
        return replace(prompt, rows=kept * prompt.rows + math.sqrt(1 - kept**2) * float(self.rng.normal()))

    def reworded(self, prompt: Prompt) -> Prompt:
        return replace(prompt, words=prompt.words + float(self.rng.normal(-WORDS_SPREAD, WORDS_SPREAD)))


@dataclass(slots=True)
class Scored:
    prompt: Prompt
    values: FloatArray  # [n_dev]; the first `n` are known
    n: int = 0


class Search:
    """Races as `optimizer.run` has them, on simulated scores."""

    def __init__(self, world: World) -> None:
        self.world, self.scored, self.n_spent = world, list[Scored](), 0
        self._rule = RaceRule()
        self.incumbent: Scored | None = None

    def race(self, prompt: Prompt) -> None:
        """Score a prompt until it is dropped or has run the whole race."""
        new, best = Scored(prompt, self.world.scores(prompt)), self.incumbent
        n_rows = best.n if best else race_rows(n_races=0, block=BLOCK, n_dev=N_DEV, progress=0.0)
        is_dropped = False
        while new.n < n_rows and not is_dropped:
            new.n = min(new.n + BLOCK, n_rows)
            is_dropped = best is not None and (
                self._rule.decide(new.values[: new.n], best.values[:n_rows]).action == "drop"
            )
        self.scored.append(new)
        self.n_spent += new.n
        if best is None or (not is_dropped and new.values[:n_rows].mean() > best.values[:n_rows].mean()):
            self.incumbent = best = new
        n_wanted = race_rows(n_races=len(self.scored), block=BLOCK, n_dev=N_DEV, progress=0.0)
        self.n_spent += max(0, n_wanted - best.n)
        best.n = max(best.n, n_wanted)

    def ranked(self) -> list[Scored]:
        return sorted(self.scored, key=self._lead, reverse=True)

    def winner(self) -> Prompt:
        """Score finalists on all of dev as far as calls last, and return the best."""
        finalists = self.ranked()[:FINALISTS]
        for one in finalists:
            n_more = max(0, min(N_DEV - one.n, N_CALLS - self.n_spent))
            one.n, self.n_spent = one.n + n_more, self.n_spent + n_more
        return max(finalists, key=self._lead).prompt

    def _lead(self, one: Scored) -> float:
        if self.incumbent is None or one is self.incumbent:
            return 0.0
        difference = float((one.values - self.incumbent.values)[: min(one.n, self.incumbent.n)].mean())
        return difference * (one.n + (N_DEV - one.n) * one.n / (one.n + SHRINK_ROWS)) / N_DEV


def blindly(search: Search) -> Prompt:
    """Return a candidate of a recipe drawn without knowledge: any parent, any way to change its examples or words."""
    world, ranked = search.world, [one.prompt for one in search.ranked()]
    rng = world.rng
    places = (0, 1, 2, int(rng.integers(len(ranked))))
    parents = [*(ranked[min(place, len(ranked) - 1)] for place in places), Prompt(size=NONE)]
    parent = parents[int(rng.integers(len(parents)))]
    if rng.random() < 0.5:
        return world.reworded(parent)
    kept = (None, None, HALF, SHUFFLED, ONE_ROW, ONE_ROW)[int(rng.integers(6))]
    return world.fresh(parent, int(rng.integers(3))) if kept is None else world.child(parent, kept)


def true_gain(spread: float, starts: tuple[int, ...], refining: float, seed: int) -> float:
    """Return the true gain of one study's winner over the untouched prompt."""
    world = World(spread, np.random.default_rng([seed, int(1000 * spread)]))
    search = Search(world)
    for size in starts:
        search.race(world.fresh(Prompt(size=size), size))
    while search.n_spent < (1 - FINALISTS_SHARE) * N_CALLS:
        is_refining = world.rng.random() < refining
        search.race(world.child(search.ranked()[0].prompt, HALF) if is_refining else blindly(search))
    return world.true(search.winner()) - world.base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, help="studies for each setting, NumPy seeds 0 to RUNS - 1")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/search_simulation.json")
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name, starts in STARTS.items():
        for refining in REFINING:
            gains = [[100 * true_gain(s, starts, refining, seed) for seed in range(args.runs)] for s in SPREADS]
            error = math.sqrt(sum(np.var(g, ddof=1) / args.runs for g in gains)) / len(SPREADS)
            rows.append(
                {
                    "starts": name,
                    "refining": refining,
                    "gain_by_spread": {
                        str(s): round(float(np.mean(g)), 2) for s, g in zip(SPREADS, gains, strict=True)
                    },
                    "gain": round(float(np.mean(gains)), 2),
                    "standard_error": round(error, 2),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"runs": args.runs, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
