"""What a predictor asks and answers, independent of any layout: field specs, messages, reply constraints.

The vocabulary between the program (which knows DSPy signatures), the formats (which know text) and the model
backends (which know grammars). Nothing here does I/O.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from optimizer.candidate import JsonValue
from optimizer.config.keys import OutputKind, Task

MessageRole = Literal["system", "user", "assistant"]
REASONING = "reasoning"  # name of the extra output under `chain_of_thought`


class Message(NamedTuple):
    role: MessageRole
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """One input or output of a predictor.

    Attributes:
        label: the words that stand before the value in a prompt.
        schema: for `kind="json"`, the JSON schema (as JSON text) of a value that need not be an object.
        is_optional: a reply may leave it out.
    """

    name: str
    label: str
    kind: OutputKind = "text"
    description: str = ""
    choices: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()  # kind json: (key, description)
    schema: str = ""
    is_optional: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether a grammar can spell out every allowed value."""
        return self.kind in ("label", "boolean", "number")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """The fields of one predictor, in order. Reasoning, when asked for, is its first output."""

    inputs: tuple[FieldSpec, ...]
    outputs: tuple[FieldSpec, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these texts."""

    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """Free text without a line break."""


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal number."""


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value that fits the schema (JSON text of a JSON schema, its properties in the order of writing)."""

    schema: str


Piece = Text | Choice | Line | Number | Json
Constraint = tuple[Piece, ...]
"""The pieces that a whole reply consists of, in order; empty: anything goes."""


def reasoning_field() -> FieldSpec:
    """The extra output that `chain_of_thought` asks for first. An answer without it is still an answer."""
    return FieldSpec(
        name=REASONING, label="Reasoning", description="Think step by step before you answer.", is_optional=True
    )


def spec_of_task(task: Task) -> PromptSpec:
    """Return the fields that the configuration declares."""
    return PromptSpec(
        inputs=tuple(
            FieldSpec(name=name, label=label_of(name), description=field.description)
            for name, field in task.inputs.items()
        ),
        outputs=tuple(
            FieldSpec(
                name=name,
                label=label_of(name),
                kind=field.kind,
                description=field.description,
                choices=field.choices,
                keys=tuple(field.fields.items()),
            )
            for name, field in task.outputs.items()
        ),
    )


def label_of(name: str) -> str:
    """Return the words of a field name: `due_date` becomes `Due date`."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def as_text(value: JsonValue) -> str:
    """Write a value as people would: text as it is, `yes` or `no`, whole numbers without `.0`, JSON for the rest.

    A conversation, a list of turns with `role` and `content`, becomes one line a turn: `Customer: It is broken.`
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple) and value and all(map(_is_turn, value)):
        turns = cast("list[dict[str, str]]", value)
        return "\n".join(f"{label_of(turn['role'])}: {' '.join(turn['content'].split())}" for turn in turns)
    return json.dumps(value, ensure_ascii=False)


def _is_turn(value: JsonValue) -> bool:
    is_pair = isinstance(value, dict) and set(value) == {"role", "content"}
    return is_pair and all(isinstance(text, str) for text in cast("dict[str, JsonValue]", value).values())
