"""The tables of the journal, and how its database is opened: an SQLite file, or PostgreSQL for many machines."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from optimizer.errors import ConfigError, OptimizerError, Paused
from optimizer.storage.drivers import require_driver

BUSY_TIMEOUT_S = 30.0  # how long to wait for a database that another process has locked
IDLE_S = 30.0  # a transaction that does nothing for so long belongs to a process that is suspended or cut off
MIN_FREE_BYTES = 16 * 2**20  # below this nothing is spent: a reply that was paid for must find room
DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT}
    | {errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENODEV, errno.ENXIO}
)
PASSING = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
)
SCHEMA_LOCK = 0x0B7A1E5  # any number that no other program locks: new tables are made by one process at a time

metadata = sa.MetaData()

study_table = sa.Table(
    "study",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stop_reason", sa.String(64), nullable=False),
    sa.Column("wall_s", sa.Float, nullable=False),
    sa.Column("records", sa.Text, nullable=False),  # JSON object: config, fingerprints, facts, dev, verdict, ...
)
candidate_table = sa.Table(
    "candidate",
    metadata,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
evaluation_table = sa.Table(
    "evaluation",
    metadata,
    sa.Column("study", sa.String(64), primary_key=True),
    sa.Column("candidate", sa.String(12), primary_key=True),
    sa.Column("example", sa.String(64), primary_key=True),
    sa.Column("metric", sa.String(64), primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
)
reply_table = sa.Table(
    "reply",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
ledger_table = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.String(64), nullable=False, index=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # reserved, settled, released, unknown
    sa.Column("trial", sa.Integer),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("tokens_in", sa.Integer, nullable=False),
    sa.Column("tokens_out", sa.Integer, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
    sa.Index("ledger_of_trial", "study", "trial"),
)
# What the ledger adds up to, kept beside it: a cap is checked on every call.
spend_table = sa.Table(
    "spend",
    metadata,
    sa.Column("study", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("tokens_in", sa.BigInteger, nullable=False),
    sa.Column("tokens_out", sa.BigInteger, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
)

# What people said to a study, also while it runs.
wish_table = sa.Table(
    "wish",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.String(64), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),  # suggest, veto
    sa.Column("candidate", sa.String(12), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

# Who works on a study that several processes share, and what each of them has in hand. Times are the database's own.
worker_table = sa.Table(
    "worker",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),  # the lowest one leads
    sa.Column("id", sa.String(128), nullable=False, unique=True),
    sa.Column("study", sa.String(64), nullable=False, index=True),
    sa.Column("beat_at", sa.Float, nullable=False),
)
claim_table = sa.Table(
    "claim",
    metadata,
    sa.Column("study", sa.String(64), primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.String(128), nullable=False),
)
lease_table = sa.Table(
    "lease",
    metadata,
    sa.Column("study", sa.String(64), primary_key=True),
    sa.Column("candidate", sa.String(12), primary_key=True),
    sa.Column("example", sa.String(64), primary_key=True),
    sa.Column("worker", sa.String(128), nullable=False),
)


def open_engine(url: str, *, is_durable: bool = True) -> sa.Engine:
    """Open the database and create missing tables.

    Args:
        is_durable: survive a power cut, at about 4 ms a commit (SQLite `synchronous=FULL`); otherwise only the death
            of the process. Studies that call nothing but in-process models need no more than that.

    Raises:
        ConfigError: the URL is none, its driver is missing, or the database cannot be reached.
        Paused: it is there but cannot be written now: full, locked, read-only.
    """
    where = f"storage: {sa.engine.make_url(url).render_as_string()!r}" if "://" in url else f"storage: {url!r}"
    try:
        return _opened(url, is_durable=is_durable)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            f"{where} is no database that can be used: {_first_line(error)}; give sqlite:///PATH or "
            "postgresql+psycopg://USER@HOST/NAME"
        ) from error
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in PASSING:
            raise _paused(error) from error
        raise ConfigError(f"{where} cannot be opened: {_first_line(error.orig or error)}") from error


def _opened(url: str, *, is_durable: bool) -> sa.Engine:
    require_driver(url)
    # Transactions take milliseconds: threads queue for a few connections instead of contending for one file.
    engine = sa.create_engine(url, pool_size=8, max_overflow=0, pool_timeout=120, pool_pre_ping="sqlite" not in url)
    if engine.dialect.name == "sqlite":
        prepare_sqlite(engine, is_durable=is_durable)
        sa.event.listen(engine, "connect", _leave_transactions_to_us)
        sa.event.listen(engine, "begin", _begin)
    else:
        prepare_postgresql(engine)
    with making_tables(engine) as connection:
        metadata.create_all(connection)
    return engine


@contextmanager
def making_tables(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Let one process at a time make tables, where several can begin at once."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        yield connection


def is_shared(url: str) -> bool:
    """Whether several processes may work on a study in this database."""
    return url.startswith("postgresql")


def prepare_postgresql(engine: sa.Engine, *, is_durable: bool = True) -> None:
    """End transactions whose process was suspended or cut off, so that its locks do not hold up everybody.

    Args:
        is_durable: whether a commit waits for the disk. One that does brings all earlier ones along.
    """

    def set_limits(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET idle_in_transaction_session_timeout = {int(1000 * IDLE_S)}")
        cursor.execute(f"SET synchronous_commit = {'on' if is_durable else 'off'}")
        cursor.close()
        connection.commit()

    sa.event.listen(engine, "connect", set_limits)
    engine.dispose()


def prepare_sqlite(engine: sa.Engine, *, is_durable: bool) -> None:
    """Set WAL, the sync level and patience on every connection of an SQLite engine, also of one already in use."""

    def set_pragmas(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(1000 * BUSY_TIMEOUT_S)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
        cursor.close()

    sa.event.listen(engine, "connect", set_pragmas)
    engine.dispose()


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a database or disk that cannot be used (locked, full, read-only, gone) into a pause.

    Optuna wraps what SQLAlchemy raises, so causes are looked at, too.

    Raises:
        Paused: with reason `storage`.
    """
    try:
        yield
    except OptimizerError:
        raise
    except Exception as error:
        cause = _storage_cause(error)
        if cause is None:
            raise
        raise _paused(cause) from error


