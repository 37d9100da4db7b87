"""How workers that share a database know of each other whether they are alive.

Each stamps its row every few seconds, and holds a lock that the database lets go of when the connection ends. A process
that was killed leaves its lock at once, and is given up after a few missed stamps. One that was suspended or cut off
keeps its lock for as long as the database believes in the connection, and is given up after a longer silence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from optimizer.candidate import content_hash
from optimizer.errors import LostWorker
from optimizer.storage.database import worker_table

logger = logging.getLogger(__name__)

BEAT_S = 3.0
N_MISSED = 3  # stamps, after which a worker without its lock is given up
TAKE_OVER_S = 45.0  # after so long a silence others take over, whatever the lock says

NOW = sa.func.extract("epoch", sa.func.clock_timestamp())


class SignOfLife:
    """Beats in a thread of its own until it is closed, and gives up workers that do not.

    Args:
        forget: given a connection and a worker's id; makes everything free that the worker had in hand.
    """

    def __init__(
        self, engine: sa.Engine, *, study: str, worker: str, seq: int, forget: Callable[[sa.Connection, str], None]
    ) -> None:
        self._engine, self._study, self._worker, self._seq, self._forget = engine, study, worker, seq, forget
        self._lock_id = int(content_hash(["alive", study], n_chars=7), 16)  # four bytes, and the row's number for four
        self._connection: sa.Connection | None = None
        self._has_lock = False
        self._closing = threading.Event()
        self._beaten_at = self._here_since = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="worker-beat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()

    def _beat(self) -> None:
        try:
            while True:
                try:
                    self._stamp()
                except LostWorker as error:
                    logger.warning("%s", error)
                    return
                except Exception as error:  # border: the next beat may get through; type and message are kept
                    logger.warning("no sign of life: %s: %s", type(error).__name__, str(error).partition("\n")[0])
                    self._disconnect()
                if self._closing.wait(BEAT_S):
                    return
        finally:
            self._disconnect()

    def _stamp(self) -> None:
        if self._connection is None:
            self._connection = self._engine.connect()
        with self._connection.begin():
            mine = worker_table.c.id == self._worker
            if not self._connection.execute(sa.update(worker_table).where(mine).values(beat_at=NOW)).rowcount:
                raise LostWorker
            if not self._has_lock:  # held by a connection that the database has not missed yet, if it is not to be had
                lock = sa.func.pg_try_advisory_lock(self._lock_id, self._seq)
                self._has_lock = bool(self._connection.execute(sa.select(lock)).scalar_one())
            for worker in self._connection.execute(self._silent()).scalars().all():
                logger.warning("worker %s is silent; others take over what it had in hand", worker)
                self._forget(self._connection, worker)

    def _silent(self) -> sa.Select[str]:
        """Select the workers to give up; none by one that was itself away: the database may have been."""
        now, before = time.monotonic(), self._beaten_at
        self._beaten_at = now
        if now - before > 2 * BEAT_S:
            self._here_since = now
        locks = sa.text(
            "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND classid = :study AND objsubid = 2 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        held = locks.bindparams(study=self._lock_id).columns(sa.column("objid", sa.BigInteger)).subquery()
        table = worker_table.c
        is_silent = (table.beat_at < NOW - TAKE_OVER_S) & sa.literal(now - before < TAKE_OVER_S / 2)
        is_gone = (
            (table.beat_at < NOW - N_MISSED * BEAT_S)
            & table.seq.not_in(sa.select(held.c.objid))
            & sa.literal(now - self._here_since > N_MISSED * BEAT_S)
        )
        return sa.select(table.id).where(table.study == self._study, is_silent | is_gone)

    def _disconnect(self) -> None:
        """End the connection, and the lock with it: in the pool it would live on."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
        self._connection, self._has_lock = None, False
