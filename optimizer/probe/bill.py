"""What a whole study will take in calls, time and money, from what one row took. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimizer.budget.room import Amount
from optimizer.lm.pricing import unpriced

if TYPE_CHECKING:
    from optimizer.probe.check import Probe
    from optimizer.study.job import Job

RACED_SHARE = (
    0.23  # (task calls - 2 x test rows) / (trials x dev rows), mean of experiments/results/quickstart_seeds.json
)
CHARS_PER_TOKEN = 4
JUDGE_TOKENS, GRADE_TOKENS = 200, 60  # around what is judged, and of a reason with its grade
PROPOSER_TOKENS, ROWS_SHOWN, PROMPT_TOKENS = 500, 6, 250  # around the rows that a proposer is shown, and of its reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a study will take. `usd` is None when a price is unknown.

    Attributes:
        limited_by: the cap without which it would take more, None where none is in its way.
        n_calls_wanted: how many calls it would take without any cap.
    """

    n_calls_max: int
    n_calls: int
    seconds: float
    usd: float | None
    limited_by: str | None = None
    n_calls_wanted: int


def estimate(job: Job, probe: Probe) -> Estimate:
    """Estimate calls, time and money of the whole study from one task call; caps of calls, tokens and money hold."""
    config, n_predictors = job.config, len(job.program.specs)
    final = 2 * job.n_test * n_predictors
    n_wanted_max = config.search.trials * len(job.splits.dev) * n_predictors + final
    n_wanted = int(config.search.trials * len(job.splits.dev) * n_predictors * RACED_SHARE) + final
    each = _judged_call(job, probe).plus(_proposals(job, probe).times(1 / n_wanted))
    cap, n_paid = _calls_paid(job, each)
    n_calls = min(n_wanted, n_paid)
    n_at_once = job.task_backend.n_lanes if job.task_backend.is_local else config.lm.task.concurrency
    seconds = n_calls * probe.seconds / n_at_once
    if config.budget.wall_clock is not None:
        seconds = min(seconds, config.budget.wall_clock)
    return Estimate(
        n_calls_max=min(n_wanted_max, n_paid),
        n_calls=n_calls,
        seconds=seconds,
        usd=None if unpriced(job.prices) else n_calls * each.usd,
        limited_by=cap if n_calls < n_wanted else None,
        n_calls_wanted=n_wanted,
    )


def _calls_paid(job: Job, each: Amount) -> tuple[str | None, int]:
    """Return the cap that ends first, and for how many task calls it pays.

    Args:
        each: what one takes, with its share of what judge and proposer take.
    """
    budget = job.config.budget
    caps = (("task_calls", budget.task_calls, 1), ("tokens", budget.tokens, each.tokens), ("usd", budget.usd, each.usd))
    paid = [(int(cap / amount), f"budget.{key}") for key, cap, amount in caps if cap is not None and amount]
    n_paid, key = min(paid, default=(sys.maxsize, None))
    return key, n_paid


def _judged_call(job: Job, probe: Probe) -> Amount:
    """A task call, and its share of the call that judges the answer to a row: about, for the judge was not asked."""
    task = Amount(probe.tokens, job.task_price * probe.usd)
    if job.judge_backend is None:
        return task
    n_steps = len(job.program.specs)
    rubric = max((len(measure.rubric or "") for measure in job.config.metric.measures), default=0)
    tokens_in = JUDGE_TOKENS + rubric // CHARS_PER_TOKEN + n_steps * probe.tokens
    tokens_out = min(GRADE_TOKENS, job.config.judge.max_tokens)
    judge = Amount(tokens_in + tokens_out, job.prices["judge"].usd(tokens_in, tokens_out))
    return task.plus(judge.times(1 / n_steps))


def _proposals(job: Job, probe: Probe) -> Amount:
    """What a call of the proposer in every trial takes, about: it is shown some rows, and writes a prompt."""
    tokens_in = PROPOSER_TOKENS + ROWS_SHOWN * probe.tokens
    tokens_out = min(PROMPT_TOKENS, job.config.proposer.max_tokens)
    call = Amount(tokens_in + tokens_out, job.prices["proposer"].usd(tokens_in, tokens_out))
    return call.times(job.config.search.trials)
