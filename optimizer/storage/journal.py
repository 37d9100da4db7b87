"""The durable record of everything paid for: replies, evaluations, and every unit of spend.

It shares the study's database. A call is reserved before it is sent and settled after its reply, each within one
transaction (`optimizer.storage.commits` makes one for several), so that at any instant the ledger shows at least what
the provider bills, and no reply that was acknowledged is lost by a kill. Records are JSON text, never pickle. What a
record means is decided elsewhere.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import sqlalchemy as sa

from optimizer.budget.caps import Caps
from optimizer.candidate import Candidate, JsonValue
from optimizer.lm.backend import Reply
from optimizer.records import Outcome, Role, Spend
from optimizer.storage.away import patient
from optimizer.storage.commits import Commits
from optimizer.storage.database import (
    candidate_table,
    evaluation_table,
    is_shared,
    ledger_table,
    open_engine,
    reply_table,
    require_space,
    storage_errors,
    study_table,
    worker_table,
)
from optimizer.storage.ledger import Change, Close, Keep, Ledger, Reserve, reply_from_json
from optimizer.storage.statements import insert_or_ignore

__all__ = ["Caps", "Journal", "open_engine"]
AT_ONCE = 5_000  # rows that are read at a time
MANY = 500  # trials or candidates: then all are looked at, because databases limit how many can be named


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
        self.owner = f"{owner[:100]}:{secrets.token_hex(4)}"  # process ids come back, in containers always
        self.ledger = Ledger(study, self.owner)
        self._commits = Commits(engine, self.ledger.carry_out)
        self._known = set[str]()  # candidates that are surely in the database
        self.unpriced = frozenset[Role]()  # roles whose calls have no known price; the facts of the study say so

    def fence(self) -> None:
        """From now on only a living worker may begin a call."""
        self.ledger.is_fenced = True

    # -- the study itself ------------------------------------------------------------------

    @patient
    def load_study(self) -> dict[str, JsonValue] | None:
        """Return the study's record, or None when it does not exist."""
        with self.reading() as connection:
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
        is_urgent: bool = True,
    ) -> None:
        """Change what is given; `records` are merged key by key. What is not urgent comes with the next commit."""
        where = study_table.c.name == self.study

        def change(connection: sa.Connection) -> None:
            columns = (study_table,) if records else (study_table.c.state,)
            row = connection.execute(sa.select(*columns).where(where).with_for_update()).one()
            values = {
                "state": state,
                "stop_reason": stop_reason,
                "wall_s": study_table.c.wall_s + add_wall_s,
                "records": json.dumps({**json.loads(row.records), **records}) if records else None,
            }
            given = {name: value for name, value in values.items() if value is not None}
            connection.execute(sa.update(study_table).where(where).values(**given))

        (self._commits.now if is_urgent else self._commits.later)(Change(change))

    # -- candidates and evaluations ----------------------------------------------------------

    @patient
    def put_candidate(self, candidate: Candidate) -> None:
        if candidate.id not in self._known:
            self._commits.now(Keep(candidate_table, {"id": candidate.id, "body": json.dumps(candidate.to_json())}))
            self._known.add(candidate.id)

    @patient
    def candidates(self, ids: Iterable[str]) -> dict[str, Candidate]:
        """Return the known ones of the given candidates by id."""
        wanted = set(ids)
        query = sa.select(candidate_table)
        if len(wanted) < MANY:
            query = query.where(candidate_table.c.id.in_(sorted(wanted)))
        with self.reading() as connection:
            rows = [row for row in connection.execute(query) if row.id in wanted]
        return {row.id: Candidate.from_json(json.loads(row.body)) for row in rows}

    def put_outcome(self, candidate_id: str, metric: str, outcome: Outcome) -> None:
        """Keep an outcome; `failed` ones are not kept, so that they are tried again.

        It is committed with the next call or at `flush`: what it cost is durable already, as the reply behind it.
        """
        if outcome.kind == "failed":
            return
        key = {"study": self.study, "candidate": candidate_id, "example": outcome.example_id, "metric": metric}
        body = json.dumps({name: getattr(outcome, name) for name in Outcome.__slots__})
        self._commits.later(Keep(evaluation_table, {**key, "outcome": body}))

    @patient
    def flush(self) -> None:
        """Return once all outcomes are as durable as the database makes them."""
        self._commits.flush()

    @patient
    def outcomes(self, candidate_id: str, metric: str) -> dict[str, Outcome]:
        """Return the kept outcomes of a candidate by example id."""
        return self.outcomes_of([candidate_id], metric).get(candidate_id, {})

    @patient
    def outcomes_of(self, candidate_ids: Collection[str], metric: str) -> dict[str, dict[str, Outcome]]:
        """Return the kept outcomes of candidates by candidate and example id."""
        if not candidate_ids:
            return {}
        self._commits.flush()
        table = evaluation_table.c
        query = sa.select(table.candidate, table.outcome).where(table.study == self.study, table.metric == metric)
        if len(candidate_ids) < MANY:
            query = query.where(table.candidate.in_(sorted(candidate_ids)))
        found: dict[str, dict[str, Outcome]] = {}
        with self.reading() as connection:
            for candidate_id, body in connection.execute(query.execution_options(yield_per=AT_ONCE)):
                outcome = Outcome(**json.loads(body))
                found.setdefault(candidate_id, {})[outcome.example_id] = outcome
        return found

    # -- calls ---------------------------------------------------------------------------

    @patient
    def find_reply(self, key: str) -> Reply | None:
        """Return the kept reply of a call, or None."""
        self._commits.flush()
        query = sa.select(reply_table.c.body).where(reply_table.c.key == key)
        with self.reading() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return None if body is None else reply_from_json(body)

    @patient
    def reserve(self, role: Role, key: str, *, tokens: int, usd: float, caps: Caps, trial: int | None = None) -> int:
        """Enter a call before it is sent, at its worst case, and return its ledger id.

        Raises:
            BudgetExhausted: it would pass a cap; nothing was entered.
        """
        require_space(self.engine)
        entry = Reserve(role, key, tokens=tokens, usd=usd, caps=caps, trial=trial, looks=False)
        return cast(int, self._commits.now(entry))

    @patient
    def find_or_reserve(
        self, role: Role, key: str, *, tokens: int, usd: float, caps: Caps, trial: int | None = None
    ) -> Reply | int:
        """Return the kept reply of a call; if there is none, enter the call as `reserve` does and return its id."""
        require_space(self.engine)
        entry = Reserve(role, key, tokens=tokens, usd=usd, caps=caps, trial=trial, looks=True)
        return cast("Reply | int", self._commits.now(entry))

    @patient
    def settle(self, call_id: int, reply: Reply, *, usd: float, keep_as: str | None) -> None:
        """Replace a reservation by what the call really took, and keep the reply under `keep_as` if given.

        Where other threads are committing it is durable with their next commit, and always before this thread's next
        call is entered. A call whose end is lost counts at its worst case and is made again, as one in flight.
        """
        self._commits.soon(Close(call_id, "settled", reply=reply, usd=usd, keep_as=keep_as))

    @patient
    def release(self, call_id: int, *, was_billed: bool) -> None:
        """End a call without a reply: given back when surely unbilled, else kept as spent (`unknown`)."""
        self._commits.now(Close(call_id, "unknown" if was_billed else "released"))

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
        with self.reading() as connection:
            totals = self.ledger.totals(connection)
        return Spend(
            calls={role: total.calls for role, total in totals.items() if total.calls},
            tokens_in=sum(total.tokens_in for total in totals.values()),
            tokens_out=sum(total.tokens_out for total in totals.values()),
            cost_usd=sum(total.usd for total in totals.values()),
            unpriced=self.unpriced,
        )

    def n_failed(self) -> int:
        """Return how many attempts of calls ended without a reply."""
        table = ledger_table.c
        where = (table.study == self.study) & table.state.in_(("released", "unknown"))
        query = sa.select(sa.func.count()).select_from(ledger_table).where(where)
        with self.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def spend_of_trials(self, trials: Sequence[int] | None = None) -> dict[int, Spend]:
        """Return calls, tokens and money by trial number, of all or of the given ones."""
        table, sums = ledger_table.c, ("tokens_in", "tokens_out", "usd")
        query = (
            sa.select(table.trial, table.role, sa.func.count().label("calls"))
            .add_columns(*(sa.func.sum(table[name]).label(name) for name in sums))
            .where(table.study == self.study, table.state != "released")
            .where(table.trial.in_(trials) if trials is not None and len(trials) < MANY else table.trial.is_not(None))
            .group_by(table.trial, table.role)
        )
        spends: dict[int, Spend] = {}
        with self.reading() as connection:
            for row in connection.execute(query):
                old = spends.get(row.trial, Spend())
                spends[row.trial] = Spend(
                    calls={**old.calls, row.role: row.calls},
                    tokens_in=old.tokens_in + int(row.tokens_in),
                    tokens_out=old.tokens_out + int(row.tokens_out),
                    cost_usd=old.cost_usd + row.usd,
                    unpriced=self.unpriced,
                )
        return spends

    # -- any other table ---------------------------------------------------------------------

    def change_later(self, make: Callable[[sa.Connection], object]) -> None:
        """Change something with the next call or at `flush`, after all that was entered before.

        Args:
            make: may be called twice, when nobody saw how the first transaction ended.
        """
        self._commits.later(Change(make))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read with one transaction."""
        with storage_errors(), self.engine.connect().execution_options(reads_only=True) as connection:
            yield connection

    # -- below -----------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with storage_errors(), self.engine.begin() as connection:
            yield connection

    def _insert_missing(self, table: sa.Table, values: Mapping[str, object]) -> None:
        with self._writing() as connection:
            insert_or_ignore(connection, table, [values])
