"""What `optimizer check` finds out before anything is spent: the metric tried, and one call to each model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from optimizer.budget.room import Amount, Need, lack_of_room
from optimizer.candidate import Example, Fields
from optimizer.data.balance import imbalance
from optimizer.errors import ConfigError, MetricError
from optimizer.lm.backend import AttemptError, Backend, CallRequest, Reply
from optimizer.metrics import score
from optimizer.probe.bill import RACED_SHARE
from optimizer.prompts.formats import UnreadableReply
from optimizer.prompts.program import Refused
from optimizer.prompts.spec import Message
from optimizer.records import Role
from optimizer.study import reserve
from optimizer.study.job import Job
from optimizer.words import percent, visible

FEW_CANDIDATES = 5  # a search of fewer hardly ever finds anything
N_TRIED = 3  # rows on which the metric is tried
CHAT_TOKENS = 200  # fewer cut most of the instructions that a chat model writes
MAX_SHOWN = 60
HIDDEN = "(hidden: tracking.rows is ids)"  # a reply may quote its row


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One real call to one model. `usd` is 0 where the price is unknown; `note` says why a reply is no use."""

    role: Role
    model: str
    seconds: float
    tokens: int
    reply: str
    note: str = ""
    usd: float = 0.0


def probes(job: Job) -> Iterator[Probe]:
    """Call each model once and yield what came back.

    Raises:
        ConfigError: a model cannot be called; one line says why.
    """
    yield _probe_task(job)
    hello = CallRequest(messages=(Message("user", "Say hello in one word."),), max_tokens=8)
    if job.proposer_backend is not job.task_backend:
        yield _call(job, job.proposer_backend, "proposer", hello)[0]
    if job.judge_backend is not None and job.judge_backend is not job.proposer_backend:
        yield _call(job, job.judge_backend, "judge", hello)[0]


def metric_notes(job: Job) -> list[str]:
    """Score some expected answers and one of another row, and return what is odd. A judge is not asked.

    Raises:
        ConfigError: the metric raised, or returned something that is no score.
    """
    uneven = _uneven(job)
    rows = [row for row in job.splits.dev if None not in row.outputs.values()]
    if job.config.metric.asks_judge or not rows:
        return uneven
    best = max(_tried(job, row, row.outputs, "the expected answer") for row in rows[:N_TRIED])
    others = (row.outputs for row in rows if row.outputs != rows[0].outputs)
    _tried(job, rows[0], next(others, rows[0].outputs), "another row's answer")
    if best == 1:
        return uneven
    n = min(N_TRIED, len(rows))
    return [
        *uneven,
        f"metric: the expected answers of {n} dev rows score {percent(best)} at most; is this what it should measure?",
    ]


def _uneven(job: Job) -> list[str]:
    """Say that accuracy tells little of rare classes, where there are some and nothing else protects them."""
    metric, outputs = job.config.metric, job.config.task.outputs
    output = metric.output or next(iter(outputs))
    counts: Counter[str] = Counter()
    for each in job.splits.report.class_counts.values():
        counts.update(each)
    is_protected = metric.slices is not None and metric.slices.by == output
    if metric.name not in ("accuracy", "exact_match") or is_protected or not (uneven := imbalance(counts)):
        return []
    return [
        f"metric.name: {metric.name!r} counts every row alike, and {uneven}: a prompt can gain by giving up a rare "
        f"class. `macro_f1` counts every class alike; `slices: {{by: {output}, max_loss: 0.05}}` lets none get worse"
    ]


def _tried(job: Job, row: Example, answer: Fields, what: str) -> float:
    try:
        return score(job.metric, row, answer).value
    except MetricError as error:
        raise ConfigError(f"metric: {what} could not be scored: {error}") from error


def concerns(job: Job, found: Probe) -> list[str]:
    """Return what should be changed before a run, though it could begin.

    Args:
        found: what the task model answered.

    Raises:
        ConfigError: a cap of tokens or money is too small for any study.
    """
    notes, task = [], job.config.lm.task
    if found.note:
        notes.append(
            f"lm.task: {found.note}; it was {visible(' '.join(found.reply.split()))[:MAX_SHOWN]!r}. Raise "
            f"lm.task.max_tokens (now {task.max_tokens}), name another layout in search.formats, or take another "
            "model; `check --probe` counts how many replies can be read"
        )
    proposer = job.config.proposer
    if job.proposer_backend.style == "chat" and proposer.max_tokens < CHAT_TOKENS:
        notes.append(
            f"lm.proposer.max_tokens: {proposer.max_tokens} cuts most instructions that a chat model writes, and those "
            "are lost; give 1000"
        )
    need = _measured_need(job, found)
    n_calls = len(job.program.specs)
    row = Amount(n_calls * found.tokens, n_calls * job.task_price * found.usd)
    reserve.require_least(job, row)
    if lack := lack_of_room(job.config.budget, need):
        return [*notes, f"{lack} if all rows are like the first"]
    return [*notes, *_few_candidates(job, need)]


