"""The optimizer from Python: `optimize(...)` for your own code, `PromptOptimizer` where DSPy expects a teleprompter.

Both run the same loop as `optimizer run`; the study lies in a runs folder and is continued when it is called again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import dspy
from dspy.teleprompt import Teleprompter

from optimizer.candidate import Candidate
from optimizer.config.file import section_of
from optimizer.config.keys import (
    LM,
    Budget,
    Config,
    Data,
    InputField,
    LMs,
    OutputField,
    OutputKind,
    Search,
    Task,
    TaskLM,
    Tracking,
)
from optimizer.config.keys import Metric as MetricConfig
from optimizer.data.loading import splits_from_rows
from optimizer.errors import ConfigError, DataError
from optimizer.export import export, export_format
from optimizer.lm import open_backend
from optimizer.lm.backend import Backend
from optimizer.lm.dspy_engine import Engine
from optimizer.lm.provider import borrow_provider
from optimizer.metrics import from_function, open_metric
from optimizer.prompts.adapter import LaidOut
from optimizer.prompts.program import ModuleProgram, Program
from optimizer.prompts.recorded import shape_of
from optimizer.prompts.render import render
from optimizer.prompts.spec import FieldSpec
from optimizer.prompts.values import plain_rows
from optimizer.propose import open_operators
from optimizer.records import StudyView, Verdict
from optimizer.run import run
from optimizer.study.job import SHAPE, Job, facts_of
from optimizer.study.observe import Observer
from optimizer.study.saved import forked

Model: TypeAlias = "str | dspy.LM"
Rows = Iterable[Mapping[str, Any] | dspy.Example]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a study came to.

    Attributes:
        program: the winner, ready to call, in the layout that was proven; your own prompts when nothing is proven to be
            better. Its attributes, predictors and saved state are named as in your program.
        view: everything that is known of the study.
    """

    program: dspy.Module
    view: StudyView
    _source: Program

    @property
    def verdict(self) -> Verdict:
        """The comparison on test rows: decision, scores, interval, p-value."""
        return cast(Verdict, self.view.verdict)

    @property
    def prompt(self) -> str:
        """The chosen prompt as text, with the inputs left open: that of `program`, your own after `keep`."""
        return render(self._source, self.view.chosen)

    def export(self, format: str = "text") -> str:
        """Return the chosen prompt in any form that `optimizer export` knows."""
        return export(self.view, self._source, export_format(format))

    def apply(self, candidate: Candidate) -> dspy.Module:
        """Return the program with another candidate's prompt, for example one of `view.trials`."""
        return self._source.apply(candidate)


def optimize(
    program: dspy.Module | type[dspy.Signature] | str,
    *,
    metric: str | Callable[..., Any],
    train: Rows,
    dev: Rows | None = None,
    test: Rows | None = None,
    lm: Model | None = None,
    proposer: Model | None = None,
    goal: str = "",
    outputs: Sequence[str] = (),
    budget: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    tracking: Mapping[str, Any] | None = None,
    name: str = "optimize",
    fork: str | None = None,
    runs_dir: str | Path = "runs",
    observer: Observer | None = None,
) -> Result:
    """Search for better prompts of a DSPy program and prove it on rows that the search never saw.

    Args:
        program: a module with any number of predictors, or a signature such as `"question -> answer"`.
        metric: a name such as `"accuracy"`, or a function of (example, prediction) that returns a number in [0, 1], or
            that and a text saying what was wrong. If its second parameter is named `pred` or `prediction`, or its third
            one `trace`, it gets DSPy's objects; else a row with `.inputs` and `.outputs`, and the answer as a mapping.
        train: labelled rows, as mappings or `dspy.Example`s.
        dev: rows that score candidates; where none are given, a part of `train`, by hash.
        test: rows that are looked at once, for the verdict; where none are given, a part of `dev`, else of `train`.
        lm: the model that the prompt is for; default: DSPy's configured one, else the embedded model.
        proposer: the model that writes mutations; default: the same.
        goal: what the program is for, in a sentence.
        outputs: names of the label columns; default: those that the predictors write, or of marked `dspy.Example`s all
            that are no inputs. For programs that compute their answer from what a predictor writes.
        budget: as the section `budget` of a configuration file; `search` and `tracking` likewise, but that the first
            of `formats` is `chat`, and that `seed` deals out the rows, too.
        name: of the study; calling again with the same name and data continues it or returns its result.
        fork: name of a study of the same `runs_dir` whose paid replies this one, under a name of its own, uses again.
        observer: told of trials as they begin and end.

    Raises:
        UserError: something is wrong with what was given; one line says what.
        Paused: a budget or the model stopped the study; call again to continue.
    """
    module = program if isinstance(program, dspy.Module) else dspy.Predict(program)
    module = module.inner if isinstance(module, LaidOut) else module  # one that was compiled before
    task_lm = lm or dspy.settings.lm or "embedded"
    with ExitStack() as stack:
        task_backend = _backend(task_lm, stack)
        proposer_backend = task_backend if proposer is None else _backend(proposer, stack)
        program_ = ModuleProgram(module, max_tokens=_max_tokens(task_lm))
        train_rows = list(train)
        config = Config(
            name=name,
            task=_task(program_, train_rows, goal, outputs, _taken(module, program_)),
            data=Data(source="rows"),
            lm=LMs(
                task=TaskLM(**dict(_settings(task_lm))),
                proposer=_settings(task_lm if proposer is None else proposer, temperature=0.9),
            ),
            metric=MetricConfig(name=metric if isinstance(metric, str) else "python:function"),
            search=section_of(Search, "search", {"formats": ("chat", "plain"), **(search or {})}, "optimize"),
            budget=section_of(Budget, "budget", budget, "optimize"),
            tracking=section_of(Tracking, "tracking", tracking, "optimize"),
        )
        given = [None if rows is None else plain_rows(rows) for rows in (dev, test)]
        splits = splits_from_rows(plain_rows(train_rows), *given, task=config.task, seed=config.search.seed)
        job = Job(
            config=config,
            program=program_,
            splits=splits,
            metric=open_metric(config) if isinstance(metric, str) else from_function(metric),
            operators=open_operators(config.search.operators),
            task_backend=task_backend,
            proposer_backend=proposer_backend,
            runs_dir=Path(runs_dir),
            folder=Path.cwd(),
            facts={**facts_of(splits), SHAPE: shape_of(program_, module)},
            is_from_python=True,
        )
        view = run(job if fork is None else forked(job, fork), observer)
    return Result(program=program_.apply(view.chosen), view=view, _source=program_)


