"""Caps and deadline: what may be spent, what is kept back for the final test, and when to stop searching."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from optimizer.budget.caps import Caps
from optimizer.config.keys import Budget
from optimizer.errors import ConfigError
from optimizer.records import Spend

TEST_SHARE = 0.4  # at most this share of the task calls goes into the final test
SPEND_KEPT_BACK = 0.25  # share of tokens and money that only the final test may use
FINALISTS_SHARE = 0.2  # at most this share of the search's task calls goes into scoring finalists on all of dev
MIN_TEST_ROWS = 10


def affordable_test_rows(budget: Budget, *, n_test: int, calls_per_example: int) -> int:
    """Return how many test rows the final comparison may use, so that the search keeps most of the calls.

    Raises:
        ConfigError: the cap leaves no room for a test that could tell anything.
    """
    if budget.task_calls is None:
        return n_test
    calls_per_row = 2 * calls_per_example  # seed and winner
    affordable = int(budget.task_calls * TEST_SHARE / calls_per_row)
    least = min(MIN_TEST_ROWS, n_test)
    if affordable < least:
        raise ConfigError(
            f"budget.task_calls: {budget.task_calls} leaves no room for a final test of at least {least} rows; "
            f"give {math.ceil(least * calls_per_row / TEST_SHARE)} or more"
        )
    return min(n_test, affordable)


def open_caps(budget: Budget, *, test_calls: int, finalist_calls: int = 0) -> Caps:
    """Turn the configured caps into the form that the journal enforces, with finalists and final test kept back.

    Args:
        test_calls: task calls of the final test.
        finalist_calls: task calls that would score all finalists on all of dev; they get `FINALISTS_SHARE` at most.
    """
    n_search = (budget.task_calls or 0) - test_calls
    return Caps(
        calls={"task": budget.task_calls, "proposer": budget.proposer_calls, "judge": None},
        tokens=budget.tokens,
        usd=budget.usd,
        kept_back_calls=test_calls if budget.task_calls is not None else 0,
        kept_back_share=SPEND_KEPT_BACK,
        finalist_calls=max(0, min(finalist_calls, int(FINALISTS_SHARE * n_search))),
    )


class End(NamedTuple):
    """How many seconds are left until an end, negative when it has passed, and which setting it comes from."""

    left_s: float
    key: Literal["wall_clock", "finish_by"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When the verdict should stand: the earlier of two ends, each None when not set.

    Attributes:
        at_s: on the monotonic `clock`; it measures time spent, so nobody's change of the time of day moves it.
        at_time: on the wall, `now`; a computer that slept meanwhile does not move it.
    """

    at_s: float | None = None
    at_time: datetime | None = None
    clock: Callable[[], float] = field(default=time.monotonic)
    now: Callable[[], datetime] = field(default=datetime.now)

    @classmethod
    def of(
        cls,
        budget: Budget,
        *,
        spent_s: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> Deadline:
        """Begin now, with `wall_clock` less what earlier sessions took, and the next `finish_by`."""
        at_s = None if budget.wall_clock is None else clock() + budget.wall_clock - spent_s
        at_time = None if budget.finish_by is None else next_time(budget.finish_by, now())
        return cls(at_s=at_s, at_time=at_time, clock=clock, now=now)

    def left_s(self) -> float | None:
        """Seconds left, never below 0; None without a deadline."""
        first = self.first_end()
        return None if first is None else max(0.0, first.left_s)

    def first_end(self) -> End | None:
        """Return the earlier end; None without a deadline."""
        ends: list[End] = []
        if self.at_s is not None:
            ends.append(End(self.at_s - self.clock(), "wall_clock"))
        if self.at_time is not None:
            # Differences of local times are an hour off in the nights when clocks change; those of timestamps are not.
            ends.append(End(self.at_time.timestamp() - self.now().timestamp(), "finish_by"))
        return min(ends) if ends else None

    def allows(self, final_s: float) -> bool:
        """Whether the final test, which is expected to take `final_s`, still fits after another step."""
        left = self.left_s()
        return left is None or left > final_s


def expected_left_s(*, n_left: int, trial_s: float | None, final_s: float, deadline_s: float | None) -> float | None:
    """Return the seconds until the verdict if trials keep their pace, the deadline at the latest; None without a pace.

    A deadline alone is no forecast: most searches end before it.

    Args:
        n_left: trials to come.
        trial_s: how long one takes; None while too few are known.
        final_s: what finalists and final test are expected to take.
    """
    if trial_s is None and n_left > 0:
        return None
    by_pace = (trial_s or 0.0) * max(0, n_left) + final_s
    return by_pace if deadline_s is None else min(by_pace, deadline_s)


def earlier_end_s(deadline_s: float | None, *, cap: int | None, n_calls: int, elapsed_s: float) -> float | None:
    """Return the seconds until the deadline, or until the capped calls are used up at the pace so far if that is
    earlier; None without a deadline."""
    if deadline_s is None or cap is None or n_calls == 0:
        return deadline_s
    return min(deadline_s, elapsed_s * max(0, cap - n_calls) / n_calls)


class InAll(NamedTuple):
    """What a study is expected to take, from its beginning to its verdict."""

    calls: int
    usd: float


def expected_in_all(spend: Spend, budget: Budget, *, elapsed_s: float, left_s: float | None) -> InAll | None:
    """Return calls and money in the end at the pace so far, caps at most; None without a pace."""
    if left_s is None or elapsed_s < 1:
        return None
    factor, caps = (elapsed_s + left_s) / elapsed_s, {"task": budget.task_calls, "proposer": budget.proposer_calls}
    calls = 0.0
    for role, n in spend.calls.items():
        cap = caps.get(role)
        calls += n * factor if cap is None else min(n * factor, cap)
    usd = spend.cost_usd * factor
    return InAll(round(calls), usd if budget.usd is None else min(usd, budget.usd))


def next_time(finish_by: str, now: datetime) -> datetime:
    """Return the first moment after `now` at which local clocks show `finish_by` ("HH:MM")."""
    hour, minute = map(int, finish_by.split(":"))
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)
