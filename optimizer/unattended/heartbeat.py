"""What another terminal can know of a running study, and the watchdog that breaks a long silence.

A small file in the run folder says every few seconds who runs the study, what it is doing and when it expects to end.
It is a convenience: losing it, or a full disk, changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from optimizer.candidate import Candidate
from optimizer.privacy.redaction import redact
from optimizer.records import StudyView, TrialRecord
from optimizer.storage.files import PRIVATE_FILE
from optimizer.study.observe import Observer
from optimizer.study.stops import left_s
from optimizer.words import duration

if TYPE_CHECKING:
    from optimizer.search.optuna_study import Ticket
    from optimizer.study.session import Session

logger = logging.getLogger(__name__)

FILE = "live.json"
BEAT_S = 2.0
SILENT_AFTER_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The last sign of life of a running study. Times are seconds since 1970.

    Attributes:
        phase: what is being done, in words.
        waiting: why calls are not made or fail, empty while all is well.
        ends_at: when the verdict is expected; None before there is a pace.
        moved_at: when something was last scored, made or decided.
        elapsed_s: what the study has taken so far, all its runs together.
    """

    pid: int
    host: str
    started_at: float
    at: float
    phase: str
    waiting: str
    moved_at: float
    ends_at: float | None
    elapsed_s: float = 0.0


class Heartbeat(Observer):
    """Passes on what a run tells, writes the sign of life, and says what is waited for after a long silence.

    Args:
        clock: seconds that pass while the computer is awake.
    """

    def __init__(self, run_dir: Path, inner: Observer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._inner, self._clock = run_dir / FILE, inner, clock
        self._started_at, self._opened_at = time.time(), clock()
        self._moved_at = self._spoke_at = clock()
        self._phase, self._waiting = "starting", ""
        self._session: Session | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def close(self) -> None:
        """Stop beating; what was written last stays."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_S)
            self._write()

    # -- told by the run ------------------------------------------------------------------------

    def opened(self, session: Session) -> None:
        self._session = session
        self._moves("searching")
        self._write()
        self._thread.start()
        self._inner.opened(session)

    def trial_started(self, ticket: Ticket) -> None:
        self._moves(f"trial {ticket.number + 1}: {ticket.start or ticket.recipe.operator}")
        self._inner.trial_started(ticket)

    def scored(self) -> None:
        self._moved_at = self._clock()
        self._inner.scored()

    def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
        self._moves(self._phase)
        self._inner.trial_finished(trial, is_best=is_best)

    def waiting(self, reason: str) -> None:
        self._waiting = redact(reason)
        self._inner.waiting(reason)

    def silent(self, line: str) -> None:
        self._inner.silent(line)

    def finalists(self, candidates: Sequence[Candidate]) -> None:
        self._moves(f"scoring {len(candidates)} finalists on all dev examples")
        self._inner.finalists(candidates)

    def final_started(self, winner: Candidate, n_rows: int) -> None:
        self._moves(f"final test on {n_rows} examples")
        self._inner.final_started(winner, n_rows)

    def finished(self, view: StudyView) -> None:
        self._moves("done")
        self._inner.finished(view)

    # -- the beat ---------------------------------------------------------------------------------

    def _moves(self, phase: str) -> None:
        self._phase, self._moved_at = phase, self._clock()

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_S):
            try:
                self._write()
                self.watch()
            except Exception as error:  # border: a convenience must not end; type and message are kept
                logger.debug("no sign of life: %s: %s", type(error).__name__, error)

    def watch(self) -> None:
        """Say what is waited for when nothing has moved for long; once, and again after as long a time."""
        now = self._clock()
        if now - max(self._moved_at, self._spoke_at) < SILENT_AFTER_S:
            return
        self._spoke_at = now
        line = f"nothing has moved for {duration(now - self._moved_at)} ({self._phase}); waiting for {self._awaited()}"
        logger.warning("%s", line)
        self.silent(line)

    def _awaited(self) -> str:
        calls = self._session.models.in_flight() if self._session else []
        if self._waiting:
            return self._waiting
        if not calls:
            return "no model: metric, program or disk is slow"
        role, oldest_s = max(calls, key=lambda call: call[1])
        return f"{len(calls)} replies, the oldest of lm.{role} since {duration(oldest_s)}"

    def _write(self) -> None:
        if self._session is not None and not self._session.is_first_here:
            return  # another worker's file
        now = time.time()
        live = Live(
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=self._started_at,
            at=now,
            phase=self._phase,
            waiting=self._waiting,
            moved_at=now - (self._clock() - self._moved_at),
            ends_at=None if (left_s := self._left_s()) is None else now + left_s,
            elapsed_s=self._session.elapsed_s if self._session else 0.0,
        )
        temporary = self._path.with_name(f".{FILE}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(live), file)
            os.replace(temporary, self._path)
        with contextlib.suppress(OSError):
            temporary.unlink()  # what a full disk left of it

    def _left_s(self) -> float | None:
        return left_s(self._session) if self._session else None


def read_live(run_dir: Path) -> Live | None:
    """Return the last sign of life of a study, None when there is none."""
    try:
        return Live(**cast("dict[str, Any]", json.loads((run_dir / FILE).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return None


def forget_live(run_dir: Path) -> None:
    """Take away the sign of life of an earlier process."""
    (run_dir / FILE).unlink(missing_ok=True)
