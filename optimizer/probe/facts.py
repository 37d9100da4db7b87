"""What a probe's answers show: scores, chance, noise, rows that are answered differently. Counts, asks nobody."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optimizer.candidate import Example, Fields
from optimizer.config.keys import Config
from optimizer.data.report import NEAR_COPIES
from optimizer.errors import MetricError
from optimizer.lm.backend import AttemptError
from optimizer.metrics import score
from optimizer.metrics.values import normalise
from optimizer.probe.advice import Luck, ProbeFacts, Unsettled
from optimizer.prompts.spec import as_text
from optimizer.propose.rows import clip, fields_text
from optimizer.study.job import Job
from optimizer.words import visible

N_DEALS = 40  # times that answers are dealt out to other rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a probe will ask."""

    rows: tuple[Example, ...]
    repeated: tuple[Example, ...]
    sizes: tuple[int, ...]  # of the sets of examples that the seed is tried with
    n_calls: int  # of the task model, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One answer. `value` is None when the call or the metric failed; `text` is a reply that could not be read."""

    value: float | None
    answer: Fields
    is_read: bool
    note: str = ""
    text: str = ""


def facts_of(
    job: Job, planned: Plan, plain: list[Asked], sets: Mapping[int, list[Asked]], draws: list[list[Asked]]
) -> ProbeFacts:
    """Count.

    Args:
        plain: answers to the seed prompt, one for each planned row.
        sets: likewise with examples, by their number; the set that scores most counts.
        draws: answers to the repeated rows, draw by draw.
    """
    n_examples = max(sets, key=lambda n: _score(job, planned.rows, sets[n]) or 0.0, default=0)
    shown = sets.get(n_examples, [])
    report, rows = job.splits.report, [*job.splits.dev, *job.splits.test, *job.splits.train]
    values = [each.value for each in plain if each.value is not None]
    pairs = [
        (a.value, b.value) for a, b in zip(plain, shown, strict=False) if a.value is not None and b.value is not None
    ]
    seed = _score(job, planned.rows, plain)
    asked = [*plain, *(each for answers in sets.values() for each in answers)]
    unread = [each for each in asked if not each.is_read and each.value is not None]
    hides_rows, unsettled = job.config.tracking.rows == "ids", _unsettled(planned.repeated, draws)
    return ProbeFacts(
        n_rows=len(planned.rows),
        n_test=job.n_test,
        seed=seed if seed is not None else 0.0,
        with_examples=_score(job, planned.rows, shown),
        n_examples=n_examples,
        constant=_constant(job, planned.rows),
        luck=_luck(job, planned.rows, plain),
        luck_with_examples=_luck(job, planned.rows, shown),
        expected=_expected(job, planned.rows),
        is_mean=job.metric.is_mean,
        read_share=1 - len(unread) / max(1, len(asked)),
        unread_reason=("hidden: tracking.rows is `ids`" if hides_rows else unread[0].note) if unread else "",
        unread_reply=visible(clip(unread[0].text, 60)) if unread and not hides_rows else "",
        noise=_noise(draws),
        metric_noise=_metric_noise(job, planned.repeated, plain),
        spread=float(np.std([b - a for a, b in pairs])) if pairs else float(np.std(values)),
        n_pairs=len(pairs) or len(values),
        unsettled=_as_ids(unsettled, job.config) if hides_rows else unsettled,
        n_repeated=len(planned.repeated),
        contradictory_share=report.n_contradictory / max(1, sum(report.n.values())),
        leaked_share=sum(map(_is_leaked, rows)) / max(1, len(rows)),
        overlap=report.n_overlap,
        near_copies=next((each for each in report.warnings if each.startswith(NEAR_COPIES)), ""),
    )


def _score(job: Job, rows: Sequence[Example], asked: Sequence[Asked]) -> float | None:
    """The score of a prompt by the study's own metric, on the rows whose call did not fail; None without any."""
    known = [(row, each.answer, each.value) for row, each in zip(rows, asked, strict=False) if each.value is not None]
    if not known:
        return None
    examples, answers, values = zip(*known, strict=True)
    return job.metric.aggregate(examples, answers, np.array(values))


def _expected(job: Job, rows: Sequence[Example]) -> float | None:
    """What the expected answers themselves score: a metric that refuses them measures something else."""
    return _score_of(job, rows, [row.outputs for row in rows])


