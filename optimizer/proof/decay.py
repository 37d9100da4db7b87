"""Whether a prompt still earns its place: with another model, after an update, on newer rows. Pure.

Two questions, both in pairs: is the prompt worse than its seed now, and is its gain smaller than it was when the study
judged it? An alarm wants 99% confidence, because a check that runs every night asks often.

    holds    neither
    weaker   the gain has shrunk
    broken   the prompt is worse than the seed that it replaced
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Literal

import numpy as np

from optimizer import stats
from optimizer.records import Outcome, Verdict
from optimizer.words import points

Standing = Literal["holds", "weaker", "broken"]
ALARM_CONFIDENCE = 0.99
N_RESAMPLES = 10_000
N_DRAWS = 1_000  # where a score is no mean, each draw scores four sets of rows
Measure = Callable[[Sequence[Outcome]], float]
Pairs = Mapping[str, tuple[Outcome, Outcome]]
EXIT_CODES: dict[Standing, int] = {"holds": 0, "weaker": 4, "broken": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How the gain (prompt less seed) moved since the study: now less then, with an interval at 99%.

    Attributes:
        is_paired: it is told from the rows that both occasions have in common, and from no other.
        n: how many these are; where there are none, the rows of the check.
        rows: which rows they are, in words; empty where both occasions have all their rows in common.
    """

    then: float
    difference: float
    low: float
    high: float
    is_paired: bool
    n: int
    rows: str = ""

    @property
    def now(self) -> float:
        """The gain on these rows now."""
        return self.then + self.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """What a check came to. `now` compares the prompt with its seed on the rows of the check."""

    standing: Standing
    reason: str
    now: Verdict
    change: Change | None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.standing]


def judge_decay(
    now: Verdict, then: Verdict | None, *, rng: np.random.Generator, measure: Measure | None = None
) -> Decay:
    """Decide whether a prompt still holds.

    Args:
        measure: the score of a set of rows, where it is not their mean: a worst group, an F1.
        now: both prompts on the rows of the check.
        then: the study's own verdict; None if it has none, or is about another prompt: then only `broken` can be seen.
    """
    change = gain_change(now, then, rng=rng, measure=measure) if then is not None and then.seed_outcomes else None
    if now.high < 0 and now.difference < 0 and now.p_value < 1 - ALARM_CONFIDENCE:
        reason = f"It is {points(-now.difference).lstrip('+')} points worse than the seed that it replaced."
        return Decay(standing="broken", reason=reason, now=now, change=change)
    if change is not None and change.then > 0 and change.high < 0:
        reason = f"Its gain on the seed was {points(change.then)} points and is {points(change.now)} now."
        return Decay(standing="weaker", reason=reason, now=now, change=change)
    reason = "There is no proof that it has become worse."
    if now.decision == "promote":
        was_proven = then is not None and then.decision == "promote"
        reason = f"It is {'still ' if was_proven else ''}proven to be better than its seed."
        if then is not None and not was_proven:
            reason = "It is better than its seed on these rows, but the study ended in `keep`: it is not proven."
    return Decay(standing="holds", reason=reason, now=now, change=change)


def gain_change(now: Verdict, then: Verdict, *, rng: np.random.Generator, measure: Measure | None = None) -> Change:
    """Compare the gain on both occasions: row by row where they share half of the rows of either, else as two samples.

    A few old rows among many new ones say little, and the new ones must not be left out for them.
    """
    if measure is not None:
        return _change_of_measure(now, then, measure, rng)
    old, new = gains(then.seed_outcomes, then.winner_outcomes), gains(now.seed_outcomes, now.winner_outcomes)
    shared = sorted(old.keys() & new.keys())
    if _pays_to_pair(shared, old, new):
        before, after = (np.array([side[key] for key in shared]) for side in (old, new))
        found = stats.compare(before, after, is_binary=False, confidence=ALARM_CONFIDENCE, rng=rng)
        return Change(
            then=float(before.mean()),
            difference=found.difference,
            low=found.low,
            high=found.high,
            is_paired=True,
            n=len(shared),
            rows=_rows(now, then, n_shared=len(shared), is_paired=True),
        )
    before, after = np.array(list(old.values())), np.array(list(new.values()))
    drawn = _means(after, rng) - _means(before, rng)
    tail = (1 - ALARM_CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    difference = float(after.mean() - before.mean())
    return Change(
        then=float(before.mean()),
        difference=difference,
        low=float(low),
        high=float(high),
        is_paired=False,
        n=len(after),
        rows=_rows(now, then, n_shared=len(shared), is_paired=False),
    )


def _change_of_measure(now: Verdict, then: Verdict, measure: Measure, rng: np.random.Generator) -> Change:
    """The same for a score that is no mean: the interval comes from drawing whole rows again."""
    again, before = _pairs(now), _pairs(then)
    shared = sorted(again.keys() & before.keys())
    is_paired = _pays_to_pair(shared, before, again)
    new, old = ([side[key] for key in (shared if is_paired else sorted(side))] for side in (again, before))

    def gain(pairs: Sequence[tuple[Outcome, Outcome]], indices: stats.IntArray) -> float:
        drawn = [pairs[i] for i in indices]
        return measure([winner for _, winner in drawn]) - measure([seed for seed, _ in drawn])

    def draws() -> Iterator[float]:
        for _ in range(N_DRAWS):
            rows = rng.integers(0, len(new), size=len(new))
            others = rows if is_paired else rng.integers(0, len(old), size=len(old))
            yield gain(new, rows) - gain(old, others)

    tail = (1 - ALARM_CONFIDENCE) / 2
    low, high = np.quantile(np.fromiter(draws(), dtype=np.float64), [tail, 1 - tail])
    gained = gain(old, np.arange(len(old)))
    return Change(
        then=gained,
        difference=gain(new, np.arange(len(new))) - gained,
        low=float(low),
        high=float(high),
        is_paired=is_paired,
        n=len(new),
        rows=_rows(now, then, n_shared=len(shared), is_paired=is_paired),
    )


def _pays_to_pair(shared: Sized, old: Sized, new: Sized) -> bool:
    return len(shared) > 0 and 2 * len(shared) >= min(len(old), len(new))


def _rows(now: Verdict, then: Verdict, *, n_shared: int, is_paired: bool) -> str:
    if not is_paired:
        others, same = ("", f", {n_shared} of them the same") if n_shared else (" others", "")
        return f"{now.n} rows now, and {then.n}{others} in the study's final test{same}"
    if n_shared == now.n == then.n:
        return ""
    return (
        f"the {n_shared} rows that this check and the study's final test have in common: in pairs nothing else counts"
    )


def _pairs(verdict: Verdict) -> Pairs:
    """Return the outcomes of seed and winner by row; a verdict has none that failed."""
    both = zip(verdict.seed_outcomes, verdict.winner_outcomes, strict=True)
    return {seed.example_id: (seed, winner) for seed, winner in both}


def gains(seed: Sequence[Outcome], winner: Sequence[Outcome]) -> dict[str, float]:
    """Return the difference of both prompts by row, without rows that failed for one of them."""
    before = {outcome.example_id: value for outcome in seed if (value := outcome.value) is not None}
    return {
        outcome.example_id: value - before[outcome.example_id]
        for outcome in winner
        if (value := outcome.value) is not None and outcome.example_id in before
    }


def _means(values: stats.FloatArray, rng: np.random.Generator) -> stats.FloatArray:
    """Return the means of resamples."""
    n = len(values)
    return np.concatenate([values[rng.integers(0, n, size=(500, n))].mean(axis=1) for _ in range(N_RESAMPLES // 500)])
