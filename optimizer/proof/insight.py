"""What a study teaches beyond its verdict: how the winner came to be, which operators paid, what got better or worse.

Pure: a `StudyView` and rows in, records out. The terminal, the report and the MLflow view show these; nothing decides
on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from optimizer.candidate import Candidate, Example, Fields
from optimizer.records import Outcome, StudyView, TrialRecord
from optimizer.search.front import pareto_front

MAX_SLICES = 12  # values of a column that still make a table
Flip = Literal["fixed", "broken", "same", "not compared"]


class Worth(NamedTuple):
    """Mean paired difference of a candidate to another one, in score units, on the `n` dev rows that both have."""

    difference: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One candidate on the way to another.

    Attributes:
        trial: None for a seed that no trial scored, or where the trial was cut short.
        worth: against each parent, in their order; None where no dev row was scored for both.
        parents: the steps that it was made from, the first one being the text that was changed.
    """

    candidate: Candidate
    trial: TrialRecord | None
    is_seed: bool = False
    worth: tuple[Worth | None, ...] = ()
    parents: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        if self.trial:
            return f"trial {self.trial.number + 1}, {self.trial.recipe.operator}"
        return "your prompt" if self.is_seed else "a candidate whose trial was cut short"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRow:
    """What one operator was tried for. `gain` is the sum of paired differences of the candidates that took the lead."""

    operator: str
    tried: int
    rejected: int
    failed: int
    pruned: int
    complete: int
    won: int
    gain: float
    calls: int
    cost_usd: float | None
    is_winner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """Test rows that share a value of one column: mean values of seed and winner, and how many rows flipped."""

    column: str
    value: str
    n: int
    seed: float
    winner: float
    n_fixed: int
    n_broken: int

    @property
    def difference(self) -> float:
        return self.winner - self.seed


class Pair(NamedTuple):
    """One row as both prompts answered it. `example` is None when the data is not at hand."""

    example_id: str
    seed: Outcome
    winner: Outcome
    example: Example | None

    @property
    def flip(self) -> Flip:
        return flip_of(self.seed.value, self.winner.value)


class Dot(NamedTuple):
    """A trial on the axis of calls: `calls` made by the study until its end, `best` the highest complete score."""

    number: int
    calls: int
    score: float | None
    state: str
    best: float | None


def flip_of(old: float | None, new: float | None) -> Flip:
    """Say what became of a row."""
    if old is None or new is None:
        return "not compared"
    return "same" if old == new else ("fixed" if new > old else "broken")


def worth(child: Sequence[Outcome], parent: Sequence[Outcome]) -> Worth | None:
    """Compare two candidates on the rows that both were scored on."""
    before = {outcome.example_id: value for outcome in parent if (value := outcome.value) is not None}
    gaps = [v - before[o.example_id] for o in child if (v := o.value) is not None and o.example_id in before]
    return Worth(sum(gaps) / len(gaps), len(gaps)) if gaps else None


def lineage(view: StudyView, candidate: Candidate | None = None) -> Step:
    """Return how a candidate (default: the best one) was made, back to candidates without parents."""
    made: dict[str, TrialRecord] = {}
    for trial in view.trials:
        if trial.candidate is not None:
            made.setdefault(trial.candidate.id, trial)
    chosen = candidate or view.best
    return _step(chosen, made, view, seen=frozenset())


def _step(candidate: Candidate, made: Mapping[str, TrialRecord], view: StudyView, *, seen: frozenset[str]) -> Step:
    trial, seed = made.get(candidate.id), view.seed
    known = {seed.id: seed, **{key: each.candidate for key, each in made.items() if each.candidate}}
    made_from = trial.parents if trial else ()
    if trial is not None and not made_from and candidate != seed:
        made_from = (seed.id,)  # a start: other words or examples around your prompt
    ids = [parent for parent in made_from if parent in known and parent not in seen]
    parents = tuple(_step(known[parent], made, view, seen=seen | {candidate.id}) for parent in ids)
    own = view.dev_rows(trial)
    return Step(
        candidate=candidate,
        trial=trial,
        is_seed=candidate == seed,
        worth=tuple(worth(own, view.dev_rows(step.trial)) for step in parents),
        parents=parents,
    )


def took_the_lead(trial: TrialRecord) -> bool:
    """Whether the candidate became the best one of its time."""
    return trial.state == "complete" and (trial.difference is None or trial.difference > 0)


def operators(view: StudyView) -> tuple[OperatorRow, ...]:
    """Return a row for each operator that was tried, those that paid most first."""
    winner = view.trial_of(view.best)
    groups: dict[str, list[TrialRecord]] = {}
    for trial in view.trials:
        if trial.state not in ("running", "unfinished"):
            groups.setdefault(trial.recipe.operator, []).append(trial)
    rows = (_operator(name, trials, winner) for name, trials in groups.items())
    return tuple(sorted(rows, key=lambda row: (-row.won, -row.gain, -row.tried, row.operator)))


