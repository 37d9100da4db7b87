"""Finalists side by side, and the dev rows on which they differ: what a person reads before a prompt goes live. Pure.

Test rows are not shown: whoever edits a prompt after reading them could no longer prove anything with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.candidate import Candidate, Example
from optimizer.proof.slices import Groups, by_worst_slice
from optimizer.propose.rows import clip, fields_text
from optimizer.records import Outcome, StudyView, TrialRecord
from optimizer.search.elite import Elite
from optimizer.search.known import values_of
from optimizer.words import visible

N_FINALISTS = 3
N_DIFFERENCES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A candidate under review; `number` is its trial as people count them, from 1."""

    number: int
    trial: TrialRecord
    candidate: Candidate
    is_seed: bool
    is_vetoed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A dev row that the finalists answer differently. `answers` and `values` go by trial number."""

    example_id: str
    shown: str
    expected: str
    answers: Mapping[int, str]
    values: Mapping[int, float]


def by_worst_group(
    view: StudyView,
    dev: Sequence[Example],
    groups: Groups,
    outcomes: Mapping[str, Mapping[str, Outcome]],
    *,
    n_wide: int,
) -> list[Candidate]:
    """Return the candidates that ran their whole race as a study ranks them that aims at its worst group, best first.

    Args:
        outcomes: by candidate and row; a leader has more of them than its trial.
        n_wide: so many, by their means, are looked at for the one that serves its worst group best.
    """
    dev_ids = [row.id for row in dev]
    elite = Elite(dev_ids)
    for candidate in (trial.candidate for trial in view.trials if trial.state == "complete"):
        if candidate is not None:
            elite.add(candidate, values_of([*outcomes.get(candidate.id, {}).values()], among=dev_ids))
    elite.incumbent = next((each for each in (view.best, view.seed) if each in elite), None)
    ranked, names = elite.ranked(), [groups.name(row) for row in dev]
    return by_worst_slice(elite, ranked[:n_wide], names, groups.small) + ranked[n_wide:]


def finalists(
    view: StudyView, vetoed: frozenset[str], n: int = N_FINALISTS, *, order: Sequence[Candidate] = ()
) -> list[Finalist]:
    """Return the best so far, the next best that ran their whole race, and the seed.

    Args:
        order: the candidates as the study ranks them where it does not go by their means, the best first; whoever
            leads by the mean while it runs need not be the first then.
    """
    places = {candidate.id: i for i, candidate in enumerate(order)}
    trials: dict[str, TrialRecord] = {}
    for trial in view.trials:
        if trial.candidate is not None and trial.outcomes:
            trials.setdefault(trial.candidate.id, trial)

    def rank(trial: TrialRecord) -> tuple[bool, bool, int, float]:
        assert trial.candidate is not None
        leads = trial.candidate == view.best and (view.state == "finished" or not places)
        place = places.get(trial.candidate.id, len(places))
        return (not leads, trial.state != "complete", place, -(trial.score or 0.0))

    ranked = sorted(trials.values(), key=rank)
    chosen = ranked[:n] + [trial for trial in ranked[n:] if trial.candidate == view.seed]
    return [
        Finalist(
            number=trial.number + 1,
            trial=trial,
            candidate=trial.candidate,
            is_seed=trial.candidate == view.seed,
            is_vetoed=trial.candidate.id in vetoed,
        )
        for trial in chosen
        if trial.candidate is not None
    ]


def differences(found: list[Finalist], rows: Mapping[str, Example], n: int = N_DIFFERENCES) -> list[Difference]:
    """Return dev rows on which the finalists' scores differ, those that divide them most first."""
    tables = {each.number: {outcome.example_id: outcome for outcome in each.trial.outcomes} for each in found}
    shared = [row for row in next(iter(tables.values()), {}) if all(row in table for table in tables.values())]
    result = []
    for example_id in shared:
        outcomes = {number: table[example_id] for number, table in tables.items()}
        values = {number: value for number, outcome in outcomes.items() if (value := outcome.value) is not None}
        if len(set(values.values())) > 1:
            result.append(_difference(example_id, rows.get(example_id), outcomes, values))
    return sorted(result, key=lambda each: -(max(each.values.values()) - min(each.values.values())))[:n]


def _difference(
    example_id: str, row: Example | None, outcomes: Mapping[int, Outcome], values: Mapping[int, float]
) -> Difference:
    return Difference(
        example_id=example_id,
        shown=visible(clip(fields_text(row.inputs), 200)) if row else f"row {example_id}",
        expected=visible(clip(fields_text(row.outputs), 80)) if row else "",
        answers={number: visible(_answer(outcome)) for number, outcome in outcomes.items()},
        values=values,
    )


def _answer(outcome: Outcome) -> str:
    if outcome.kind != "scored":
        return f"({outcome.kind}) {clip(outcome.text, 60)}"
    answer = {name: value for name, value in outcome.answer.items() if name != "reasoning"}
    return clip(fields_text(answer), 80) if answer else ""
