"""Exports: a candidate's prompt in forms that others read. Nothing here talks to a model or a database.

    text        the prompt for people
    markdown    the prompt with scores, settings and how it is used
    chat-json   messages with open inputs, for any program
    yaml        the same facts, to be read and kept under version control
    dspy        a state that `program.load(path)` reads

To add one: write a function `Subject -> str`, name it in `ExportFormat` and enter it in `EXPORTERS`. What the forms
share is made once: `facts` says what there is to tell, `template` where inputs go and how they are put in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, cast

from optimizer.candidate import Candidate
from optimizer.errors import ConfigError, did_you_mean
from optimizer.export.dspy_state import dspy_state
from optimizer.export.facts import Subject
from optimizer.export.markdown import markdown
from optimizer.export.structured import chat_json, yaml_text
from optimizer.program import Program
from optimizer.records import StudyView
from optimizer.render import render

__all__ = ["EXPORTERS", "ExportFormat", "export", "export_format"]

ExportFormat = Literal["text", "markdown", "chat-json", "yaml", "dspy"]


def _text(subject: Subject) -> str:
    return render(subject.program, subject.candidate)


EXPORTERS: Mapping[ExportFormat, Callable[[Subject], str]] = {
    "text": _text,
    "markdown": markdown,
    "chat-json": chat_json,
    "yaml": yaml_text,
    "dspy": dspy_state,
}


def export_format(name: str) -> ExportFormat:
    """Return the format of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in EXPORTERS:
        hint = did_you_mean(name, EXPORTERS)
        raise ConfigError(f"export format {name!r} is unknown.{hint} Formats: {', '.join(EXPORTERS)}")
    return cast(ExportFormat, name)


def export(view: StudyView, program: Program, format: ExportFormat, candidate: Candidate | None = None) -> str:
    """Return a prompt of a study in the form that is asked for, with a line end at the end.

    Args:
        candidate: default: the best one.

    Raises:
        ProgramError: the layout puts inputs in as no plain client could.
    """
    subject = Subject(view=view, program=program, candidate=view.best if candidate is None else candidate)
    text = EXPORTERS[format](subject).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return text + "\n"
