"""Which rule finds a good candidate with the fewest evaluations? Replayed on scores of real prompts, with no model.

    uv run python experiments/race_replay.py --out experiments/results/race_replay.json

`experiments/benchmark/outcomes.py` recorded what many prompts of a real search score on the same rows. Here each rule
meets them in random order, sees random half of the rows as its dev set, and spends a fixed number of evaluations. What
its choice is truly worth is read off the other half of the rows.

    full        every candidate on all of dev; the best mean wins
    wilcoxon    the same, pruned by Optuna's WilcoxonPruner against the best candidate so far
    halving     successive halving: all candidates on one block, the better half on twice as many, and so on
    hyperband   successive halving with several numbers of candidates, each with its share of the evaluations
    capo        a pool on growing blocks, thinned by repeated one-sided paired t-tests at 0.2 (Zehle et al. 2025, CAPO)
    ours        `RaceRule` and races that grow, finalists scored on all of dev

Reported are the mean regret (true score of the best candidate less that of the choice) and how often a rule dropped the
best candidate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy import stats as scipy_stats

from optimizer.candidate import Candidate, Part
from optimizer.proof.verdict import choose_winner
from optimizer.search.elite import Elite
from optimizer.search.race import FIRST_BLOCKS, RACES_PER_BLOCK, FloatArray, RaceRule

ROOT = Path(__file__).parent.parent
BLOCK = 5
BUDGETS = (100, 200, 300, 500, 800, 1200)
N_FINALISTS = 3


class Spent(Exception):
    """No evaluation is left."""


@dataclass
class Table:
    """Scores [k, n] of candidates on dev rows, handed out one evaluation at a time."""

    scores: FloatArray
    budget: int
    n_spent: int = 0
    dropped: set[int] = field(default_factory=set)
    seen: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.seen = np.full(self.scores.shape, np.nan)

    @property
    def n_rows(self) -> int:
        return int(self.scores.shape[1])

    def read(self, candidate: int, start: int, stop: int) -> FloatArray:
        """Return scores[start:stop] of a candidate; what was read before is free.

        Raises:
            Spent: the budget does not reach.
        """
        stop = min(stop, self.n_rows)
        n_new = int(np.isnan(self.seen[candidate, start:stop]).sum())
        if self.n_spent + n_new > self.budget:
            raise Spent
        self.n_spent += n_new
        self.seen[candidate, start:stop] = self.scores[candidate, start:stop]
        return self.seen[candidate, start:stop]

    def best_of(self, candidates: list[int]) -> int:
        """Return the candidate with the best mean among those read on most rows."""
        n_read = (~np.isnan(self.seen)).sum(axis=1)
        pool = [c for c in candidates if n_read[c] == n_read[candidates].max()]
        best: int = max(pool, key=lambda c: float(np.nanmean(self.seen[c])))
        return best


Rule = Callable[[Table, np.random.Generator], int]


def full(table: Table, rng: np.random.Generator) -> int:
    del rng
    for candidate in range(len(table.scores)):
        try:
            table.read(candidate, 0, table.n_rows)
        except Spent:
            break
    return table.best_of(list(range(len(table.scores))))


def wilcoxon(table: Table, rng: np.random.Generator) -> int:
    """The pruner decides after each block, as Optuna's documentation has it: against the best trial so far."""
    del rng
    study, pruner = optuna.create_study(direction="maximize"), optuna.pruners.WilcoxonPruner(p_threshold=0.1)
    for candidate in range(len(table.scores)):
        try:
            values = _pruned_read(table, candidate, study, pruner)
        except Spent:
            break
        if values is None:
            table.dropped.add(candidate)
        else:
            mean = float(np.mean(list(values.values())))
            study.add_trial(optuna.trial.create_trial(value=mean, intermediate_values=values))
    return table.best_of(list(range(len(table.scores))))


def _pruned_read(
    table: Table, candidate: int, study: optuna.Study, pruner: optuna.pruners.BasePruner
) -> dict[int, float] | None:
    """Return the values by row, None when the pruner ended the trial."""
    values: dict[int, float] = {}
    for start in range(0, table.n_rows, BLOCK):
        values |= {start + i: float(value) for i, value in enumerate(table.read(candidate, start, start + BLOCK))}
        trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=values)
        if pruner.prune(study, trial):
            return None
    return values


