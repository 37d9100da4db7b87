"""The records that everything else passes around: examples, demonstrations, candidates.

A candidate is the whole state of a prompt. It is immutable and named by its content, so equal candidates
have equal ids on every machine and a score can be filed under (candidate, example) for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

JsonValue = str | int | float | bool | None | Sequence["JsonValue"] | Mapping[str, "JsonValue"]
Fields = Mapping[str, JsonValue]
Reasoning = Literal["predict", "chain_of_thought"]


def canonical_json(value: object) -> str:
    """Serialise to the one JSON text that equal values share (sorted keys, ASCII, no spaces)."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: object, *, n_chars: int = 64) -> str:
    """Return the first `n_chars` hex digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:n_chars]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled row: what goes in and what should come out."""

    id: str
    inputs: Fields
    outputs: Fields
    extras: Fields = field(default_factory=dict)  # other columns: slices, opt-outs; never shown to a model


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A worked example inside a prompt. `reasoning` is the model's own, or None for a labelled row."""

    example_id: str
    inputs: Fields
    outputs: Fields
    reasoning: str | None = None

    @classmethod
    def from_example(cls, example: Example, *, reasoning: str | None = None) -> Demo:
        return cls(example_id=example.id, inputs=example.inputs, outputs=example.outputs, reasoning=reasoning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one predictor of the program is told."""

    predictor: str
    instructions: str
    demos: tuple[Demo, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The whole prompt state: a part for each predictor, and how the prompt is laid out.

    Attributes:
        parts: one for each predictor, in the program's order; never empty.
        format: name of the prompt layout, a key of `optimizer.formats.FORMATS`.
        reasoning: answer at once (`predict`) or think first (`chain_of_thought`).
        temperature: sampling temperature of the task LM.
    """

    parts: tuple[Part, ...]
    format: str = "plain"
    reasoning: Reasoning = "predict"
    temperature: float = 0.0
    _id: str = field(default="", init=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Twelve hex digits that name this content."""
        if not self._id:  # asked for at every call
            object.__setattr__(self, "_id", content_hash(self.to_json(), n_chars=12))
        return self._id

    @property
    def n_demos(self) -> int:
        return sum(len(part.demos) for part in self.parts)

    def part(self, predictor: str) -> Part:
        return next(part for part in self.parts if part.predictor == predictor)

    def with_part(self, part: Part) -> Candidate:
        """Return a copy in which the part of the same predictor is replaced."""
        parts = tuple(part if old.predictor == part.predictor else old for old in self.parts)
        return replace(self, parts=parts)

    def with_instructions(self, predictor: str, instructions: str) -> Candidate:
        return self.with_part(replace(self.part(predictor), instructions=instructions))

    def with_demos(self, predictor: str, demos: Sequence[Demo]) -> Candidate:
        return self.with_part(replace(self.part(predictor), demos=tuple(demos)))

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "parts": [
                {
                    "predictor": part.predictor,
                    "instructions": part.instructions,
                    "demos": [
                        {
                            "example_id": demo.example_id,
                            "inputs": demo.inputs,
                            "outputs": demo.outputs,
                            "reasoning": demo.reasoning,
                        }
                        for demo in part.demos
                    ],
                }
                for part in self.parts
            ],
            "format": self.format,
            "reasoning": self.reasoning,
            "temperature": self.temperature,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> Candidate:
        parts = cast(Sequence[Mapping[str, JsonValue]], data["parts"])
        return cls(
            parts=tuple(_part_from_json(part) for part in parts),
            format=cast(str, data["format"]),
            reasoning=cast(Reasoning, data["reasoning"]),
            temperature=float(cast(float, data["temperature"])),
        )


def _part_from_json(data: Mapping[str, JsonValue]) -> Part:
    demos = cast(Sequence[Mapping[str, JsonValue]], data["demos"])
    return Part(
        predictor=cast(str, data["predictor"]),
        instructions=cast(str, data["instructions"]),
        demos=tuple(
            Demo(
                example_id=cast(str, demo["example_id"]),
                inputs=cast(Fields, demo["inputs"]),
                outputs=cast(Fields, demo["outputs"]),
                reasoning=cast("str | None", demo["reasoning"]),
            )
            for demo in demos
        ),
    )
