"""Why a search ends, and how long it will take: asked before every trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.budget import expected_left_s
from optimizer.errors import OutOfTime
from optimizer.patience import is_unlikely_to_pay

if TYPE_CHECKING:
    from optimizer.session import Session

MIN_TRIALS = 3  # before that there is no pace to go by
FINAL_SLACK = 1.3  # the final test is expected to take this much longer than measured calls say


def stop_reason(session: Session) -> str | None:
    """Return why no further trial should begin, or None."""
    search, known = session.job.config.search, session.known
    started = session.study.n_started()
    if session.is_stopping:
        return "stopped"
    if session.budget_note is not None:
        return "time" if isinstance(session.budget_note, OutOfTime) else "budget"
    if started >= search.trials and not session.study.has_orphans():
        return "trials"
    if started > MIN_TRIALS and not session.deadline.allows(final_s(session)):
        return "time"
    if known.is_perfect():
        return "perfect"
    if search.patience and known.n_since_best() >= search.patience:
        return "patience"
    if search.patience is None and is_unlikely_to_pay(
        known.gains(), n_left=trials_left(session), min_gain=search.min_gain
    ):
        return "unlikely"
    return None


def trials_left(session: Session) -> int:
    """Return how many trials the settings and the task calls left allow."""
    trials, caps = session.known.memory.trials, session.caps
    n_left = session.job.config.search.trials - len(trials)
    cap = caps.calls.get("task")
    if cap is None or not trials:
        return n_left
    n_calls = max(1, sum(trial.task_calls for trial in trials))
    affordable = max(0, cap - caps.kept_back_calls - caps.finalist_calls - n_calls)
    return min(n_left, affordable * len(trials) // n_calls)


def final_s(session: Session) -> float:
    """Return the seconds that the finalists and the final test are expected to take, at the pace so far."""
    if (by_rounds := session.models.task.final_s()) is not None:
        return FINAL_SLACK * by_rounds
    n_left = 2 * session.n_test + len(session.splits.dev) - session.elite.n_raced
    return FINAL_SLACK * (session.seconds_per_row or 0.0) * n_left


def left_s(session: Session) -> float | None:
    """Return the seconds until the verdict if trials keep their pace; None before there is one."""
    return expected_left_s(
        n_done=len(session.known.trials),
        n_all=session.job.config.search.trials,
        elapsed_s=session.elapsed_s,
        final_s=final_s(session),
        deadline_s=session.deadline.left_s(),
    )
