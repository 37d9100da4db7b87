"""The metered models of a study: one for each role, all paying from the same caps into the same ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from optimizer.budget.caps import Caps
from optimizer.lm.model import Model, RetryPolicy
from optimizer.records import Role
from optimizer.storage.journal import Journal
from optimizer.study.job import Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """`judge` is None unless the metric asks one."""

    task: Model
    proposer: Model
    judge: Model | None

    def in_flight(self) -> list[tuple[Role, float]]:
        """Return role and age in seconds of each call that waits for its reply."""
        models = [model for model in (self.task, self.proposer, self.judge) if model is not None]
        return [(model.role, age_s) for model in models for age_s in model.in_flight_s()]

    def cut_note(self) -> str:
        """Say how many answers of a hosted model were cut off, in one line; nothing when none was."""
        n = 0 if self.task.backend.is_local else self.task.health.n_cut
        said = "1 reply was" if n == 1 else f"{n} replies were"
        return f"{said} cut at lm.task.max_tokens; raise it if answers need more room" if n else ""

    def close(self) -> None:
        """Stop, and wait for what works in the background."""
        if note := self.cut_note():
            logger.warning("%s", note)
        for model in (self.task, self.proposer, self.judge):
            if model is not None:
                model.close()

    def stop(self) -> None:
        """End calls that wait to be tried again; begin no other."""
        for model in (self.task, self.proposer, self.judge):
            if model is not None:
                model.stop()


def open_models(
    job: Job,
    journal: Journal,
    caps: Caps,
    on_wait: Callable[[str], None],
    *,
    left_s: Callable[[], float | None] = lambda: None,
) -> Models:
    """Meter the job's backends, and put the judge into the metric that waits for it.

    Args:
        left_s: seconds until the verdict must stand, None without such a time.

    Raises:
        ConfigError: the task model is to work in batches and cannot.
    """
    settings = {"task": job.config.lm.task, "proposer": job.config.proposer, "judge": job.config.judge}
    backends = {"task": job.task_backend, "proposer": job.proposer_backend, "judge": job.judge_backend}

    def metered(role: Role) -> Model | None:
        backend = backends[role]
        if backend is None:
            return None
        return Model(
            backend,
            role=role,
            journal=journal,
            caps=caps,
            pricing=job.prices[role],
            retry=RetryPolicy(retry_for_s=settings[role].retry_for, outage_for_s=settings[role].outage_for),
            max_in_flight=None if backend.is_local else settings[role].concurrency,
            on_wait=on_wait,
        )

    def in_batches() -> Model:
        from optimizer.lm.batch_endpoint import open_batch_endpoint  # the client takes a second to import
        from optimizer.lm.batch_model import BatchModel

        task = job.config.lm.task
        return BatchModel(
            job.task_backend,
            open_batch_endpoint(task, job.task_backend),
            journal=journal,
            caps=caps,
            pricing=job.prices["task"],
            retry=RetryPolicy(retry_for_s=task.retry_for, outage_for_s=task.outage_for),
            max_in_flight=task.concurrency,
            on_wait=on_wait,
            settings=task.batch,
            left_s=left_s,
        )

    task = in_batches() if job.config.lm.task.mode == "batch" else metered("task")
    proposer, judge = metered("proposer"), metered("judge")
    assert task is not None
    assert proposer is not None
    if judge is not None and job.judge is not None:
        job.judge.complete = judge.call
    return Models(task=task, proposer=proposer, judge=judge)
