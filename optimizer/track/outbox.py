"""The durable list of what MLflow still has to be told, kept in the study's own database.

Only marks: what is to be shown is read from the study when the entry is worked on. An entry is taken in order
and marked done after its effect; the effects are idempotent, so a crash in between costs one repetition.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from sqlalchemy import Column, Engine, Integer, MetaData, Table, Text, func, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

EntryKind = Literal["start", "trial", "finish"]

WAITING, DONE, GIVEN_UP = 0, 1, 2

_metadata = MetaData()
_outbox = Table(
    "outbox",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("ref", Integer, nullable=False),
    Column("done", Integer, nullable=False),
)
_identity = Table(
    "storage_identity",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("storage_id", Text, nullable=False),
)


class Entry(NamedTuple):
    """One thing to show. `ref` is the trial number of a `trial`, otherwise 0."""

    id: int
    kind: EntryKind
    ref: int


class Outbox:
    """The entries of one study, oldest first. Safe to use from two threads."""

    def __init__(self, engine: Engine, study: str) -> None:
        _create_tables(engine)
        self._engine = engine
        self._study = study

    def add(self, kind: EntryKind, ref: int = 0) -> None:
        """Append an entry; durable when this returns."""
        with self._engine.begin() as connection:
            connection.execute(insert(_outbox).values(study=self._study, kind=kind, ref=ref, done=WAITING))

    def waiting(self, *, limit: int = 50) -> Sequence[Entry]:
        """Return the oldest entries that are not done."""
        query = select(_outbox.c.id, _outbox.c.kind, _outbox.c.ref).where(
            _outbox.c.study == self._study, _outbox.c.done == WAITING
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_outbox.c.id).limit(limit)).all()
        return [Entry(id=row.id, kind=cast(EntryKind, row.kind), ref=row.ref) for row in rows]

    def mark(self, *entries: Entry, done: int = DONE) -> None:
        """Record that the effect of these entries has happened, or that they are given up."""
        ids = [entry.id for entry in entries]
        with self._engine.begin() as connection:
            connection.execute(update(_outbox).where(_outbox.c.id.in_(ids)).values(done=done))

    def n_with(self, done: int) -> int:
        """Count the study's entries in one state."""
        query = select(func.count()).where(_outbox.c.study == self._study, _outbox.c.done == done)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one()


def is_settled(engine: Engine, study: str) -> bool:
    """Whether everything up to the end of a study has been shown or given up. Reads only."""
    if not inspect(engine).has_table(_outbox.name):
        return False
    rows = select(_outbox.c.kind, _outbox.c.done).where(_outbox.c.study == study)
    with engine.connect() as connection:
        last = connection.execute(rows.order_by(_outbox.c.id.desc()).limit(1)).one_or_none()
        waiting = connection.execute(rows.where(_outbox.c.done == WAITING).limit(1)).one_or_none()
    return last is not None and last.kind == "finish" and waiting is None


def storage_id(engine: Engine) -> str:
    """Return the name of this database, twelve hex digits made on first use.

    It moves with the file, so a study keeps its MLflow run when its folder is moved, and a new study under an
    old name gets a run of its own.
    """
    _create_tables(engine)
    query = select(_identity.c.storage_id).where(_identity.c.id == 1)
    with engine.connect() as connection:
        known = connection.execute(query).scalar_one_or_none()
    if known is not None:
        return str(known)
    try:
        with engine.begin() as connection:
            connection.execute(insert(_identity).values(id=1, storage_id=uuid.uuid4().hex[:12]))
    except IntegrityError:
        pass  # another process named it first: its name counts
    with engine.connect() as connection:
        return str(connection.execute(query).scalar_one())


def _create_tables(engine: Engine) -> None:
    try:
        _metadata.create_all(engine)
    except DBAPIError:
        _metadata.create_all(engine)  # two processes created them at once: by now they exist
