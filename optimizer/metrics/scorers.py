"""The built-in scoring functions: each rates one answer against the expected value. Pure."""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping

from optimizer.candidate import JsonValue
from optimizer.config.keys import Measure, OutputKind
from optimizer.errors import MetricError
from optimizer.metrics.metric import Score
from optimizer.metrics.values import ROUNDING, find_numbers, is_equal, normalise, plain_text, shown, typed

Scorer = Callable[[JsonValue, JsonValue], Score]  # (expected, answer)


def scorer_of(settings: Measure, kind: OutputKind) -> Scorer:
    """Return the function of a built-in metric, with its settings filled in."""
    scorers: Mapping[str, Scorer] = {
        "accuracy": functools.partial(_accuracy, kind),
        "macro_f1": functools.partial(_accuracy, kind),
        "exact_match": _exact_match,
        "contains": _contains,
        "regex": functools.partial(_regex, settings.pattern or ""),
        "number": functools.partial(_number, settings.tolerance),
        "json_fields": _json_fields,
        "token_f1": _token_f1,
        "rouge_l": _rouge_l,
    }
    return scorers[settings.name]


def _accuracy(kind: OutputKind, expected: JsonValue, answer: JsonValue) -> Score:
    """Right when both mean the same value of this kind; text and labels to the letter, but for white space around."""
    return _hit(is_equal(typed(expected, kind), typed(answer, kind), str.strip), expected, answer)


def _exact_match(expected: JsonValue, answer: JsonValue) -> Score:
    """Right when the texts agree but for case, white space and surrounding punctuation."""
    return _hit(normalise(plain_text(expected)) == normalise(plain_text(answer)), expected, answer)


def _contains(expected: JsonValue, answer: JsonValue) -> Score:
    """Right when the answer contains the expected text, not inside a longer Latin word or number (5 is not in 15)."""
    wanted, text = normalise(plain_text(expected)), normalise(plain_text(answer))
    if not wanted:
        raise MetricError("the expected text is empty, so there is nothing to look for; check this row of the data")
    before = "(?<![a-z0-9])" if wanted[0] in _LATIN else ""
    after = "(?![a-z0-9])" if wanted[-1] in _LATIN else ""
    before += r"(?<!\d[.,])(?<!\s[-.])(?<!^[-.])" if wanted[0].isdigit() else ""  # not the end of 1,000, -5 or .5
    after += r"(?![.,]\d)" if wanted[-1].isdigit() else ""
    is_hit = re.search(before + re.escape(wanted) + after, text) is not None
    return Score(1.0) if is_hit else Score(0.0, f"expected {shown(expected)} somewhere in {shown(answer)}")


_LATIN = frozenset(string.ascii_lowercase + string.digits)


def _regex(pattern: str, expected: JsonValue, answer: JsonValue) -> Score:
    """Right when the pattern is found in the answer; anchor it with ^ and $ to match all of it."""
    filled = pattern.replace("{expected}", re.escape(plain_text(expected)))
    is_hit = re.search(filled, plain_text(answer)) is not None
    return Score(1.0) if is_hit else Score(0.0, f"{shown(answer)} does not match {filled!r}")


def _number(tolerance: float, expected: JsonValue, answer: JsonValue) -> Score:
    """Right when the last number in the answer is near enough; models put the result last."""
    wanted, numbers = find_numbers(plain_text(expected)), find_numbers(plain_text(answer))
    if not wanted:
        raise MetricError(f"the expected value {shown(expected)} holds no number; check this row of the data")
    if not numbers:
        return Score(0.0, f"expected {shown(expected)}, got {shown(answer)}, which holds no number")
    gap, slack = abs(numbers[-1] - wanted[-1]), ROUNDING * max(abs(numbers[-1]), abs(wanted[-1]))  # 0.4 - 0.3 > 0.1
    return _hit(gap <= tolerance + slack, expected, answer, note=f" (off by {gap:g}, allowed {tolerance:g})")


def _json_fields(expected: JsonValue, answer: JsonValue) -> Score:
    """Share of the expected keys whose values match: text normalised, all else exactly. Other keys are ignored."""
    wanted, got = typed(expected, "json"), typed(answer, "json")
    if not isinstance(wanted, Mapping):
        raise MetricError(f"the expected value {shown(expected)} is no JSON object; check this row of the data")
    if not isinstance(got, Mapping):
        return Score(0.0, f"expected a JSON object with the keys {shown(list(wanted))}, got {shown(answer)}")
    wrong = [
        f"{key!r}: expected {shown(value)}, got {shown(got[key])}" if key in got else f"{key!r} is missing"
        for key, value in wanted.items()
        if key not in got or not is_equal(value, got[key], normalise)
    ]
    return Score(1 - len(wrong) / len(wanted), "; ".join(wrong)) if wrong else Score(1.0)


def _token_f1(expected: JsonValue, answer: JsonValue) -> Score:
    """F1 of the words in common, without case, punctuation and English articles.

    Source: Rajpurkar et al. (2016), SQuAD: 100,000+ questions for machine comprehension of text, section 6.1; with
    Unicode's punctuation, 2.0's rule that two empty texts agree, and each Chinese or Japanese character as a word.
    """
    wanted, got = _squad_words(plain_text(expected)), _squad_words(plain_text(answer))
    missing, surplus = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    value = _f1(len(wanted) - missing.total(), len(wanted), len(got))
    remarks = (("missing", missing), ("surplus", surplus))
    feedback = "; ".join(f"{what} {shown(' '.join(words))}" for what, words in remarks if words)
    return Score(value, feedback) if value < 1 else Score(1.0)


def _rouge_l(expected: JsonValue, answer: JsonValue) -> Score:
    """F1 of the longest common subsequence of words; no stemming, Chinese and Japanese characters count as words.

    RapidFuzz finds the subsequence: maintained, typed, no dependencies. `rouge-score` had its last release in 2022,
    brings NLTK, and by default drops every letter that is not ASCII.

    Source: Lin (2004), ROUGE: a package for automatic evaluation of summaries, section 3.1, with beta = 1.
    """
    from rapidfuzz.distance import LCSseq  # only this metric needs it

    wanted, got = _WORD.findall(plain_text(expected).casefold()), _WORD.findall(plain_text(answer).casefold())
    value = _f1(LCSseq.similarity(wanted, got), len(wanted), len(got))
    return Score(value, f"expected {shown(expected)}, got {shown(answer)}") if value < 1 else Score(1.0)


_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_SQUAD_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


def _f1(n_common: int, n_expected: int, n_got: int) -> float:
    return 2 * n_common / (n_expected + n_got) if n_expected + n_got else 1.0


def _squad_words(text: str) -> list[str]:
    bare = "".join(letter for letter in text.casefold() if not unicodedata.category(letter).startswith("P"))
    return [word for word in _SQUAD_WORD.findall(bare) if word not in ("a", "an", "the")]


def _hit(is_right: bool, expected: JsonValue, answer: JsonValue, *, note: str = "") -> Score:
    return Score(1.0) if is_right else Score(0.0, f"expected {shown(expected)}, got {shown(answer)}{note}")
