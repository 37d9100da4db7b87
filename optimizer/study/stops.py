"""Why a search ends, and how long it will take: asked before every trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from optimizer.budget.limits import earlier_end_s, expected_left_s
from optimizer.candidate import JsonValue
from optimizer.errors import OutOfTime
from optimizer.records import Timing, TrialRecord
from optimizer.search.patience import is_unlikely_to_pay
from optimizer.study import held
from optimizer.study.view import ONE_LABEL

if TYPE_CHECKING:
    from optimizer.candidate import Candidate
    from optimizer.study.session import Session

MIN_TRIALS = 3  # before that there is no pace to go by
N_RECENT = 5  # trials that say how long the next one takes
N_PACE, MIN_PACE = 10, 5  # trials that say how long all others take, and the fewest that do
START = "start"  # the operator of the first candidates
FINAL_SLACK = 1.2  # the final test is expected to take this much longer than measured calls say


def stop_reason(session: Session) -> str | None:
    """Return why no further trial should begin, or None."""
    search, known = session.job.config.search, session.known
    started = session.study.n_started()
    if session.is_stopping:
        return "stopped"
    if session.budget_note is not None:
        return "time" if isinstance(session.budget_note, OutOfTime) else "budget"
    if started >= search.trials and not session.study.orphans():
        return "trials"
    if started > MIN_TRIALS and not has_time(session, n_trials=1):
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


def has_time(session: Session, *, n_trials: int) -> bool:
    """Whether finalists and final test still fit after some trials more, all at the pace of late."""
    return session.deadline.allows(final_s(session) + n_trials * trial_s(session))


def goes_on(session: Session, reason: str) -> bool:
    """Whether a search that ended for want of time goes on: its finalists have been scored faster than was feared."""
    if reason != "time" or session.budget_note is not None or session.crew.is_shared:
        return False
    if session.models.task.final_s() is not None or not has_time(session, n_trials=MIN_TRIALS):
        return False
    session.caps.hold_finalists()
    return True


def final_s(session: Session) -> float:
    """Return the seconds that the finalists and the final test are expected to take, at the pace of late."""
    if (by_rounds := session.models.task.final_s()) is not None:
        return FINAL_SLACK * by_rounds
    return FINAL_SLACK * row_s(session) * n_final_rows(session)


def n_final_rows(session: Session) -> int:
    """Return how many rows the best so far and the final test have still to score; further finalists wait for time."""
    return 2 * session.n_test + len(session.splits.dev) - session.elite.n_raced


def can_score(session: Session, candidate: Candidate) -> bool:
    """Whether a finalist's missing dev rows can be scored and the final test can still be made in time."""
    if session.models.task.final_s() is not None:
        return True
    n_dev = len(session.splits.dev)
    n_missing = int(np.isnan(session.elite.values(candidate)).sum()) if candidate in session.elite else n_dev
    n_rows = 2 * session.n_test + n_missing
    return session.deadline.allows(FINAL_SLACK * row_s(session) * n_rows)


def has_time_for(session: Session, *, n_rows: int) -> bool:
    """Whether so many rows more can be scored in time."""
    by_rounds = session.models.task.final_s()
    return session.deadline.allows(FINAL_SLACK * (row_s(session) * n_rows if by_rounds is None else by_rounds))


def row_s(session: Session) -> float:
    """Return how long a row takes of late; a study that is continued goes by its last trials. 0 before there is any."""
    if (measured := session.seconds_per_row) is not None:
        return measured
    recent = session.known.trials[-N_RECENT:]
    n_rows = sum(len(trial.outcomes) for trial in recent)
    return sum(trial.duration_s for trial in recent) / n_rows if n_rows else 0.0


def trial_s(session: Session) -> float:
    """Return how long a trial takes of late, 0 before there is any."""
    recent = session.known.trials[-N_RECENT:]
    return sum(trial.duration_s for trial in recent) / len(recent) if recent else 0.0


def timing(session: Session) -> Timing | None:
    """Return what is kept for finalists and final test at the end of the search; None without a limit on time."""
    if (end := session.deadline.first_end()) is None:
        return None
    return Timing(
        key=end.key,
        n_wanted=session.job.config.search.trials,
        limit_s=(end.key == "wall_clock" and session.job.config.budget.wall_clock) or session.elapsed_s + end.left_s,
        kept_s=end.left_s,
        expected_s=final_s(session),
        row_s=row_s(session),
    )


def keep_ending(session: Session, kept: Timing | None) -> None:
    """Enter what each prompt scores on its dev rows, which rows are dev, and what finalists and final test took."""
    records: dict[str, JsonValue] = {
        "dev_scores": cast(JsonValue, session.elite.scores()),
        "dev_rows": [row.id for row in session.splits.dev],
        ONE_LABEL: cast(JsonValue, held.one_label(session)),
    }
    if kept is not None and (end := session.deadline.first_end()) is not None:
        late = replace(kept, kept_s=max(0.0, kept.kept_s), over_s=max(0.0, -end.left_s))
        done = replace(late, final_s=max(0.0, kept.kept_s - end.left_s))
        records["timing"] = cast(JsonValue, asdict(done))
    session.journal.update_study(records=records)


def left_s(session: Session) -> float | None:
    """Return the seconds until the verdict if trials keep their pace; None before there is one. Reads no database."""
    cap, trials = session.caps.calls.get("task"), session.known.memory.trials
    if cap is not None and not trials:
        return None  # nobody knows yet whether calls or time end first
    return expected_left_s(
        n_left=trials_left(session),
        trial_s=pace_s(session.known.trials),
        final_s=final_s(session),
        deadline_s=earlier_end_s(
            session.deadline.left_s(),
            cap=cap,
            n_calls=sum(trial.task_calls for trial in trials),
            elapsed_s=session.elapsed_s,
        ),
    )


def pace_s(trials: Sequence[TrialRecord]) -> float | None:
    """Return the seconds from one trial to the next of late; None while there are too few to go by.

    The first candidates say little of it: nobody writes them, and most see more rows than later ones.
    """
    recent = [trial for trial in trials if trial.recipe.operator != START][-N_PACE:]
    if len(recent) < MIN_PACE:
        return None
    span_s = max(t.started_s + t.duration_s for t in recent) - min(t.started_s for t in recent)
    busy_s = sum(trial.duration_s for trial in recent)
    return (span_s if span_s < 2 * busy_s else busy_s) / len(recent)  # the study may have paused in between
