"""Connects a saved study to what shows it: its prompts as text and its rows."""

from __future__ import annotations

from collections.abc import Callable

from optimizer.candidate import Candidate
from optimizer.errors import StudyError
from optimizer.program import Program
from optimizer.records import StudyView
from optimizer.redaction import redact
from optimizer.render import render
from optimizer.report import Material
from optimizer.saved import SavedStudy
from optimizer.track.projection import shown_uri


def material_of(saved: SavedStudy, *, needs_rows: bool = True) -> Material:
    """Return what the report of a saved study is made of."""
    rows = saved.rows() if needs_rows else {}
    return Material(view=saved.view(), render=texts(saved.program()), rows=rows, clean=clean)


def clean(text: str) -> str:
    """Take secrets and the passwords of URIs out of a text."""
    return redact(shown_uri(text))


def picked(view: StudyView, word: str) -> Candidate:
    """Return the candidate that a user names: `seed`, `best`, or the number of a trial, counted from 1 as shown.

    Raises:
        StudyError: there is no such candidate.
    """
    if word in ("seed", "best"):
        return view.seed if word == "seed" else view.best
    made = {str(trial.number + 1): trial.candidate for trial in view.trials if trial.candidate}
    if word not in made:
        allowed = ", ".join(made) or "none yet"
        raise StudyError(f"study {view.name!r} has no candidate of trial {word}; trials with one: {allowed}")
    return made[word]


def texts(program: Program) -> Callable[[Candidate], str]:
    """Return a function from candidates to prompt texts that makes each text once."""
    by_id: dict[str, str] = {}

    def text(candidate: Candidate) -> str:
        key = candidate.id
        if key not in by_id:
            by_id[key] = render(program, candidate)
        return by_id[key]

    return text
