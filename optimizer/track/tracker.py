"""Showing a study in MLflow without ever holding it up, and rebuilding the whole picture on demand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from optimizer.errors import ConfigError
from optimizer.records import StudyView
from optimizer.storage.crash_points import crash_point
from optimizer.track.mlflow_view import MlflowView, foreign_errors, is_refusal
from optimizer.track.outbox import DONE, GIVEN_UP, WAITING, Entry, EntryKind, Outbox
from optimizer.track.projection import Projection, shown_uri

log = logging.getLogger("optimizer.track")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
CLOSE_TIMEOUT_S = 30.0  # the report and its plots take seconds
OTHERS_S = 5.0  # between two looks at what other workers have marked
# It rests so many times as long as it kept a core busy: trials gather meanwhile, and the search has the core.
REST = 20
LONGEST_REST_S = 20.0
TRIES_OF_A_REFUSED_ENTRY = 3


class Tracker:
    """What the run loop talks to: three short calls that mark work, and a thread that does it.

    No method raises because of MLflow, and none waits for it but `close`, which waits for a bounded time. What is
    not shown when the process ends is shown by the next one.
    """

    def __init__(
        self,
        outbox: Outbox,
        projection: Projection,
        read_view: Callable[[], StudyView],
        leads: Callable[[], bool] | None = None,
    ) -> None:
        self._leads = leads
        self._outbox = outbox
        self._projection = projection
        self._read_view = read_view
        self._mlflow: MlflowView | None = None
        self._wake, self._closing = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._n_waiting, self._n_given_up = outbox.n_with(WAITING), outbox.n_with(GIVEN_UP)
        self._reason, self._n_tries = "", 0
        self._thread = threading.Thread(target=self._work, name="optimizer-track", daemon=True)

    @classmethod
    def start(
        cls,
        *,
        engine: Engine,
        study: str,
        projection: Projection,
        read_view: Callable[[], StudyView],
        leads: Callable[[], bool] | None = None,
    ) -> Tracker:
        """Open the outbox in the study's database and begin to work on what it holds.

        Where several workers mark, only the one of which `leads` is true writes.

        `read_view` is called in the tracker's thread and must return a fresh view each time.
        """
        tracker = cls(Outbox(engine, study), projection, read_view, leads)
        tracker._add("start")
        tracker._thread.start()
        return tracker

    def trial_finished(self, number: int) -> None:
        """Mark that a trial has its final state in the study's database."""
        self._add("trial", number)

    def study_finished(self) -> None:
        """Mark that the study has paused or finished."""
        self._add("finish")

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Show what is waiting, for at most `timeout_s` seconds, and stop. The rest stays in the outbox."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if self.status != "up to date":
            log.warning("MLflow view: %s", self.status)

    @property
    def status(self) -> str:
        """`up to date`, `N waiting: <reason>`, or what was left out and how to add it."""
        with self._lock:
            waiting, given_up, reason = self._n_waiting, self._n_given_up, self._reason
        if waiting:
            return f"{waiting} waiting: {reason or 'being written'}"
        if given_up:
            return f"{given_up} left out: {reason or 'refused by MLflow'}; `optimizer track` writes them again"
        return "up to date"

    def _add(self, kind: EntryKind, ref: int = 0) -> None:
        try:
            self._outbox.add(kind, ref)
        except SQLAlchemyError as error:  # `start` and `finish` show every trial, so a lost mark is made good
            log.warning("MLflow view: %s %s not marked: %s", kind, ref, _one_line(error))
            return
        with self._lock:
            self._n_waiting += 1
        self._wake.set()

    def _work(self) -> None:
        pause_s, is_first = FIRST_PAUSE_S, True  # the first look imports MLflow, which says nothing of the next ones
        while True:
            is_last = self._closing.is_set()  # read first: what was added before closing is seen below
            self._wake.clear()
            began_s = time.thread_time()
            try:
                self._drain()
            except Exception as error:  # border: nothing from MLflow may reach the run; type and message are kept
                self._record(error)
                self._closing.wait(0 if is_last else pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S
                if not is_last:
                    rest_s = FIRST_PAUSE_S if is_first else REST * (time.thread_time() - began_s)
                    self._closing.wait(min(rest_s, LONGEST_REST_S))
                    is_first = False
                    self._wake.wait(None if self._leads is None else OTHERS_S)
            if is_last:
                return

    def _drain(self) -> None:
        if self._leads is not None:
            is_mine = self._leads()
            with self._lock:
                self._n_waiting = self._outbox.n_with(WAITING) if is_mine else 0
            if not is_mine:
                return
        while entries := self._outbox.waiting():
            view = self._read_view()
            for group in grouped(entries, n=1 if self._n_tries else len(entries)):
                self._show(group, view)

    def _show(self, entries: Sequence[Entry], view: StudyView) -> None:
        try:
            self._mlflow = self._mlflow or MlflowView(self._projection)
            show(self._mlflow, entries, view)
        except Exception as error:  # border, see `_work`
            self._mlflow = None  # what it remembers of the store may be wrong now
            self._n_tries += 1
            is_hopeless = is_refusal(error) or not isinstance(error, foreign_errors())
            if not is_hopeless or self._n_tries < TRIES_OF_A_REFUSED_ENTRY or len(entries) > 1:
                raise
            self._record(error)
            self._settle(entries, is_given_up=True)
            return
        crash_point("outbox")
        self._settle(entries, is_given_up=False)

    def _settle(self, entries: Sequence[Entry], *, is_given_up: bool) -> None:
        self._outbox.mark(*entries, done=GIVEN_UP if is_given_up else DONE)
        self._n_tries = 0
        with self._lock:
            self._n_waiting -= len(entries)
            self._n_given_up += is_given_up
            if not is_given_up and not self._n_given_up:
                self._reason = ""

    def _record(self, error: Exception) -> None:
        reason = self._projection.preview(f"{shown_uri(self._projection.uri)}: {_one_line(error)}", 300)
        with self._lock:
            is_new, self._reason = reason != self._reason, reason
        log.log(logging.WARNING if is_new else logging.DEBUG, "MLflow view: %s", reason)


class NoTracker:
    """Stands in for `Tracker` when tracking is switched off."""

    status = "off"

    def trial_finished(self, number: int) -> None:
        """Do nothing."""

    def study_finished(self) -> None:
        """Do nothing."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Do nothing."""


def grouped(entries: Sequence[Entry], *, n: int) -> Iterator[Sequence[Entry]]:
    """Yield the entries in order: up to `n` trials that follow each other together, anything else alone."""
    trials: list[Entry] = []
    for entry in entries:
        if trials and (entry.kind != "trial" or len(trials) >= n):
            yield trials
            trials = []
        if entry.kind == "trial":
            trials.append(entry)
        else:
            yield [entry]
    if trials:
        yield trials


def show(mlflow: MlflowView, entries: Sequence[Entry], view: StudyView) -> None:
    """Have the effect of a group of outbox entries. Showing it again changes nothing.

    `start` and `finish` go over every trial, which makes good any mark that a crash or a full disk has lost.
    """
    kind, numbers = entries[0].kind, {entry.ref for entry in entries}
    if kind == "trial":
        mlflow.log_trials(view, [trial for trial in view.trials if trial.number in numbers])
        return
    mlflow.log_all(view)
    if kind == "finish":
        mlflow.finish(view)


def rebuild(view: StudyView, projection: Projection) -> str:
    """Write the whole study to MLflow and return the parent run's id. Adds what is missing, repeats nothing.

    Raises:
        ConfigError: the store cannot be reached or refuses.
    """
    errors = foreign_errors()
    try:
        mlflow = MlflowView(projection)
        mlflow.log_all(view)
        return mlflow.finish(view)
    except errors as error:
        reason = projection.preview(_one_line(error), 300)
        raise ConfigError(
            f"tracking.uri: MLflow at {shown_uri(projection.uri)!r} cannot be written: {reason}; "
            "start the server, or give the URI of another store"
        ) from error


def _one_line(error: Exception) -> str:
    return shown_uri(f"{type(error).__name__}: {' '.join(str(error).split())}")
