"""Entries of many threads in few transactions: each is there when its thread goes on, and none harms the others."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from optimizer.errors import Paused
from optimizer.storage.commits import Commits, Entry
from optimizer.storage.database import open_engine

WAIT_S = 20.0


class Row(Entry):
    """A row of the table `t`; a negative one is refused, and zero breaks the statement."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Table:
    """A table and what is written into it, with the entries of each transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.before: Callable[[], None] = lambda: None
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (x INTEGER NOT NULL)")
        self.commits = Commits(engine, self.carry_out)

    def carry_out(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        self.begun.set()
        assert self.gate.wait(WAIT_S)
        self.before()
        numbers = [entry.number for entry in entries if isinstance(entry, Row)]
        for entry in entries:
            if isinstance(entry, Row) and entry.number < 0:
                entry.error = ValueError(f"{entry.number} is refused")
            elif isinstance(entry, Row):
                connection.exec_driver_sql(
                    "INSERT INTO t VALUES (?)", (1 // entry.number * entry.number or entry.number,)
                )
                entry.result = entry.number
        self.batches.append(numbers)

    def rows(self) -> list[int]:
        with self.engine.connect() as connection:
            return sorted(connection.exec_driver_sql("SELECT x FROM t").scalars())


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    engine = open_engine(f"sqlite:///{tmp_path / 'study.db'}", is_durable=False)
    yield Table(engine)
    engine.dispose()


def while_one_commits(table: Table, others: Sequence[Row]) -> tuple[list[object], list[BaseException | None]]:
    """Let entries gather behind one that is being committed; return results and errors."""
    table.gate.clear()
    table.begun.clear()
    with ThreadPoolExecutor(len(others) + 1) as pool:
        first = pool.submit(table.commits.now, Row(1000))
        assert table.begun.wait(WAIT_S)
        futures = [pool.submit(table.commits.now, each) for each in others]
        ends_at = time.monotonic() + WAIT_S
        while len(table.commits._queue) < len(others) and time.monotonic() < ends_at:
            time.sleep(0.001)
        table.gate.set()
        assert first.result(WAIT_S) == 1000
        errors = [future.exception(WAIT_S) for future in futures]
    return [None if error else future.result() for future, error in zip(futures, errors, strict=True)], errors


def test_what_gathers_during_a_commit_shares_the_next(table: Table) -> None:
    """Seven threads that wait for one another's disk need one transaction between them, in the order they came."""
    results, errors = while_one_commits(table, [Row(i) for i in range(2, 9)])
    assert (errors, results) == ([None] * 7, list(range(2, 9)))
    assert [len(batch) for batch in table.batches] == [1, 7]
    assert table.rows() == [*range(2, 9), 1000]


def test_a_refused_entry_is_told_to_its_thread_alone(table: Table) -> None:
    """What one entry meets by itself does not reach the others of its transaction."""
    results, errors = while_one_commits(table, [Row(2), Row(-3), Row(4)])
    assert results == [2, None, 4]
    assert [str(error) for error in errors if error] == ["-3 is refused"]
    assert table.rows() == [2, 4, 1000]


def test_an_entry_that_cannot_be_written_does_not_take_others_with_it(table: Table) -> None:
    """After a statement broke each entry is written by itself."""
    results, errors = while_one_commits(table, [Row(2), Row(0), Row(4)])
    assert results == [2, None, 4]
    assert isinstance(errors[1], ZeroDivisionError)
    assert table.rows() == [2, 4, 1000]


def test_later_entries_ride_along_or_wait_for_flush(table: Table) -> None:
    """They are there after the next commit, or after `flush`, which does nothing when nothing waits."""
    table.commits.later(Row(1))
    assert table.rows() == []
    table.commits.now(Row(2))
    assert table.rows() == [1, 2]
    table.commits.later(Row(3))
    table.commits.flush()
    assert table.rows() == [1, 2, 3]
    n_transactions = len(table.batches)
    table.commits.flush()
    assert len(table.batches) == n_transactions


def test_a_late_entry_outlives_a_database_that_goes_away_between_two_tries(table: Table) -> None:
    """One entry breaks the batch; where the database goes while each is tried by itself, the late one comes later."""
    tries = itertools.count()

    def away() -> None:
        if next(tries) == 1:
            raise sa.exc.OperationalError("INSERT", {}, Exception("the server has gone"))

    table.before = away
    table.commits.later(Row(1))
    with pytest.raises(ZeroDivisionError):
        table.commits.now(Row(0))
    assert table.rows() == []
    table.commits.flush()
    assert table.rows() == [1]


def test_a_soon_entry_is_committed_at_once_where_nobody_waits(table: Table) -> None:
    """On return it is durable, also while another thread is in the middle of a commit that cannot take it along."""
    table.commits.soon(Row(1))
    assert table.rows() == [1]
    table.gate.clear()
    table.begun.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(table.commits.now, Row(2))
        assert table.begun.wait(WAIT_S)
        second = pool.submit(table.commits.soon, Row(3))
        time.sleep(0.05)
        assert not second.done()
        table.gate.set()
        first.result(WAIT_S)
        second.result(WAIT_S)
        assert table.rows() == [1, 2, 3]


def test_a_soon_entry_is_left_to_the_commit_that_another_thread_waits_for(table: Table) -> None:
    """Its own thread goes on; it is there when the other one goes on, and before anything that comes later."""
    table.gate.clear()
    table.begun.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(table.commits.now, Row(1))
        assert table.begun.wait(WAIT_S)
        second = pool.submit(table.commits.now, Row(2))
        ends_at = time.monotonic() + WAIT_S
        while not table.commits._queue and time.monotonic() < ends_at:
            time.sleep(0.001)
        table.commits.soon(Row(3))
        assert table.batches == []
        table.gate.set()
        first.result(WAIT_S)
        second.result(WAIT_S)
        assert table.rows() == [1, 2, 3]
    assert [len(batch) for batch in table.batches] == [1, 2]


def test_later_entries_outlive_a_database_that_is_away(table: Table) -> None:
    """Who waits is told that the database cannot be written; what nobody waits for is written when it can."""

    def locked() -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception("disk is full"))

    table.before = locked
    table.commits.later(Row(1))
    with pytest.raises(Paused, match="disk is full"):
        table.commits.flush()
    with pytest.raises(Paused, match="disk is full"):
        table.commits.now(Row(2))
    table.before = lambda: None
    table.commits.flush()
    assert table.rows() == [1]


def test_a_later_entry_that_cannot_be_written_is_told_at_the_flush(table: Table) -> None:
    """Its error is not lost, and is told once."""
    table.commits.later(Row(0))
    table.commits.later(Row(5))
    with pytest.raises(ZeroDivisionError):
        table.commits.flush()
    table.commits.flush()
    assert table.rows() == [5]


def test_a_thread_that_is_interrupted_holds_up_nobody(table: Table) -> None:
    """Ctrl-C in the middle of a transaction leaves it undone; those who waited behind it are served."""

    def interrupt() -> None:
        table.before = lambda: None
        raise KeyboardInterrupt

    table.gate.clear()
    table.before = interrupt
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(table.commits.now, Row(1))
        assert table.begun.wait(WAIT_S)
        second = pool.submit(table.commits.now, Row(2))
        table.gate.set()
        assert isinstance(first.exception(WAIT_S), KeyboardInterrupt)
        assert second.result(WAIT_S) == 2
    assert table.commits.now(Row(3)) == 3
    assert table.rows() == [2, 3]
