"""Who works on a study: one process alone, or any number of them that share a PostgreSQL database.

A worker is a row that it stamps every few seconds. When the stamp grows old another worker deletes the row, and with it
everything that the silent one had in hand: its trials are taken up by others under their own numbers, its leases are
void, and what it reserved in the ledger counts as spent. A worker that wakes up after that finds no row of its own, may
begin no further call, and joins again as a new one; replies that reach it late are still entered. The eldest worker
leads: it alone chooses the winner, makes the final test and writes to MLflow.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from optimizer.away import patient
from optimizer.candidate import content_hash
from optimizer.database import claim_table, is_away, lease_table, ledger_table, storage_errors, worker_table
from optimizer.errors import LostWorker
from optimizer.journal import Journal

logger = logging.getLogger(__name__)

BEAT_S = 3.0
TAKE_OVER_S = 45.0  # after so long a silence others take over
LOOK_S = 0.25  # between two looks at what others have in hand

NOW = sa.func.extract("epoch", sa.func.clock_timestamp())


class Alone:
    """A study that this process has to itself."""

    is_shared = False

    def __init__(self) -> None:
        self._claimed: set[int] = set()

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Hold off the decisions of all other workers: which trial is next, who leads, whether it is over."""
        yield

    def held(self) -> Collection[int]:
        """Return the trials that a living worker has in hand."""
        return frozenset(self._claimed)

    def take(self, trial: int) -> None:
        """Have a trial in hand from now on."""
        self._claimed.add(trial)

    def leave(self, trial: int) -> None:
        """Leave a trial open; here it waits for the next run."""

    def lease(self, candidate: str, examples: Collection[str]) -> Collection[str]:
        """Return those of the evaluations that are nobody else's; call `end_lease` when they are entered."""
        del candidate
        return examples

    def end_lease(self, candidate: str, examples: Collection[str]) -> None:
        """Let others do what has not been entered."""

    def leads(self) -> bool:
        """Whether this worker is the eldest."""
        return True

    def time_to_enter(self, elapsed_s: float) -> float:
        """Return how much of the seconds since this worker's last entry no other worker has entered."""
        return elapsed_s

    def n_workers(self) -> int:
        """Return how many workers are alive, this one included."""
        return 1

    def close(self) -> None:
        """Leave; what is still in hand is taken up by others."""


