"""Groups of rows that are looked at one by one, so that a better average cannot hide harm to a group. Pure.

Decides which row belongs to which group, what each group scores under two prompts, and who is best to the worst-served
group. Groups are fixed by the rows of the test split before anything is scored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
MAX_JOINED = 5  # values of `other` that are named
SHRINK_ROWS = 10.0  # a difference in a group on this many rows counts half


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Which group each example is in, by example id.

    Attributes:
        small: groups with too few rows in the final test to be the worst one by more than chance.
        joined: the values that the group of all small ones holds, with the number of their test rows.
        rest: the name of that group; `other`, unless a group of the data has that name.
    """

    of: Mapping[str, str]
    small: frozenset[str] = frozenset()
    joined: tuple[str, ...] = ()
    rest: str = OTHER

    def name(self, example: Example) -> str:
        return self.of.get(example.id, self.rest)


def grouped(
    settings: Slices | None, metric: Metric, test: Sequence[Example], others: Sequence[Example], *, n_tested: int
) -> tuple[Metric, Groups | None]:
    """Return the metric and the groups of rows; the metric scores by the worst group where that is the aim.

    Args:
        n_tested: so many of the test rows, from the first, are what the final test can pay for.

    Raises:
        ConfigError: see `group_rows`.
    """
    if settings is None:
        return metric, None
    groups = group_rows(settings, test, others, n_tested=n_tested)
    return WorstSlice.of(metric, groups, settings.by) if settings.aim == "worst" else metric, groups


def group_rows(
    settings: Slices, test: Sequence[Example], others: Sequence[Example], *, n_tested: int | None = None
) -> Groups:
    """Put every row into its group; groups with few test rows become `other`.

    Args:
        n_tested: rows of the final test, the first of `test`; default: all.

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
    rest = OTHER
    while rest in large:
        rest = f"all {rest}"
    groups = {
        example_id: value if value in large and value is not None else rest for example_id, value in found.items()
    }
    if len(set(groups.values())) < 2:
        sizes = ", ".join(f"{value} {n}" for value, n in counts.most_common(5))
        raise ConfigError(
            f"metric.slices.by: {settings.by!r} makes one group only (test rows: {sizes}); at least two need "
            f"{settings.min_rows} test rows each; take another column, more rows, or lower metric.slices.min_rows"
        )
    tested = Counter(groups[example.id] for example in test[:n_tested])
    small = frozenset(name for name in set(groups.values()) if tested[name] < settings.min_rows)
    if small >= set(groups.values()):  # of a short test; the largest groups are then the best that there is
        small = frozenset({rest}) & small
    joined = tuple(f"{value or 'no value'} {n}" for value, n in counts.most_common() if value not in large)
    return Groups(of=groups, small=small, joined=joined, rest=rest)


def group_notes(settings: Slices | None, groups: Groups | None, tested: Sequence[Example]) -> list[str]:
    """Return what groups are too small for, before a run: to be the worst one, or to tell a loss from one row."""
    if settings is None or groups is None:
        return []
    sizes = Counter(groups.name(example) for example in tested)
    found = []
    if settings.aim == "worst" and groups.small:
        names = ", ".join(f"{name} ({sizes[name]})" for name in sorted(groups.small))
        found.append(
            f"metric.slices: of {settings.by!r}, these have fewer than {settings.min_rows} rows in the final test and "
            f"are not counted as the worst group: {names}{_holds(groups)}"
        )
    limit = settings.max_loss
    short = {name: n for name, n in sizes.items() if limit is not None and n * limit < 1}
    if limit and short:
        names = ", ".join(f"{name} ({n}: {100 / n:.0f} points)" for name, n in sorted(short.items()))
        found.append(
            f"metric.slices.max_loss: {limit:g} is less than one row of {names}; a single answer that changes there "
            f"breaks the rule, so it proves little; {math.ceil(1 / limit)} rows are needed{_holds(groups, short)}"
        )
    return found


def _holds(groups: Groups, among: Collection[str] | None = None) -> str:
    """Say what the group of small ones holds, where it is spoken of."""
    rest = groups.rest
    if rest not in (among or (rest,)) or rest not in groups.of.values() or not groups.joined:
        return ""
    shown = ", ".join(groups.joined[:MAX_JOINED])
    more = f" and {len(groups.joined) - MAX_JOINED} more" if len(groups.joined) > MAX_JOINED else ""
    return f" ({rest!r} holds {shown}{more})"


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
        scores = _by_group(self.inner, self.groups, examples, answers, values)
        return min([each for name, each in scores.items() if name not in self.groups.small] or scores.values())


def slice_scores(
    metric: Metric, groups: Groups, examples: Sequence[Example], seed: Sequence[Outcome], winner: Sequence[Outcome]
) -> tuple[SliceScore, ...]:
    """Return what each group scores, worst difference first. Pairs with a failed outcome must have been left out."""
    inner = metric.inner if isinstance(metric, WorstSlice) else metric
    old = _by_group(inner, groups, examples, *_answers_and_values(seed))
    new = _by_group(inner, groups, examples, *_answers_and_values(winner))
    n = Counter(groups.name(example) for example in examples)
    scores = [
        SliceScore(
            name=name,
            n=n[name],
            seed=old[name],
            winner=new[name],
            holds=groups.joined if name == groups.rest else (),
            decides=name not in groups.small,
        )
        for name in old
    ]
    return tuple(sorted(scores, key=lambda each: each.difference))


def by_worst_slice(
    elite: Elite, candidates: Sequence[Candidate], names: Sequence[str], small: Collection[str] = ()
) -> list[Candidate]:
    """Return the candidates, the one with the highest worst group first.

    Args:
        names: group of each dev row, in the order of the elite's columns.
        small: groups that are not counted.
    """
    counted = sorted(set(names) - set(small)) or sorted(set(names))
    columns = {name: np.array([each == name for each in names]) for name in counted}

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
