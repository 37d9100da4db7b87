"""From outcomes to statements: which finalist to use, what it is worth, and whether it may replace the seed. Pure.

Nothing here looks at what a prompt says. The verdict rests on test rows alone; dev rows only choose the winner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from optimizer import stats
from optimizer.candidate import Candidate, Example
from optimizer.metrics import Metric
from optimizer.proof import shrinkage
from optimizer.records import DevEstimate, Outcome, Verdict
from optimizer.search.elite import Elite

PESSIMISM = 0.5  # standard errors: enough to pass over a lucky finalist, too little to freeze on the seed
MANY_UNREAD = 0.2  # share of the winner's replies that are no answers, from which the verdict says so
MAX_FAILED_SHARE = 0.05


class TooManyFailures(Exception):
    """Too many test rows have no score for a fair comparison."""


def choose_winner(
    elite: Elite, finalists: Sequence[Candidate], n_chars: Callable[[Candidate], int], *, tolerance: float = 0.0
) -> Candidate:
    """Return the finalist with the best pessimistic dev score, or a shorter one that is at most `tolerance` below."""
    bounds = {candidate.id: lower_bound(elite, candidate) for candidate in finalists}
    best = max(bounds.values())
    near = [candidate for candidate in finalists if bounds[candidate.id] >= best - tolerance]
    return min(near, key=lambda candidate: (n_chars(candidate), -bounds[candidate.id]))


def lower_bound(elite: Elite, candidate: Candidate) -> float:
    """Return the estimated dev score less `PESSIMISM` standard errors of the paired difference to the incumbent."""
    if elite.incumbent is None or candidate == elite.incumbent:
        return elite.estimate(candidate)
    paired = elite.values(candidate) - elite.values(elite.incumbent)
    n_shared = int((~np.isnan(paired)).sum())
    return elite.estimate(candidate) - PESSIMISM * float(np.nanstd(paired) / np.sqrt(n_shared))


def dev_estimate(elite: Elite, *, seed: Candidate, winner: Candidate, confidence: float) -> DevEstimate:
    """Return the winner's dev score, corrected for having been chosen as the best of all candidates.

    The seed was not chosen: its score is the mean of the rows that it has, and what it has not is not guessed.
    """
    ranked = elite.ranked()
    values = np.stack([elite.values(candidate) for candidate in ranked])
    chosen = ranked.index(winner)
    seed_mean, n_seed = elite.scored(seed)
    raw, n_winner = elite.scored(winner)
    if winner == seed and seed_mean is not None:
        estimate, (low, high) = seed_mean, stats.wilson(seed_mean * n_seed, n_seed, confidence)
    else:
        estimate, low, high = shrinkage.shrunken_best(values, chosen, confidence=confidence)
    return DevEstimate(
        n=values.shape[1],
        seed=seed_mean,
        winner=estimate,
        low=low,
        high=high,
        raw=cast(float, raw),
        n_seed=n_seed,
        n_winner=n_winner,
    )


def judge(
    metric: Metric,
    examples: Sequence[Example],
    *,
    seed: Sequence[Outcome],
    winner: Sequence[Outcome],
    is_same: bool,
    confidence: float,
    rng: np.random.Generator,
    tested_on: str = "examples that the search never saw",
) -> Verdict:
    """Compare seed and winner on test rows, in pairs.

    Args:
        seed, winner: outcomes[n] on the same examples; pairs with a failed one are left out.
        is_same: the winner is the seed itself.
        tested_on: what the reason calls the examples.

    Raises:
        TooManyFailures: more than `MAX_FAILED_SHARE` of the pairs are incomplete.
    """
    pairs = [i for i in range(len(examples)) if seed[i].value is not None and winner[i].value is not None]
    if len(pairs) < (1 - MAX_FAILED_SHARE) * len(examples):
        why = next((each.error for each in (*seed, *winner) if each.error and each.value is None), "no reason is known")
        raise TooManyFailures(f"{len(examples) - len(pairs)} of {len(examples)} test rows failed, one because of {why}")
    rows = [examples[i] for i in pairs]
    old, new = [seed[i] for i in pairs], [winner[i] for i in pairs]
    comparison = compared(metric, rows, old, new, confidence=confidence, rng=rng)
    is_promoted = not is_same and stats.is_significant_gain(comparison, confidence)
    return Verdict(
        decision="promote" if is_promoted else "keep",
        reason=_reason(is_promoted, is_same=is_same, tested_on=tested_on)
        + _disagreement(comparison, confidence=confidence, is_promoted=is_promoted)
        + _unread(new, is_same=is_same),
        n=comparison.n,
        seed_score=score_of(metric, rows, old),
        winner_score=score_of(metric, rows, new),
        difference=comparison.difference,
        low=comparison.low,
        high=comparison.high,
        p_value=comparison.p_value,
        test_name=comparison.test_name,
        confidence=confidence,
        seed_outcomes=tuple(old),
        winner_outcomes=tuple(new),
    )


def compared(
    metric: Metric,
    examples: Sequence[Example],
    old: Sequence[Outcome],
    new: Sequence[Outcome],
    *,
    confidence: float,
    rng: np.random.Generator,
) -> stats.Comparison:
    """Compare two sets of outcomes on the same rows, none of them failed, by the study's own measure."""
    return stats.compare(
        _values(old),
        _values(new),
        is_binary=metric.is_binary,
        confidence=confidence,
        rng=rng,
        statistic=None if metric.is_mean else _difference_of_aggregates(metric, examples, old, new),
    )


