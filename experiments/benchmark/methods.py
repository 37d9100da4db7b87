"""The methods that are compared. Each gets a task, a number of task calls and a seed, and returns what it would answer.

DSPy's optimizers run as their users run them: own defaults, DSPy's `Evaluate`, one thread. Their student sends the
same bytes as ours (layout `plain`, replies held to the task's labels by a grammar), so none loses to parsing. A run
ends when its calls are used up; its answer is then the best program that it had scored on all of dev, which is the one
that each of these optimizers returns when it ends by itself. Proposals come from the same model and are not counted.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import dspy
from dspy.teleprompt import COPRO, GEPA, BootstrapFewShotWithRandomSearch, MIPROv2
from dspy.utils.exceptions import AdapterParseError

from experiments.benchmark.replies import Meter, OutOfCalls
from optimizer.candidate import Candidate, Demo, Example
from optimizer.lm.backend import CallRequest, Reply
from optimizer.lm.dspy_engine import as_dspy_lm
from optimizer.metrics import Score, score
from optimizer.prompts.adapter import FormatAdapter
from optimizer.prompts.values import json_fields
from optimizer.records import StudyView
from optimizer.run import run
from optimizer.study.job import Job

MAX_DRAWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From `n_calls` task calls on, the method would answer `candidate`; `dev` is what it believes of it."""

    n_calls: int
    candidate: Candidate
    dev: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One task on one model, for one run of a method.

    Attributes:
        open_study: opens our own search with these settings of `search`, on the same rows, model and number of calls.
    """

    job: Job
    seed: Candidate
    n_calls: int
    run_seed: int
    open_study: Callable[[Mapping[str, Any]], Job]


Method = Callable[[Bench], list[Step]]


def untouched(bench: Bench) -> list[Step]:
    return [Step(n_calls=0, candidate=bench.seed, dev=0.0)]


def ours(bench: Bench, **search: Any) -> list[Step]:
    """Our search: settings as a user gets them, apart from those given. Calls end it, not the number of trials."""
    return steps_of(run(bench.open_study({"trials": bench.n_calls // 8, **search})))


def steps_of(view: StudyView) -> list[Step]:
    """Return the best candidate over time: each trial that led when it ended, and the winner at the end."""
    steps: list[Step] = []
    n_calls = 0
    for trial in view.trials:
        n_calls += trial.task_calls
        if trial.state == "complete" and trial.candidate is not None and (not steps or (trial.difference or 0) > 0):
            steps.append(Step(n_calls=n_calls, candidate=trial.candidate, dev=trial.score or 0.0))
    n_all = view.spend.calls["task"] - 2 * (view.verdict.n if view.verdict else 0)
    return [*steps, Step(n_calls=max(n_calls, n_all), candidate=view.best, dev=view.dev.winner if view.dev else 0.0)]


def dspy_method(compile_: Callable[[Bench, Dspy], object]) -> Method:
    """Wrap a DSPy optimizer: meter its calls, note every program that it scores on all of dev."""

    @functools.wraps(compile_)
    def method(bench: Bench) -> list[Step]:
        tools = Dspy(bench)
        quiet = contextlib.redirect_stdout(io.StringIO())
        with tools.recording(), quiet, contextlib.suppress(OutOfCalls):
            compile_(bench, tools)
        return tools.steps()

    return method


class Dspy:
    """What a DSPy optimizer is given: student, rows, metric, the proposer, and a task model that is metered."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        job = bench.job
        self.student = job.program.module(bench.seed)
        self.meter = Meter(job.task_backend.complete, max_calls=bench.n_calls)
        self.trainset = self._rows(job.splits.train)
        random.Random(bench.run_seed).shuffle(self.trainset)
        self.devset = self._rows(job.splits.dev)
        self._examples = {_key(row.inputs): row for row in (*job.splits.train, *job.splits.dev)}
        self.task_lm = as_dspy_lm(self.meter.complete, name="task", max_tokens=job.config.lm.task.max_tokens)
        numbers = itertools.count(1000 * bench.run_seed)

        def propose(request: CallRequest) -> Reply:
            """Draw until there is a reply: an empty one would end a whole run of MIPROv2."""
            draws = (job.proposer_backend.complete(replace(request, sample=number)) for number in numbers)
            return next(reply for reply in itertools.islice(draws, MAX_DRAWS) if reply.text.strip())

        self.proposer_lm = as_dspy_lm(propose, name="proposer", max_tokens=150, temperature=0.9)
        self._scored: list[Step] = []

    def metric(self, gold: dspy.Example, pred: dspy.Prediction, *_: object, **__: object) -> float:
        return self.score(gold, pred).value

    def metric_with_feedback(self, gold: dspy.Example, pred: dspy.Prediction, *_: object, **__: object) -> Any:
        found = self.score(gold, pred)
        return dspy.Prediction(score=found.value, feedback=found.feedback or "This is right.")

    def score(self, gold: dspy.Example, pred: dspy.Prediction) -> Score:
        example = self._examples[_key(gold.inputs())]
        answer = {name: value for name, value in pred.items() if name in example.outputs}
        return score(self._bench.job.metric, example, json_fields(answer))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Note each program that `dspy.Evaluate` scores on all of dev."""
        evaluate = dspy.Evaluate.__call__

        def recorded(evaluator: dspy.Evaluate, program: dspy.Module, *args: Any, **kwargs: Any) -> Any:
            result = evaluate(evaluator, program, *args, **kwargs)
            if len(result.results) >= len(self.devset):
                candidate = self._candidate_of(program)
                self._scored.append(Step(n_calls=self.meter.n_calls, candidate=candidate, dev=result.score / 100))
            return result

        adapter = Lenient("plain", spec=self._spec())
        with (
            patch.object(dspy.Evaluate, "__call__", recorded),
            dspy.context(lm=self.task_lm, adapter=adapter, num_threads=1, max_errors=10**9, disable_history=True),
        ):
            yield

    def steps(self) -> list[Step]:
        """Return each new best program; the untouched prompt comes first, for runs that end before any was scored."""
        best = [Step(n_calls=0, candidate=self._bench.seed, dev=-1.0)]
        for step in self._scored:
            if step.dev > best[-1].dev:
                best.append(step)
        return best

    def _rows(self, rows: Sequence[Example]) -> list[dspy.Example]:
        return [dspy.Example(**row.inputs, **row.outputs).with_inputs(*row.inputs) for row in rows]

    def _spec(self) -> Any:
        return next(iter(self._bench.job.program.specs.values()))

    def _candidate_of(self, program: dspy.Module) -> Candidate:
        predictor, spec = program.predictors()[0], self._spec()
        demos = [
            Demo(
                example_id="",
                inputs={field.name: demo[field.name] for field in spec.inputs},
                outputs={field.name: demo[field.name] for field in spec.outputs},
            )
            for demo in predictor.demos
        ]
        part = replace(
            self._bench.seed.parts[0], instructions=predictor.signature.instructions.strip(), demos=tuple(demos)
        )
        return self._bench.seed.with_part(part)


class Lenient(FormatAdapter):
    """Reads every reply of the proposer: what a small model writes seldom has the fields that it was asked for."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        try:
            return super().parse(signature, completion)
        except AdapterParseError:
            first, *others = signature.output_fields
            if not others:
                raise
            return {first: completion.strip(), **dict.fromkeys(others, "")}


