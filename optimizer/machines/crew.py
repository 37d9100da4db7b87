"""Who works on a study: one process alone, or any number of them that share a PostgreSQL database.

A worker is a row with a sign of life (`optimizer.machines.sign_of_life`). When that fails another worker deletes the
row, and with it everything that the silent one had in hand: its trials are taken up by others under their own numbers,
its leases are void, and what it reserved in the ledger counts as spent. A worker that wakes up after that finds no row
of its own, may begin no further call, and joins again as a new one; replies that reach it late are still entered. The
eldest worker leads: it alone chooses the winner, makes the final test and writes to MLflow.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from optimizer.candidate import content_hash
from optimizer.errors import LostWorker
from optimizer.machines.sign_of_life import NOW, SignOfLife
from optimizer.storage.away import patient
from optimizer.storage.database import claim_table, is_away, lease_table, ledger_table, storage_errors, worker_table
from optimizer.storage.journal import Journal

logger = logging.getLogger(__name__)

LOOK_S = 0.25  # between two looks at what others have in hand


class Alone:
    """A study that this process has to itself."""

    is_shared = False

    def __init__(self) -> None:
        self._claimed: set[int] = set()

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Hold off the decisions of all other workers: which trial is next, who leads, whether it is over."""
        yield

    @property
    def turn(self) -> int | None:
        """A number that this decision has and no other; None for a thread that is not deciding."""
        return None

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
        self._local, self._n_turns = threading.local(), 0
        journal.fence()
        with storage_errors(), self._engine.begin() as connection:
            row = {"id": self._id, "study": self._study, "beat_at": NOW}
            seq = connection.execute(sa.insert(worker_table).values(**row).returning(worker_table.c.seq)).scalar_one()
        self._sign = SignOfLife(self._engine, study=self._study, worker=self._id, seq=seq, forget=self._forget)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        if getattr(self._local, "is_deciding", False):
            yield
            return
        connection = self._locked()
        self._local.is_deciding, self._n_turns = True, self._n_turns + 1
        try:
            yield
            with storage_errors():
                connection.commit()
        finally:
            self._local.is_deciding = False
            connection.close()

    @property
    def turn(self) -> int | None:
        return self._n_turns if getattr(self._local, "is_deciding", False) else None

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
        self._sign.close()
        try:
            with self._engine.begin() as connection:
                self._forget(connection, self._id)
        except sa.exc.SQLAlchemyError as error:  # others find out by the silence
            logger.info("worker %s could not say that it leaves: %s", self._id, error)

    # -- others, and the lock -----------------------------------------------------------------------

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
