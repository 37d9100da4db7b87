"""What there is to tell of an exported prompt. All data formats and the page for people start from here.

Left out on purpose: endpoints, keys, paths and anything else of the machine that the study ran on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PureWindowsPath
from typing import Any, cast

from optimizer.candidate import Candidate, Example, Fields, JsonValue, Part
from optimizer.export.template import Template, open_template
from optimizer.lm.grammar import gbnf, only_json, structured_outputs
from optimizer.privacy.local import is_here
from optimizer.prompts.adapter import spec_of_signature
from optimizer.prompts.formats import FORMATS
from optimizer.prompts.program import Program, TaskProgram
from optimizer.prompts.spec import PromptSpec
from optimizer.records import StudyView

OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is exported: one candidate of a study. `rows` are test rows, for the forms that hold tests."""

    view: StudyView
    program: Program
    candidate: Candidate
    rows: tuple[Example, ...] = ()

    @property
    def is_best(self) -> bool:
        return self.candidate.id == self.view.best.id

    @property
    def is_chosen(self) -> bool:
        return self.candidate.id == self.view.chosen.id


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorPrompt:
    """What one predictor sends, and with which settings.

    Attributes:
        spec: the fields; `reasoning` is among the outputs where it is asked for.
        n_own_demos: demonstrations that came with the user's program and are not the search's.
        is_completion: the search sent it as one text to continue, with no chat around it.
        guide: further fields of a request that hold the model to the allowed replies, as the search did: those of
            llama.cpp, of vLLM with `guided: vllm`, of OpenAI for a JSON object. Empty where the search left it free.
    """

    part: Part
    spec: PromptSpec
    template: Template
    stop: tuple[str, ...]
    temperature: float
    max_tokens: int
    n_own_demos: int
    is_completion: bool
    guide: Fields = field(default_factory=dict)


def predictor_prompts(subject: Subject) -> tuple[PredictorPrompt, ...]:
    """Return the prompt of each predictor, in the program's order.

    Raises:
        ProgramError: an input is put in as no plain client could.
    """
    predictors = subject.program.module(subject.candidate).predictors()
    named = zip(subject.program.specs, predictors, strict=True)
    return tuple(_predictor_prompt(subject, subject.candidate.part(name), asked) for name, asked in named)


def _predictor_prompt(subject: Subject, part: Part, asked: Any) -> PredictorPrompt:
    spec = _spec(subject.program.specs[part.predictor], asked)
    settings = {name: value for name, value in asked.config.items() if value is not None}
    template = open_template(subject.program, subject.candidate, part.predictor)
    is_pattern = [message.role for message in template.messages] == ["user"]
    stop = settings.get("stop") or FORMATS[subject.candidate.format].stop(spec)
    return PredictorPrompt(
        part=part,
        spec=spec,
        template=template,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        temperature=settings.get("temperature", subject.candidate.temperature),
        max_tokens=settings.get("max_tokens", cast(int, task_model(subject.view)["max_tokens"])),
        n_own_demos=0 if part.demos else len(asked.demos),
        is_completion=is_pattern and is_local(subject.view),
        guide=_guide(subject),
    )


def is_local(view: StudyView) -> bool:
    """Whether the task model is a file that llama.cpp runs."""
    name = str(task_model(view)["model"])
    return name == "embedded" or name.startswith("gguf:")


def server_of(view: StudyView) -> str:
    """Address of the OpenAI-compatible server that has the task model; empty where none may be told.

    That of another machine tells of the network that it is in: whoever sends the prompt there names it.
    """
    task = task_model(view)
    if address := str(task.get("api_base") or ""):
        return address if is_here(address) and not is_local(view) else ""
    return OPENAI if str(task["model"]).startswith("openai/") else ""


def _guide(subject: Subject) -> Fields:
    program, task = subject.program, task_model(subject.view)
    if not isinstance(program, TaskProgram):
        return {}
    blank = {field.name: "" for spec in program.specs.values() for field in spec.inputs}
    request = program.request(subject.candidate, blank)
    schema = only_json(request.constraint)
    if is_local(subject.view):
        grammar = {"grammar": gbnf(request.constraint, ends=request.stop)} if request.constraint else {}
        return {"json_schema": json.loads(schema)} if schema else grammar
    if task.get("guided") == "vllm" and request.constraint:
        return {"structured_outputs": cast(JsonValue, structured_outputs(request.constraint))}
    if schema and task.get("api_base") is None and str(task["model"]).startswith("openai/"):
        inner = {"name": "reply", "schema": json.loads(schema)}
        return {"response_format": {"type": "json_schema", "json_schema": inner}}
    return {}


def _spec(own: PromptSpec, asked: Any) -> PromptSpec:
    """Return the program's own field specs, with reasoning where the DSPy predictor has it."""
    known = {field.name: field for field in own.outputs}
    outputs = spec_of_signature(asked.signature).outputs
    return replace(own, outputs=tuple(known.get(field.name, field) for field in outputs))


def task_model(view: StudyView) -> Fields:
    """Return the settings of the task model."""
    models = cast("Mapping[str, Fields]", view.config["lm"])
    return models["task"]


def model_name(view: StudyView) -> str:
    """Return the task model's name; of a local model file no more than the file's name."""
    name = str(task_model(view)["model"])
    if name.startswith("gguf:") and not name.startswith("gguf:hub:"):
        return f"gguf:{PureWindowsPath(name.removeprefix('gguf:')).name}"  # splits at both kinds of slash
    return name


def goal(view: StudyView) -> str:
    return str(cast(Fields, view.config["task"]).get("goal") or "")


def facts(subject: Subject) -> dict[str, JsonValue]:
    """Return what is true of the prompt as a whole, as JSON with stable keys."""
    view, candidate = subject.view, subject.candidate
    verdict = view.verdict if subject.is_best or subject.is_chosen else None
    return {
        "study": view.name,
        "goal": goal(view),
        "candidate": candidate.id,
        "layout": candidate.format,
        "reasoning": candidate.reasoning,
        "model": model_name(view),
        "verdict": {"decision": verdict.decision, "reason": verdict.reason} if verdict else None,
        "scores": {"test": _test_scores(subject), "dev": _dev_scores(subject)},
    }


def _test_scores(subject: Subject) -> dict[str, JsonValue] | None:
    """Return what the test rows say of this candidate; they have seen no other than seed and winner."""
    verdict = subject.view.verdict
    if verdict is not None and subject.is_best:
        names = ("n", "seed_score", "difference", "low", "high", "confidence", "p_value", "test_name")
        values = asdict(replace(verdict, seed_outcomes=(), winner_outcomes=()))
        return {"score": _finite(verdict.winner_score)} | {name: _finite(values[name]) for name in names}
    if verdict is not None and subject.candidate.id == subject.view.seed.id:
        return {"score": _finite(verdict.seed_score), "n": verdict.n}
    return None


def _dev_scores(subject: Subject) -> dict[str, JsonValue] | None:
    dev, trial = subject.view.dev, subject.view.trial_of(subject.candidate)
    if dev is not None and subject.is_best:
        n = dev.n if dev.n_winner is None else dev.n_winner
        values: dict[str, float | None] = {"score": dev.winner, "n": n, "low": dev.low, "high": dev.high}
        values |= {"seed_score": dev.seed, "seed_n": dev.n_seed}
        return {name: _finite(value) for name, value in values.items()}
    score, n_scored = subject.view.dev_score(trial)
    return None if score is None else {"score": _finite(score), "n": n_scored}


def _finite(value: Any) -> JsonValue:
    """Return a number or text that JSON can hold; what is not a number becomes null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
