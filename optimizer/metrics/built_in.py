"""Metrics that look at one output field: a scoring function, and how scores of many examples are put together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.candidate import Example, Fields, JsonValue
from optimizer.config.keys import OutputKind
from optimizer.errors import MetricError
from optimizer.metrics.metric import Score, mean_value
from optimizer.metrics.scorers import Scorer
from optimizer.metrics.values import plain_text, shown, typed
from optimizer.stats import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """A metric that looks at one output field; `scorer(expected, answer)` rates it."""

    name: str
    version: str
    is_binary: bool
    output: str
    kind: OutputKind
    scorer: Scorer
    is_mean: bool = True

    def __call__(self, example: Example, answer: Fields, /) -> Score:
        expected = expected_of(example, self.output)
        if answer.get(self.output) is None:
            return Score(0.0, f"expected {shown(expected)}, got no {self.output!r}")
        return self.scorer(expected, answer[self.output])

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        return mean_value(examples, answers, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class MacroF1(BuiltIn):
    """0 or 1 for each example; over many, the mean F1 of the labels that are expected at least once.

    An answer outside the expected labels costs its example's label recall but adds no label of its own, so two
    candidates on the same examples are averaged over the same labels.
    """

    is_mean: bool = False

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        mean_value(examples, answers, values)  # the same lengths, not empty
        expected = [self._label(expected_of(example, self.output)) for example in examples]
        n_expected = Counter(expected)
        n_got = Counter(self._label(answer.get(self.output)) for answer in answers if answer is not None)
        n_right = Counter(label for label, value in zip(expected, values, strict=True) if value == 1)
        f1s = [2 * n_right[label] / (n_expected[label] + n_got[label]) for label in n_expected]
        return math.fsum(f1s) / len(f1s)

    def _label(self, value: JsonValue) -> str:
        return plain_text(typed(value, self.kind)).strip()


def expected_of(example: Example, output: str) -> JsonValue:
    """Return what the data says.

    Raises:
        MetricError: the example has no such output.
    """
    if output not in example.outputs:
        raise MetricError(f"the example has no output {output!r}, it has {', '.join(example.outputs) or 'none'}")
    return example.outputs[output]
