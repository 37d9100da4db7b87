"""What people hold a study to, applied to an open one: vetoes, groups of rows, limits of price, length and calls.

The decisions are pure and stand in `rules` and `slices`; here they meet the session's journal, elite and models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from optimizer.candidate import Candidate
from optimizer.proof.labels import class_scores, constant_of, gives_one_label
from optimizer.proof.rules import Facts, held_to
from optimizer.proof.slices import WorstSlice, by_worst_slice, slice_scores
from optimizer.proof.verdict import score_of
from optimizer.records import Verdict
from optimizer.review.wishes import vetoes
from optimizer.search.elite import SHRINK_ROWS
from optimizer.search.front import pareto_front
from optimizer.search.known import RACED

if TYPE_CHECKING:
    from optimizer.study.session import Session

WIDER = 3  # so many times the finalists are looked at for the one that serves its worst group best


def allowed(session: Session, ranked: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that were raced, that nobody vetoed, that have not grown too long, and that give more than
    one label; the seed always may.

    A trial that a cap cut short was not raced. To the worst group a dropped one was not, either: a few rows of each
    group say nothing of it.
    """
    vetoed, growth = vetoes(session.journal), session.job.config.constraints.prompt_growth
    states = ("complete",) if aims_at_worst_slice(session) else RACED
    raced = {trial.candidate.id for trial in session.known.trials if trial.candidate and trial.state in states}
    raced.add(session.seed.id)
    kept = [candidate for candidate in ranked if candidate.id in raced - vetoed]
    if growth is not None:
        longest = growth * session.n_chars(session.seed)
        kept = [candidate for candidate in kept if candidate == session.seed or session.n_chars(candidate) <= longest]
    return fit(session, kept)


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
    """Return candidates, best first by what the study aims at where that is no mean of rows: the worst group, macro F1.

    Races go by means of rows. Only here, with all rows that a candidate has, is it asked what they come to.
    """
    if session.job.metric.is_mean:
        return list(candidates)
    if not aims_at_worst_slice(session) or session.job.groups is None:
        return sorted(candidates, key=_leads(session, candidates), reverse=True)
    names = [session.job.groups.name(example) for example in session.splits.dev]
    return by_worst_slice(session.elite, candidates, names, session.job.groups.small)


def _leads(session: Session, candidates: Sequence[Candidate]) -> Callable[[Candidate], float]:
    """By how much a candidate's aggregate is ahead of the leader's on the dev rows of both; few rows count less."""
    metric, leader = session.job.metric, session.elite.incumbent or session.seed
    kept = session.journal.outcomes_of({leader.id, *(each.id for each in candidates)}, metric.version)

    def lead(candidate: Candidate) -> float:
        mine, others = kept.get(candidate.id, {}), kept.get(leader.id, {})
        both = {row_id for row_id, each in mine.items() if each.value is not None}
        both &= {row_id for row_id, each in others.items() if each.value is not None}
        rows = [row for row in session.splits.dev if row.id in both]
        if not rows:
            return 0.0
        new, old = (score_of(metric, rows, [each[row.id] for row in rows]) for each in (mine, others))
        return (new - old) * len(rows) / (len(rows) + SHRINK_ROWS)

    return lead


def label_output(session: Session) -> str | None:
    """Return the output that the metric scores where that is a label and asking the metric costs nothing, else None."""
    config = session.job.config
    measures, outputs = config.metric.measures, config.task.outputs
    output = measures[0].output or next(iter(outputs))
    is_one = len(measures) == 1 and (len(outputs) == 1 or ":" not in measures[0].name)
    if not is_one or config.metric.asks_judge or outputs[output].kind not in ("label", "boolean"):
        return None
    return output


def fit(session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates without those that gave one label to nearly all dev rows that they were scored on.

    Such a prompt would not be promoted. Where no other one is left but the seed, all stay: then the verdict says why.
    """
    left_out = _give_one_label(session, candidates)
    kept = [each for each in candidates if each.id not in left_out]
    return kept if any(each != session.seed for each in kept) else list(candidates)


def one_label(session: Session) -> list[str]:
    """Return the ids of the best candidates that could not win because they give one label to nearly all rows."""
    best = session.elite.ranked()[: WIDER * session.job.config.search.finalists]
    return sorted(_give_one_label(session, [each for each in best if each != session.seed]))


def _give_one_label(session: Session, candidates: Sequence[Candidate]) -> set[str]:
    """Return the ids of those that gave one label to nearly all dev rows that they were scored on."""
    if (output := label_output(session)) is None:
        return set()
    metric, dev = session.job.metric, session.splits.dev
    found = set()
    for candidate_id, known in session.journal.outcomes_of({each.id for each in candidates}, metric.version).items():
        scored = [(row, known[row.id]) for row in dev if row.id in known and known[row.id].value is not None]
        if gives_one_label(metric, output, [row for row, _ in scored], [each for _, each in scored]):
            found.add(candidate_id)
    return found


def held_to_rules(session: Session, verdict: Verdict, winner: Candidate, *, usd_per_row: float | None) -> Verdict:
    """Add the groups to a verdict, and turn `promote` into `keep` when the winner breaks a rule."""
    config, by_id = session.job.config, {example.id: example for example in session.splits.test}
    rows = [by_id[outcome.example_id] for outcome in verdict.seed_outcomes]
    groups, settings = session.job.groups, config.metric.slices
    outcomes = (verdict.seed_outcomes, verdict.winner_outcomes)
    metric, output, rng = session.job.metric, label_output(session), session.generator("constant answer")
    facts = Facts(
        slices=slice_scores(metric, groups, rows, *outcomes) if groups else (),
        classes=class_scores(output, rows, *outcomes) if output else (),
        constant=constant_of(metric, output, rows, outcomes[1], confidence=verdict.confidence, rng=rng)
        if output
        else None,
        n_chars=(session.n_chars(session.seed), session.n_chars(winner)),
        usd_per_row=usd_per_row,
    )
    return held_to(verdict, facts, config.constraints, max_loss=settings.max_loss if settings else None)