def _constant(job: Job, rows: Sequence[Example]) -> float | None:
    """What always giving dev's most frequent answer would score on some rows."""
    answers = [row.outputs for row in job.splits.dev]
    texts = [fields_text(answer) for answer in answers]
    common = answers[max(range(len(texts)), key=lambda i: texts.count(texts[i]))]
    return _score_of(job, rows, [common] * len(rows))


def _score_of(job: Job, rows: Sequence[Example], answers: Sequence[Fields]) -> float | None:
    """Score answers by the study's own metric; None where it refuses them, or a judge would have to be paid for it."""
    if job.judge_backend is not None:
        return None
    try:
        values = np.array([score(job.metric, row, answer).value for row, answer in zip(rows, answers, strict=True)])
    except MetricError:
        return None
    return job.metric.aggregate(rows, answers, values)


def _luck(job: Job, rows: Sequence[Example], asked: Sequence[Asked]) -> Luck | None:
    """What the same answers score when they are dealt out to the rows at random: a skill is what is above that."""
    known = [(row, each) for row, each in zip(rows, asked, strict=False) if each.value is not None]
    if not known or job.judge_backend is not None:  # a judge would have to be paid for this
        return None
    examples, given = [row for row, _ in known], [each for _, each in known]

    @functools.cache
    def value(i: int, answer: str) -> float:
        each = by_text[answer]
        return score(job.metric, examples[i], each.answer).value if each.is_read else 0.0

    texts = [fields_text(each.answer) if each.is_read else "" for each in given]
    by_text = dict(zip(texts, given, strict=True))
    rng = np.random.default_rng(job.config.search.seed)
    scores = []
    try:
        for _ in range(N_DEALS):
            dealt = [texts[j] for j in rng.permutation(len(texts))]
            values = np.array([value(i, answer) for i, answer in enumerate(dealt)])
            scores.append(job.metric.aggregate(examples, [by_text[answer].answer for answer in dealt], values))
    except MetricError:
        return None
    return Luck(mean=float(np.mean(scores)), spread=float(np.std(scores)))


def _noise(draws: list[list[Asked]]) -> float:
    """Mean over rows of the standard deviation of one row's score between draws."""
    by_row = [[each.value for each in row if each.value is not None] for row in zip(*draws, strict=True)]
    spreads = [float(np.std(known)) for known in by_row if len(known) > 1]
    return float(np.mean(spreads)) if spreads else 0.0


def _metric_noise(job: Job, rows: Sequence[Example], asked: Sequence[Asked]) -> float:
    """Score the same answers again; only a judge can come to another result."""
    if job.judge_backend is None:
        return 0.0
    spreads = []
    for row, each in zip(rows, asked, strict=False):
        if each.value is not None and each.is_read:
            try:
                spreads.append(float(np.std([each.value, score(job.metric, row, each.answer).value])))
            except (AttemptError, MetricError):
                continue
    return float(np.mean(spreads)) if spreads else 0.0


def _unsettled(rows: Sequence[Example], draws: list[list[Asked]]) -> tuple[Unsettled, ...]:
    """Rows that are answered differently from draw to draw, those with most different answers first."""
    found = []
    for row, asked in zip(rows, zip(*draws, strict=True), strict=True):
        answers = {
            normalise(as_text(fields_text(each.answer))): fields_text(each.answer) for each in asked if each.answer
        }
        if len(answers) > 1:
            shown = tuple(visible(clip(text, 60)) for text in answers.values())
            found.append(Unsettled(example_id=row.id, shown=visible(clip(fields_text(row.inputs), 80)), answers=shown))
    return tuple(sorted(found, key=lambda each: -len(each.answers)))


def _as_ids(unsettled: Iterable[Unsettled], config: Config) -> tuple[Unsettled, ...]:
    """The rows by their ids; their answers stay where all outputs are classes, which tell nothing of a row's text."""
    has_text = any(output.kind not in ("label", "boolean") for output in config.task.outputs.values())
    return tuple(
        replace(each, shown=f"row {each.example_id}", answers=() if has_text else each.answers) for each in unsettled
    )


def _is_leaked(row: Example) -> bool:
    """An input that is the answer: a column was left in that nobody will have when it counts."""
    answers = {normalise(as_text(value)) for value in row.outputs.values()}
    return any(normalise(as_text(value)) in answers for value in row.inputs.values())
