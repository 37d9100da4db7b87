"""The durable record of everything paid for: replies, evaluations, and every unit of spend.

It shares the study's database. A call is reserved before it is sent and settled after its reply, each in one
transaction, so that at any instant the ledger shows at least what the provider bills, and no reply that was
acknowledged is lost by a kill. Records are JSON text, never pickle. What a record means is decided elsewhere.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import NamedTuple, cast, get_args

import sqlalchemy as sa

from optimizer.away import patient
from optimizer.candidate import Candidate, JsonValue
from optimizer.caps import Caps
from optimizer.database import (
    candidate_table,
    evaluation_table,
    insert_or_ignore,
    is_shared,
    ledger_table,
    open_engine,
    reply_table,
    require_space,
    spend_table,
    storage_errors,
    study_table,
    worker_table,
)
from optimizer.errors import BudgetExhausted, LostWorker
from optimizer.lm.backend import Reply
from optimizer.records import Outcome, Role, Spend

__all__ = ["Caps", "Journal", "open_engine"]

ROLES = cast("tuple[Role, ...]", get_args(Role))


class Total(NamedTuple):
    """What one role has taken so far, open reservations at their worst case included."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0


class Journal:
    """All durable records of one study.

    Any method raises `Paused` with reason `storage` when the database cannot be read or written: nothing is spent that
    cannot be entered.

    Args:
        owner: names the machine and process in the ledger, for people; a suffix makes it unique.
    """

    def __init__(self, engine: sa.Engine, study: str, *, owner: str) -> None:
        self.engine = engine
        self.study = study
        self.is_shared = is_shared(engine.url.drivername)
        self.is_fenced = False  # whether only a living worker may begin a call
        self.owner = f"{owner[:100]}:{secrets.token_hex(4)}"  # process ids come back, in containers always

    # -- the study itself ------------------------------------------------------------------

    @patient
    def load_study(self) -> dict[str, JsonValue] | None:
        """Return the study's record, or None when it does not exist."""
        with self._reading() as connection:
            row = connection.execute(sa.select(study_table).where(study_table.c.name == self.study)).one_or_none()
        if row is None:
            return None
        base = {"state": row.state, "stop_reason": row.stop_reason, "wall_s": row.wall_s, "created_at": row.created_at}
        return {**json.loads(row.records), **base}

    def create_study(self, records: Mapping[str, JsonValue]) -> None:
        """Create the study's record, unless another process was faster."""
        empty = {"state": "running", "stop_reason": "", "wall_s": 0.0, "created_at": time.time()}
        self._insert_missing(study_table, {"name": self.study, "records": json.dumps(records), **empty})

    @patient
    def update_study(
        self,
        *,
        state: str | None = None,
        stop_reason: str | None = None,
        add_wall_s: float = 0.0,
        records: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Change what is given; `records` are merged key by key."""
        where = study_table.c.name == self.study
        with self._writing() as connection:
            row = connection.execute(sa.select(study_table).where(where).with_for_update()).one()
            values = {
                "state": row.state if state is None else state,
                "stop_reason": row.stop_reason if stop_reason is None else stop_reason,
                "wall_s": row.wall_s + add_wall_s,
                "records": json.dumps({**json.loads(row.records), **(records or {})}),
            }
            connection.execute(sa.update(study_table).where(where).values(**values))

    # -- candidates and evaluations ----------------------------------------------------------

    @patient
    def put_candidate(self, candidate: Candidate) -> None:
        self._insert_missing(candidate_table, {"id": candidate.id, "body": json.dumps(candidate.to_json())})

    @patient
    def candidates(self, ids: Iterable[str]) -> dict[str, Candidate]:
        """Return the known ones of the given candidates by id."""
        query = sa.select(candidate_table).where(candidate_table.c.id.in_(list(ids)))
        with self._reading() as connection:
            return {row.id: Candidate.from_json(json.loads(row.body)) for row in connection.execute(query)}

    @patient
    def put_outcome(self, candidate_id: str, metric: str, outcome: Outcome) -> None:
        """Keep an outcome; `failed` ones are not kept, so that they are tried again."""
        if outcome.kind == "failed":
            return
        key = {"study": self.study, "candidate": candidate_id, "example": outcome.example_id, "metric": metric}
        self._insert_missing(evaluation_table, {**key, "outcome": json.dumps(asdict(outcome))})

    @patient
    def outcomes(self, candidate_id: str, metric: str) -> dict[str, Outcome]:
        """Return the kept outcomes of a candidate by example id."""
        table = evaluation_table.c
        query = sa.select(table.outcome).where(
            table.study == self.study, table.candidate == candidate_id, table.metric == metric
        )
        with self._reading() as connection:
            found = [Outcome(**json.loads(row.outcome)) for row in connection.execute(query)]
        return {outcome.example_id: outcome for outcome in found}

    # -- calls ---------------------------------------------------------------------------

    @patient
    def find_reply(self, key: str) -> Reply | None:
        """Return the kept reply of a call, or None."""
        query = sa.select(reply_table.c.body).where(reply_table.c.key == key)
        with self._reading() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return None if body is None else Reply(**json.loads(body))

    @patient
    def reserve(self, role: Role, key: str, *, tokens: int, usd: float, caps: Caps, trial: int | None = None) -> int:
        """Enter a call before it is sent, at its worst case, and return its ledger id.

        Raises:
            BudgetExhausted: it would pass a cap; nothing was entered.
        """
        require_space(self.engine)
        with self._writing() as connection:
            totals = self._locked_totals(connection)
            self._require_worker(connection)
            tokens_sum = sum(total.tokens_in + total.tokens_out for total in totals.values()) + tokens
            usd_sum = sum(total.usd for total in totals.values()) + usd
            if cap := caps.exceeded(role, totals[role].calls + 1, tokens_sum, usd_sum):
                raise BudgetExhausted(f"{cap} is used up; raise it and run again to continue")
            self._add(connection, role, Total(1, tokens, 0, usd))
            row = {"study": self.study, "role": role, "key": key, "state": "reserved", "trial": trial}
            amounts = {"tokens_in": tokens, "tokens_out": 0, "usd": usd}
            values = {**row, **amounts, "owner": self.owner, "at": time.time()}
            insert = sa.insert(ledger_table).values(**values).returning(ledger_table.c.id)
            return cast(int, connection.execute(insert).scalar_one())

    @patient
    def settle(self, call_id: int, reply: Reply, *, usd: float, keep_as: str | None) -> None:
        """Replace a reservation by what the call really took, and keep the reply under `keep_as` if given."""
        took = Total(1, reply.tokens_in, reply.tokens_out, usd)
        with self._writing() as connection:
            if self._close(connection, call_id, "settled", took) and keep_as:
                insert_or_ignore(connection, reply_table, {"key": keep_as, "body": json.dumps(asdict(reply))})

    @patient
    def release(self, call_id: int, *, was_billed: bool) -> None:
        """End a call without a reply: given back when surely unbilled, else kept as spent (`unknown`)."""
        open_row = (ledger_table.c.id == call_id) & (ledger_table.c.state == "reserved")
        with self._writing() as connection:
            if was_billed:
                connection.execute(sa.update(ledger_table).where(open_row).values(state="unknown"))
            else:
                self._close(connection, call_id, "released", Total())

    def adopt_orphans(self) -> int:
        """Mark what owners that are gone left reserved as spent, and return how many calls that were.

        An owner that lives after all loses nothing: it can still settle.
        """
        table = ledger_table.c
        where = (table.study == self.study) & (table.state == "reserved") & (table.owner != self.owner)
        where &= table.owner.not_in(sa.select(worker_table.c.id))
        with self._writing() as connection:
            return connection.execute(sa.update(ledger_table).where(where).values(state="unknown")).rowcount

    @patient
    def spend(self) -> Spend:
        """Return what the study has spent so far, open reservations included."""
        with self._reading() as connection:
            totals = self._totals(connection)
        return Spend(
            calls={role: total.calls for role, total in totals.items() if total.calls},
            tokens_in=sum(total.tokens_in for total in totals.values()),
            tokens_out=sum(total.tokens_out for total in totals.values()),
            cost_usd=sum(total.usd for total in totals.values()),
        )

    def n_failed(self) -> int:
        """Return how many attempts of calls ended without a reply."""
        table = ledger_table.c
        where = (table.study == self.study) & table.state.in_(("released", "unknown"))
        query = sa.select(sa.func.count()).select_from(ledger_table).where(where)
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())

    def spend_of_trials(self) -> dict[int, Spend]:
        """Return calls, tokens and money by trial number."""
        table, sums = ledger_table.c, ("tokens_in", "tokens_out", "usd")
        query = (
            sa.select(table.trial, table.role, sa.func.count().label("calls"))
            .add_columns(*(sa.func.sum(table[name]).label(name) for name in sums))
            .where(table.study == self.study, table.state != "released", table.trial.is_not(None))
            .group_by(table.trial, table.role)
        )
        spends: dict[int, Spend] = {}
        with self._reading() as connection:
            for row in connection.execute(query):
                old = spends.get(row.trial, Spend())
                spends[row.trial] = Spend(
                    calls={**old.calls, row.role: row.calls},
                    tokens_in=old.tokens_in + int(row.tokens_in),
                    tokens_out=old.tokens_out + int(row.tokens_out),
                    cost_usd=old.cost_usd + row.usd,
                )
        return spends

    # -- below -----------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with storage_errors(), self.engine.connect().execution_options(reads_only=True) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with storage_errors(), self.engine.begin() as connection:
            yield connection

    def _require_worker(self, connection: sa.Connection) -> None:
        """Let a worker that others have given up begin no call: they may be making it."""
        if self.is_fenced:
            row = sa.select(worker_table.c.seq).where(worker_table.c.id == self.owner)
            if connection.execute(row).first() is None:
                raise LostWorker

    def _totals(self, connection: sa.Connection, *, lock: bool = False) -> dict[Role, Total]:
        query = sa.select(spend_table).where(spend_table.c.study == self.study).order_by(spend_table.c.role)
        rows = connection.execute(query.with_for_update() if lock else query)
        return {cast(Role, row.role): Total(row.calls, row.tokens_in, row.tokens_out, row.usd) for row in rows}

    def _locked_totals(self, connection: sa.Connection) -> dict[Role, Total]:
        """Return the totals of all roles, which nobody else can change before the transaction ends."""
        totals = self._totals(connection, lock=True)
        if len(totals) < len(ROLES):
            for role in ROLES:
                insert_or_ignore(connection, spend_table, {"study": self.study, "role": role, **Total()._asdict()})
            totals = self._totals(connection, lock=True)
        return totals

    def _add(self, connection: sa.Connection, role: str, more: Total) -> None:
        table = spend_table.c
        changed = {name: table[name] + amount for name, amount in more._asdict().items()}
        where = (table.study == self.study) & (table.role == role)
        connection.execute(sa.update(spend_table).where(where).values(**changed))

    def _close(self, connection: sa.Connection, call_id: int, state: str, took: Total) -> bool:
        """Move a call to its final state and correct the totals; False if it was there already."""
        table = ledger_table.c
        where = (table.id == call_id) & table.state.in_(("reserved", "unknown"))
        row = connection.execute(sa.select(ledger_table).where(where).with_for_update()).one_or_none()
        if row is None:
            return False
        amounts = {"tokens_in": took.tokens_in, "tokens_out": took.tokens_out, "usd": took.usd}
        connection.execute(sa.update(ledger_table).where(where).values(state=state, **amounts))
        tokens_in, tokens_out = took.tokens_in - row.tokens_in, took.tokens_out - row.tokens_out
        self._add(connection, row.role, Total(took.calls - 1, tokens_in, tokens_out, took.usd - row.usd))
        return True

    def _insert_missing(self, table: sa.Table, values: Mapping[str, object]) -> None:
        with self._writing() as connection:
            insert_or_ignore(connection, table, values)
