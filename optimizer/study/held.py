"""What people hold a study to, applied to an open one: vetoes, groups of rows, limits of price, length and calls.

The decisions are pure and stand in `rules` and `slices`; here they meet the session's journal, elite and models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimizer.candidate import Candidate
from optimizer.proof.rules import Facts, held_to
from optimizer.proof.slices import WorstSlice, by_worst_slice, slice_scores
from optimizer.records import Verdict
from optimizer.review.wishes import vetoes
from optimizer.search.front import pareto_front

if TYPE_CHECKING:
    from optimizer.study.session import Session

WIDER = 3  # so many times the finalists are looked at for the one that serves its worst group best


def allowed(session: Session, ranked: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that nobody vetoed and that have not grown too long; the seed always may."""
    vetoed, growth = vetoes(session.journal), session.job.config.constraints.prompt_growth
    kept = [candidate for candidate in ranked if candidate.id not in vetoed]
    if growth is None:
        return kept
    longest = growth * session.n_chars(session.seed)
    return [candidate for candidate in kept if candidate == session.seed or session.n_chars(candidate) <= longest]


def finalists(session: Session) -> list[Candidate]:
    """Return the best few candidates; where cost matters, the best few of the front of score against length."""
    search, ranked = session.job.config.search, allowed(session, session.elite.ranked())
    if "cost" in search.objective:
        scores = [session.elite.estimate(candidate) for candidate in ranked]
        front = pareto_front(scores, [session.n_chars(candidate) for candidate in ranked])
        ranked = [ranked[i] for i in reversed(front)]
    return by_aim(session, ranked[: search.finalists * WIDER])[: search.finalists]


def aims_at_worst_slice(session: Session) -> bool:
    return isinstance(session.job.metric, WorstSlice)


def by_aim(session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates in their order; where it is the aim, the one that serves its worst group best first."""
    if not aims_at_worst_slice(session) or session.job.groups is None:
        return list(candidates)
    names = [session.job.groups.name(example) for example in session.splits.dev]
    return by_worst_slice(session.elite, candidates, names)


def held_to_rules(session: Session, verdict: Verdict, winner: Candidate, *, usd_per_row: float | None) -> Verdict:
    """Add the groups to a verdict, and turn `promote` into `keep` when the winner breaks a rule."""
    config, by_id = session.job.config, {example.id: example for example in session.splits.test}
    rows = [by_id[outcome.example_id] for outcome in verdict.seed_outcomes]
    groups, settings = session.job.groups, config.metric.slices
    outcomes = (verdict.seed_outcomes, verdict.winner_outcomes)
    facts = Facts(
        slices=slice_scores(session.job.metric, groups, rows, *outcomes) if groups else (),
        n_chars=(session.n_chars(session.seed), session.n_chars(winner)),
        usd_per_row=usd_per_row,
    )
    return held_to(verdict, facts, config.constraints, max_loss=settings.max_loss if settings else None)
