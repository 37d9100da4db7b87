"""Reading replies: from the text that a model wrote to the values that a predictor asks for. Pure.

Layouts are taken apart here, values are read in `optimizer.prompts.kinds`. The Python export carries a copy.
"""
# ruff: noqa: RUF001 - models write colons of all kinds

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from optimizer.candidate import JsonValue
from optimizer.prompts.kinds import UnreadableReply, read_value
from optimizer.prompts.objects import object_in, unfenced
from optimizer.prompts.spec import FieldSpec, PromptSpec


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
    return _values(spec, _sections(spec, unfenced(reply)))


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
    loaded = object_in(reply, [field.name for field in spec.outputs if not field.is_optional])
    if loaded is None:
        raise UnreadableReply("no JSON object in the reply")
    named = {key.casefold(): value for key, value in reversed(loaded.items())}
    found = {}
    for field in spec.outputs:
        value = loaded.get(field.name, named.get(field.name.casefold(), named.get(field.label.casefold())))
        if value is not None:
            found[field.name] = value
    return _values(spec, found)


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