def _operator(name: str, trials: Sequence[TrialRecord], winner: TrialRecord | None) -> OperatorRow:
    states, costs = Counter(trial.state for trial in trials), [trial.cost_usd for trial in trials]
    leaders = [trial for trial in trials if took_the_lead(trial)]
    return OperatorRow(
        operator=name,
        tried=len(trials),
        rejected=states["rejected"],
        failed=states["failed"],
        pruned=states["pruned"],
        complete=states["complete"],
        won=len(leaders),
        gain=sum(trial.difference or 0.0 for trial in leaders),
        calls=sum(trial.task_calls + trial.proposer_calls for trial in trials),
        cost_usd=None if None in costs else sum(usd for usd in costs if usd is not None),
        is_winner=winner is not None and any(trial.number == winner.number for trial in trials),
    )


def progress(view: StudyView) -> tuple[Dot, ...]:
    """Return the finished trials along the calls that the study had made."""
    dots: list[Dot] = []
    calls, best = 0, None
    for trial in view.trials:
        if trial.state == "running":
            continue
        calls += trial.task_calls + trial.proposer_calls
        score, _ = view.dev_score(trial)
        if trial.state == "complete" and score is not None:
            best = score if best is None else max(best, score)
        dots.append(Dot(trial.number, calls, score, trial.state, best))
    return tuple(dots)


def why_not_highest(view: StudyView) -> str:
    """Say why the best candidate is not the one with the highest score, where these rest on different rows."""
    best, n_best = view.dev_score(view.trial_of(view.best))
    higher = [n for trial in view.trials for score, n in [view.dev_score(trial)] if score and best and score > best]
    if not higher or n_best in higher:
        return ""
    return "the best candidate has not the highest score: candidates are compared on the rows that both have"


def front_of(view: StudyView, n_chars: Mapping[str, int]) -> tuple[TrialRecord, ...]:
    """Return the trials that no other one beats in dev score and prompt length at once, shortest first.

    Only trials that ran their whole race, then or as finalists: the score of a dropped one rests on a few rows. The
    chosen one is always among them, though a score on fewer rows may be higher.

    Args:
        n_chars: candidate id to prompt length.
    """
    scores = {trial.number: view.dev_score(trial) for trial in view.trials if trial.candidate is not None}
    n_most = max((n for _, n in scores.values()), default=0)
    best = view.trial_of(view.best)
    raced = [
        trial
        for trial in view.trials
        if trial.number in scores and (trial.state == "complete" or scores[trial.number][1] == n_most or trial == best)
    ]
    lengths = [n_chars[trial.candidate.id] for trial in raced if trial.candidate is not None]
    front = set(pareto_front([scores[trial.number][0] or 0.0 for trial in raced], lengths))
    kept = [i for i, trial in enumerate(raced) if i in front or trial == best]
    return tuple(raced[i] for i in sorted(kept, key=lambda i: lengths[i]))


def pairs(seed: Sequence[Outcome], winner: Sequence[Outcome], rows: Mapping[str, Example]) -> tuple[Pair, ...]:
    """Return the rows that both prompts answered, in the seed's order."""
    after = {outcome.example_id: outcome for outcome in winner}
    return tuple(
        Pair(outcome.example_id, outcome, after[outcome.example_id], rows.get(outcome.example_id))
        for outcome in seed
        if outcome.example_id in after
    )


def slices(compared: Sequence[Pair]) -> tuple[SliceRow, ...]:
    """Return a row for each expected class and each value of another column that has few of them, worst change first.

    Columns with one value, or with more than `MAX_SLICES`, say nothing about groups.
    """
    columns: dict[str, dict[str, list[Pair]]] = {}
    for pair in compared:
        if pair.example is None or pair.flip == "not compared":
            continue
        for column, value in _groupable(pair.example):
            columns.setdefault(column, {}).setdefault(value, []).append(pair)
    tables = (
        sorted((_slice(column, value, group) for value, group in values.items()), key=lambda row: row.difference)
        for column, values in columns.items()
        if 1 < len(values) <= MAX_SLICES
    )
    return tuple(row for table in tables for row in table)


def _groupable(example: Example) -> Iterator[tuple[str, str]]:
    for fields in (example.outputs, example.extras):
        for column, value in fields.items():
            if isinstance(value, str | bool | int) and len(str(value)) <= 60:
                yield column, str(value).lower() if isinstance(value, bool) else str(value)


def _slice(column: str, value: str, group: Sequence[Pair]) -> SliceRow:
    flips = Counter(pair.flip for pair in group)
    return SliceRow(
        column=column,
        value=value,
        n=len(group),
        seed=sum(pair.seed.value or 0.0 for pair in group) / len(group),
        winner=sum(pair.winner.value or 0.0 for pair in group) / len(group),
        n_fixed=flips["fixed"],
        n_broken=flips["broken"],
    )


def said(outcome: Outcome, fields: Sequence[str] = ()) -> str:
    """Return what the model answered, on one line; `fields` names the outputs that count."""
    if outcome.kind != "scored":
        text = outcome.error or outcome.kind
        return f"({outcome.kind}: {' '.join((outcome.text or text).split())[:120]})"
    answer = {key: value for key, value in outcome.answer.items() if not fields or key in fields}
    return as_line(answer or outcome.answer)


def as_line(fields: Fields) -> str:
    """Return field values on one line, named where there are several."""
    if len(fields) == 1:
        return " ".join(str(next(iter(fields.values()))).split())
    return "; ".join(f"{key}: {' '.join(str(value).split())}" for key, value in fields.items())
