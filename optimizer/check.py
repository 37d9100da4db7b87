"""What `optimizer check` finds out before anything is spent: one call to each model, and an estimate of the bill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from optimizer.errors import ConfigError
from optimizer.formats import UnreadableReply
from optimizer.job import Job
from optimizer.lm.backend import AttemptError, Backend, CallRequest, Reply
from optimizer.program import Refused
from optimizer.prompt import Message
from optimizer.records import Role

RACED_SHARE = (
    0.32  # (task calls - 2 x test rows) / (trials x dev rows), mean of experiments/results/quickstart_seeds.json
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One real call to one model."""

    role: Role
    model: str
    seconds: float
    tokens: int
    reply: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a study will take. `usd` is None when a price is unknown."""

    n_calls_max: int
    n_calls: int
    seconds: float
    usd: float | None


def probes(job: Job) -> Iterator[Probe]:
    """Call each model once and yield what came back.

    Raises:
        ConfigError: a model cannot be called; one line says why.
    """
    yield _probe_task(job)
    hello = CallRequest(messages=(Message("user", "Say hello in one word."),), max_tokens=8)
    if job.proposer_backend is not job.task_backend:
        yield _probe(job.proposer_backend, "proposer", hello)
    if job.judge_backend is not None and job.judge_backend is not job.proposer_backend:
        yield _probe(job.judge_backend, "judge", hello)


def estimate(job: Job, probe: Probe) -> Estimate:
    """Estimate calls, time and money of the whole study from one task call."""
    config, n_predictors = job.config, len(job.program.specs)
    final = 2 * job.n_test * n_predictors
    n_max = config.search.trials * len(job.splits.dev) * n_predictors + final
    n_calls = int(config.search.trials * len(job.splits.dev) * n_predictors * RACED_SHARE) + final
    if config.budget.task_calls is not None:
        n_max, n_calls = min(n_max, config.budget.task_calls), min(n_calls, config.budget.task_calls)
    n_at_once = job.task_backend.n_lanes if job.task_backend.is_local else config.lm.task.concurrency
    seconds = n_calls * probe.seconds / n_at_once
    if config.budget.wall_clock is not None:
        seconds = min(seconds, config.budget.wall_clock)
    return Estimate(n_calls_max=n_max, n_calls=n_calls, seconds=seconds, usd=_usd(job, probe, n_calls))


def _usd(job: Job, probe: Probe, n_calls: int) -> float | None:
    pricing, task = job.prices["task"], job.config.lm.task
    share = task.batch.price if task.mode == "batch" else 1.0
    return None if pricing.per_million is None else share * n_calls * pricing.usd(probe.tokens, 0)


def _probe_task(job: Job) -> Probe:
    """Run the seed prompt on the first dev example, as the study will."""
    spent: list[Probe] = []

    def complete(request: CallRequest) -> Reply:
        probe, reply = _call(job.task_backend, "task", request)
        spent.append(probe)
        return reply

    note = ""
    seed = job.program.seed(job.config.prompt)
    try:
        job.program.run(seed, job.splits.dev[0].inputs, complete)
    except UnreadableReply as error:
        note = f"the reply could not be read: {error.args[0]}"
    except Refused:
        note = "the model declined to answer"
    last = spent[-1]
    seconds, tokens = sum(probe.seconds for probe in spent), sum(probe.tokens for probe in spent)
    n = len(spent)
    return Probe(role="task", model=last.model, seconds=seconds / n, tokens=tokens // n, reply=last.reply, note=note)


def _probe(backend: Backend, role: Role, request: CallRequest) -> Probe:
    return _call(backend, role, request)[0]


def _call(backend: Backend, role: Role, request: CallRequest) -> tuple[Probe, Reply]:
    started = time.monotonic()
    try:
        reply = backend.complete(request)
    except AttemptError as error:
        raise ConfigError(f"lm.{role}: {backend.identity} cannot be used: {error.kind}: {error}") from error
    seconds, tokens = time.monotonic() - started, reply.tokens_in + reply.tokens_out
    return Probe(role=role, model=backend.identity, seconds=seconds, tokens=tokens, reply=reply.text), reply
