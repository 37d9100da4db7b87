"""JSON in replies: found wherever it stands, mended if slightly broken. Pure; the Python export carries a copy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

import json_repair

from optimizer.candidate import JsonValue
from optimizer.prompts.spec import as_text

_FENCE = re.compile(r"\s*```[^\n`]*\n(.*?)\s*```\s*", re.DOTALL)
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity are no JSON; they become null
_MAX_OBJECTS = 20
_MAX_MENDED_CHARS = 20_000  # mending takes time that grows with the square of the length
_LARGEST = 2**1023


def unfenced(text: str) -> str:
    """Take away the code fence that a whole text stands in."""
    fenced = _FENCE.fullmatch(text)
    return fenced[1] if fenced else text


def object_in(text: str, keys: Sequence[str]) -> dict[str, JsonValue] | None:
    """Return the first object that has all keys, else what can be mended of the first one."""
    starts = [brace.start() for brace in re.finditer(r"\{", text)][:_MAX_OBJECTS]
    for start in starts:
        value = decoded(text, start)
        if isinstance(value, dict) and all(key in value for key in keys):
            return value
    value = _mended(text[starts[0] :]) if starts and len(text) <= _MAX_MENDED_CHARS else None
    return value if isinstance(value, dict) else None


def decoded(text: str, start: int) -> JsonValue:
    """Return the JSON value that begins at a place of the text, None when there is none."""
    try:
        value, _ = _DECODER.raw_decode(text, start)
        return _storable(value)
    except (ValueError, RecursionError):
        return None


def _mended(text: str) -> JsonValue:
    try:
        value: JsonValue = json_repair.loads(text)
        if isinstance(value, list):  # several objects, or one with a broken end
            value = next((item for item in value if isinstance(item, dict)), None)
        return _storable(value)
    except (ValueError, RecursionError):
        return None


def _storable(value: JsonValue) -> JsonValue:
    """Drop what escapes in JSON can smuggle past every database: NUL, halves of surrogate pairs, infinities."""
    if isinstance(value, str):
        return re.sub("[\0\ud800-\udfff]", "", value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if is_storable(value) else None
    if isinstance(value, Mapping):
        return {as_text(_storable(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_storable(item) for item in value]
    return value


def is_storable(number: int | float) -> bool:
    """Whether a number is finite and no larger than a float can be; a model that loops writes hundreds of digits."""
    return math.isfinite(number) if isinstance(number, float) else abs(number) < _LARGEST
