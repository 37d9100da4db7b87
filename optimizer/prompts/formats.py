"""Prompt layouts: how instructions, demonstrations and inputs become messages, and how a reply is read.

A layout is a set of pure functions over text, so the same code renders what the model sees, what is exported and what
DSPy sends. To add one: write a class with the methods of `Layout` and enter it in `FORMATS`.

    plain   one user message that the model continues: `Message: ...` / `Team:`; an answer is one paragraph
    chat    system message with the instructions, then one user/assistant turn for each demonstration
    json    as chat, with JSON objects in and out
    xml     as chat, with one tag for each field
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from optimizer.candidate import Demo, Fields, JsonValue
from optimizer.prompts.kinds import UnreadableReply
from optimizer.prompts.parse import read_labelled, read_object, read_tags
from optimizer.prompts.spec import (
    REASONING,
    Choice,
    Constraint,
    FieldSpec,
    Json,
    Line,
    Message,
    Number,
    Piece,
    PromptSpec,
    Text,
    as_text,
)

__all__ = ["FORMATS", "Chat", "JsonFormat", "Layout", "Plain", "UnreadableReply", "Xml", "json_schema", "tidy"]


class Layout(Protocol):
    """How one predictor's prompt is laid out. All methods are pure."""

    name: str

    def head(self, spec: PromptSpec, instructions: str, demos: Sequence[Demo]) -> tuple[Message, ...]:
        """Return what every example of a candidate shares: all messages before the input."""
        ...

    def messages(self, spec: PromptSpec, head: tuple[Message, ...], inputs: Fields) -> tuple[Message, ...]:
        """Return the whole prompt for one input."""
        ...

    def stop(self, spec: PromptSpec) -> tuple[str, ...]:
        """Return the texts at which a reply ends."""
        ...

    def constraint(self, spec: PromptSpec) -> Constraint:
        """Return the grammar of a reply, for backends that can enforce one; empty when anything goes."""
        ...

    def parse(self, spec: PromptSpec, reply: str) -> dict[str, JsonValue]:
        """Read the output fields from a reply; optional ones that are not there are left out.

        Raises:
            UnreadableReply: a field is missing or its value is not allowed.
        """
        ...


class Plain:
    """A pattern to continue. Suits base and small models; the whole prompt is one user message."""

    name = "plain"

    def head(self, spec: PromptSpec, instructions: str, demos: Sequence[Demo]) -> tuple[Message, ...]:
        said = tidy(instructions)
        blocks = [said] if said else []
        blocks += ["\n".join(_lines(spec.inputs, demo.inputs) + self._answer(spec, demo)) for demo in demos]
        return (Message("user", "".join(block + "\n\n" for block in blocks)),)

    def messages(self, spec: PromptSpec, head: tuple[Message, ...], inputs: Fields) -> tuple[Message, ...]:
        lines = [*_lines(spec.inputs, inputs), f"{spec.outputs[0].label}:"]
        return (Message("user", head[0].content + "\n".join(lines)),)

    def stop(self, spec: PromptSpec) -> tuple[str, ...]:
        if len(spec.outputs) == 1 and spec.outputs[0].is_finite:
            return ("\n",)
        return ("\n\n", f"\n{spec.inputs[0].label}:")

    def constraint(self, spec: PromptSpec) -> Constraint:
        if not _is_closed(spec):
            return ()
        pieces: list[Piece] = []
        for i, field in enumerate(spec.outputs):
            pieces += [Text(" " if i == 0 else f"\n{field.label}: "), _value_piece(field)]
        return tuple(pieces)

    def parse(self, spec: PromptSpec, reply: str) -> dict[str, JsonValue]:
        return read_labelled(spec, reply, is_continued=True)

    def _answer(self, spec: PromptSpec, demo: Demo) -> list[str]:
        """The lines of an answer, without blank ones: a reply ends at the first."""
        return [re.sub(r"\n\s*\n", "\n", line.rstrip()) for line in _lines(spec.outputs, _demo_outputs(demo))]