def _reason(is_promoted: bool, *, is_same: bool, tested_on: str) -> str:
    if is_promoted:
        return f"The new prompt is better on {tested_on}."
    if is_same:
        return "No candidate was better than your prompt on dev: keep yours."
    return f"It is not proven that the new prompt is better on {tested_on}: keep yours."


def _disagreement(found: stats.Comparison, *, confidence: float, is_promoted: bool) -> str:
    """A sentence on an interval that lies above 0 where the test does not bear it out; the more careful one counts."""
    if is_promoted or found.low <= 0:
        return ""
    return f" The interval lies above 0, but p = {found.p_value:.2g} is not below {1 - confidence:.2g}: both must hold."


def _unread(outcomes: Sequence[Outcome], *, is_same: bool) -> str:
    """A sentence on replies that are no answers, when they are many: the score says less than it seems then."""
    unread = [outcome for outcome in outcomes if outcome.kind in ("unparsed", "refused")]
    if len(unread) < MANY_UNREAD * len(outcomes):
        return ""
    whose, first = "your" if is_same else "the new", unread[0].error or unread[0].kind
    return (
        f" But {len(unread)} of {len(outcomes)} replies to {whose} prompt cannot be read as an answer ({first}): raise "
        "max_tokens, allow another layout in search.formats, or take another model."
    )


def _values(outcomes: Sequence[Outcome]) -> stats.FloatArray:
    return np.array([outcome.value for outcome in outcomes], dtype=np.float64)


def score_of(metric: Metric, examples: Sequence[Example], outcomes: Sequence[Outcome]) -> float:
    """Return the metric over a set of examples: the mean, or what the metric defines."""
    answers = [outcome.answer if outcome.kind == "scored" else None for outcome in outcomes]
    return metric.aggregate(examples, answers, _values(outcomes))


def _difference_of_aggregates(
    metric: Metric, examples: Sequence[Example], old: Sequence[Outcome], new: Sequence[Outcome]
) -> stats.Statistic:
    """Return winner minus seed on resampled rows, for metrics whose aggregate is no mean."""

    def difference(indices: stats.IntArray) -> float:
        rows = [examples[i] for i in indices]
        return score_of(metric, rows, [new[i] for i in indices]) - score_of(metric, rows, [old[i] for i in indices])

    return difference
