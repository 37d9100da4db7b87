"""Connects a saved study to what shows it: its prompts as text and its rows."""

from __future__ import annotations

from collections.abc import Callable

from optimizer.candidate import Candidate
from optimizer.program import Program
from optimizer.render import render
from optimizer.report import Material
from optimizer.saved import SavedStudy
from optimizer.track.projection import shown_uri


def material_of(saved: SavedStudy) -> Material:
    """Return what the report of a saved study is made of."""
    return Material(view=saved.view(), render=texts(saved.program()), rows=saved.rows(), clean=shown_uri)


def texts(program: Program) -> Callable[[Candidate], str]:
    """Return a function from candidates to prompt texts that makes each text once."""
    by_id: dict[str, str] = {}

    def text(candidate: Candidate) -> str:
        key = candidate.id
        if key not in by_id:
            by_id[key] = render(program, candidate)
        return by_id[key]

    return text
