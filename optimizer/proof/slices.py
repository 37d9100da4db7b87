"""Groups of rows that are looked at one by one, so that a better average cannot hide harm to a group. Pure.

Decides which row belongs to which group, what each group scores under two prompts, and who is best to the worst-served
group. Groups are fixed by the rows of the test split before anything is scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.candidate import Candidate, Example, Fields, content_hash
from optimizer.config.metric import Slices
from optimizer.errors import ConfigError, did_you_mean
from optimizer.metrics import Metric, Score
from optimizer.metrics.metric import Around
from optimizer.records import Outcome, SliceScore
from optimizer.search.elite import Elite
from optimizer.stats import FloatArray

OTHER = "other"
SHRINK_ROWS = 10.0  # a difference in a group on this many rows counts half


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Which group each example is in, by example id."""

    of: Mapping[str, str]

    def name(self, example: Example) -> str:
        return self.of.get(example.id, OTHER)


def group_rows(settings: Slices, test: Sequence[Example], others: Sequence[Example]) -> Groups:
    """Put every row into its group; groups with few test rows become `other`.

    Raises:
        ConfigError: no row has the column, or there is one group only.
    """
    found = {example.id: value_of(example, settings.by) for example in (*test, *others)}
    if all(value is None for value in found.values()):
        columns = sorted({name for example in test for name in (*example.extras, *example.inputs, *example.outputs)})
        near = did_you_mean(settings.by, columns)
        raise ConfigError(f"metric.slices.by: no column {settings.by!r}; columns: {', '.join(columns)}.{near}")
    counts = Counter(found[example.id] for example in test)
    large = {value for value, n in counts.items() if n >= settings.min_rows and value is not None}
    groups = {
        example_id: value if value in large and value is not None else OTHER for example_id, value in found.items()
    }
    if len(set(groups.values())) < 2:
        sizes = ", ".join(f"{value} {n}" for value, n in counts.most_common(5))
        raise ConfigError(
            f"metric.slices.by: {settings.by!r} makes one group only (test rows: {sizes}); at least two need "
            f"{settings.min_rows} test rows each; take another column, more rows, or lower metric.slices.min_rows"
        )
    return Groups(of=groups)


def value_of(example: Example, column: str) -> str | None:
    """Return a row's value in a column or field, as text; None if it has none."""
    for fields in (example.extras, example.inputs, example.outputs):
        if (value := fields.get(column)) is not None and str(value).strip():
            return " ".join(str(value).split())
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSlice(Around):
    """A metric that scores rows like another one, and a set of rows by its worst group.

    The smallest of several group scores is pessimistic by chance, for seed and winner alike; their difference is what
    is judged, and its interval comes from resampling whole rows.
    """

    groups: Groups
    is_mean: bool = False

    @classmethod
    def of(cls, inner: Metric, groups: Groups, by: str) -> WorstSlice:
        return cls(version=content_hash([inner.version, "worst", by], n_chars=16), inner=inner, groups=groups)

    def __call__(self, example: Example, answer: Fields, /) -> Score:
        return self.inner(example, answer)

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        return min(_by_group(self.inner, self.groups, examples, answers, values).values())


def slice_scores(
    metric: Metric, groups: Groups, examples: Sequence[Example], seed: Sequence[Outcome], winner: Sequence[Outcome]
) -> tuple[SliceScore, ...]:
    """Return what each group scores, worst difference first. Pairs with a failed outcome must have been left out."""
    inner = metric.inner if isinstance(metric, WorstSlice) else metric
    old = _by_group(inner, groups, examples, *_answers_and_values(seed))
    new = _by_group(inner, groups, examples, *_answers_and_values(winner))
    n = Counter(groups.name(example) for example in examples)
    scores = [SliceScore(name=name, n=n[name], seed=old[name], winner=new[name]) for name in old]
    return tuple(sorted(scores, key=lambda each: each.difference))


def by_worst_slice(elite: Elite, candidates: Sequence[Candidate], names: Sequence[str]) -> list[Candidate]:
    """Return the candidates, the one with the highest worst group first.

    Args:
        names: group of each dev row, in the order of the elite's columns.
    """
    columns = {name: np.array([each == name for each in names]) for name in sorted(set(names))}

    def worst(candidate: Candidate) -> float:
        return min(_group_estimate(elite, candidate, mask) for mask in columns.values())

    return sorted(candidates, key=lambda candidate: -worst(candidate))


def _group_estimate(elite: Elite, candidate: Candidate, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """The incumbent's mean in a group, and the candidate's difference to it, shrunk where rows are few."""
    row = elite.values(candidate)[mask]
    base = elite.values(elite.incumbent if elite.incumbent is not None else candidate)[mask]
    both = ~np.isnan(row) & ~np.isnan(base)
    if not both.any():
        return 0.0 if np.isnan(base).all() else float(np.nanmean(base))
    n = int(both.sum())
    return float(np.nanmean(base)) + float((row[both] - base[both]).mean()) * n / (n + SHRINK_ROWS)


def _by_group(
    metric: Metric,
    groups: Groups,
    examples: Sequence[Example],
    answers: Sequence[Fields | None],
    values: FloatArray,
) -> dict[str, float]:
    places: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        places.setdefault(groups.name(example), []).append(i)
    return {
        name: metric.aggregate([examples[i] for i in where], [answers[i] for i in where], values[where])
        for name, where in sorted(places.items())
    }


def _answers_and_values(outcomes: Sequence[Outcome]) -> tuple[list[Fields | None], FloatArray]:
    answers = [outcome.answer if outcome.kind == "scored" else None for outcome in outcomes]
    return answers, np.array([outcome.value or 0.0 for outcome in outcomes], dtype=np.float64)
