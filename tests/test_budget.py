"""Budgets: how many test rows a cap affords, what is kept back for them, and when the deadline is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.budget.limits import (
    MIN_TEST_ROWS,
    TEST_SHARE,
    Deadline,
    affordable_test_rows,
    expected_in_all,
    next_time,
    open_caps,
)
from optimizer.budget.room import Need, fewest_tokens, lack_of_room, require_room
from optimizer.config.keys import Budget
from optimizer.errors import ConfigError
from optimizer.records import Spend

EVENING = datetime(2025, 3, 7, 22, 30)


def deadline(budget: Budget, *, spent_s: float = 0.0, now: datetime = EVENING) -> tuple[Deadline, Clocks]:
    clocks = Clocks(now)
    return Deadline.of(budget, spent_s=spent_s, clock=clocks.monotonic, now=clocks.wall), clocks


class Clocks:
    """A monotonic clock and a wall clock that move when told."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.seconds = 5000.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.seconds += seconds
        self.now += timedelta(seconds=seconds)


def test_without_a_cap_all_test_rows_are_used() -> None:
    """No cap on calls: the final test takes every row."""
    assert affordable_test_rows(Budget(), n_test=7, calls_per_example=3) == 7


@pytest.mark.parametrize(
    ("task_calls", "n_test", "calls_per_example", "n_rows"),
    [(1000, 150, 1, 150), (500, 150, 1, 100), (500, 150, 2, 50), (50, 150, 1, 10), (25, 5, 1, 5), (10_000, 3, 4, 3)],
)
def test_the_final_test_takes_at_most_its_share(
    task_calls: int, n_test: int, calls_per_example: int, n_rows: int
) -> None:
    """Seed and winner on every test row together take at most 40% of the calls."""
    budget = Budget(task_calls=task_calls)
    assert affordable_test_rows(budget, n_test=n_test, calls_per_example=calls_per_example) == n_rows


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 9))
def test_what_the_message_asks_for_is_enough_and_no_more(task_calls: int, n_test: int, calls_per_example: int) -> None:
    """A cap that is too small names the smallest one that is not; any other affords a useful test within its share."""

    def rows(cap: int) -> int:
        return affordable_test_rows(Budget(task_calls=cap), n_test=n_test, calls_per_example=calls_per_example)

    least = min(MIN_TEST_ROWS, n_test)
    try:
        n_rows = rows(task_calls)
    except ConfigError as error:
        found = re.fullmatch(
            r"budget\.task_calls: (\d+) leaves no room .* at least (\d+) rows; give (\d+) or more", str(error)
        )
        assert found is not None
        assert [int(found[1]), int(found[2])] == [task_calls, least]
        assert rows(int(found[3])) == least
        with pytest.raises(ConfigError, match="leaves no room"):
            rows(int(found[3]) - 1)
        return
    assert least <= n_rows <= n_test
    assert 2 * n_rows * calls_per_example <= TEST_SHARE * task_calls + 1e-9


def test_the_final_test_is_kept_back_until_it_begins() -> None:
    """The search may use calls, tokens and money but for what the test needs; then the test may use all."""
    caps = open_caps(Budget(task_calls=100, proposer_calls=7, tokens=1000, usd=2.0), test_calls=40)
    assert caps.exceeded("task", 60, 750, 1.5) is None
    assert caps.exceeded("task", 61, 0, 0) == "budget.task_calls: 100"
    assert caps.exceeded("proposer", 7, 0, 0) is None
    assert caps.exceeded("proposer", 8, 0, 0) == "budget.proposer_calls: 7"
    assert caps.exceeded("judge", 10**6, 751, 0) == "budget.tokens: 1000"
    assert caps.exceeded("judge", 10**6, 0, 1.51) == "budget.usd: 2.0"
    caps.release_reserve()
    assert caps.exceeded("task", 100, 1000, 2.0) is None
    assert caps.exceeded("task", 101, 0, 0) == "budget.task_calls: 100"
    assert caps.exceeded("task", 1, 1001, 0) == "budget.tokens: 1000"


@pytest.mark.parametrize(
    ("budget", "lack"),
    [
        (Budget(), None),
        (Budget(usd=0.02, tokens=900), None),
        (Budget(usd=0.019), "budget.usd: 0.019 is too little: your own prompt on the first 20 dev rows and the final"),
        (Budget(tokens=899), "budget.tokens: 899 are too few: your own prompt on the first 20 dev rows and the final"),
    ],
)
def test_a_cap_below_the_least_study_is_refused(budget: Budget, lack: str | None) -> None:
    """A cap that just suffices stands; a smaller one is named with what it should have paid for."""
    need = Need(n_race=20, n_test=30, tokens=450, usd=0.01).times(2)
    assert need.n_asked == 80
    said = lack_of_room(budget, need)
    if lack is None:
        assert said is None
        require_room(budget, need)
        return
    assert said is not None
    assert said.startswith(lack)
    with pytest.raises(ConfigError, match="at least, and trials come on top"):
        require_room(budget, need)


def test_the_fewest_tokens_are_fewer_than_a_tokenizer_counts() -> None:
    """Plain English takes 10 tokens here; the bound stays below and grows with the text."""
    text = "The parcel was left with a neighbour on Tuesday."
    assert 0 < fewest_tokens([text]) < 10
    assert fewest_tokens([text] * 3) == 3 * fewest_tokens([text])


def test_finalists_have_calls_of_their_own_until_the_search_is_over() -> None:
    """The search leaves a fifth of its calls to the finalists; they leave the final test's."""
    caps = open_caps(Budget(task_calls=100), test_calls=40, finalist_calls=30)
    assert caps.exceeded("task", 48, 0, 0) is None
    assert caps.exceeded("task", 49, 0, 0) == "budget.task_calls: 100"
    caps.release_finalists()
    assert caps.exceeded("task", 60, 0, 0) is None
    assert caps.exceeded("task", 61, 0, 0) == "budget.task_calls: 100"


