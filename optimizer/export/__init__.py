"""Exports: a candidate's prompt in forms that others read. Nothing here talks to a model or a database.

    text        the prompt for people
    markdown    the prompt with scores, settings and how it is used
    chat-json   messages with open inputs, for any program
    openai      the request body of OpenAI-compatible servers
    anthropic   the request body of Anthropic's Messages API
    yaml        the same facts as chat-json, to be read and kept under version control
    dspy        a state that `program.load(path)` reads
    python      a file with a ready function that needs the standard library alone
    promptfoo   a test suite with the test rows as assertions
    langchain   the prompt as LangChain's hub keeps it
    mlflow      the arguments of `mlflow.genai.register_prompt`

To add one: write a function `Subject -> str`, name it in `ExportFormat` and enter it in `EXPORTERS`. What the forms
share is made once: `facts` says what there is to tell, `template` where inputs go and how they are put in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

from optimizer.candidate import Candidate, Example
from optimizer.errors import ConfigError, did_you_mean
from optimizer.export.clients import anthropic_json, openai_json
from optimizer.export.dspy_state import dspy_state
from optimizer.export.facts import Subject
from optimizer.export.markdown import markdown
from optimizer.export.other_tools import langchain_json, mlflow_json
from optimizer.export.promptfoo import promptfoo_yaml
from optimizer.export.python_file import python_file
from optimizer.export.structured import chat_json, yaml_text
from optimizer.prompts.program import Program
from optimizer.prompts.render import render
from optimizer.records import StudyView

__all__ = ["EXPORTERS", "SUFFIXES", "ExportFormat", "export", "export_format"]

ExportFormat = Literal[
    "text",
    "markdown",
    "chat-json",
    "openai",
    "anthropic",
    "yaml",
    "dspy",
    "python",
    "promptfoo",
    "langchain",
    "mlflow",
]
SUFFIXES: Mapping[ExportFormat, str] = {
    "text": ".txt",
    "markdown": ".md",
    "chat-json": ".json",
    "openai": ".openai.json",
    "anthropic": ".anthropic.json",
    "yaml": ".yaml",
    "dspy": ".dspy.json",
    "python": ".py",
    "promptfoo": ".promptfoo.yaml",
    "langchain": ".langchain.json",
    "mlflow": ".mlflow.json",
}


def _text(subject: Subject) -> str:
    return render(subject.program, subject.candidate)


EXPORTERS: Mapping[ExportFormat, Callable[[Subject], str]] = {
    "text": _text,
    "markdown": markdown,
    "chat-json": chat_json,
    "openai": openai_json,
    "anthropic": anthropic_json,
    "yaml": yaml_text,
    "dspy": dspy_state,
    "python": python_file,
    "promptfoo": promptfoo_yaml,
    "langchain": langchain_json,
    "mlflow": mlflow_json,
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


def export(
    view: StudyView,
    program: Program,
    format: ExportFormat,
    candidate: Candidate | None = None,
    *,
    rows: Sequence[Example] = (),
) -> str:
    """Return a prompt of a study in the form that is asked for, with a line end at the end.

    Args:
        candidate: default: the one to use, which is the untouched prompt after the verdict `keep`.
        rows: test rows, which become assertions where a form has them.

    Raises:
        ProgramError: the layout puts inputs in as no plain client could.
    """
    subject = Subject(view=view, program=program, candidate=candidate or view.chosen, rows=tuple(rows))
    text = EXPORTERS[format](subject).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return text + "\n"