def must_mend(job: Job, found: Probe) -> bool:
    """Whether a run makes no sense before something is mended: no reply to be read, or a class without rows."""
    return bool(found.note or job.splits.report.losses)


def _few_candidates(job: Job, need: Need) -> list[str]:
    """Say so where the caps end the search after a handful of candidates, which hardly ever find a better prompt."""
    budget, n_trials = job.config.budget, job.config.search.trials
    per_row = {
        "task_calls": len(job.program.specs),
        "tokens": need.tokens / need.n_asked,
        "usd": need.usd / need.n_asked,
    }
    caps = {"task_calls": budget.task_calls, "tokens": budget.tokens, "usd": budget.usd}
    rows = {key: cap / per_row[key] for key, cap in caps.items() if cap is not None and per_row[key]}
    if not rows:
        return []
    key = min(rows, key=rows.__getitem__)
    n_fit = max(0, int((rows[key] - 2 * job.n_test) / (RACED_SHARE * len(job.splits.dev))))
    if n_fit >= min(FEW_CANDIDATES, n_trials):
        return []
    return [
        f"budget.{key}: {caps[key]:g} leaves room for about {n_fit} of {n_trials} candidates, and for {job.n_test} of "
        f"{len(job.splits.test)} rows in the final test; with so few hardly any search finds a better prompt: raise it"
    ]


def _measured_need(job: Job, found: Probe) -> Need:
    """The least that a study takes, from what the first dev row took and how long the others are."""
    need, n_calls = reserve.fewest(job), len(job.program.specs)
    asked = (*job.splits.dev[: need.n_race], *job.splits.test[: need.n_test])
    n_chars = len(job.config.prompt) + sum(map(_n_chars, asked)) / len(asked)
    scale = n_calls * need.n_asked * n_chars / max(1, len(job.config.prompt) + _n_chars(job.splits.dev[0]))
    return need._replace(tokens=scale * found.tokens, usd=scale * job.task_price * found.usd)


def _n_chars(row: Example) -> int:
    return sum(len(str(value)) for value in row.inputs.values())


def _probe_task(job: Job) -> Probe:
    """Run the seed prompt on the first dev example, as the study will."""
    spent: list[Probe] = []

    def complete(request: CallRequest) -> Reply:
        probe, reply = _call(job, job.task_backend, "task", request)
        spent.append(probe)
        return reply

    note, hides_rows = "", job.config.tracking.rows == "ids"
    try:
        job.program.run(job.seed, job.splits.dev[0].inputs, complete)
    except UnreadableReply as error:
        note = "the reply could not be read" + ("" if hides_rows else f": {error.args[0]}")
    except Refused:
        note = "the model declined to answer"
    last = spent[-1]
    seconds, tokens = sum(probe.seconds for probe in spent), sum(probe.tokens for probe in spent)
    usd, n, reply = sum(probe.usd for probe in spent), len(spent), HIDDEN if hides_rows else last.reply
    return replace(last, seconds=seconds / n, tokens=tokens // n, usd=usd / n, reply=reply, note=note)


def _call(job: Job, backend: Backend, role: Role, request: CallRequest) -> tuple[Probe, Reply]:
    started = time.monotonic()
    try:
        reply = backend.complete(request)
    except AttemptError as error:
        if error.kind == "not_configured":
            raise ConfigError(f"lm.{role}: {error}") from error
        raise ConfigError(f"lm.{role}: {backend.identity} cannot be used: {error.kind}: {error}") from error
    seconds, tokens = time.monotonic() - started, reply.tokens_in + reply.tokens_out
    usd = job.prices[role].usd(reply.tokens_in, reply.tokens_out)
    return Probe(role=role, model=backend.identity, seconds=seconds, tokens=tokens, reply=reply.text, usd=usd), reply
