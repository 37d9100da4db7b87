"""Connects a saved study to what shows it: its prompts as text and its rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from optimizer.candidate import Candidate, Example
from optimizer.config.keys import Config
from optimizer.errors import StudyError
from optimizer.privacy.redaction import redact
from optimizer.prompts.program import Program
from optimizer.prompts.render import render
from optimizer.records import StudyView
from optimizer.report import Material
from optimizer.review.wishes import vetoes
from optimizer.study.saved import SavedStudy
from optimizer.study.view import one_label
from optimizer.track.projection import shown_uri, without_rows
from optimizer.words import number_of, trial_word, visible


def material_of(saved: SavedStudy, *, needs_rows: bool = True) -> Material:
    """Return what the report of a saved study is made of."""
    return _material(saved, saved.rows() if needs_rows else {})


def report_material(saved: SavedStudy) -> Material:
    """Return the same for a file: it may be sent on, so it obeys what the study says of its rows."""
    splits = saved.splits()
    material = _material(saved, splits.by_id() if splits else {})
    return as_file(material, saved.config, splits.withheld if splits else ())


def _material(saved: SavedStudy, rows: Mapping[str, Example]) -> Material:
    marks = dict.fromkeys(one_label(saved.journal), "one label") | dict.fromkeys(vetoes(saved.journal), "vetoed")
    return Material(view=saved.view(), render=texts(saved.program()), rows=rows, clean=clean, marks=marks)


def as_file(material: Material, config: Config, withheld: Collection[str]) -> Material:
    """Take out of a report what may not be sent on: rows that are held back, or every row with `tracking.rows: ids`.

    Of such a row its id stays, and its class, which no text is. A row that is no longer in the data is hidden, too,
    where a column holds rows back: nobody can say of it.
    """
    hides_all, rows = config.tracking.rows == "ids", material.rows
    if not hides_all and not config.data.withheld_by:
        return material

    def hides(row_id: str) -> bool:
        return hides_all or row_id in withheld or row_id not in rows

    classes = [name for name, output in config.task.outputs.items() if output.kind in ("label", "boolean")]
    return replace(
        material,
        rows={key: _outline(row, classes) if hides(key) else row for key, row in rows.items()},
        hides=hides,
        shown=without_rows if hides_all else material.shown,
        is_guarded=True,
    )


def _outline(row: Example, classes: Collection[str]) -> Example:
    return Example(id=row.id, inputs={}, outputs={name: row.outputs[name] for name in classes if name in row.outputs})


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
        raise StudyError(f"study {view.name!r} has no prompt of trial {word}: {_why_none(view, word)}")
    return made[word]


def _why_none(view: StudyView, word: str) -> str:
    trial = next((trial for trial in view.trials if str(trial.number + 1) == word), None)
    if trial is not None:
        return f"it was {trial_word(trial.state)}" + (f", {visible(trial.reason)}" if trial.reason else "")
    known = f"trials 1 to {len(view.trials)}" if len(view.trials) > 1 else number_of(len(view.trials), "trial")
    return f"it has {known}, numbered as in `show`; `best` and `seed` are names, too"


def texts(program: Program) -> Callable[[Candidate], str]:
    """Return a function from candidates to prompt texts that makes each text once."""
    by_id: dict[str, str] = {}

    def text(candidate: Candidate) -> str:
        key = candidate.id
        if key not in by_id:
            by_id[key] = render(program, candidate)
        return by_id[key]

    return text
