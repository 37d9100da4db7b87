"""Reading replies: from the text that a model wrote to values of the kinds that a predictor asks for. Pure.

Lenient about dress (case, quotes, markdown, fences, a sentence around the answer), strict about content: a value that
is not allowed, or two of them, is no answer. Nothing is guessed.
"""
# ruff: noqa: RUF001 - models write typographic quotes, minus signs and colons

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import json_repair

from optimizer.candidate import JsonValue
from optimizer.data.splits import normalise
from optimizer.prompts.numbers import number_in
from optimizer.prompts.spec import FieldSpec, PromptSpec, as_text

_DRESS = " \t\r\n\"'`*_.,;!:<>()[]{}“”‘’«»「」"
_TRUTH = re.compile(r"(?<!\w)(?:(yes|true)|no|false)(?!\w)", re.IGNORECASE)
_FENCE = re.compile(r"\s*```[^\n`]*\n(.*?)\s*```\s*", re.DOTALL)
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity are no JSON; they become null
_NEGATION = re.compile(  # right before a label, with up to three words between
    r"(?:(?<!\w)(?:not|cannot|never|neither|nor|nicht|kein\w*|pas|jamais|niet|geen)|n['’]t)\s+(?:[\w'’]+\s+){0,3}\Z"
)
_MAX_OBJECTS = 20
_MAX_MENDED_CHARS = 20_000  # mending takes time that grows with the square of the length
_N_CHARS_SHOWN = 60
_LARGEST = 2**1023


class UnreadableReply(ValueError):
    """The reply holds no answer in the expected form."""


def read_labelled(spec: PromptSpec, reply: str, *, is_continued: bool = False) -> dict[str, JsonValue]:
    """Read `Label: value` sections. With one output the label may be missing; a label that occurs twice counts last.

    Args:
        is_continued: the prompt ended with the first label, so the reply begins inside that field.

    Raises:
        UnreadableReply: a field is missing or its value is not allowed.
    """
    first = spec.outputs[0]
    if len(spec.outputs) == 1:
        return _values(spec, {first.name: _without_head(first, reply)})
    if is_continued:
        try:
            return _values(spec, _sections(spec, f"{first.label}:{reply}"))
        except UnreadableReply:
            pass  # chat models start over with a label of their own
    fenced = _FENCE.fullmatch(reply)
    return _values(spec, _sections(spec, fenced[1] if fenced else reply))


def read_tags(spec: PromptSpec, reply: str) -> dict[str, JsonValue]:
    """Read `<name>value</name>` in the order of the fields; the last closing tag may be missing.

    Raises:
        UnreadableReply: a field is missing or its value is not allowed.
    """
    found: dict[str, JsonValue] = {}
    start = 0
    for field in spec.outputs:
        pattern = _tag(field.name)
        if match := pattern.search(reply, start) or pattern.search(reply):
            found[field.name] = match[1]
            start = match.end()
    return _values(spec, found)


def read_object(spec: PromptSpec, reply: str) -> dict[str, JsonValue]:
    """Read one JSON object, wherever it stands in the reply and even if it is slightly broken.

    Raises:
        UnreadableReply: there is none, a key is missing or its value is not allowed.
    """
    loaded = _object_in(reply, [field.name for field in spec.outputs if not field.is_optional])
    if loaded is None:
        raise UnreadableReply("no JSON object in the reply")
    named = {key.casefold(): value for key, value in reversed(loaded.items())}
    found = {}
    for field in spec.outputs:
        value = loaded.get(field.name, named.get(field.name.casefold(), named.get(field.label.casefold())))
        if value is not None:
            found[field.name] = value
    return _values(spec, found)


def read_value(field: FieldSpec, value: JsonValue) -> JsonValue:
    """Turn what stands in a reply into a value of the field's kind.

    Raises:
        UnreadableReply: the value is not allowed.
    """
    if field.kind == "label":
        word = str(value).lower()  # JSON's true or false, where that is a label
        return _read_label(field, word if isinstance(value, bool) and word in field.choices else as_text(value))
    if field.kind == "number":
        return _read_number(field, value)
    if field.kind == "boolean":
        return _read_boolean(field, value)
    if field.kind == "json":
        return _read_json(field, value)
    return as_text(value).strip()


