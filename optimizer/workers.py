"""Several processes on one study: refused where they could not work, started on this machine, joining again.

What they share and how they agree is in `optimizer.machines.crew` and `optimizer.study.sharing`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from optimizer.errors import ConfigError, Paused
from optimizer.machines.crew import is_passing
from optimizer.records import StudyView
from optimizer.run import run
from optimizer.storage.away import AGAIN_S, AWAY_S
from optimizer.storage.database import is_shared
from optimizer.storage.files import PRIVATE_FILE
from optimizer.study.job import Job
from optimizer.study.observe import Observer

logger = logging.getLogger(__name__)

MAX_REJOINS = 20  # within a study; more than any night of restarts
LEAVE_S = 60.0  # for workers of this machine to end when they are told to
SEE_S = 30.0  # for them to see a verdict, which they look for several times a second, and to end by themselves


def require_server(storage: str | None) -> None:
    """Refuse several processes on a database that is a file.

    Raises:
        ConfigError: it is one.
    """
    if not is_shared(storage or "sqlite"):
        raise ConfigError(
            f"storage: {storage or 'the study.db of the run folder'!r} is an SQLite file, which one process works on "
            "at a time; for workers give a PostgreSQL server that all of them reach: "
            "storage: postgresql+psycopg://USER@HOST/NAME"
        )


class Team:
    """The other workers of this machine, processes of their own that end with this one."""

    def __init__(self, arguments: Sequence[str], n_others: int, output: Path) -> None:
        self._arguments, self._n, self._output = list(arguments), n_others, output
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start them, once."""
        if self._processes or not self._n:
            return
        with open(self._output, "ab", opener=_private) as output:
            for _ in range(self._n):
                command = [sys.executable, "-m", "optimizer", "worker", *self._arguments, "--quiet"]
                self._processes.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
                )

    def end(self, *, is_finished: bool) -> None:
        """Wait until they have ended. Those that do not see by themselves that the study is finished are told to."""
        if is_finished:
            self._wait(SEE_S)
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        self._wait(LEAVE_S)

    def _wait(self, at_most_s: float) -> None:
        ends_at = time.monotonic() + at_most_s
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, ends_at - time.monotonic()))


def run_joining(open_job: Callable[[], Job], observer: Observer, on_open: Callable[[], None]) -> tuple[StudyView, Job]:
    """Work on a study until its verdict stands; join again after the database was away. Return it and its closed job.

    Raises:
        Paused: a person or time must act first; run again to continue.
    """
    n_rejoins = 0
    while True:
        job = open_job()
        try:
            return run(job, observer, on_open), job
        except Paused as pause:
            n_rejoins += 1
            if not is_shared(job.storage_url) or not is_passing(pause) or n_rejoins > MAX_REJOINS:
                raise
            logger.warning("%s; joining again", pause)
            observer.waiting(str(pause))
            if not _wait_until_back(job.storage_url):
                raise
            observer.waiting("")
        finally:
            job.close()


def _wait_until_back(url: str) -> bool:
    """Wait until the database answers; False if it does not."""
    engine, ends_at = sa.create_engine(url, poolclass=sa.NullPool), time.monotonic() + AWAY_S
    while time.monotonic() < ends_at:
        try:
            with engine.connect():
                return True
        except sa.exc.DBAPIError:
            time.sleep(AGAIN_S)
    return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)
