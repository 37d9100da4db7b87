"""Why a study ended, and what its limit on time did to it, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.records import StudyView, Timing
from optimizer.words import STOP_WORDS, duration

FEW_TRIALS = 10  # a search of fewer has hardly begun
FEW_TESTED = 0.9  # of the test rows; a few may fail
LATE_S = 1.0  # seconds over the limit that are worth a sentence


def stopped_words(view: StudyView) -> str:
    """Return why the search ended, without a full stop."""
    timing = view.timing
    if not view.stop_reason:
        return "not stopped yet"
    if view.stop_reason != "time" or timing is None:
        return f"stopped: {STOP_WORDS.get(view.stop_reason, view.stop_reason)}"
    took = f", took {duration(timing.final_s)}" if timing.final_s else ""
    return (
        f"stopped after {len(view.trials)} of {timing.n_wanted} trials: {duration(timing.kept_s)} of the "
        f"{duration(timing.limit_s)}{_until(view, timing)} were kept for finalists and final test "
        f"({duration(timing.expected_s)} expected at {timing.row_s:.2g} s a row{took}); {_remedy(timing)}"
    )


def time_notes(view: StudyView) -> list[str]:
    """Return sentences on a limit that was passed or left hardly any search or test; none where all is well."""
    found = _budget_notes(view)
    timing = view.timing
    if timing is None:
        return found
    if timing.over_s >= LATE_S:
        found.append(
            f"The limit of {duration(timing.limit_s)}{_until(view, timing)} was passed by {duration(timing.over_s)}: "
            f"finalists and final test took {duration(timing.final_s)} where {duration(timing.expected_s)} was "
            "expected, and they are never cut short."
        )
    if view.stop_reason == "time" and len(view.trials) < min(FEW_TRIALS, timing.n_wanted):
        found.append(
            f"Only {len(view.trials)} trials fitted: this machine or model was too slow for the limit. {_more(timing)} "
            "helps most; so do fewer test rows (data.max_rows), shorter replies (max_tokens) and, with a hosted model, "
            "more calls at once (lm.task.concurrency)."
        )
    return found


def _budget_notes(view: StudyView) -> list[str]:
    """Say where caps of calls, tokens or money left nothing to compare, or few rows to prove it on."""
    found, budget = [], view.config.get("budget")
    caps = [key for key in ("task_calls", "tokens", "usd") if isinstance(budget, Mapping) and budget.get(key)]
    if not caps:
        return []
    raise_it = f"raise {' or '.join(f'budget.{key}' for key in caps)}; `check` says what a whole search takes"
    if view.stop_reason == "budget" and sum(trial.state in ("complete", "pruned") for trial in view.trials) < 2:
        found.append(
            f"The budget was too small for a second candidate to be scored, so nothing was compared: {raise_it}."
        )
    n_rows = view.facts.get("n_rows")
    n_test = n_rows.get("test") if isinstance(n_rows, Mapping) else None
    if view.verdict is not None and isinstance(n_test, int) and view.verdict.n < FEW_TESTED * n_test:
        found.append(f"The final test had {view.verdict.n} of {n_test} test rows: the budget had room for no more.")
    return found


def _until(view: StudyView, timing: Timing) -> str:
    budget = view.config.get("budget")
    at = budget.get("finish_by") if isinstance(budget, Mapping) else None
    return f" until {at}" if timing.key == "finish_by" and at else ""


def _remedy(timing: Timing) -> str:
    return "raise budget.wall_clock for more" if timing.key == "wall_clock" else "begin earlier for more"


def _more(timing: Timing) -> str:
    return "A higher budget.wall_clock" if timing.key == "wall_clock" else "An earlier start or a later finish_by"
