"""Metrics made of metrics: several with weights, and one that gives nothing to an answer outside its limits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.candidate import Example, Fields, content_hash
from optimizer.config.keys import Constraints
from optimizer.metrics.metric import Around, Metric, Score, checked, mean_value
from optimizer.metrics.values import normalise, plain_text, shown
from optimizer.stats import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """The weighted mean of several metrics; the remark names the part that it comes from."""

    version: str
    parts: Mapping[str, tuple[float, Metric]]
    name: str = "weighted"
    is_binary: bool = False
    is_mean: bool = True

    @classmethod
    def of(cls, parts: Mapping[str, tuple[float, Metric]]) -> Weighted:
        facts = [[name, weight, metric.version] for name, (weight, metric) in parts.items()]
        return cls(version=content_hash(["weighted", facts], n_chars=16), parts=parts)

    def __call__(self, example: Example, answer: Fields, /) -> Score:
        scores = {name: checked(metric(example, answer)) for name, (_, metric) in self.parts.items()}
        total = math.fsum(weight for weight, _ in self.parts.values())
        value = math.fsum(self.parts[name][0] * score.value for name, score in scores.items()) / total
        remarks = [f"{name}: {score.feedback}" for name, score in scores.items() if score.feedback]
        return Score(value, "; ".join(remarks) or None)

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        return mean_value(examples, answers, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited(Around):
    """Another metric, but an answer that is too long or contains a forbidden word scores 0, whatever it says."""

    limits: Constraints
    output: str

    @classmethod
    def of(cls, inner: Metric, limits: Constraints, *, output: str) -> Limited:
        facts = limits.model_dump(mode="json", include={"max_chars", "max_words", "forbidden"})
        version = content_hash([inner.version, facts, output], n_chars=16)
        return cls(version=version, inner=inner, limits=limits, output=output)

    @property
    def is_mean(self) -> bool:
        return self.inner.is_mean

    def __call__(self, example: Example, answer: Fields, /) -> Score:
        if (broken := self._broken(answer)) is not None:
            return Score(0.0, broken)
        return checked(self.inner(example, answer))

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        return self.inner.aggregate(examples, answers, values)

    def _broken(self, answer: Fields) -> str | None:
        limits, text = self.limits, plain_text(answer.get(self.output))
        if limits.max_chars is not None and len(text) > limits.max_chars:
            return f"the answer has {len(text)} characters, at most {limits.max_chars} are allowed"
        if limits.max_words is not None and len(text.split()) > limits.max_words:
            return f"the answer has {len(text.split())} words, at most {limits.max_words} are allowed"
        said = normalise(" ".join(map(plain_text, answer.values())))
        for phrase in limits.forbidden:
            if contains_phrase(said, phrase):
                return f"the answer contains {shown(phrase)}, which is forbidden"
        return None


def contains_phrase(normalised: str, phrase: str) -> bool:
    """Tell whether a normalised text contains a phrase, not inside a longer Latin word."""
    wanted = normalise(phrase)
    before = r"(?<![^\W_])" if wanted[:1].isascii() and wanted[:1].isalnum() else ""
    after = r"(?![^\W_])" if wanted[-1:].isascii() and wanted[-1:].isalnum() else ""
    return bool(wanted) and re.search(before + re.escape(wanted) + after, normalised) is not None
