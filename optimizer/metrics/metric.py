"""What a metric is, and the one border around all of them: a finite number in [0, 1], or an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol

import numpy as np

from optimizer.candidate import Example, Fields
from optimizer.errors import MetricError
from optimizer.metrics.values import shown
from optimizer.stats import FloatArray
from optimizer.user_code import user_code

_OVERSHOOT = 1e-6  # how far float32 arithmetic may miss a bound of [0, 1]; put back to the bound


@dataclass(frozen=True, slots=True)
class Score:
    """A number in [0, 1], higher is better, and a remark that says what was wrong. Positional: users write it often."""

    value: float
    feedback: str | None = None


class Metric(Protocol):
    """How answers are scored.

    Attributes:
        version: hash of everything that changes a score: name, settings, the source of a user's module.
        is_binary: every value is 0 or 1, so the exact McNemar test applies.
        is_mean: `aggregate` is the mean of the values, so tests on means answer the question.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def is_binary(self) -> bool: ...

    @property
    def is_mean(self) -> bool: ...

    def __call__(self, example: Example, answer: Fields, /) -> Score: ...

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        """Return the score of a candidate on these examples; `values` has shape [n], a None answer is a wrong one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The part of a metric around another one that is the other's: what it is called, and whether it says 0 or 1."""

    version: str
    inner: Metric

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def is_binary(self) -> bool:
        return self.inner.is_binary


def score(metric: Metric, example: Example, answer: Fields) -> Score:
    """Call the metric behind the one border: what comes back is a finite number in [0, 1] or an error.

    Errors that we raise on purpose (a judge's failed call, a spent budget) pass unchanged: they are not the metric's.

    Raises:
        MetricError: the metric raised, or returned something that is not a score.
    """
    with user_code(MetricError, f"metric {metric.name!r}, example {example.id!r}"):
        return checked(metric(example, answer))


def checked(result: object) -> Score:
    """Turn what a metric returned into a score, or say what it is instead."""
    value, feedback = _unpacked(result)
    if not isinstance(value, (Real, np.bool_)):
        hint = "; did it print the score instead of returning it?" if result is None else ""
        raise MetricError(f"returned {shown(result)}, expected a number from 0 to 1{hint}")
    number = float(value)
    if not -_OVERSHOOT <= number <= 1 + _OVERSHOOT:
        raise MetricError(f"returned {shown(value)}, expected a finite number from 0 to 1")
    if feedback is not None and not isinstance(feedback, str):
        raise MetricError(f"returned the feedback {shown(feedback)}, expected text or None")
    return Score(min(1.0, max(0.0, number)), feedback)


def _unpacked(result: object) -> tuple[object, object]:
    if isinstance(result, Score):
        return result.value, result.feedback
    if isinstance(result, tuple) and len(result) == 2:
        return result
    if hasattr(result, "score"):
        return result.score, getattr(result, "feedback", None)
    return result, None


def mean_value(examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
    """Return the mean of the values[n] of n examples and answers."""
    lengths = len(examples), len(answers), len(values)
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"need equally many examples, answers and values, at least one; got {lengths}")
    return float(np.mean(values))
