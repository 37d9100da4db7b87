"""Personal data in demonstrations and test rows: what an export would carry to wherever it goes. Pure.

What can be recognised, and what cannot, is said in `optimizer.privacy.personal_data`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from optimizer.candidate import Candidate, Example, Fields
from optimizer.privacy.personal_data import Kind, count_findings, findings


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
        for field, text in _texts(demo.inputs, demo.outputs, {"reasoning": demo.reasoning})
        for each in findings(text)
    )


def personal_kinds(rows: Iterable[Example]) -> dict[Kind, int]:
    """Return in how many of the rows each kind occurs, most frequent first."""
    return count_findings("\n".join(text for _, text in _texts(row.inputs, row.outputs)) for row in rows)


def _texts(*records: Fields) -> Iterator[tuple[str, str]]:
    for fields in records:
        for name, value in fields.items():
            if value is not None and not isinstance(value, bool):
                yield name, value if isinstance(value, str) else str(value)
