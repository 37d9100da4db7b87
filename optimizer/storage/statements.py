"""Statements of the hot path: built and compiled once, and given to SQLite's driver as they are.

SQLAlchemy takes ten times as long over a statement as SQLite does, and every call of a model writes some. PostgreSQL,
whose answers come over a socket, is spoken to through SQLAlchemy. Errors are SQLAlchemy's in both cases.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

Row = Sequence[Any]
_SQLITE = sqlite.dialect(paramstyle="named")


class Statement:
    """One statement, with parameters by name."""

    def __init__(self, clause: sa.ClauseElement) -> None:
        self._clause: Any = clause

    @functools.cached_property
    def _text(self) -> str:
        return str(self._clause.compile(dialect=_SQLITE))

    def rows(self, connection: sa.Connection, values: Mapping[str, object]) -> Sequence[Row]:
        """Carry it out and return what it gives."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._clause, values).all()
        with _errors(connection, self._text):
            found: list[Row] = connection.connection.cursor().execute(self._text, values).fetchall()
            return found

    def many(self, connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> None:
        """Carry it out with each row."""
        if not rows:
            return
        if connection.dialect.name != "sqlite":
            connection.execute(self._clause, rows)
            return
        with _errors(connection, self._text):
            connection.connection.cursor().executemany(self._text, rows)


class Lookup:
    """A selection of rows by the values of one column."""

    def __init__(self, select: sa.Select[Any], column: sa.Column[Any]) -> None:
        self._one = Statement(select.where(column == sa.bindparam("value")))
        self._all = select.where(column.in_(sa.bindparam("values", expanding=True)))

    def rows(self, connection: sa.Connection, values: Sequence[object]) -> Sequence[Row]:
        if not values:
            return []
        if connection.dialect.name != "sqlite":
            return connection.execute(self._all, {"values": list(values)}).all()
        return [row for value in values for row in self._one.rows(connection, {"value": value})]


def insert_or_ignore(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows but those whose key is there already. In order of key, so that two writers cannot deadlock."""
    keys = [column.name for column in table.primary_key]
    ordered = sorted(rows, key=lambda row: [str(row[key]) for key in keys])
    _insert_or_ignore(connection.dialect.name, table).many(connection, ordered)


@functools.cache
def _insert_or_ignore(dialect: str, table: sa.Table) -> Statement:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return Statement(insert(table).on_conflict_do_nothing())


@contextmanager
def _errors(connection: sa.Connection, text: str) -> Iterator[None]:
    """Raise what the driver raises as SQLAlchemy does."""
    driver: Any = connection.dialect.loaded_dbapi
    try:
        yield
    except driver.Error as error:
        raise sa.exc.DBAPIError.instance(text, None, error, driver.Error, dialect=connection.dialect) from error