def _key(inputs: Mapping[str, Any]) -> str:
    return repr(sorted(inputs.items()))


def bootstrap(bench: Bench, tools: Dspy) -> None:
    del bench
    BootstrapFewShotWithRandomSearch(metric=tools.metric, num_threads=1).compile(
        tools.student, trainset=tools.trainset, valset=tools.devset
    )


def mipro(bench: Bench, tools: Dspy) -> None:
    MIPROv2(
        metric=tools.metric,
        prompt_model=tools.proposer_lm,
        task_model=tools.task_lm,
        auto="light",
        num_threads=1,
        seed=bench.run_seed + 1,
    ).compile(tools.student, trainset=tools.trainset, valset=tools.devset)


def gepa(bench: Bench, tools: Dspy) -> None:
    GEPA(
        metric=tools.metric_with_feedback,
        max_metric_calls=2 * bench.n_calls,  # it counts repeated calls, too; the meter ends it
        reflection_lm=tools.proposer_lm,
        num_threads=1,
        seed=bench.run_seed,
    ).compile(tools.student, trainset=tools.trainset, valset=tools.devset)


def copro(bench: Bench, tools: Dspy) -> None:
    """COPRO knows one set of rows; it gets dev. Breadth times depth is what the calls allow."""
    n_evaluations = bench.n_calls // len(tools.devset)
    depth = 2 if n_evaluations < 20 else 3
    COPRO(
        metric=tools.metric, prompt_model=tools.proposer_lm, breadth=max(2, round(n_evaluations / depth)), depth=depth
    ).compile(tools.student, trainset=tools.devset, eval_kwargs={"num_threads": 1})


METHODS: Mapping[str, Method] = {
    "seed": untouched,
    "ours": ours,
    "random search": functools.partial(ours, sampler="random", racing=False),
    "MIPROv2": dspy_method(mipro),
    "GEPA": dspy_method(gepa),
    "COPRO": dspy_method(copro),
    "BootstrapRS": dspy_method(bootstrap),
}
