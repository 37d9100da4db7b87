"""The prompt as a DSPy state: `program.load(path)` reads it into the user's own program. Nothing is pickled.

A DSPy state holds instructions, field descriptions and demonstrations. Layout, temperature and reasoning are no part of
it; they are told in its metadata, which DSPy leaves alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from dspy.utils.saving import get_dependency_versions

from optimizer.candidate import Candidate
from optimizer.export.facts import Subject
from optimizer.prompts.adapter import FormatAdapter
from optimizer.prompts.program import Program
from optimizer.prompts.spec import REASONING

SPEC = "optimizer.prompts.spec.spec_of_task(the task of the configuration)"
BARE = "self"  # DSPy's name for a module that is nothing but a predictor; its state has no names


def dspy_state(subject: Subject) -> str:
    """Return the state as the JSON that DSPy itself would save, less models and traces.

    A predictor that reasons only because the search found it useful is filed under the name that it has inside
    `dspy.ChainOfThought`, so that a program without it refuses the state rather than run another prompt.
    """
    asked = subject.program.module(subject.candidate).named_predictors()
    added, state = _added(subject.program, subject.candidate), dict[str, Any]()
    for (name, _), (new_name, new) in zip(_written(subject.program, subject.candidate), asked, strict=True):
        key = _inside(name) if name in added else new_name
        state |= _state_of(new) if key == BARE else {key: _state_of(new)}
    notes = _notes(subject, added, is_exact=_is_exact(subject.program, subject.candidate))
    metadata = {"dependency_versions": get_dependency_versions(), "optimizer": notes}
    return json.dumps({**state, "metadata": metadata}, indent=2, ensure_ascii=False, allow_nan=False)


def needs(program: Program, candidate: Candidate) -> list[str]:
    """Say what the user's program needs besides the state to send what the search scored."""
    said: list[str] = []
    if added := _added(program, candidate):
        names = ", ".join("your predictor" if name == BARE else f"`{name}`" for name in added)
        said.append(
            f"your program cannot load this state as it is: make {names} a dspy.ChainOfThought, for the search found "
            "that reasoning first pays"
        )
    more = "" if _is_exact(program, candidate) else f", spec={SPEC}"
    how = f'dspy.configure(adapter=optimizer.FormatAdapter("{candidate.format}"{more}))'
    return [*said, f"a state holds no layout; set it with {how} and temperature {candidate.temperature:g}"]


def _written(program: Program, candidate: Candidate) -> list[tuple[str, Any]]:
    """Return the predictors of the program as its user wrote it."""
    found: list[tuple[str, Any]] = program.module(replace(candidate, reasoning="predict")).named_predictors()
    return found


def _added(program: Program, candidate: Candidate) -> list[str]:
    """Return the predictors that reason only because the search found it useful."""
    asked = program.module(candidate).predictors()
    return [
        name
        for (name, old), new in zip(_written(program, candidate), asked, strict=True)
        if _reasons(new) and not _reasons(old)
    ]


def _state_of(predictor: Any) -> dict[str, Any]:
    return {**predictor.dump_state(), "lm": None, "traces": [], "train": []}


def _reasons(predictor: Any) -> bool:
    return REASONING in predictor.signature.output_fields


def _inside(name: str) -> str:
    """Return the name that a predictor has once it is a `dspy.ChainOfThought`."""
    return "predict" if name == BARE else f"{name}.predict"


def _is_exact(program: Program, candidate: Candidate) -> bool:
    """Whether the layout's adapter makes the very same messages of the state alone.

    It does not where the configuration says more of a field than a DSPy signature holds: the keys of an object.
    """
    adapter = FormatAdapter(candidate.format)
    for (name, spec), asked in zip(program.specs.items(), program.module(candidate).predictors(), strict=True):
        inputs = {field.name: "x" for field in spec.inputs}
        rows = adapter.format(asked.signature, asked.demos, inputs)
        if [tuple(row.values()) for row in rows] != list(program.messages(candidate, name, inputs)):
            return False
    return True


def _notes(subject: Subject, added: list[str], *, is_exact: bool) -> dict[str, Any]:
    candidate = subject.candidate
    arguments = "layout" if is_exact else f"layout, spec={SPEC}"
    return {
        "study": subject.view.name,
        "candidate": candidate.id,
        "layout": candidate.format,
        "reasoning": candidate.reasoning,
        "temperature": candidate.temperature,
        "chain_of_thought": added,
        "how": (
            "Keep this as a .json file. Load it with program.load(path), then "
            f"dspy.configure(adapter=optimizer.FormatAdapter({arguments})) and a model at this temperature. "
            "Predictors under chain_of_thought must be dspy.ChainOfThought in the program."
        ),
    }
