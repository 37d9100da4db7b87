"""MLflow away, killed and back, as a real `mlflow server` in a process of its own, and what studies make of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from optimizer.study.saved import open_saved
from optimizer.study.tracking import saved_projection
from optimizer.track import Tracker, free_port, ui_command
from optimizer.track.content import Lineage, trial_content
from optimizer.track.points import Charts, final_points
from tests.fake_server import Body, FakeServer
from tests.faults import Figures, answer, outline, run_here, write_study
from tests.servers import wait_until_up

UP_S = 400.0


class MlflowServer:
    """A server on an SQLite store, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.store = folder, free_port(preferred=0), folder / "server.db"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command, extra = ui_command(f"sqlite:///{self.store}", port=self.port)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **extra}, start_new_session=True
            )
        wait_until_up(f"{self.url}/health", self.process, self.folder / "server.log", timeout_s=UP_S)

    def kill(self) -> None:
        """End the server and its workers, as by `kill -9`."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def n_runs(self) -> int:
        try:
            with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=30)) as connection:
                return int(connection.execute("SELECT COUNT(*) FROM runs").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


class Permits:
    """The fruit model, which answers as many calls as it is allowed to, and the rest later."""

    def __init__(self) -> None:
        self.n_left, self.changed = 0.0, threading.Condition()

    def __call__(self, body: Body) -> str:
        with self.changed:
            self.changed.wait_for(lambda: self.n_left > 0, UP_S)
            self.n_left -= 1
        return answer(body)

    def allow(self, n: float) -> None:
        with self.changed:
            self.n_left += n
            self.changed.notify_all()


@contextmanager
def timed_marks() -> Iterator[list[float]]:
    """Measure how long the search waits each time that it tells MLflow's outbox something, in seconds."""
    took: list[float] = []
    whole = Tracker._add

    def timed(*args: Any) -> None:
        started = time.monotonic()
        whole(*args)
        took.append(time.monotonic() - started)

    with mock.patch.object(Tracker, "_add", timed):
        yield took


def shown_once(runs_dir: Path, store: Path) -> Figures:
    """Check that a store shows the study and each trial once, with every point that the journal knows, each once."""
    saved = open_saved(runs_dir, "fruit")
    view, projection = saved.view(), saved_projection(saved)
    lineage = Lineage(view)
    charts = [point for _, points in Charts().points(view) for point in points]
    wanted = Counter(("", point.key, point.step) for point in [*final_points(view), *charts])
    for trial in view.trials:
        points = trial_content(view, trial, projection, lineage).points
        wanted |= Counter((str(trial.number + 1), p.key, p.step) for p in points)
    saved.journal.engine.dispose()
    number = "(SELECT value FROM tags WHERE key = 'optimizer.trial' AND run_uuid = {})"
    with closing(sqlite3.connect(store)) as connection:
        runs = Counter(n or "" for (n,) in connection.execute(f"SELECT {number.format('runs.run_uuid')} FROM runs"))
        query = f"SELECT {number.format('metrics.run_uuid')}, key, step FROM metrics"
        points_there = Counter((n or "", key, step) for n, key, step in connection.execute(query))
    assert runs == Counter(["", *(str(trial.number + 1) for trial in view.trials)]), runs
    assert points_there == wanted, f"missing {wanted - points_there}, too many {points_there - wanted}"
    return {"runs in MLflow": sum(runs.values()), "points, each once": sum(points_there.values())}


def track(folder: Path) -> None:
    """`optimizer track`, as a user runs it."""
    command = [sys.executable, "-m", "optimizer", "track", "fruit", "--runs-dir", str(folder / "runs")]
    subprocess.run(command, check=True, capture_output=True, timeout=600)


def tracker_away(folder: Path) -> Figures:
    """Run with nobody at MLflow's address, then start the server there and let `track` write the study, twice."""
    mlflow = MlflowServer(folder)
    with FakeServer(answer) as server:
        whole = run_here(write_study(folder / "whole", server.url), folder / "whole/runs")
        path = write_study(folder, server.url, tracking={"enabled": True, "uri": mlflow.url})
        with timed_marks() as marks:
            view = run_here(path, folder / "runs")
    assert outline(view) == outline(whole)
    try:
        mlflow.start()
        track(folder)
        once = shown_once(folder / "runs", mlflow.store)
        track(folder)
        assert shown_once(folder / "runs", mlflow.store) == once
    finally:
        mlflow.kill()
    return {
        "same scores": True,
        "the search waited for a mark, ms": {
            "median": round(1000 * statistics.median(marks)),
            "longest": round(1000 * max(marks)),
        },
        **once,
    }


def tracker_killed(folder: Path, n_kills: int = 3) -> Figures:
    """Kill the server of MLflow again and again while a study is shown there, and start it again each time."""
    mlflow, model = MlflowServer(folder), Permits()
    errors: list[BaseException] = []

    def trouble() -> None:
        try:
            for _ in range(n_kills):
                n_before, ends_at = mlflow.n_runs(), time.monotonic() + UP_S
                model.allow(25)
                while mlflow.n_runs() <= n_before:  # something more is shown
                    assert time.monotonic() < ends_at, "nothing new is shown"
                    time.sleep(0.02)
                mlflow.kill()
                model.allow(10)
                mlflow.start()
        except BaseException as error:
            errors.append(error)
        finally:
            model.allow(float("inf"))

    try:
        with FakeServer(answer) as server:
            whole = run_here(write_study(folder / "whole", server.url), folder / "whole/runs")
        mlflow.start()
        with FakeServer(model) as server:
            path = write_study(folder, server.url, tracking={"enabled": True, "uri": mlflow.url})
            killer = threading.Thread(target=trouble)
            killer.start()
            with timed_marks() as marks:
                view = run_here(path, folder / "runs")
            killer.join()
        assert errors == []
        assert outline(view) == outline(whole)
        track(folder)  # the rest, where the server was up again too late
        once = shown_once(folder / "runs", mlflow.store)
    finally:
        mlflow.kill()
    return {
        "kills of MLflow": n_kills,
        "same scores": True,
        "the search waited for a mark, ms": {
            "median": round(1000 * statistics.median(marks)),
            "longest": round(1000 * max(marks)),
        },
        **once,
    }
