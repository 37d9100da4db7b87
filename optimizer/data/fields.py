"""One row's values against the task: which field is missing, empty or of the wrong kind. Pure.

Inputs stay as they are. Outputs become what their kind says, so that two spellings of one answer are one answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from optimizer.candidate import Example, Fields, JsonValue, canonical_json
from optimizer.config.keys import OutputField, OutputKind, Task
from optimizer.data.rows import MAX_CELL_CHARS, parse_json
from optimizer.data.splits import example_id, normalise
from optimizer.errors import did_you_mean

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
YES = frozenset(("yes", "true", "1", "1.0", "x", "y", "ja", "wahr", "oui", "vrai", "si", "sí", "\u306f\u3044"))
NO = frozenset(("no", "n", "false", "0", "0.0", "nein", "falsch", "non", "faux", "\u3044\u3044\u3048"))
_N_CHOICES_SHOWN = 12


class BadRow(ValueError):
    """The row cannot be used, for the reason given."""


def example_of(values: Fields, task: Task, columns: Mapping[str, str]) -> Example:
    """Pick the task's fields out of a row and check them; other columns become extras.

    Args:
        columns: field name to column name, for every field of the task.

    Raises:
        BadRow: a field is missing, empty, not of its kind, or holds text that cannot be stored.
    """
    inputs = {name: _present(values, name, columns[name]) for name in task.inputs}
    outputs = {
        name: _output(name, _present(values, name, columns[name]), output) for name, output in task.outputs.items()
    }
    used = set(columns.values())
    extras = {column: value for column, value in values.items() if column not in used}
    return Example(id=example_id(inputs, outputs), inputs=inputs, outputs=outputs, extras=extras)


def _present(values: Fields, name: str, column: str) -> JsonValue:
    if column not in values:
        raise BadRow(f"{name}: column {column!r} is missing")
    value = values[column]
    if value is None or (isinstance(value, str) and not value.strip()) or value == []:
        raise BadRow(f"{name}: is empty or NaN, expected a value")
    if isinstance(value, str) and len(value) > MAX_CELL_CHARS:
        raise BadRow(f"{name}: has {len(value):,} characters, at most {MAX_CELL_CHARS:,} are allowed")
    if any(map(_UNSTORABLE.search, _texts_in(value))):
        raise BadRow(f"{name}: {show(value)} holds a NUL or half a surrogate pair, which no database can store")
    return value


def _texts_in(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts_in(item)


def _output(name: str, value: JsonValue, output: OutputField) -> JsonValue:
    try:
        return _PARSERS[output.kind](value, output)
    except BadRow as problem:
        raise BadRow(f"{name}: {problem}") from None


def _label(value: JsonValue, output: OutputField) -> JsonValue:
    text = scalar_text(value)
    if text in output.choices:
        return text
    if (choice := _choice_index(output.choices).get(normalise(text))) is not None:
        return choice
    allowed = ", ".join(output.choices[:_N_CHOICES_SHOWN])
    more = f" and {len(output.choices) - _N_CHOICES_SHOWN} more" if len(output.choices) > _N_CHOICES_SHOWN else ""
    raise BadRow(f"{show(text)} is no label; allowed: {allowed}{more}.{did_you_mean(text, output.choices)}")


@lru_cache(maxsize=64)
def _choice_index(choices: tuple[str, ...]) -> dict[str, str]:
    """Normalised spelling to choice, for spellings that mean one choice only."""
    spellings = [normalise(choice) for choice in choices]
    return {
        spelling: choice for spelling, choice in zip(spellings, choices, strict=True) if spellings.count(spelling) == 1
    }


def scalar_text(value: JsonValue) -> str:
    """Text as it is; a number or a truth value as JSON spells it, whole floats without their `.0`."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int)):
        return canonical_json(value)
    if isinstance(value, float):
        return canonical_json(_whole(value))
    raise BadRow(f"{show(value)} is a list or an object, expected text")


def _text(value: JsonValue, _: OutputField) -> JsonValue:
    return scalar_text(value)


def _number(value: JsonValue, _: OutputField) -> JsonValue:
    """Digits with an optional sign, fraction and exponent. `1,000` is refused: countries read it differently."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _whole(value)
    text = value.strip() if isinstance(value, str) else ""
    if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
        raise BadRow(f"{show(value)} is no finite number; expected digits such as 12 or -0.5")
    return int(text) if text.lstrip("+-").isdigit() and len(text) < 300 else _whole(number)


def _whole(number: float) -> int | float:
    """Give 3.0 and 3 one spelling, as far as a float counts exactly."""
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 2**53 else number


def _boolean(value: JsonValue, _: OutputField) -> JsonValue:
    word = normalise(scalar_text(value))
    if word not in _BOOLEANS:
        raise BadRow(f"{show(value)} is no truth value; allowed: true, false, yes, no, 1, 0")
    return _BOOLEANS[word]


def _json(value: JsonValue, output: OutputField) -> JsonValue:
    """An object, or text that holds one; a list, too, where a program's signature says so.

    Which keys it has is the metric's business; `{}` is an answer too.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as problem:
            raise BadRow(f"{show(value)} {problem}") from None
    if not isinstance(value, Mapping) and not (output._takes_lists and isinstance(value, (list, tuple))):
        raise BadRow(f'{show(value)} is no JSON object; expected something like {{"key": "value"}}')
    return value


_PARSERS: Mapping[OutputKind, Callable[[JsonValue, OutputField], JsonValue]] = {
    "label": _label,
    "text": _text,
    "number": _number,
    "boolean": _boolean,
    "json": _json,
}


def show(value: object, limit: int = 60) -> str:
    """The value as Python spells it, on one line and cut short."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
