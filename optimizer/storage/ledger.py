"""How calls are entered: reserved, settled, released, many in one transaction, with the totals kept beside them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

import sqlalchemy as sa

from optimizer.budget.caps import Caps
from optimizer.errors import BudgetExhausted, LostWorker
from optimizer.lm.backend import Reply
from optimizer.records import Role
from optimizer.storage.commits import Entry
from optimizer.storage.database import ledger_table, reply_table, spend_table, worker_table
from optimizer.storage.statements import Lookup, Statement, insert_or_ignore

ROLES = cast("tuple[Role, ...]", get_args(Role))


class Total(NamedTuple):
    """What one role has taken so far, open reservations at their worst case included."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0

    def plus(self, calls: int, tokens_in: int, tokens_out: int, usd: float) -> Total:
        return Total(self.calls + calls, self.tokens_in + tokens_in, self.tokens_out + tokens_out, self.usd + usd)


class Reserve(Entry):
    """A call before it is sent, at its worst case; `result` is its id, or its reply when that `looks` and is there."""

    __slots__ = ("caps", "key", "looks", "role", "tokens", "trial", "usd")

    def __init__(
        self, role: Role, key: str, *, tokens: int, usd: float, caps: Caps, trial: int | None, looks: bool
    ) -> None:
        super().__init__()
        self.role, self.key, self.tokens, self.usd = role, key, tokens, usd
        self.caps, self.trial, self.looks = caps, trial, looks


class Close(Entry):
    """The end of a call: with a reply, or `released` (surely unbilled), or `unknown` (it counts as spent)."""

    __slots__ = ("call_id", "keep_as", "reply", "state", "usd")

    def __init__(
        self, call_id: int, state: str, *, reply: Reply | None = None, usd: float = 0.0, keep_as: str | None = None
    ) -> None:
        super().__init__()
        self.call_id, self.state, self.reply, self.usd, self.keep_as = call_id, state, reply, usd, keep_as


class Keep(Entry):
    """A row that is kept unless its key is there already."""

    __slots__ = ("table", "values")

    def __init__(self, table: sa.Table, values: Mapping[str, object]) -> None:
        super().__init__()
        self.table, self.values = table, values


class Change(Entry):
    """Any other change."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[sa.Connection], object]) -> None:
        super().__init__()
        self.make = make


@dataclass
class Ledger:
    """Writes entries. All of a kind are written together, and always in the same order: two workers cannot wait for
    each other.

    Attributes:
        is_fenced: whether only a living worker may begin a call.
    """

    study: str
    owner: str
    is_fenced: bool = False

    def carry_out(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        """Make the changes of all entries within the connection's transaction."""
        reserves = [entry for entry in entries if isinstance(entry, Reserve)]
        closes = [entry for entry in entries if isinstance(entry, Close)]
        if reserves or closes:
            totals = self.locked_totals(connection)
            before = dict(totals)
            self._close(connection, closes, totals)  # first: a call may ask for the reply of one that ends with it
            self._reserve(connection, reserves, totals)
            self._write_totals(connection, {role: total for role, total in totals.items() if total != before[role]})
        for entry in entries:
            if isinstance(entry, Change):
                entry.result = entry.make(connection)
        keeps = [entry for entry in entries if isinstance(entry, Keep)]
        for table in sorted({entry.table for entry in keeps}, key=lambda table: table.name):
            insert_or_ignore(connection, table, [entry.values for entry in keeps if entry.table is table])

    def totals(self, connection: sa.Connection, *, lock: bool = False) -> dict[Role, Total]:
        rows = (_LOCK_TOTALS if lock else _TOTALS).rows(connection, {"study": self.study})
        return {role: Total(*amounts) for role, *amounts in rows}

    def locked_totals(self, connection: sa.Connection) -> dict[Role, Total]:
        """Return the totals of all roles, which nobody else can change before the transaction ends."""
        totals = self.totals(connection, lock=True)
        if len(totals) < len(ROLES):
            rows = [{"study": self.study, "role": role, **Total()._asdict()} for role in sorted(ROLES)]
            insert_or_ignore(connection, spend_table, rows)
            totals = self.totals(connection, lock=True)
        return totals

    # -- begin ----------------------------------------------------------------------------------------

    def _reserve(self, connection: sa.Connection, entries: list[Reserve], totals: dict[Role, Total]) -> None:
        if entries and self._is_lost(connection):
            for entry in entries:
                entry.error = LostWorker()
            return
        kept = _kept_replies(connection, {entry.key for entry in entries if entry.looks})
        begun: list[Reserve] = []
        for entry in entries:
            if entry.looks and entry.key in kept:
                entry.result = kept[entry.key]
            elif cap := _exceeded(entry, totals):
                entry.error = BudgetExhausted(f"{cap} is used up; raise it and run again to continue")
            else:
                totals[entry.role] = totals[entry.role].plus(1, entry.tokens, 0, entry.usd)
                begun.append(entry)
        if begun:
            for entry, call_id in zip(begun, self._insert(connection, begun), strict=True):
                entry.result = call_id

    def _insert(self, connection: sa.Connection, entries: list[Reserve]) -> list[int]:
        base = {"study": self.study, "state": "reserved", "owner": self.owner, "at": time.time(), "tokens_out": 0}
        rows = [
            {**base, "role": each.role, "key": each.key, "trial": each.trial, "tokens_in": each.tokens, "usd": each.usd}
            for each in entries
        ]
        if connection.dialect.name == "sqlite":
            return [_INSERT_ONE.rows(connection, row)[0][0] for row in rows]
        return list(connection.execute(_INSERT, rows).scalars())

    def _is_lost(self, connection: sa.Connection) -> bool:
        """Whether others have given this worker up: they may be making its calls."""
        if not self.is_fenced:
            return False
        return not _WORKER.rows(connection, {"owner": self.owner})

    # -- end ------------------------------------------------------------------------------------------

    def _close(self, connection: sa.Connection, entries: list[Close], totals: dict[Role, Total]) -> None:
        """Move calls to their final state and correct the totals; those that are there already stay."""
        if not entries:
            return
        found = _OPEN.rows(connection, sorted({entry.call_id for entry in entries}))
        rows = {row[0]: dict(zip(CLOSED, row, strict=True)) for row in found}
        changed: dict[int, dict[str, Any]] = {}
        replies: dict[str, Reply] = {}
        for entry in entries:
            row = rows.get(entry.call_id)
            if row is None:
                continue
            if entry.state == "unknown":
                row["state"] = "unknown"
                changed[entry.call_id] = _changed(row)
                continue
            changed[entry.call_id] = self._end(entry, rows.pop(entry.call_id), totals)
            if entry.keep_as and entry.reply is not None:
                replies.setdefault(entry.keep_as, entry.reply)
        _UPDATE.many(connection, list(changed.values()))
        if replies:
            bodies = [{"key": key, "body": reply_json(replies[key])} for key in sorted(replies)]
            insert_or_ignore(connection, reply_table, bodies)

    @staticmethod
    def _end(entry: Close, row: Mapping[str, Any], totals: dict[Role, Total]) -> dict[str, Any]:
        reply, role = entry.reply, cast(Role, row["role"])
        tokens_in, tokens_out = (reply.tokens_in, reply.tokens_out) if reply else (0, 0)
        totals[role] = totals[role].plus(
            0 if reply else -1, tokens_in - row["tokens_in"], tokens_out - row["tokens_out"], entry.usd - row["usd"]
        )
        amounts = {"tokens_in": tokens_in, "tokens_out": tokens_out, "usd": entry.usd}
        return _changed({"id": entry.call_id, "state": entry.state, **amounts})

    def _write_totals(self, connection: sa.Connection, totals: Mapping[Role, Total]) -> None:
        if totals:
            rows = [{"b_study": self.study, "b_role": role, **total._asdict()} for role, total in totals.items()]
            _UPDATE_TOTALS.many(connection, rows)


