"""A model whose replies are kept by content, and a meter that counts what a run asked of it.

Kept replies make the benchmark cheap to repeat and let all methods be tested on the same answers. They never make a run
look cheaper: a call counts once for each run that makes it, whether or not its reply was kept.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from optimizer.lm.backend import Backend, CallRequest, Reply


class OutOfCalls(BaseException):
    """The run has made as many calls as it may. Not an `Exception`: no optimizer may take it for a bad prompt."""


class KeptReplies:
    """A backend before the real one. Several threads and processes may use it at once."""

    n_lanes = 1
    is_local = True

    def __init__(self, inner: Backend, path: Path) -> None:
        self.identity = inner.identity
        self.style: Literal["completion", "chat"] = inner.style
        self._inner = inner
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")
        self._file.execute("CREATE TABLE IF NOT EXISTS reply (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")

    def abandon(self, after_s: float) -> None:
        """Nothing waits here."""

    def use_lane(self, lane: int) -> None:
        self._inner.use_lane(lane)

    def complete(self, request: CallRequest) -> Reply:
        key = hashlib.sha256(f"{self.identity}\n{request!r}".encode()).hexdigest()
        with self._lock:
            row = self._file.execute("SELECT reply FROM reply WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return Reply(**json.loads(row[0]))
            reply = self._inner.complete(request)
            self._file.execute("INSERT OR IGNORE INTO reply VALUES (?, ?)", (key, json.dumps(asdict(reply))))
            return reply

    def close(self) -> None:
        """Leave everything open: one model serves all runs of a process."""


class Meter:
    """Counts the different requests of one run, as any optimizer's own cache would, and ends it at its last call."""

    def __init__(self, complete: Callable[[CallRequest], Reply], *, max_calls: int) -> None:
        self._complete = complete
        self._max_calls = max_calls
        self._seen: set[CallRequest] = set()

    @property
    def n_calls(self) -> int:
        return len(self._seen)

    def complete(self, request: CallRequest) -> Reply:
        """Pass the request on.

        Raises:
            OutOfCalls: this would be a call too many.
        """
        if request not in self._seen:
            if self.n_calls >= self._max_calls:
                raise OutOfCalls
            self._seen.add(request)
        return self._complete(request)
