"""The `supported` metric: does the answer keep to the text that it was given?

Decides by words and numbers alone, without a model: a word that stands nowhere in the context is a claim that nothing
supports. It says nothing about whether the answer is right; weigh it with a metric that does (`metric: weighted`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.candidate import Example, Fields
from optimizer.errors import MetricError
from optimizer.metrics.metric import Score, mean_value
from optimizer.metrics.values import find_numbers, plain_text, shown
from optimizer.stats import FloatArray

MIN_LETTERS = 4  # shorter words are mostly grammar
STEM = 4  # words that begin alike are forms of one word: `closes` and `closed`
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORDS = re.compile(rf"[{_CJK}]{{2,}}|[^\W\d_{_CJK}]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Supported:
    """Share of the answer's content words that occur in the context; 0 when a number in it does not."""

    version: str
    output: str
    context: str
    name: str = "supported"
    is_binary: bool = False
    is_mean: bool = True

    def __call__(self, example: Example, answer: Fields, /) -> Score:
        if self.context not in example.inputs:
            raise MetricError(f"the example has no input {self.context!r}")
        given = " ".join(plain_text(value) for value in example.inputs.values())
        said = plain_text(answer.get(self.output))
        invented = sorted(set(find_numbers(said)) - set(find_numbers(given)))
        if invented:
            return Score(0.0, f"the number {invented[0]:g} is not in the {self.context}")
        known = {word[:STEM] for word in _content_words(given)}
        words = _content_words(said)
        missing = [word for word in words if word[:STEM] not in known and not _is_inside(word, given)]
        if not missing:
            return Score(1.0)
        return Score(1 - len(missing) / len(words), f"not in the {self.context}: {shown(' '.join(missing))}")

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        return mean_value(examples, answers, values)


def _content_words(text: str) -> list[str]:
    words = _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for word in words if len(word) >= (2 if re.match(rf"[{_CJK}]", word) else MIN_LETTERS)]


def _is_inside(word: str, text: str) -> bool:
    """Chinese and Japanese have no spaces, so a run of characters counts when it occurs anywhere."""
    return re.match(rf"[{_CJK}]", word) is not None and word in unicodedata.normalize("NFKC", text).casefold()