class Crew(Alone):
    """One worker among those that share a database.

    Raises:
        LostWorker: from any method, when others have given this worker up.
    """

    is_shared = True

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal, self._engine = journal, journal.engine
        self._study, self._id = journal.study, journal.owner
        self._lock_id = int(content_hash(["deciding", self._study], n_chars=15), 16)
        self._local = threading.local()
        self._closing = threading.Event()
        self._beaten_at = time.monotonic()
        journal.fence()
        with storage_errors(), self._engine.begin() as connection:
            row = {"id": self._id, "study": self._study, "beat_at": NOW}
            connection.execute(sa.insert(worker_table).values(**row))
        self._thread = threading.Thread(target=self._beat, name="worker-beat", daemon=True)
        self._thread.start()

    @contextmanager
    def deciding(self) -> Iterator[None]:
        if getattr(self._local, "is_deciding", False):
            yield
            return
        connection = self._locked()
        self._local.is_deciding = True
        try:
            yield
            with storage_errors():
                connection.commit()
        finally:
            self._local.is_deciding = False
            connection.close()

    @patient
    def held(self) -> Collection[int]:
        query = (
            sa.select(claim_table.c.trial)
            .join(worker_table, worker_table.c.id == claim_table.c.worker)
            .where(claim_table.c.study == self._study)
        )
        with storage_errors(), self._engine.connect() as connection:
            return frozenset(connection.execute(query).scalars())

    @patient
    def take(self, trial: int) -> None:
        values = {"study": self._study, "trial": trial, "worker": self._id}
        insert = postgresql.insert(claim_table).values(**values)
        with storage_errors(), self._engine.begin() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=["study", "trial"], set_={"worker": self._id})
            )

    @patient
    def leave(self, trial: int) -> None:
        where = (claim_table.c.study == self._study) & (claim_table.c.trial == trial)
        with storage_errors(), self._engine.begin() as connection:
            connection.execute(sa.delete(claim_table).where(where, claim_table.c.worker == self._id))

    @patient
    def lease(self, candidate: str, examples: Collection[str]) -> Collection[str]:
        if not examples:
            return ()
        shared = {"study": self._study, "candidate": candidate, "worker": self._id}
        insert = postgresql.insert(lease_table).values([{**shared, "example": each} for each in sorted(examples)])
        is_void = ~sa.exists().where(worker_table.c.id == lease_table.c.worker)
        taken = insert.on_conflict_do_update(
            index_elements=["study", "candidate", "example"], set_={"worker": self._id}, where=is_void
        ).returning(lease_table.c.example)
        with storage_errors(), self._engine.begin() as connection:
            self._require_row(connection)
            return frozenset(connection.execute(taken).scalars())

    @patient
    def end_lease(self, candidate: str, examples: Collection[str]) -> None:
        table = lease_table.c
        where = (table.study == self._study) & (table.candidate == candidate) & (table.worker == self._id)
        with storage_errors(), self._engine.begin() as connection:
            connection.execute(sa.delete(lease_table).where(where, table.example.in_(list(examples))))

    @patient
    def leads(self) -> bool:
        eldest = sa.select(worker_table.c.id).where(worker_table.c.study == self._study).order_by(worker_table.c.seq)
        with storage_errors(), self._engine.connect() as connection:
            return connection.execute(eldest.limit(1)).scalar_one_or_none() == self._id

    def time_to_enter(self, elapsed_s: float) -> float:
        with self.deciding():
            with storage_errors(), self._engine.connect() as connection:
                now = float(connection.execute(sa.select(NOW)).scalar_one())
            record = self._journal.load_study() or {}
            self._journal.update_study(records={"clock": now})
            return max(0.0, min(elapsed_s, now - cast(float, record.get("clock", 0.0))))

    @patient
    def n_workers(self) -> int:
        query = sa.select(sa.func.count()).where(worker_table.c.study == self._study)
        with storage_errors(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def close(self) -> None:
        self._closing.set()
        try:
            with self._engine.begin() as connection:
                self._forget(connection, self._id)
        except sa.exc.SQLAlchemyError as error:  # others find out by the silence
            logger.info("worker %s could not say that it leaves: %s", self._id, error)

    # -- the beat ---------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_S):
            try:
                with self._engine.begin() as connection:
                    self._stamp(connection)
            except LostWorker as error:
                logger.warning("%s", error)
                return
            except Exception as error:  # border: the next beat may get through; type and message are kept
                logger.warning("no sign of life: %s: %s", type(error).__name__, str(error).partition("\n")[0])

    def _stamp(self, connection: sa.Connection) -> None:
        mine = worker_table.c.id == self._id
        if not connection.execute(sa.update(worker_table).where(mine).values(beat_at=NOW)).rowcount:
            raise LostWorker
        # One that was itself away cannot tell whether the others were silent or the database was.
        was_here, self._beaten_at = time.monotonic() - self._beaten_at < TAKE_OVER_S / 2, time.monotonic()
        silent = (worker_table.c.study == self._study) & (worker_table.c.beat_at < NOW - TAKE_OVER_S)
        for worker in (
            connection.execute(sa.select(worker_table.c.id).where(silent)).scalars().all() if was_here else ()
        ):
            logger.warning("worker %s is silent; others take over what it had in hand", worker)
            self._forget(connection, worker)

    def _forget(self, connection: sa.Connection, worker: str) -> None:
        table = ledger_table.c
        connection.execute(sa.delete(worker_table).where(worker_table.c.id == worker))
        connection.execute(sa.delete(claim_table).where(claim_table.c.worker == worker))
        connection.execute(sa.delete(lease_table).where(lease_table.c.worker == worker))
        open_calls = (table.study == self._study) & (table.owner == worker) & (table.state == "reserved")
        connection.execute(sa.update(ledger_table).where(open_calls).values(state="unknown"))

    @patient
    def _locked(self) -> sa.Connection:
        """Return a connection that holds the study's lock until its transaction ends."""
        with storage_errors():
            connection = self._engine.connect()
            try:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(self._lock_id)))
                self._require_row(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _require_row(self, connection: sa.Connection) -> None:
        if connection.execute(sa.select(worker_table.c.seq).where(worker_table.c.id == self._id)).first() is None:
            raise LostWorker


def join_crew(journal: Journal) -> Alone:
    """Join those who work on a study; in a database of one process there are no others."""
    return Crew(journal) if journal.is_shared else Alone()


def is_passing(error: BaseException) -> bool:
    """Whether a worker that stopped for this should join again once the database answers."""
    return isinstance(error, LostWorker) or is_away(error)
