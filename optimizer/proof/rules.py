"""What a winner must keep to, besides being better: answers that depend on the row, no group harmed, replies that can
be read, a bounded price. Pure.

A rule can only turn `promote` into `keep`. Answers outside their limits (length, forbidden words) score 0 before this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from optimizer.config.keys import Constraints
from optimizer.proof.labels import is_collapsed
from optimizer.records import Constant, SliceScore, Verdict
from optimizer.words import percent, points, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules look at, besides the verdict's own outcomes.

    Attributes:
        n_chars: characters of the seed's and of the winner's prompt, inputs left open.
        usd_per_row: mean price of one test row with the winner; None when it is not known.
        classes, constant: where the output is a label, as in a verdict.
    """

    slices: tuple[SliceScore, ...] = ()
    classes: tuple[SliceScore, ...] = ()
    constant: Constant | None = None
    n_chars: tuple[int, int] = (0, 0)
    usd_per_row: float | None = None


def held_to(verdict: Verdict, facts: Facts, limits: Constraints, *, max_loss: float | None) -> Verdict:
    """Return the verdict with its groups and the rules that are broken, for which `promote` becomes `keep`."""
    broken = tuple(_broken(verdict, facts, limits, max_loss))
    verdict = replace(verdict, slices=facts.slices, broken_rules=broken, classes=facts.classes, constant=facts.constant)
    if not broken or verdict.decision == "keep":
        return verdict
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    return replace(verdict, decision="keep", reason=f"The new prompt is better on the whole, but {broken[0]}{more}.")


def _broken(verdict: Verdict, facts: Facts, limits: Constraints, max_loss: float | None) -> Iterator[str]:
    if facts.constant is not None and is_collapsed(facts.constant, verdict.winner_score):
        said = facts.constant
        yield (
            f"it answers {visible(said.said)!r} to {said.n_said} of {said.n} test rows, whatever they say: a prompt "
            "that gives one label to nearly everything is not promoted"
        )
    for each in facts.slices if max_loss is not None else ():
        if each.difference < -(max_loss or 0.0) - 1e-9:
            yield (
                f"the group {each.name!r} gets worse by {points(each.difference)} points on {each.n} rows "
                f"(allowed: {points(-(max_loss or 0.0))})"
            )
    n_read = sum(outcome.kind == "scored" for outcome in verdict.winner_outcomes)
    rate = n_read / max(1, len(verdict.winner_outcomes))
    if limits.parse_rate is not None and rate < limits.parse_rate:
        yield f"only {percent(rate)} of its replies can be read (constraints.parse_rate: {limits.parse_rate})"
    old, new = facts.n_chars
    if limits.prompt_growth is not None and new > limits.prompt_growth * old:
        yield f"it has {new} characters, yours {old} (constraints.prompt_growth: {limits.prompt_growth:g})"
    if limits.usd_per_row is not None and facts.usd_per_row is not None and facts.usd_per_row > limits.usd_per_row:
        yield f"one row costs ${facts.usd_per_row:.6f} (constraints.usd_per_row: {limits.usd_per_row:g})"
