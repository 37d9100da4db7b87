"""Personal data in demonstrations: what an export would carry to wherever the prompt goes. Pure.

What can be recognised, and what cannot, is said in `optimizer.privacy.personal_data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from optimizer.candidate import Candidate, Demo
from optimizer.privacy.personal_data import findings


class Found(NamedTuple):
    """One piece of personal data: what it seems to be, where it stands, and its masked text."""

    kind: str
    example_id: str
    field: str
    masked: str


def personal_data(candidate: Candidate) -> tuple[Found, ...]:
    """Return what the demonstrations of a candidate hold, in their order."""
    return tuple(
        Found(each.kind, demo.example_id, field, each.masked)
        for part in candidate.parts
        for demo in part.demos
        for field, text in _texts(demo)
        for each in findings(text)
    )


def _texts(demo: Demo) -> Iterator[tuple[str, str]]:
    for fields in (demo.inputs, demo.outputs, {"reasoning": demo.reasoning}):
        for name, value in fields.items():
            if value is not None and not isinstance(value, bool):
                yield name, value if isinstance(value, str) else str(value)
