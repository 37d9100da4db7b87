"""One transaction for all that has gathered: a commit that reaches the disk takes milliseconds, however much it holds.

While one thread commits, others queue; the first of them then commits for all that wait. A thread alone therefore pays
one commit as before, and with many calls in flight each commit serves many. Nobody goes on before what it entered is
as durable as the database makes it, but for entries that are made `later`, which ride along with the next commit, and
those that are made `soon`, for which nobody waits while somebody waits for the commit that brings them along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from optimizer.storage.database import storage_errors


class Entry:
    """Something to be written. Whoever carries it out sets `result`, or `error` when it alone cannot be entered."""

    __slots__ = ("error", "is_done", "is_late", "result", "turn")

    def __init__(self) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self.is_done = self.is_late = False
        self.turn: threading.Lock | None = None  # held until the entry is done or its thread is to commit


OF_ONE_ROW = (sa.exc.DataError, sa.exc.IntegrityError)  # errors that the other rows have no part in
CarryOut = Callable[[sa.Connection, Sequence[Entry]], None]


class Commits:
    """Commits entries in the order in which they came, many at a time. Safe to use from all threads.

    Args:
        carry_out: makes the changes of several entries within one transaction.
    """

    def __init__(self, engine: sa.Engine, carry_out: CarryOut) -> None:
        self._engine, self._carry_out = engine, carry_out
        self._lock = threading.Lock()
        self._queue: list[Entry] = []
        self._leader: Entry | None = None  # whose thread commits, or is about to
        self._n_later = 0
        self._lost: BaseException | None = None

    def now(self, entry: Entry) -> object:
        """Return the entry's result once it is committed.

        Raises:
            Paused: the database cannot be written.
            Exception: what the entry met by itself.
        """
        entry.turn = threading.Lock()
        entry.turn.acquire()
        try:
            with self._lock:
                self._queue.append(entry)
                leads = self._leader is None
                if leads:
                    self._leader = entry
            if not leads:
                entry.turn.acquire()
            if not entry.is_done:
                self._commit_queue(entry)
        except BaseException:  # Ctrl-C reaches the main thread wherever it is
            self._leave(entry)
            raise
        if entry.error is not None:
            with storage_errors():
                raise entry.error
        return entry.result

    def soon(self, entry: Entry) -> None:
        """Commit the entry, without a wait where another thread already waits for the next commit: it brings it along.

        Raises:
            Paused: the database cannot be written. Then an entry that another thread was to commit stays waiting.
        """
        with self._lock:
            is_left = any(other.turn is not None for other in self._queue)
            if is_left:
                self._append_late(entry)
        if not is_left:
            self.now(entry)

    def later(self, entry: Entry) -> None:
        """Commit the entry with what comes next, or at `flush`. It stays waiting while the database is away."""
        with self._lock:
            self._append_late(entry)

    def flush(self) -> None:
        """Return once all that was entered before is committed.

        Raises:
            Paused: the database cannot be written.
        """
        if self._n_later:
            self.now(Entry())
        lost, self._lost = self._lost, None
        if lost is not None:
            raise lost

    def _append_late(self, entry: Entry) -> None:
        entry.is_late = True
        self._queue.append(entry)
        self._n_later += 1

    def _leave(self, entry: Entry) -> None:
        """Wait no longer; let another thread commit if that was this one's turn."""
        with self._lock:
            entry.turn = None
            is_turn = self._leader is entry
        if is_turn:
            self._hand_on()

    def _commit_queue(self, mine: Entry) -> None:
        """Commit what has gathered, tell those who wait, and hand the next turn on."""
        with self._lock:
            batch, self._queue = self._queue, []
        left = batch
        try:
            left = self._commit(batch)
        finally:
            with self._lock:
                mine.turn = None
                self._queue[:0] = [entry for entry in left if entry is not mine]
            done = set(map(id, left))
            for entry in batch:
                if id(entry) not in done:
                    self._tell(entry)
            self._hand_on()

    def _commit(self, batch: list[Entry]) -> list[Entry]:
        """Commit a batch; return what is to be tried again."""
        try:
            self._transact(batch)
        except sa.exc.SQLAlchemyError as error:
            if not isinstance(error, OF_ONE_ROW):
                return self._put_off(batch, error)
            return self._one_by_one(batch)
        except Exception:  # one of them cannot be written: each by itself, so that it does no harm to the others
            return self._one_by_one(batch)
        return []

    def _one_by_one(self, batch: Sequence[Entry]) -> list[Entry]:
        """Commit each by itself; return what is to be tried again, because the database went away meanwhile."""
        return [entry for entry in batch if not self._is_over(entry)]

    def _transact(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            entry.result = entry.error = None
        with self._engine.begin() as connection:
            self._carry_out(connection, batch)

    def _is_over(self, entry: Entry) -> bool:
        try:
            self._transact([entry])
        except Exception as error:  # border: told to the one who waits for it, or to the next flush
            is_away = isinstance(error, sa.exc.SQLAlchemyError) and not isinstance(error, OF_ONE_ROW)
            if entry.is_late and is_away:
                return False
            entry.error = error
            if entry.is_late:
                self._lost = self._lost or error
        return True

    def _put_off(self, batch: list[Entry], error: BaseException) -> list[Entry]:
        """Tell those who wait that the database cannot be written; the others stay in the queue."""
        for entry in batch:
            if not entry.is_late:
                entry.error = error
        return [entry for entry in batch if entry.is_late]

    def _tell(self, entry: Entry) -> None:
        with self._lock:
            entry.is_done = True
            turn = entry.turn
            self._n_later -= entry.is_late
        if turn is not None:
            turn.release()

    def _hand_on(self) -> None:
        """Let the first that waits commit next; with nobody waiting the next to come does."""
        with self._lock:
            leader = self._leader = next((entry for entry in self._queue if entry.turn is not None), None)
            turn = leader.turn if leader else None
        if turn is not None:
            turn.release()
