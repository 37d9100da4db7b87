"""Rows of trials in Optuna's tables, written and read without its ORM, which takes milliseconds over each of them.

The tables are Optuna's own. What stands in them afterwards is what `RDBStorage` would have written
(`tests/test_trial_storage.py` compares them), so everything that reads Optuna's databases reads them. That holds for
one version of Optuna's schema, `SCHEMA`; what is done with another one is decided in `optimizer.search.trial_storage`.

Everything here may be carried out twice: a transaction whose end nobody saw is repeated.
"""

from __future__ import annotations

import enum
import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna import distributions
from optuna.distributions import BaseDistribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite

from optimizer.errors import Paused
from optimizer.storage.statements import Statement

SCHEMA = "v3.2.0.a"
MANY = 500  # trials: from here on they are not named one by one

Value, Intermediate = models.TrialValueModel, models.TrialIntermediateValueModel
_TRIALS: sa.Table = models.TrialModel.__table__
_PARAMS: sa.Table = models.TrialParamModel.__table__
_VALUES: sa.Table = Value.__table__
_STEPS: sa.Table = Intermediate.__table__
USER: sa.Table = models.TrialUserAttributeModel.__table__
SYSTEM: sa.Table = models.TrialSystemAttributeModel.__table__


@dataclass(slots=True)
class Row:
    """Where a trial is in the database; nowhere as long as it has not been written."""

    written: int | None = None

    @property
    def id(self) -> int:
        assert self.written is not None, "a trial is entered before what it has"
        return self.written


class Head(NamedTuple):
    """What stands of a trial in the table of trials itself."""

    id: int
    number: int
    state: TrialState
    start: datetime | None
    complete: datetime | None


# -- write ----------------------------------------------------------------------------------------


def create(connection: sa.Connection, row: Row, study_id: int, trial: FrozenTrial) -> None:
    """Enter a trial with all that it has.

    Raises:
        Paused: its number is taken: something else than this program adds trials to the study.
    """
    place = {"study_id": study_id, "number": trial.number}
    taken = [row_id for (row_id,) in _PLACE.rows(connection, place)]
    if any(row_id != row.written for row_id in taken):
        raise Paused("storage", f"storage: another program has added trial {trial.number + 1} to the study; run again")
    if not taken:
        times = {"datetime_start": _utc(trial.datetime_start), "datetime_complete": _utc(trial.datetime_complete)}
        row.written = _INSERT.rows(connection, _plain(connection, {**place, **times, "state": trial.state}))[0][0]
    set_values(connection, row, trial.values or ())
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        set_param(connection, row, name, distribution.to_internal_repr(value), distribution)
    for key, value in trial.user_attrs.items():
        set_attribute(connection, row, USER, key, json.dumps(value))
    for key, value in trial.system_attrs.items():
        set_attribute(connection, row, SYSTEM, key, json.dumps(value))
    for step, value in trial.intermediate_values.items():
        set_step(connection, row, step, value)


def set_param(connection: sa.Connection, row: Row, name: str, value: float, distribution: BaseDistribution) -> None:
    """Enter a parameter; one that is there stays."""
    text = distributions.distribution_to_json(distribution)
    found = {"trial_id": row.id, "param_name": name, "param_value": value, "distribution_json": text}
    _upsert(connection.dialect.name, _PARAMS).many(connection, [found])


def set_attribute(connection: sa.Connection, row: Row, table: sa.Table, key: str, text: str) -> None:
    """Enter an attribute of users (`USER`) or of samplers (`SYSTEM`) as JSON."""
    _upsert(connection.dialect.name, table).many(connection, [{"trial_id": row.id, "key": key, "value_json": text}])


def set_step(connection: sa.Connection, row: Row, step: int, value: float) -> None:
    """Enter the value after a step."""
    stored, kind = Intermediate.intermediate_value_to_stored_repr(value)
    found = {"trial_id": row.id, "step": step, "intermediate_value": stored, "intermediate_value_type": kind}
    _upsert(connection.dialect.name, _STEPS).many(connection, [_plain(connection, found)])


def set_values(connection: sa.Connection, row: Row, values: Sequence[float]) -> None:
    """Enter what a trial has come to."""
    for objective, value in enumerate(values):
        stored, kind = Value.value_to_stored_repr(value)
        found = {"trial_id": row.id, "objective": objective, "value": stored, "value_type": kind}
        _upsert(connection.dialect.name, _VALUES).many(connection, [_plain(connection, found)])


def set_state(connection: sa.Connection, row: Row, trial: FrozenTrial) -> None:
    """Move a trial to its state, with its values and times; one that has ended stays as it is."""
    set_values(connection, row, trial.values or ())
    times = {"start": _utc(trial.datetime_start), "complete": _utc(trial.datetime_complete)}
    _STATE.many(connection, [_plain(connection, {"row": row.id, "to": trial.state, **times})])


