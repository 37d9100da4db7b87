"""One predictor's messages with its inputs left open, so that others can put them in and send the very same bytes.

Two things make that exact: a placeholder occurs nowhere else in the prompt, whatever instructions and demonstrations
say, and all of them are replaced in one pass, so that a placeholder inside an input stays as it is. How a value is
written is found by trying, and tried on values that a wrong guess would spoil.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

from optimizer.candidate import Candidate, Fields, JsonValue
from optimizer.errors import ProgramError
from optimizer.prompts.program import Program
from optimizer.prompts.spec import Message, as_text

FILL = (
    "Send the messages with each placeholder replaced by its input, written in the input's encoding. Every input is "
    "needed. Replace all placeholders in one pass: what looks like a placeholder inside an input stays as it is."
)
ENCODINGS: Mapping[str, str] = {
    "text": "text as it is; true and false as yes and no; null as nothing; whole numbers without a decimal point; "
    "a conversation (a list of objects with role and content) as lines of `Role: content`; other lists and objects "
    "as JSON",
    "json": "JSON on one line, a space after each colon and comma, characters outside ASCII not escaped; text in its "
    "quotes",
}
_WRITERS: Mapping[str, Callable[[JsonValue], str]] = {
    "text": as_text,
    "json": lambda value: json.dumps(value, ensure_ascii=False),
}
_PROBES: Sequence[JsonValue] = (" <b>\"é\\&amp;\n{x}'\t ", "", None, True, 2.0, 0.5, ["ü", {"k": None}])
_MARKER = "inputslot"

_Render = Callable[[Fields], tuple[Message, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one input goes. `encoding` is a key of `ENCODINGS`."""

    name: str
    placeholder: str
    encoding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Messages in which each slot's placeholder stands where its input goes, and nowhere else."""

    messages: tuple[Message, ...]
    slots: tuple[Slot, ...]

    def pieces(self, content: str) -> list[str | Slot]:
        """Return one message's content as texts and, between them, the slots; empty texts are left out."""
        by_text = {slot.placeholder: slot for slot in self.slots}
        parts = re.split(f"({'|'.join(map(re.escape, by_text))})", content)
        return [by_text[part] if i % 2 else part for i, part in enumerate(parts) if part]


def open_template(program: Program, candidate: Candidate, predictor: str) -> Template:
    """Return the messages that one predictor sends, with its inputs left open.

    Raises:
        ProgramError: the layout writes an input in a way that is none of `ENCODINGS`.
    """
    names = [field.name for field in program.specs[predictor].inputs]

    def render(inputs: Fields) -> tuple[Message, ...]:
        return program.messages(candidate, predictor, inputs)

    markers = _markers(names, render)
    encodings = {name: _encoding(name, markers, render) for name in names}
    written = {_WRITERS[encodings[name]](marker): name for name, marker in markers.items()}
    segments = [(message.role, _split(message.content, written)) for message in render(markers)]
    literals = [text for _, parts in segments for text in parts[::2]]
    placeholders = dict(zip(names, _placeholders(names, literals), strict=True))
    return Template(
        messages=tuple(
            Message(role, "".join(placeholders[part] if i % 2 else part for i, part in enumerate(parts)))
            for role, parts in segments
        ),
        slots=tuple(Slot(name=name, placeholder=placeholders[name], encoding=encodings[name]) for name in names),
    )


def written(slot: Slot, value: JsonValue) -> str:
    """Return a value as it is put in."""
    return _WRITERS[slot.encoding](value)


def _markers(names: Sequence[str], render: _Render) -> dict[str, str]:
    """Return a text for each input that occurs nowhere in the prompt and that every encoding leaves as it is.

    No marker overlaps with itself or with another, as its first letter occurs in it once.
    """
    text = "\n".join(message.content for message in render(dict.fromkeys(names, "")))
    base = next(base for n in count() if (base := _MARKER + n * "x") not in text)
    return {name: f"{base}{i:04}" for i, name in enumerate(names)}


def _encoding(name: str, markers: Mapping[str, str], render: _Render) -> str:
    """Find the encoding that writes every probe as the layout does."""
    marked = render(markers)
    rendered = [(probe, render({**markers, name: probe})) for probe in _PROBES]
    for encoding, write in _WRITERS.items():
        marker = write(markers[name])
        if all(_replaced(marked, marker, write(probe)) == messages for probe, messages in rendered):
            return encoding
    raise ProgramError(
        f"export: the layout writes input {name!r} in a way that cannot be described; known are {', '.join(ENCODINGS)}"
    )


def _replaced(messages: tuple[Message, ...], old: str, new: str) -> tuple[Message, ...]:
    return tuple(Message(message.role, message.content.replace(old, new)) for message in messages)


def _split(content: str, written: Mapping[str, str]) -> list[str]:
    """Return texts[0::2] and, between them, the names[1::2] of the inputs whose written markers stood there."""
    parts = re.split(f"({'|'.join(map(re.escape, written))})", content)
    return [written[part] if i % 2 else part for i, part in enumerate(parts)]


def _placeholders(names: Sequence[str], literals: Sequence[str]) -> Iterator[str]:
    """Yield `{name}` for each input, or `{name_1}`, ... where that stands in the prompt already.

    One brace at either end and none within: an occurrence can neither begin in a text and end in a placeholder,
    nor the other way round, so that looking into the texts is enough.
    """
    taken: set[str] = set()
    for name in names:
        others = {f"{{{other}}}" for other in names if other != name}
        tries = chain([f"{{{name}}}"], (f"{{{name}_{n}}}" for n in count(1)))
        free = next(
            text for text in tries if text not in taken | others and not any(text in literal for literal in literals)
        )
        taken.add(free)
        yield free