class Chat:
    """Instructions as system message, demonstrations as earlier turns."""

    name = "chat"

    def head(self, spec: PromptSpec, instructions: str, demos: Sequence[Demo]) -> tuple[Message, ...]:
        system = "\n\n".join(part for part in (tidy(instructions), self._contract(spec)) if part)
        messages = [Message("system", system)]
        for demo in demos:
            messages += [self._user(spec, demo.inputs), Message("assistant", self._answer(spec, _demo_outputs(demo)))]
        return tuple(messages)

    def messages(self, spec: PromptSpec, head: tuple[Message, ...], inputs: Fields) -> tuple[Message, ...]:
        return (*head, self._user(spec, inputs))

    def stop(self, spec: PromptSpec) -> tuple[str, ...]:
        del spec  # a chat model ends its own turn
        return ()

    def constraint(self, spec: PromptSpec) -> Constraint:
        if not _is_closed(spec):
            return ()
        if len(spec.outputs) == 1:
            return (_value_piece(spec.outputs[0]),)
        pieces: list[Piece] = []
        for i, field in enumerate(spec.outputs):
            pieces += [Text(("\n" if i else "") + f"{field.label}: "), _value_piece(field)]
        return tuple(pieces)

    def parse(self, spec: PromptSpec, reply: str) -> dict[str, JsonValue]:
        return read_labelled(spec, reply)

    def _contract(self, spec: PromptSpec) -> str:
        if len(spec.outputs) == 1:
            return f"Reply with {_wanted(spec.outputs[0])} and nothing else."
        lines = [f"{field.label}: {_wanted(field)}" for field in spec.outputs]
        return "Reply in this form:\n" + "\n".join(lines)

    def _user(self, spec: PromptSpec, inputs: Fields) -> Message:
        return Message("user", "\n".join(_lines(spec.inputs, inputs)))

    def _answer(self, spec: PromptSpec, outputs: Fields) -> str:
        if len(spec.outputs) == 1:
            return _shown(spec.outputs[0], outputs.get(spec.outputs[0].name))
        return "\n".join(_lines(spec.outputs, outputs))


class JsonFormat(Chat):
    """JSON objects in and out. Suits models that were trained on structured output."""

    name = "json"

    def constraint(self, spec: PromptSpec) -> Constraint:
        return (Json(_dumps(json_schema(spec))),)

    def parse(self, spec: PromptSpec, reply: str) -> dict[str, JsonValue]:
        return read_object(spec, reply)

    def _contract(self, spec: PromptSpec) -> str:
        keys = ", ".join(f'"{field.name}" ({_wanted(field)})' for field in spec.outputs)
        return f"Reply with one JSON object with the keys {keys}."

    def _user(self, spec: PromptSpec, inputs: Fields) -> Message:
        return Message("user", _dumps(_picked(spec.inputs, inputs)))

    def _answer(self, spec: PromptSpec, outputs: Fields) -> str:
        return _dumps(_picked(spec.outputs, outputs))


class Xml(Chat):
    """One tag for each field. Suits models that were trained on tagged prompts, and long inputs."""

    name = "xml"

    def constraint(self, spec: PromptSpec) -> Constraint:
        if not _is_closed(spec):
            return ()
        pieces: list[Piece] = []
        for i, field in enumerate(spec.outputs):
            pieces += [Text(("\n" if i else "") + f"<{field.name}>"), _value_piece(field), Text(f"</{field.name}>")]
        return tuple(pieces)

    def parse(self, spec: PromptSpec, reply: str) -> dict[str, JsonValue]:
        return read_tags(spec, reply)

    def _contract(self, spec: PromptSpec) -> str:
        tags = [f"<{field.name}>{_wanted(field)}</{field.name}>" for field in spec.outputs]
        return "Reply in this form:\n" + "\n".join(tags)

    def _user(self, spec: PromptSpec, inputs: Fields) -> Message:
        return Message("user", _tags(spec.inputs, inputs))

    def _answer(self, spec: PromptSpec, outputs: Fields) -> str:
        return _tags(spec.outputs, outputs)


