"""Batches that are under way, in the study's database: which rows went up, under which id, and which came back.

A row here is a reservation in the ledger, too. The tables are made when a study first works in batches.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import sqlalchemy as sa

from optimizer.budget.caps import Caps
from optimizer.errors import BudgetExhausted
from optimizer.lm.backend import Reply
from optimizer.storage.away import patient
from optimizer.storage.database import making_tables, metadata, require_space, storage_errors, worker_table
from optimizer.storage.journal import Journal
from optimizer.storage.ledger import Close, Reserve, reply_from_json, reply_json

State = Literal["planned", "uploaded", "created", "ended"]
OPEN: tuple[State, ...] = ("planned", "uploaded", "created")
RUNNING, DONE = "open", "done"

batch_table = sa.Table(
    "batch",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.String(64), nullable=False, index=True),
    sa.Column("tag", sa.String(64), nullable=False),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("file_id", sa.String(256), nullable=False),
    sa.Column("batch_id", sa.String(256), nullable=False),
    sa.Column("at", sa.Float, nullable=False),  # seconds since 1970
)
row_table = sa.Table(
    "batch_row",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("batch", sa.Integer, nullable=False, index=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("call", sa.Integer, nullable=False),  # in the ledger
    sa.Column("tokens_in", sa.Integer, nullable=False),  # at most
    sa.Column("state", sa.String(16), nullable=False),  # open, done
    sa.Column("body", sa.Text),  # the reply
)


class SentRow(NamedTuple):
    """One row of a batch: its call in the ledger, its input tokens at most, and its line in the file, from 1."""

    call_id: int
    tokens_in: int
    line: int


class PlannedRow(NamedTuple):
    """A row that is to go up, at its worst case."""

    key: str
    tokens_in: int
    tokens_out: int
    usd: float
    trial: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedRow:
    """What came of a row: a reply and its price, or nothing. `is_kept`: good enough for other studies."""

    key: str
    reply: Reply | None = None
    usd: float = 0.0
    is_kept: bool = False
    is_billed: bool = False


@dataclass(slots=True, kw_only=True)
class OpenBatch:
    """A batch whose results are not all entered yet. `rows` by key, in the order of the file."""

    id: int
    tag: str
    owner: str
    state: State
    file_id: str = ""
    batch_id: str = ""
    at: float
    rows: dict[str, SentRow] = field(default_factory=dict)


class BatchStore:
    """The batches of one study. Methods raise `Paused` when the database cannot be used, as the journal's do."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._engine, self.is_shared = journal, journal.engine, journal.is_shared
        with storage_errors(), making_tables(self._engine) as connection:
            metadata.create_all(connection, tables=[batch_table, row_table])

    def plan(self, rows: Sequence[PlannedRow], caps: Caps) -> tuple[OpenBatch | None, BudgetExhausted | None]:
        """Reserve as many rows as the caps allow and enter them as a batch, all at once and before anything is sent.

        Returns:
            The batch, None if not one row fits; and what keeps the others out, if there are any.
        """
        tag, at, owner = secrets.token_hex(12), time.time(), self._journal.owner
        require_space(self._engine)
        entries = [
            Reserve(
                "task",
                row.key,
                tokens=row.tokens_in + row.tokens_out,
                usd=row.usd,
                caps=caps,
                trial=row.trial,
                looks=False,
            )
            for row in rows
        ]
        with storage_errors(), self._engine.begin() as connection:
            self._journal.ledger.carry_out(connection, entries)
            fitting = {
                row.key: SentRow(cast(int, entry.result), row.tokens_in, line)
                for line, (row, entry) in enumerate(
                    ((row, entry) for row, entry in zip(rows, entries, strict=True) if entry.error is None), start=1
                )
            }
            refusal = _refusal(entries)
            if not fitting:
                return None, refusal
            values = {"study": self._journal.study, "owner": owner, "at": at, "tag": tag, "state": "planned"}
            insert = sa.insert(batch_table).values(**values, file_id="", batch_id="").returning(batch_table.c.id)
            number = cast(int, connection.execute(insert).scalar_one())
            entered = [
                {"batch": number, "key": key, "call": row.call_id, "tokens_in": row.tokens_in, "state": RUNNING}
                for key, row in fitting.items()
            ]
            connection.execute(sa.insert(row_table), entered)
        return OpenBatch(id=number, tag=tag, owner=owner, state="planned", at=at, rows=fitting), refusal

    @patient
    def move(self, batch: OpenBatch, state: State, *, file_id: str = "", batch_id: str = "") -> None:
        """Enter how far a batch has come."""
        batch.state, batch.file_id, batch.batch_id = state, file_id or batch.file_id, batch_id or batch.batch_id
        values = {"state": state, "file_id": batch.file_id, "batch_id": batch.batch_id}
        with storage_errors(), self._engine.begin() as connection:
            connection.execute(sa.update(batch_table).where(batch_table.c.id == batch.id).values(**values))

    @patient
    def close_rows(self, batch: OpenBatch, closed: Sequence[ClosedRow]) -> None:
        """Settle rows or give them back, all at once: nothing more comes for them."""
        table = row_table.c
        where = (table.batch == batch.id) & (table.key == sa.bindparam("row_key"))
        with storage_errors(), self._engine.begin() as connection:
            self._journal.ledger.carry_out(connection, [_close(batch.rows[row.key].call_id, row) for row in closed])
            bodies = [(row.key, None if row.reply is None else reply_json(row.reply)) for row in closed]
            values = [{"row_key": key, "row_body": body} for key, body in bodies]
            update = sa.update(row_table).where(where).values(state=DONE, body=sa.bindparam("row_body"))
            connection.execute(update, values)
        for row in closed:
            batch.rows.pop(row.key, None)

    @patient
    def reply(self, key: str) -> Reply | None:
        """Return the last reply of a row, also one that is not good enough to be used again in other studies."""
        query = (
            sa.select(row_table.c.body)
            .join(batch_table, batch_table.c.id == row_table.c.batch)
            .where(row_table.c.key == key, row_table.c.body.is_not(None), batch_table.c.study == self._journal.study)
            .order_by(row_table.c.id.desc())
            .limit(1)
        )
        with self._reading() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return None if body is None else reply_from_json(body)

    @patient
    def open_batches(self, keys: Collection[str] | None = None) -> list[OpenBatch]:
        """Return batches that have not ended, the oldest first; with `keys`, those that hold one of them."""
        query = sa.select(batch_table).where(batch_table.c.study == self._journal.study, batch_table.c.state.in_(OPEN))
        with self._reading() as connection:
            found = [_batch(row) for row in connection.execute(query.order_by(batch_table.c.id)).mappings()]
            for batch in found:
                rows = sa.select(row_table).where(row_table.c.batch == batch.id).order_by(row_table.c.id)
                sent = enumerate(connection.execute(rows), start=1)
                batch.rows = {
                    row.key: SentRow(row.call, row.tokens_in, line) for line, row in sent if row.state == RUNNING
                }
        return [batch for batch in found if keys is None or not batch.rows.keys().isdisjoint(keys)]

    @patient
    def is_anybodys(self, batch: OpenBatch) -> bool:
        """Whether who planned a batch is gone or this process itself, so that this process may go on with it."""
        if not self.is_shared or batch.owner == self._journal.owner:
            return True
        alive = sa.select(worker_table.c.seq).where(worker_table.c.id == batch.owner)
        with self._reading() as connection:
            return connection.execute(alive).first() is None

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with storage_errors(), self._engine.connect().execution_options(reads_only=True) as connection:
            yield connection


def _batch(row: Mapping[Any, Any]) -> OpenBatch:
    kept = {name: row[name] for name in ("id", "tag", "owner", "state", "file_id", "batch_id", "at")}
    return OpenBatch(**kept)


def _refusal(entries: Sequence[Reserve]) -> BudgetExhausted | None:
    """Return what keeps calls out of the ledger, if any are; a worker that others have given up begins none."""
    errors = [entry.error for entry in entries if entry.error is not None]
    for error in errors:
        if not isinstance(error, BudgetExhausted):
            raise error
    return cast("BudgetExhausted | None", next(iter(errors), None))


def _close(call_id: int, row: ClosedRow) -> Close:
    if row.reply is None:
        return Close(call_id, "unknown" if row.is_billed else "released")
    return Close(call_id, "settled", reply=row.reply, usd=row.usd, keep_as=row.key if row.is_kept else None)
