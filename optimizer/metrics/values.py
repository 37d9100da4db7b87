"""How values are read and compared: text as a kind, numbers inside text, equality across types. Pure."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping

from optimizer.candidate import JsonValue
from optimizer.config.keys import OutputKind
from optimizer.prompts.numbers import numbers_in

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
ROUNDING = 1e-12  # relative: 0.1 + 0.2 counts as 0.3
_LARGEST = 2.0**1000


def normalise(text: str) -> str:
    """Casefold, make every run of white space one space, take off surrounding punctuation. Signs of numbers stay."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    around = "'\"`*_,;:!?()[]{}<>\u2018\u2019\u201c\u201d\u00ab\u00bb\u2026\u00a1\u00bf "
    bare = text.lstrip(around).rstrip(around + ".")  # a leading dot may belong to .5 or .net
    return bare or text


def find_numbers(text: str) -> list[float]:
    """Return the numbers in a text, in order, as `optimizer.prompts.numbers` reads them; infinities are left out."""
    return [float(number) for number in numbers_in(text) if abs(number) < _LARGEST]


def typed(value: JsonValue, kind: OutputKind) -> JsonValue:
    """Read text as the kind says; what cannot be read stays text and equals nothing of that kind."""
    if kind in ("label", "text"):
        return plain_text(value)
    if not isinstance(value, str):
        return value
    if kind == "number":
        numbers = find_numbers(value)
        return numbers[0] if len(numbers) == 1 else value
    if kind == "boolean":
        return _BOOLEANS.get(normalise(value), value)
    try:
        parsed: JsonValue = json.loads(value)
    except (ValueError, RecursionError):  # the text may nest a thousand brackets
        return value
    return parsed


def is_equal(expected: JsonValue, answer: JsonValue, plain: Callable[[str], str]) -> bool:
    """Return whether two values mean the same: 1 equals 1.0 but not True, texts are compared after `plain`."""
    if isinstance(expected, bool) or isinstance(answer, bool):
        return expected is answer
    if isinstance(expected, (int, float)) and isinstance(answer, (int, float)):
        is_small = abs(expected) < _LARGEST and abs(answer) < _LARGEST  # Python's integers may be too large for a float
        return expected == answer or (is_small and math.isclose(expected, answer, rel_tol=ROUNDING))
    if isinstance(expected, str) and isinstance(answer, str):
        return plain(expected) == plain(answer)
    if isinstance(expected, Mapping) and isinstance(answer, Mapping):
        return expected.keys() == answer.keys() and all(is_equal(expected[key], answer[key], plain) for key in expected)
    if isinstance(expected, (list, tuple)) and isinstance(answer, (list, tuple)):
        pairs = zip(expected, answer, strict=False)
        return len(expected) == len(answer) and all(is_equal(one, other, plain) for one, other in pairs)
    return expected is None and answer is None


def plain_text(value: JsonValue) -> str:
    """Text as it is; None is empty; 3.0 reads 3; anything else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float) and (value.is_integer() or not math.isfinite(value)):
        return str(int(value)) if value.is_integer() else str(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def shown(value: object, limit: int = 200) -> str:
    """Write a value for people, in one line of at most `limit` characters."""
    text = re.sub(r"\s*\n\s*", " ", repr(value))  # some classes print themselves over several lines
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"
