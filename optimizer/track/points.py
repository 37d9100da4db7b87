"""The numbers behind MLflow's charts, as points whose steps and times come from the study alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.records import Outcome, StudyView, TrialRecord
from optimizer.stats import interval_of_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One metric value. `offset_ms` is its time after the start of the run, fixed by the study and not by the clock."""

    key: str
    value: float
    step: int
    offset_ms: int = 0


def trial_points(trial: TrialRecord, *, block: int, later: Sequence[Outcome] = ()) -> tuple[Point, ...]:
    """Return the running score after each block and the totals.

    The step is the number of rows scored so far. A finalist that is scored on more rows later therefore adds
    points and rewrites none.

    Args:
        later: all outcomes of the trial's prompt on dev, where these are more than those of its race.
    """
    steps = _running_scores(trial.outcomes, block=block) | _running_scores(later, block=block)
    totals = {
        "difference": trial.difference,
        "calls": trial.task_calls + trial.proposer_calls,
        "tokens": trial.tokens,
        "cost_usd": trial.cost_usd,
        "duration_s": trial.duration_s,
    }
    points = [Point(key="score", value=score, step=step, offset_ms=step) for step, score in sorted(steps.items())]
    points += [_point(key, value, trial.n_scored) for key, value in _some(totals)]
    points += [_point("n_scored", n, n) for n in sorted({trial.n_scored, max(steps, default=0)})]
    return finite(points)


def _running_scores(outcomes: Sequence[Outcome], *, block: int) -> dict[int, float]:
    """Return the mean value by the number of rows that have one, after each block of rows and at the end."""
    steps: dict[int, float] = {}
    values: list[float] = []
    for index, outcome in enumerate(outcomes, start=1):
        if outcome.value is not None:
            values.append(outcome.value)
        if values and (index % block == 0 or index == len(outcomes)):
            steps[len(values)] = sum(values) / len(values)
    return steps


class Charts:
    """The points of a study's charts after each trial, in trial order, as far as they cannot change any more.

    `over_calls/` repeats the charts with calls instead of trials on the axis. Each look goes on from where the last one
    was; what was seen of a study is never looked at again.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._incumbent: Mapping[str, float] = {}
        self._best_score, self._calls = -math.inf, 0
        self._cost_usd: float | None = 0.0

    def points(self, view: StudyView) -> Iterator[tuple[int, tuple[Point, ...]]]:
        """Yield (trial number, points) of the trials that are new.

        Stops at the first trial that still runs: what came before it may not change any more, what follows may.
        """
        began_s = start_s(view)
        for trial in view.trials:
            if trial.number in self._seen:
                continue
            if trial.state != "running":
                self._seen.add(trial.number)
                yield trial.number, self._after(trial, began_s)
            elif view.state != "finished":
                return

    def _after(self, trial: TrialRecord, began_s: float) -> tuple[Point, ...]:
        n_calls, score = trial.task_calls + trial.proposer_calls, trial.score
        self._calls += n_calls
        is_known = self._cost_usd is not None and trial.cost_usd is not None
        self._cost_usd = (self._cost_usd or 0.0) + (trial.cost_usd or 0.0) if is_known else None
        if trial.state == "complete" and score is not None and score > self._best_score:
            self._incumbent, self._best_score = _incumbent(trial), score
        known = {**self._incumbent, "trial_dev": score, "calls": float(self._calls), "cost_usd": self._cost_usd}
        end_ms = max(0, round((trial.started_s + trial.duration_s - began_s) * 1000))
        points = [Point(key=key, value=value, step=trial.number, offset_ms=end_ms) for key, value in _some(known)]
        if n_calls:  # a free trial would share its step
            points += [
                Point(key=f"over_calls/{key}", value=value, step=self._calls, offset_ms=end_ms)
                for key, value in _some(known)
                if key != "calls"
            ]
        return finite(points)


def _incumbent(best: TrialRecord) -> dict[str, float]:
    """Return the best complete score with its own 95% interval; it is not corrected for having been chosen."""
    values = np.array([value for outcome in best.outcomes if (value := outcome.value) is not None])
    low, high = interval_of_mean(values, confidence=0.95, rng=np.random.default_rng(best.number))
    return {"best_dev": float(values.mean()), "best_dev_low": low, "best_dev_high": high}


def final_points(view: StudyView) -> tuple[Point, ...]:
    """Return the numbers of the verdict, or nothing before there is one."""
    verdict, dev = view.verdict, view.dev
    if verdict is None:
        return ()
    totals: dict[str, float | None] = {
        "test_seed": verdict.seed_score,
        "test_winner": verdict.winner_score,
        "test_difference": verdict.difference,
        "test_low": verdict.low,
        "test_high": verdict.high,
        "test_n": verdict.n,
        "p_value": verdict.p_value,
        "total_calls": sum(view.spend.calls.values()),
        "total_tokens": view.spend.tokens,
        "total_cost_usd": view.spend.usd,
        "wall_s": view.wall_s,
    }
    if dev is not None:
        totals |= {"dev_seed": dev.seed, "dev_winner": dev.winner, "dev_low": dev.low, "dev_high": dev.high}
    return finite([_point(key, value, 0) for key, value in _some(totals)])


def start_s(view: StudyView) -> float:
    """When the first trial began."""
    return min((trial.started_s for trial in view.trials), default=0.0)


def elapsed_s(view: StudyView) -> float:
    """Seconds from the first trial's start to the last one's end, at least the time spent running."""
    ends = [trial.started_s + trial.duration_s for trial in view.trials]
    return max(view.wall_s, max(ends, default=0.0) - start_s(view))


def finite(points: Sequence[Point]) -> tuple[Point, ...]:
    """Leave out NaN and infinities: the store would keep infinity as 1.8e308, and it would win every sort."""
    return tuple(point for point in points if math.isfinite(point.value))


def _some(values: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    return ((key, value) for key, value in values.items() if value is not None)


def _point(key: str, value: float, step: int) -> Point:
    return Point(key=key, value=float(value), step=step, offset_ms=step)