def is_away(error: BaseException | None) -> bool:
    """Whether the database server did not answer or ended the connection, so that trying again may help."""
    while error is not None:
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
            return True
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


def require_space(engine: sa.Engine) -> None:
    """Refuse to spend when what is paid for might find no room. Databases on other machines are not looked at.

    Raises:
        Paused: with reason `storage`.
    """
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path or path == ":memory:":
        return
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
    if free < MIN_FREE_BYTES:
        raise Paused(
            "storage",
            f"storage: {free / 2**20:.1f} MiB are left on the disk of the study's database, {MIN_FREE_BYTES // 2**20} "
            "are wanted before anything is spent; make room and run again to continue",
        )


def _storage_cause(error: BaseException | None) -> BaseException | None:
    """Return what the database or the disk said, or None when neither is to blame."""
    while error is not None:
        if isinstance(error, sa.exc.DBAPIError | sa.exc.TimeoutError):
            return error
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        error = error.__cause__
    return None


def _paused(error: BaseException) -> Paused:
    if isinstance(error, OSError):
        what = (
            f"{str(error.filename)!r} cannot be written" if error.filename else "a file of the study cannot be written"
        )
        return Paused("storage", f"storage: {what}: {error.strerror}; mend that and run again to continue")
    reason = _first_line((isinstance(error, sa.exc.DBAPIError) and error.orig) or error)
    return Paused("storage", f"storage: the study's database cannot be used: {reason}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # otherwise the driver sends a BEGIN of its own before the first write


def _begin(connection: sa.Connection) -> None:
    """Take SQLite's write lock at once: a read that becomes a write later can find the file changed, and fails."""
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