FORMATS: Mapping[str, Layout] = {layout.name: layout for layout in (Plain(), Chat(), JsonFormat(), Xml())}


def tidy(instructions: str) -> str:
    """Return instructions as they are sent: tabs as spaces, without blank ends and common indentation.

    DSPy keeps no more of them, and dedents again whenever a signature is copied or loaded. The first line does not
    count for the indentation, as in docstrings.
    """
    return inspect.cleandoc(instructions.expandtabs().strip())


def json_schema(spec: PromptSpec) -> dict[str, JsonValue]:
    """JSON schema of the reply object. Grammars write the properties in this order, so reasoning comes first."""
    return {
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in spec.outputs},
        "required": [field.name for field in spec.outputs],
        "additionalProperties": False,
    }


def _field_schema(field: FieldSpec) -> dict[str, JsonValue]:
    if field.kind == "label":
        return {"type": "string", "enum": list(field.choices)}
    if field.kind == "json":
        if field.schema:
            return cast("dict[str, JsonValue]", json.loads(field.schema))
        schema: dict[str, JsonValue] = {"type": "object"}
        if field.keys:
            schema["properties"] = {key: {} for key, _ in field.keys}  # text, number, list: as the row has it
            schema["required"] = [key for key, _ in field.keys]
        return schema
    return {"type": {"number": "number", "boolean": "boolean"}.get(field.kind, "string")}


def _demo_outputs(demo: Demo) -> Fields:
    return demo.outputs if demo.reasoning is None else {REASONING: demo.reasoning, **demo.outputs}


def _picked(fields: Sequence[FieldSpec], values: Fields) -> dict[str, JsonValue]:
    """The given values in the order of the fields; what is not given is not shown."""
    return {field.name: values[field.name] for field in fields if field.name in values}


def _lines(fields: Sequence[FieldSpec], values: Fields) -> list[str]:
    return [f"{field.label}: {_shown(field, values[field.name])}" for field in fields if field.name in values]


def _tags(fields: Sequence[FieldSpec], values: Fields) -> str:
    shown = [(field.name, _shown(field, values[field.name])) for field in fields if field.name in values]
    return "\n".join(f"<{name}>{text}</{name}>" for name, text in shown)


def _shown(field: FieldSpec, value: JsonValue) -> str:
    return _dumps(value) if field.kind == "json" and value is not None else as_text(value)


def _dumps(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _wanted(field: FieldSpec) -> str:
    """Say in words what an output field may hold."""
    about = field.description.rstrip(".")
    if field.kind == "text":
        return field.description or f"the {field.label.lower()}"
    return _allowed(field) + (f" ({about})" if about else "")


def _allowed(field: FieldSpec) -> str:
    if field.kind == "label":
        return "one of " + ", ".join(field.choices)
    if field.kind == "json" and field.schema:
        return f"JSON of the schema {field.schema}"
    if field.kind == "json":
        keys = ", ".join(f'"{key}"' + (f" ({text})" if text else "") for key, text in field.keys)
        return "a JSON object" + (f" with the keys {keys}" if keys else "")
    return "a number" if field.kind == "number" else "yes or no"


def _is_closed(spec: PromptSpec) -> bool:
    """Whether a grammar can tell where the reply ends, and spell out everything before."""
    last = spec.outputs[-1]
    return (last.is_finite or last.kind == "json") and not any(field.schema for field in spec.outputs)


def _value_piece(field: FieldSpec) -> Piece:
    if field.kind == "label":
        return Choice(field.choices)
    if field.kind == "boolean":
        return Choice(("yes", "no"))
    if field.kind == "number":
        return Number()
    if field.kind == "json":
        return Json(_dumps(_field_schema(field)))
    return Line()