CLOSED = ("id", "role", "state", "tokens_in", "tokens_out", "usd")  # what the end of a call reads of it
_TOTALS_CLAUSE = (
    sa.select(spend_table.c.role, *(spend_table.c[name] for name in Total._fields))
    .where(spend_table.c.study == sa.bindparam("study"))
    .order_by(spend_table.c.role)
)
_TOTALS, _LOCK_TOTALS = Statement(_TOTALS_CLAUSE), Statement(_TOTALS_CLAUSE.with_for_update())
_UPDATE_TOTALS = Statement(
    sa.update(spend_table)
    .where(spend_table.c.study == sa.bindparam("b_study"), spend_table.c.role == sa.bindparam("b_role"))
    .values({name: sa.bindparam(name) for name in Total._fields})
)
_REPLIES = Lookup(sa.select(reply_table.c.key, reply_table.c.body), reply_table.c.key)
_WORKER = Statement(sa.select(worker_table.c.seq).where(worker_table.c.id == sa.bindparam("owner")))
_INSERT = sa.insert(ledger_table).returning(ledger_table.c.id, sort_by_parameter_order=True)
_INSERT_ONE = Statement(
    sa.insert(ledger_table)
    .values({column.name: sa.bindparam(column.name) for column in ledger_table.c if column.name != "id"})
    .returning(ledger_table.c.id)
)
_OPEN = Lookup(
    sa.select(*(ledger_table.c[name] for name in CLOSED))
    .where(
        sa.or_(
            ledger_table.c.state == sa.literal_column("'reserved'"),
            ledger_table.c.state == sa.literal_column("'unknown'"),
        )
    )
    .order_by(ledger_table.c.id)
    .with_for_update(),
    ledger_table.c.id,
)
_UPDATE = Statement(
    sa.update(ledger_table)
    .where(ledger_table.c.id == sa.bindparam("b_id"))
    .values({name: sa.bindparam(f"b_{name}") for name in ("state", "tokens_in", "tokens_out", "usd")})
)


def reply_json(reply: Reply) -> str:
    return json.dumps({name: getattr(reply, name) for name in Reply.__slots__})


def reply_from_json(body: str) -> Reply:
    return Reply(**json.loads(body))


def _changed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"b_{name}": row[name] for name in ("id", "state", "tokens_in", "tokens_out", "usd")}


def _kept_replies(connection: sa.Connection, keys: Iterable[str]) -> dict[str, Reply]:
    return {key: reply_from_json(body) for key, body in _REPLIES.rows(connection, sorted(keys))}


def _exceeded(entry: Reserve, totals: Mapping[Role, Total]) -> str | None:
    """Return the cap that the call would pass, in words, or None."""
    tokens = sum(total.tokens_in + total.tokens_out for total in totals.values()) + entry.tokens
    usd = sum(total.usd for total in totals.values()) + entry.usd
    return entry.caps.exceeded(entry.role, totals[entry.role].calls + 1, tokens, usd)