def test_no_caps_never_stop() -> None:
    """With nothing configured no total is too large."""
    caps = open_caps(Budget(), test_calls=40)
    assert all(caps.exceeded(role, 10**9, 1e15, 1e9) is None for role in ("task", "proposer", "judge"))


def test_the_bill_is_expected_at_the_pace_so_far_and_within_the_caps() -> None:
    """A third of the time and 30 calls done make 90 in all; a cap on one role ends its part; no pace, no guess."""
    spend = Spend(calls={"task": 24, "proposer": 6}, cost_usd=0.5)
    assert expected_in_all(spend, Budget(), elapsed_s=100, left_s=200) == (90, 1.5)
    assert expected_in_all(spend, Budget(task_calls=40, usd=1.0), elapsed_s=100, left_s=200) == (58, 1.0)
    assert expected_in_all(spend, Budget(), elapsed_s=100, left_s=0) == (30, 0.5)
    assert expected_in_all(spend, Budget(), elapsed_s=100, left_s=None) is None
    assert expected_in_all(spend, Budget(), elapsed_s=0.5, left_s=9) is None


def test_no_deadline_never_ends() -> None:
    """Without a time limit any final test fits."""
    never, _ = deadline(Budget())
    assert never.left_s() is None
    assert never.allows(1e9)


def test_wall_clock_counts_earlier_sessions_and_stops_at_zero() -> None:
    """An hour of which 50 minutes are spent leaves ten, and never less than nothing."""
    end, clocks = deadline(Budget(wall_clock=3600.0), spent_s=3000.0)
    assert end.left_s() == pytest.approx(600)
    clocks.move(599)
    assert end.left_s() == pytest.approx(1)
    clocks.move(86_400)
    assert end.left_s() == 0
    overspent, _ = deadline(Budget(wall_clock=3600.0), spent_s=4000.0)
    assert overspent.left_s() == 0
    assert not overspent.allows(0.0)


def test_another_step_needs_room_for_the_final_test() -> None:
    """The search goes on while more time is left than the final test will take."""
    end, clocks = deadline(Budget(wall_clock=100.0))
    assert end.allows(99.0)
    assert not end.allows(100.0)
    clocks.move(60)
    assert end.allows(39.0)
    assert not end.allows(41.0)


@pytest.mark.parametrize(
    ("now", "finish_by", "end"),
    [
        (datetime(2025, 3, 7, 22, 30), "07:00", datetime(2025, 3, 8, 7, 0)),
        (datetime(2025, 3, 7, 22, 30), "22:31", datetime(2025, 3, 7, 22, 31)),
        (datetime(2025, 3, 7, 22, 30), "22:30", datetime(2025, 3, 8, 22, 30)),
        (datetime(2025, 3, 7, 22, 29, 59, 999_999), "22:30", datetime(2025, 3, 7, 22, 30)),
        (datetime(2025, 3, 7, 23, 59, 59), "00:00", datetime(2025, 3, 8, 0, 0)),
        (datetime(2025, 3, 8, 0, 0, 0), "00:00", datetime(2025, 3, 9, 0, 0)),
        (datetime(2024, 2, 28, 23, 0), "06:15", datetime(2024, 2, 29, 6, 15)),
        (datetime(2025, 12, 31, 23, 0), "00:30", datetime(2026, 1, 1, 0, 30)),
    ],
)
def test_finish_by_is_the_next_such_time(now: datetime, finish_by: str, end: datetime) -> None:
    """A time that has passed today is tomorrow's, over midnight, leap days and new year."""
    assert next_time(finish_by, now) == end
    by, _ = deadline(Budget(finish_by=finish_by), now=now)
    assert by.left_s() == pytest.approx((end - now).total_seconds(), abs=1e-6)


def test_the_day_after_begins_no_new_deadline() -> None:
    """Once the time has come nothing is left, even when the clock moves on to the next evening."""
    end, clocks = deadline(Budget(finish_by="07:00"))
    clocks.move(8.5 * 3600)
    assert end.left_s() == 0
    clocks.move(12 * 3600)
    assert end.left_s() == 0


def test_the_earlier_end_counts() -> None:
    """With both limits set, the one that comes first decides."""
    assert deadline(Budget(wall_clock=3600.0, finish_by="23:00"))[0].left_s() == pytest.approx(1800)
    assert deadline(Budget(wall_clock=600.0, finish_by="23:00"))[0].left_s() == pytest.approx(600)


def test_a_computer_that_slept_still_finishes_by_the_hour() -> None:
    """Three hours in which the monotonic clock stood still count towards `finish_by`, not towards `wall_clock`."""
    end, clocks = deadline(Budget(wall_clock=9 * 3600.0, finish_by="07:00"))
    clocks.now += timedelta(hours=3)
    assert end.left_s() == pytest.approx(5.5 * 3600)
    only_wall_clock, clocks = deadline(Budget(wall_clock=9 * 3600.0))
    clocks.now += timedelta(hours=3)
    assert only_wall_clock.left_s() == pytest.approx(9 * 3600)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time with the European Union's summer time, whatever the machine's own zone."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(("evening", "hours"), [(datetime(2025, 3, 29, 23, 0), 7), (datetime(2025, 10, 25, 23, 0), 9)])
def test_nights_when_clocks_change_have_their_real_length(evening: datetime, hours: int) -> None:
    """From 23:00 to 07:00 it is seven hours in the night that loses one, and nine in the night that gains one."""
    end, _ = deadline(Budget(finish_by="07:00"), now=evening)
    assert end.left_s() == pytest.approx(hours * 3600)