def halving(table: Table, rng: np.random.Generator) -> int:
    """As many candidates as the budget can carry through all rungs."""
    del rng
    n_rungs = int(np.log2(table.n_rows / BLOCK)) + 1
    return _halve(table, list(range(len(table.scores))), n_first=max(2, table.budget // (BLOCK * (n_rungs + 1) // 2)))


def _halve(table: Table, candidates: list[int], *, n_first: int, n_rows: int = BLOCK) -> int:
    pool = candidates[: max(1, n_first)]
    try:
        while True:
            for candidate in pool:
                table.read(candidate, 0, n_rows)
            if len(pool) == 1 or n_rows >= table.n_rows:
                break
            ranked = sorted(pool, key=lambda c: -float(np.mean(table.seen[c, :n_rows])))
            pool, out = ranked[: max(1, len(ranked) // 2)], ranked[max(1, len(ranked) // 2) :]
            table.dropped.update(out)
            n_rows = min(table.n_rows, 2 * n_rows)
    except Spent:
        pass
    return table.best_of(pool)


def hyperband(table: Table, rng: np.random.Generator) -> int:
    """Brackets that start on one block, two, four, ...; each gets the same share and fresh candidates."""
    del rng
    firsts = [BLOCK * 2**i for i in range(int(np.log2(table.n_rows / BLOCK)) + 1)]
    share, budget, place, chosen = table.budget // len(firsts), table.budget, 0, []
    for i, n_rows in enumerate(firsts):
        table.budget = (i + 1) * share
        n_rungs = len(firsts) - i
        n_first = max(1, 2 * share // (n_rows * (n_rungs + 1)))
        pool = list(range(place, min(len(table.scores), place + n_first)))
        place += n_first
        if pool:
            chosen.append(_halve(table, pool, n_first=len(pool), n_rows=n_rows))
    table.budget = budget
    return table.best_of(chosen)


def capo(table: Table, rng: np.random.Generator, *, alpha: float = 0.2, n_keep: int = 5, n_children: int = 4) -> int:
    """Generations: survivors and new candidates race together until `n_keep` are left or the rows are used up."""
    del rng
    pool, place = list(range(min(n_keep, len(table.scores)))), n_keep
    try:
        while place < len(table.scores):
            pool = [*pool, *range(place, min(len(table.scores), place + n_children))]
            place += n_children
            pool = _thin(table, pool, alpha=alpha, n_keep=n_keep)
    except Spent:
        pass
    means = {c: float(np.nanmean(table.seen[c])) for c in pool if not np.isnan(table.seen[c]).all()}
    return max(means, key=lambda c: means[c])


def _thin(table: Table, pool: list[int], *, alpha: float, n_keep: int) -> list[int]:
    for stop in range(BLOCK, table.n_rows + 1, BLOCK):
        for candidate in pool:
            table.read(candidate, 0, stop)
        seen = table.seen[:, :stop]
        worse = {c: sum(_is_better(seen[other], seen[c], alpha) for other in pool if other != c) for c in pool}
        table.dropped.update(c for c in pool if worse[c] >= n_keep)
        pool = [c for c in pool if worse[c] < n_keep]
        if len(pool) <= n_keep:
            break
    ranked = sorted(pool, key=lambda c: -float(np.nanmean(table.seen[c])))
    table.dropped.update(ranked[n_keep:])
    return ranked[:n_keep]


def _is_better(a: FloatArray, b: FloatArray, alpha: float) -> bool:
    difference = a - b
    if np.all(difference == difference[0]):
        return bool(difference[0] > 0)  # no variance: p is 0
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(len(difference)))
    return bool(scipy_stats.t.sf(t, len(difference) - 1) < alpha)


def ours(
    table: Table,
    rng: np.random.Generator,
    *,
    rule: RaceRule | None = None,
    growth: tuple[int, int] = (FIRST_BLOCKS, RACES_PER_BLOCK),
) -> int:
    """The loop of `optimizer.run` with candidates that are given: races that grow, then finalists on all of dev."""
    del rng
    rule = rule or RaceRule()
    race = _Race(table, rule, growth)
    kept_back = min(table.budget // 3, N_FINALISTS * table.n_rows)
    budget, table.budget = table.budget, table.budget - kept_back
    try:
        for candidate in range(len(table.scores)):
            race.run(candidate)
    except Spent:
        pass
    table.budget = budget
    return race.recommend()


class _Race:
    def __init__(self, table: Table, rule: RaceRule, growth: tuple[int, int]) -> None:
        self.table, self.rule = table, rule
        self.n_first, self.races_per_block = growth
        self.elite = Elite([str(i) for i in range(table.n_rows)])
        self.names: dict[str, int] = {}
        self.n_races = 0

    def run(self, number: int) -> None:
        candidate = _named(number)
        self.names[candidate.id] = number
        n_rows = self.elite.n_raced or min(self.table.n_rows, self.n_first * BLOCK)
        for start in range(0, n_rows, BLOCK):
            self._read(candidate, start, min(start + BLOCK, n_rows))
            if self.elite.incumbent is None:
                continue
            if self.rule.decide(*self.elite.race_values(candidate)).action == "drop":
                self.table.dropped.add(number)
                break
        else:
            self.elite.challenge(candidate)
        self.n_races += 1
        if self.n_races % self.races_per_block == 0 and self.elite.incumbent is not None:
            self._read(self.elite.incumbent, self.elite.n_raced, self.elite.n_raced + BLOCK)

    def recommend(self) -> int:
        finalists = self.elite.ranked()[:N_FINALISTS]
        for candidate in finalists:
            try:
                for start in range(0, self.table.n_rows, BLOCK):
                    self._read(candidate, start, start + BLOCK)
            except Spent:
                break
        return self.names[choose_winner(self.elite, finalists, lambda _: 0).id]

    def _read(self, candidate: Candidate, start: int, stop: int) -> None:
        values = self.table.read(self.names[candidate.id], start, stop)
        self.elite.add(candidate, {str(start + i): float(value) for i, value in enumerate(values)})


def _named(number: int) -> Candidate:
    return Candidate(parts=(Part(predictor="p", instructions=str(number)),))


RULES: Mapping[str, Rule] = {
    "full": full,
    "wilcoxon": wilcoxon,
    "halving": halving,
    "hyperband": hyperband,
    "capo": capo,
    "ours": ours,
}


def replay(scores: FloatArray, rule: Rule, *, budget: int, seed: int) -> tuple[float, bool, int]:
    """Return regret on the rows held out, whether the truly best candidate was dropped, and evaluations spent."""
    rng = np.random.default_rng(seed)
    scores = scores[rng.permutation(len(scores))]
    rows = rng.permutation(scores.shape[1])
    dev, held_out = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    table = Table(scores[:, dev], budget)
    chosen = rule(table, rng)
    true = scores[:, held_out].mean(axis=1)
    best = int(np.argmax(scores.mean(axis=1)))
    return float(scores.mean(axis=1)[best] - true[chosen]), best in table.dropped, table.n_spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcomes", type=Path, default=ROOT / "experiments/results/outcomes")
    parser.add_argument("--runs", type=int, default=200, help="replays for each task, rule and budget")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/race_replay.json")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tables = {path.stem: _load(path) for path in sorted(args.outcomes.glob("*.json"))}
    found: list[dict[str, Any]] = []
    for budget in BUDGETS:
        for name, rule in RULES.items():
            runs = [
                replay(scores, rule, budget=budget, seed=seed)
                for scores in tables.values()
                for seed in range(args.runs)
            ]
            regret, dropped, spent = (np.array(column, dtype=float) for column in zip(*runs, strict=True))
            found.append(
                {
                    "budget": budget,
                    "rule": name,
                    "regret": round(float(regret.mean()), 4),
                    "regret_se": round(float(regret.std() / np.sqrt(len(regret))), 4),
                    "best_dropped": round(float(dropped.mean()), 4),
                    "spent": round(float(spent.mean()), 1),
                }
            )
            print(json.dumps(found[-1]), flush=True)
    args.out.write_text(json.dumps({"runs": args.runs, "tasks": list(tables), "rows": found}, indent=2) + "\n")


def _load(path: Path) -> FloatArray:
    table = json.loads(path.read_text(encoding="utf-8"))
    return np.array([[np.nan if v is None else v for v in row] for row in table["scores"]], dtype=np.float64)


if __name__ == "__main__":
    main()