# -- read -----------------------------------------------------------------------------------------


def heads(connection: sa.Connection, study_id: int, *, since: int = 0) -> list[Head]:
    """Return what stands of the trials from a number on, in order of number."""
    columns = (_TRIALS.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete"))
    of_study = (_TRIALS.c.study_id == study_id) & (_TRIALS.c.number >= since)
    query = sa.select(*columns).where(of_study).order_by(_TRIALS.c.number)
    return [Head(*row) for row in connection.execute(query)]


def read(connection: sa.Connection, study_id: int, wanted: Sequence[Head]) -> list[FrozenTrial]:
    """Return trials with all that they have. They are named by their number, which is their id here, too."""
    if not wanted:
        return []

    def parts(table: sa.Table, *names: str) -> defaultdict[int, list[Any]]:
        """Return rows of another table by trial, in the order in which they were entered."""
        among: Any = [head.id for head in wanted]
        if len(among) >= MANY:
            among = sa.select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id)
        query = sa.select(table.c.trial_id, *(table.c[name] for name in names))
        found = defaultdict[int, list[Any]](list)
        for row_id, *row in connection.execute(query.where(table.c.trial_id.in_(among)).order_by(*table.primary_key)):
            found[row_id].append(row)
        return found

    params = parts(_PARAMS, "param_name", "param_value", "distribution_json")
    values = parts(_VALUES, "objective", "value", "value_type")
    steps = parts(_STEPS, "step", "intermediate_value", "intermediate_value_type")
    user, system = parts(USER, "key", "value_json"), parts(SYSTEM, "key", "value_json")
    return [
        FrozenTrial(
            number=head.number,
            trial_id=head.number,
            state=head.state,
            value=None,
            values=[Value.stored_repr_to_value(*stored) for _, *stored in sorted(values[head.id])] or None,
            datetime_start=_local(head.start),
            datetime_complete=_local(head.complete),
            params={name: distribution_of(text).to_external_repr(value) for name, value, text in params[head.id]},
            distributions={name: distribution_of(text) for name, _, text in params[head.id]},
            user_attrs={key: json.loads(text) for key, text in user[head.id]},
            system_attrs={key: json.loads(text) for key, text in system[head.id]},
            intermediate_values={
                step: Intermediate.stored_repr_to_intermediate_value(*stored) for step, *stored in steps[head.id]
            },
        )
        for head in wanted
    ]


# -- below ----------------------------------------------------------------------------------------

distribution_of = functools.cache(distributions.json_to_distribution)


def _utc(local: datetime | None) -> datetime | None:
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


def _local(utc: datetime | None) -> datetime | None:
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _plain(connection: sa.Connection, values: Mapping[str, object]) -> Mapping[str, object]:
    """Return values as SQLAlchemy writes them in SQLite, whose driver is spoken to directly."""
    if connection.dialect.name != "sqlite":
        return values
    return {name: _as_text(value) for name, value in values.items()}


def _as_text(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(" ", "microseconds")
    return value.name if isinstance(value, enum.Enum) else value


@functools.cache
def _upsert(dialect: str, table: sa.Table) -> Statement:
    """Insert a row of a trial, or replace what stands there under the same name; a parameter that is there stays."""
    own, (trial, name, *content) = table.primary_key.columns.values()[0], _columns(table)
    insert: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    insert = insert.values({column.name: sa.bindparam(column.name) for column in table.c if column is not own})
    if table is _PARAMS:
        return Statement(insert.on_conflict_do_nothing(index_elements=[trial, name]))
    new = {column.name: insert.excluded[column.name] for column in content}
    return Statement(insert.on_conflict_do_update(index_elements=[trial, name], set_=new))


def _columns(table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns of a table of parts: trial, name, content."""
    return [column for column in table.c if not column.primary_key]


_PLACE = Statement(
    sa.select(_TRIALS.c.trial_id).where(
        _TRIALS.c.study_id == sa.bindparam("study_id"), _TRIALS.c.number == sa.bindparam("number")
    )
)
_INSERT = Statement(
    sa.insert(_TRIALS)
    .values({column.name: sa.bindparam(column.name) for column in _TRIALS.c if not column.primary_key})
    .returning(_TRIALS.c.trial_id)
)
_STATE = Statement(
    sa.update(_TRIALS)
    .where(
        _TRIALS.c.trial_id == sa.bindparam("row"),
        sa.or_(
            _TRIALS.c.state == sa.literal_column("'RUNNING'"),
            _TRIALS.c.state == sa.literal_column("'WAITING'"),
        ),
    )
    .values(state=sa.bindparam("to"), datetime_start=sa.bindparam("start"), datetime_complete=sa.bindparam("complete"))
)