def _values(spec: PromptSpec, found: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    values: dict[str, JsonValue] = {}
    for field in spec.outputs:
        raw = found.get(field.name)
        if raw is not None and (not isinstance(raw, str) or raw.strip()):
            values[field.name] = read_value(field, raw)
        elif not field.is_optional:
            raise UnreadableReply(f"no {field.name!r} in the reply")
    return values


def _sections(spec: PromptSpec, text: str) -> dict[str, JsonValue]:
    """Cut a text at its labels. What stands before the first one belongs to the first field if that has no label."""
    heads = list(_heads(spec.outputs).finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found: dict[str, JsonValue] = {spec.outputs[0].name: text[: heads[0].start()] if heads else text}
    for head, end in zip(heads, ends, strict=False):
        field = spec.outputs[int((head.lastgroup or "_0")[1:])]
        found[field.name] = _without_head(field, text[head.end() : end])
    return found


def _without_head(field: FieldSpec, text: str) -> str:
    """Drop a repeated label, as in `Team: Team: billing`."""
    text = text.strip()
    head = _heads((field,)).match(text)
    return text[head.end() :] if head else text


@lru_cache(maxsize=256)
def _heads(fields: tuple[FieldSpec, ...]) -> re.Pattern[str]:
    """The labels at the start of a line, in any case, as `Due date:`, `due_date:`, `- **Due date:**`."""
    names = "|".join(
        f"(?P<_{i}>{'|'.join({re.escape(field.label), re.escape(field.name)})})" for i, field in enumerate(fields)
    )
    return re.compile(rf"^[ \t]*(?:[-*#>]+[ \t]+)?([*_]*)(?:{names})(?:\1[ \t]*[:：]|[ \t]*[:：]\1)", re.I | re.M)


@lru_cache(maxsize=256)
def _tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"<\s*{re.escape(name)}\s*>(.*?)(?:<\s*/\s*{re.escape(name)}\s*>|\Z)", re.I | re.S)


def _object_in(text: str, keys: Sequence[str]) -> dict[str, JsonValue] | None:
    """Return the first object that has all keys, else what can be mended of the first one."""
    starts = [brace.start() for brace in re.finditer(r"\{", text)][:_MAX_OBJECTS]
    for start in starts:
        value = _decoded(text, start)
        if isinstance(value, dict) and all(key in value for key in keys):
            return value
    value = _mended(text[starts[0] :]) if starts and len(text) <= _MAX_MENDED_CHARS else None
    return value if isinstance(value, dict) else None


def _decoded(text: str, start: int) -> JsonValue:
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
        return value if _is_storable(value) else None
    if isinstance(value, Mapping):
        return {as_text(_storable(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_storable(item) for item in value]
    return value


def _is_storable(number: int | float) -> bool:
    """Whether a number is finite and no larger than a float can be; a model that loops writes hundreds of digits."""
    return math.isfinite(number) if isinstance(number, float) else abs(number) < _LARGEST


def _unreadable(field: FieldSpec, problem: str, text: str) -> UnreadableReply:
    return UnreadableReply(f"{field.name!r} {problem}: {text.strip()[:_N_CHARS_SHOWN]!r}")


def _read_label(field: FieldSpec, text: str) -> str:
    """Accept the label as it is, in other dress, alone in the first line, or as the only label in a longer text."""
    text = text.strip()
    bare = [_bare(choice) for choice in field.choices]
    for heard in (text, text.partition("\n")[0].strip()):
        same = [choice for choice in field.choices if choice.strip() == heard]
        same = same or [choice for choice, key in zip(field.choices, bare, strict=True) if key and key == _bare(heard)]
        if len(same) == 1:
            return same[0]
    mentions = list(_mention(field.choices).finditer(said := _bare(text)))
    named = {mention[0] for mention in mentions}
    if any(_NEGATION.search(said[: mention.start()]) for mention in mentions):
        raise _unreadable(field, "says what the label is not", text)
    if len(named) == 1 and bare.count(key := named.pop()) == 1:
        return field.choices[bare.index(key)]
    problem = "names several labels" if named else f"is none of {', '.join(field.choices)}"
    raise _unreadable(field, problem, text)


def _bare(text: str) -> str:
    """Reduce to what a label is recognised by: no case, no quotes, one kind of space between words."""
    return re.sub(r"(?<=[^\W_])[_-]+(?=[^\W_])", " ", normalise(text).strip(_DRESS))


@lru_cache(maxsize=256)
def _mention(choices: tuple[str, ...]) -> re.Pattern[str]:
    """Any label as a whole word, longer ones first. Scripts without case are written without spaces between words."""
    keys = sorted(filter(None, map(_bare, choices)), key=len, reverse=True)
    words = [
        (r"(?<!\w)" if _is_cased(key[0]) else "") + re.escape(key) + (r"(?!\w)" if _is_cased(key[-1]) else "")
        for key in keys
    ]
    return re.compile("|".join(words) or r"(?!)")


def _is_cased(char: str) -> bool:
    return char.isdigit() or char.lower() != char.upper()


def _read_number(field: FieldSpec, value: JsonValue) -> int | float:
    """Take the number that the text starts with, unless a sum follows; else the last one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    number = value if is_number else number_in(as_text(value).strip())
    if not isinstance(number, int | float) or not _is_storable(number):
        raise _unreadable(field, "is no number", as_text(value) if number is None else str(number))
    return _whole(number)


def _whole(number: int | float) -> int | float:
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 2**53 else number


def _read_boolean(field: FieldSpec, value: JsonValue) -> bool:
    """Accept a leading yes or no, or a longer text that says only one of them."""
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return value == 1
    text = as_text(value).strip()
    words = list(_TRUTH.finditer(text))
    said = {word[1] is not None for word in words}
    if words and (len(said) == 1 or not re.search(r"\w", text[: words[0].start()])):
        return words[0][1] is not None
    raise _unreadable(field, "is neither yes nor no", text)


def _read_json(field: FieldSpec, value: JsonValue) -> JsonValue:
    """An object; with a schema any JSON value, which whoever set the schema has to check."""
    if isinstance(value, Mapping) or (field.schema and not isinstance(value, str)):
        return value
    text = as_text(value).strip()
    fenced = _FENCE.fullmatch(text)
    text = fenced[1] if fenced else text
    if field.schema:
        start = re.search(r"[\[{]", text)
        whole = _decoded(text, 0)
        loaded = whole if whole is not None or start is None else _decoded(text, start.start())
        return text if loaded is None else loaded
    loaded = _object_in(text, [key for key, _ in field.keys])
    if loaded is None:
        raise _unreadable(field, "is no JSON object", text)
    return loaded