class PromptOptimizer(Teleprompter):
    """The same search where DSPy expects a teleprompter.

        PromptOptimizer(metric=..., budget={"task_calls": 500}).compile(student, trainset=rows, valset=more_rows)

    The compiled program carries the study as `compiled.result`.

    Args:
        options: whatever `optimize` takes besides program and rows.
    """

    def __init__(self, *, metric: str | Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.metric = metric
        self.options = options

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        **kwargs: Any,
    ) -> dspy.Module:
        """Return the student with the winning prompts, or with its own when nothing is proven to be better.

        Args:
            trainset: rows that may be shown in prompts; also the source of what `valset` does not give.
            valset: rows that score candidates, and that the final test rows are taken from.
            kwargs: override the options given at construction, for example `test=rows`.
        """
        if teacher is not None:
            raise ConfigError("compile: a teacher is not used; give a stronger `proposer` model instead")
        options = {**self.options, **kwargs}
        result = optimize(student, metric=self.metric, train=trainset, dev=valset, **options)
        compiled = result.program
        compiled._compiled = True
        compiled.result = result
        return compiled


def _backend(model: Model, stack: ExitStack) -> Backend:
    """Open a model, to be closed with the stack; a `dspy.LM` stays its owner's."""
    if isinstance(model, str):
        backend = open_backend(LM(model=model))
        stack.callback(backend.close)
        return backend
    engine = getattr(model, "_engine_spec", None)
    return engine.backend if isinstance(engine, Engine) and engine.backend else borrow_provider(model)


def _settings(model: Model, **changes: Any) -> LM:
    if isinstance(model, str):
        return LM(model=model, **changes)
    base = model.kwargs.get("api_base") or model.kwargs.get("base_url")
    return LM(model=model.model, api_base=str(base) if base else None, max_tokens=_max_tokens(model), **changes)


def _max_tokens(model: Model) -> int:
    default = LM().max_tokens
    return default if isinstance(model, str) else int(model.kwargs.get("max_tokens") or default)


def _taken(module: dspy.Module, program: Program) -> frozenset[str] | None:
    """Return the names of what a program can be called with, None where it takes anything."""
    if type(module).__module__.startswith("dspy."):
        return frozenset(field.name for spec in program.specs.values() for field in spec.inputs)
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return None if takes_any else frozenset(parameters)


def _task(
    program: Program, rows: Sequence[Any], goal: str, named: Sequence[str] = (), taken: Collection[str] | None = None
) -> Task:
    """Read the fields of the task off the rows, their kinds off the program's signatures where it has them.

    Args:
        named: columns of labels, where the program does not write them.
        taken: what the program can be called with; a further column of plain mappings is no part of the task.
    """
    if not rows:
        raise DataError("train: no rows; give labelled examples")
    first = rows[0]
    answers = {field.name: field for spec in program.specs.values() for field in spec.outputs}
    is_marked = isinstance(first, dspy.Example) and first._input_keys is not None
    columns = list(first.keys())
    if missing := [name for name in named if name not in columns]:
        raise DataError(f"outputs: {', '.join(missing)} is no column; columns: {', '.join(columns)}")
    labels = named or answers
    if is_marked and not named:
        inputs = list(first.inputs().keys())
        outputs = [key for key in columns if key not in inputs]
    else:
        inputs = [key for key in columns if key not in labels and (taken is None or key in taken)]
        outputs = [key for key in columns if key in labels]
    if not outputs:
        raise DataError(
            f"train: none of the columns {', '.join(columns)} is an output of the program ({', '.join(answers)}); "
            "name the label column like the output field, or name it in `outputs`"
        )
    if not inputs:
        takes = ", ".join(taken or ()) or "nothing"
        raise DataError(
            f"train: none of the columns {', '.join(columns)} is an input of the program, which takes {takes}; name "
            "the columns like its inputs"
        )
    seed = program.seed("").parts[-1].instructions
    return Task(
        goal=goal or seed,
        inputs={name: InputField() for name in inputs},
        outputs={name: _output(answers.get(name), first[name]) for name in outputs},
    )


def _output(field: FieldSpec | None, value: object) -> OutputField:
    if field is not None:
        found = OutputField(kind=field.kind, choices=field.choices, description=field.description)
        found._takes_lists = bool(field.schema)
        return found
    kinds: dict[type, OutputKind] = {bool: "boolean", int: "number", float: "number", dict: "json"}
    return OutputField(kind=kinds.get(type(value), "text"))
