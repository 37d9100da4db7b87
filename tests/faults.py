"""Faults that a night brings, done to real studies, and what came of them in figures.

Each scenario runs the fruit study against a server on a loopback socket, which counts every call and is the truth; it
raises AssertionError when a promise is broken and returns what it measured. `tests/test_faults.py` takes a small part
of them, `experiments/faults.py` all.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimizer.config_file import load_config
from optimizer.job import open_job
from optimizer.records import StudyView
from optimizer.run import run
from optimizer.saved import open_saved
from optimizer.track import free_port, ui_command
from tests.fake_server import (
    Body,
    FakeServer,
    Fault,
    error,
    hang,
    quota_used_up,
    rate_limited,
    raw,
    reply,
    reset,
    truncated,
)
from tests.test_main_job import answer, config, labelled_rows

Figures = dict[str, Any]
Crash = tuple[str, int]
STORMS: dict[str, Fault] = {
    "429": rate_limited(),
    "500": error(500, is_billed=True),
    "503": error(503),
    "reset": reset(),
    "timeout": hang(),
    "truncated": truncated(),
    "not UTF-8": raw(b'{"choices":[{"message":{"content":"\xff\xfe"}}]}'),
    "wrong JSON": raw(b'{"hello": 1}'),
    "empty": reply(""),
    "refusing": reply("", finish_reason="content_filter"),
    "20 MB": reply("x" * 20_000_000),
}


def write_study(
    folder: Path, url: str, *, concurrency: int = 1, trials: int = 6, rows: int = 20, **changes: Any
) -> Path:
    """Write rows and configuration of a study; return the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    settings = config(url, **{"tracking": {"enabled": False}, **changes})
    settings["search"] |= {"trials": trials, "in_flight": changes.get("search", {}).get("in_flight", 1)}
    settings["data"]["max_rows"] = {"dev": rows, "test": rows}
    for lm in settings["lm"].values():
        lm |= {"concurrency": concurrency, "timeout": 2.0}
    path = folder / "study.yaml"
    path.write_text(json.dumps(settings))
    return path


def run_here(path: Path, runs_dir: Path) -> StudyView:
    job = open_job(load_config(path), folder=path.parent, runs_dir=runs_dir)
    try:
        return run(job)
    finally:
        job.close()


def outline(view: StudyView) -> list[object]:
    """What must be the same whatever happened on the way: the winner, the trials and their scores."""
    trials = [(trial.state, trial.candidate and trial.candidate.id, trial.score) for trial in view.trials]
    verdict = view.verdict and (view.verdict.decision, view.verdict.seed_score, view.verdict.winner_score)
    return [view.best.id, verdict, *trials]


@contextmanager
def zygote() -> Iterator[subprocess.Popen[str]]:
    """A process that starts others fast."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fault_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


@dataclass
class Server:
    """The fruit model, which can kill its client in the middle of a call."""

    pid: int = 0
    n_until_kill: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, body: Body) -> str:
        with self.lock:
            if self.n_until_kill is not None:
                self.n_until_kill -= 1
                if self.n_until_kill == 0:
                    os.kill(self.pid, signal.SIGKILL)
        return answer(body)


def kept_rows(database: Path) -> set[tuple[str, str]]:
    """What the database has acknowledged: replies and outcomes."""
    if not database.is_file():
        return set()
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"reply", "evaluation"} <= tables:
            return set()
        replies = {("reply", key) for (key,) in connection.execute("SELECT key FROM reply")}
        outcomes = connection.execute("SELECT candidate || ':' || example || ':' || metric FROM evaluation")
        return replies | {("outcome", key) for (key,) in outcomes}


def n_in_ledger(database: Path) -> int:
    """Calls that the ledger shows as spent or under way."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM ledger WHERE state != 'released'").fetchone()[0])


def n_paid_twice(server: FakeServer) -> int:
    bodies = Counter(json.dumps(call.body, sort_keys=True) for call in server.calls)
    return sum(bodies.values()) - len(bodies)


class Killing:
    """Studies that are killed again and again, with the promises checked after each kill."""

    def __init__(self, folder: Path, child: subprocess.Popen[str], *, concurrency: int, seed: int) -> None:
        self.folder, self.child, self.concurrency = folder, child, concurrency
        self.rng = random.Random(seed)
        self.n_kills = self.n_studies = self.n_twice = self.n_calls = self.n_least_calls = 0
        self.by_point: Counter[str] = Counter()
        with FakeServer(answer) as server:
            path = write_study(folder / "whole", server.url, concurrency=concurrency)
            self.expected = outline(run_here(path, folder / "whole/runs"))
            self.n_whole = len(server.calls)

    def study(self, plan: Iterator[Crash]) -> bool:
        """Carry one study to its end through the kills of the plan; return whether the plan is used up."""
        model = Server()
        with FakeServer(model) as server:
            place = self.folder / f"study-{self.n_studies}"
            path = write_study(place, server.url, concurrency=self.concurrency)
            kept: set[tuple[str, str]] = set()
            n_kills, is_over = 0, False
            while True:
                crash = next(plan, None)
                is_over = crash is None
                code = self._process(path, place / "runs", model, crash)
                database = place / "runs/fruit/study.db"
                now = kept_rows(database)
                assert kept <= now, f"{len(kept - now)} acknowledged results are lost after {crash}"
                kept = now
                if now:
                    assert n_in_ledger(database) >= len(server.calls), "the ledger shows less than the bill"
                if code == 0:
                    break
                assert code == -signal.SIGKILL, f"ended with {code} instead of being killed at {crash}"
                assert crash is not None
                n_kills += 1
                self.by_point[crash[0]] += 1
                self._check_best(place / "runs/fruit")
            view = open_saved(place / "runs", "fruit").view()
            assert outline(view) == self.expected, "killed and resumed, the study went another way"
            n_twice = n_paid_twice(server)
            assert n_twice <= n_kills * self.concurrency, f"{n_twice} calls paid twice in {n_kills} kills"
            self.n_kills, self.n_twice = self.n_kills + n_kills, self.n_twice + n_twice
            self.n_calls, self.n_least_calls = self.n_calls + len(server.calls), self.n_least_calls + self.n_whole
        self.n_studies += 1
        return is_over

    def _process(self, path: Path, runs_dir: Path, model: Server, crash: Crash | None) -> int:
        child = self.child
        assert child.stdin is not None
        assert child.stdout is not None
        name, number = crash or ("", 0)
        is_inside = name not in ("", "time", "send")
        model.n_until_kill = number if name == "send" else None
        request = {"config": str(path), "runs_dir": str(runs_dir), "crash": [name, number] if is_inside else None}
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        model.pid = int(child.stdout.readline())
        timer = threading.Timer(number / 1000, os.kill, (model.pid, signal.SIGKILL)) if name == "time" else None
        if timer:
            timer.start()
        code = int(child.stdout.readline())
        model.n_until_kill = None
        if timer:
            timer.cancel()
        return code

    @staticmethod
    def _check_best(run_dir: Path) -> None:
        for path in (run_dir / "best_prompt.json", run_dir / "study.json"):
            if path.exists():
                json.loads(path.read_text())

    def figures(self) -> Figures:
        return {
            "kills": self.n_kills,
            "kills by point": dict(self.by_point),
            "studies": self.n_studies,
            "acknowledged results lost": 0,
            "calls paid twice": self.n_twice,
            "calls in flight at most": self.concurrency,
            "calls": self.n_calls,
            "calls without kills": self.n_least_calls,
            "same winner, trials and scores": self.n_studies,
            "ledger below the server's count": 0,
        }


def random_kills(n: int, rng: random.Random) -> list[Crash]:
    """Moments: some milliseconds after the start, or in the middle of some call."""
    return [("time", rng.randint(100, 2500)) if rng.random() < 0.5 else ("send", rng.randint(1, 14)) for _ in range(n)]


def named_kills(n_each: int, rng: random.Random) -> list[Crash]:
    """Every named point, early and later, so that resumes are killed, too."""
    most = {"reserve": 12, "reply": 12, "commit": 12, "send": 12, "export": 2, "resume": 3}
    return [(name, rng.randint(1, n)) for _ in range(n_each) for name, n in most.items()]


def kills(folder: Path, plan: Sequence[Crash], *, concurrency: int, seed: int = 0) -> Figures:
    """Kill studies at the moments of a plan until it is used up."""
    with zygote() as child:
        killing = Killing(folder, child, concurrency=concurrency, seed=seed)
        left = iter(plan)
        while not killing.study(left):
            pass
    return killing.figures()


def outbox_kills(folder: Path, n: int) -> Figures:
    """Kill a study between MLflow's entry and the mark that it was made; each trial stands there once in the end."""
    with zygote() as child, FakeServer(answer) as server:
        path = write_study(folder, server.url, tracking={"enabled": True})
        codes = []
        for number in [*([1] * n), 0]:
            assert child.stdin is not None
            assert child.stdout is not None
            crash = ["outbox", number] if number else None
            child.stdin.write(
                json.dumps({"config": str(path), "runs_dir": str(folder / "runs"), "crash": crash}) + "\n"
            )
            child.stdin.flush()
            child.stdout.readline()
            codes.append(int(child.stdout.readline()))
    assert codes[-1] == 0
    track = [sys.executable, "-m", "optimizer", "track", "fruit", "--runs-dir", str(folder / "runs")]
    subprocess.run(track, check=True, capture_output=True, timeout=120)  # a slow store is left behind in time
    n_trials = len(open_saved(folder / "runs", "fruit").view().trials)
    with closing(sqlite3.connect(folder / "runs/mlflow.db")) as connection:
        names = Counter(name for (name,) in connection.execute("SELECT name FROM runs"))
    assert len(names) == sum(names.values()) == n_trials + 1, names
    return {"kills": codes.count(-signal.SIGKILL), "trials": n_trials, "runs in MLflow": sum(names.values())}


def finished(folder: Path) -> Figures:
    """Run a finished study again from the command line."""
    with FakeServer(answer) as server:
        path = write_study(folder, server.url)
        run_here(path, folder / "runs")
        n_calls, started = len(server.calls), time.monotonic()
        command = [sys.executable, "-m", "optimizer", "run", str(path), "--runs-dir", str(folder / "runs")]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        seconds = time.monotonic() - started
        assert len(server.calls) == n_calls
    return {"calls": 0, "seconds, start of Python included": round(seconds, 1)}


class FailingFirst:
    """Answers every request well, but not at its first attempt."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults, self.seen, self.lock = faults, set[str](), threading.Lock()

    def __call__(self, body: Body) -> str | Fault:
        key = json.dumps(body, sort_keys=True)
        with self.lock:
            is_first = key not in self.seen
            self.seen.add(key)
            n_seen = len(self.seen)
        return self.faults[n_seen % len(self.faults)] if is_first else answer(body)


def storm(folder: Path, names: Sequence[str], *, concurrency: int = 8, trials: int = 3, rows: int = 10) -> Figures:
    """Let every request fail at its first attempt, in the named ways by turns."""
    shape: dict[str, Any] = {"concurrency": concurrency, "trials": trials, "rows": rows}
    with FakeServer(answer) as server:
        whole = run_here(write_study(folder / "whole", server.url, **shape), folder / "whole/runs")
        n_whole = len(server.calls)
    with FakeServer(FailingFirst([STORMS[name] for name in names])) as server:
        view = run_here(write_study(folder / "storm", server.url, **shape), folder / "storm/runs")
        n_calls = len(server.calls)
        assert n_in_ledger(folder / "storm/runs/fruit/study.db") >= server.n_billed
    assert outline(view) == outline(whole)
    n_kept = sum(kind == "reply" for kind, _ in kept_rows(folder / "storm/runs/fruit/study.db"))
    n_good = sum(kind == "reply" for kind, _ in kept_rows(folder / "whole/runs/fruit/study.db"))
    assert n_kept == n_good, "a bad reply was kept"
    return {"calls": n_calls, "calls without faults": n_whole, "same scores": True, "bad replies kept": 0}


def outage(folder: Path, *, seconds: float, concurrency: int = 8) -> Figures:
    """Take the provider away in the middle of a study."""
    began: list[float] = []
    n_seen, n_refused, lock = [0], [0], threading.Lock()

    def away(body: Body) -> str | Fault:
        with lock:
            n_seen[0] += 1
            if n_seen[0] == 30:
                began.append(time.monotonic())
            if began and time.monotonic() < began[0] + seconds:
                n_refused[0] += 1
                return reset()
        return answer(body)

    with FakeServer(answer) as server:
        path = write_study(folder / "whole", server.url, concurrency=concurrency)
        whole = run_here(path, folder / "whole/runs")
    with FakeServer(away) as server:
        path = write_study(folder / "away", server.url, concurrency=concurrency)
        view = run_here(path, folder / "away/runs")
    assert outline(view) == outline(whole)
    assert not any(trial.state == "failed" for trial in view.trials)
    return {"seconds away": seconds, "calls during it": n_refused[0], "same scores": True, "trials marked bad": 0}


def budget(folder: Path, *, task_calls: int) -> Figures:
    """Cap the calls with eight in flight and four candidates in the race."""
    with FakeServer(answer) as server:
        search = {"trials": 20, "formats": ["chat", "plain"], "max_demos": 2, "in_flight": 4}
        path = write_study(
            folder, server.url, concurrency=8, trials=20, budget={"task_calls": task_calls}, search=search
        )
        view = run_here(path, folder / "runs")
        n_calls = sum(call.body["model"] == "task" for call in server.calls)
    assert n_calls <= task_calls
    assert view.verdict is not None
    return {"cap": task_calls, "calls at the server": n_calls, "verdict": view.verdict.decision}


def exhausted(folder: Path) -> Figures:
    """Let the account run dry in the middle of a study: it pauses, and with credit ends as if nothing had been."""
    dry: list[Fault] = []

    def model(body: Body) -> str | Fault:
        return dry[0] if dry and n_left[0] <= 0 else _counted(body)

    def _counted(body: Body) -> str:
        n_left[0] -= 1
        return answer(body)

    n_left = [10**9]
    with FakeServer(model) as server:
        whole = run_here(write_study(folder / "whole", server.url), folder / "whole/runs")
        dry.append(quota_used_up())
        n_left[0] = 40
        command = [sys.executable, "-m", "optimizer", "run", str(write_study(folder / "dry", server.url))]
        n_before = len(server.calls)
        done = subprocess.run(
            [*command, "--runs-dir", str(folder / "dry/runs")], capture_output=True, text=True, timeout=120
        )
        n_extra = len(server.calls) - n_before - 40
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
        n_left[0] = 10**9
        assert outline(run_here(folder / "dry/study.yaml", folder / "dry/runs")) == outline(whole)
    return {"exit code": 3, "calls after the account was empty": n_extra, "same scores": True}


METRIC = """
def odd(example, answer):
    number = int(example.inputs["note"].split()[1])
    if number % 20 == 3:
        raise KeyError("no such thing")
    return float("nan") if number % 20 == 7 else float(answer["team"] == example.outputs["team"])
"""


def tracker_away(folder: Path) -> Figures:
    """Run with nobody at MLflow's address, then start the server there and let `track` write the study, twice."""
    with FakeServer(answer) as server:
        whole = run_here(write_study(folder / "whole", server.url), folder / "whole/runs")
        port = free_port(preferred=5777)
        tracking = {"enabled": True, "uri": f"http://127.0.0.1:{port}"}
        path, started = write_study(folder, server.url, tracking=tracking), time.monotonic()
        view = run_here(path, folder / "runs")
        seconds = time.monotonic() - started
    assert outline(view) == outline(whole)
    store = folder / "server.db"
    command, extra = ui_command(f"sqlite:///{store}", port=port)
    with (folder / "server.log").open("wb") as log:
        mlflow = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **extra})
        try:
            wait_for(f"http://127.0.0.1:{port}/health", mlflow)
            for _ in range(2):
                track = [sys.executable, "-m", "optimizer", "track", "fruit", "--runs-dir", str(folder / "runs")]
                subprocess.run(track, check=True, capture_output=True, timeout=120)
        finally:
            mlflow.terminate()
            mlflow.wait(timeout=30)
    with closing(sqlite3.connect(store)) as connection:
        names = Counter(name for (name,) in connection.execute("SELECT name FROM runs"))
        points = Counter(connection.execute("SELECT run_uuid, key, step FROM metrics"))
    assert len(names) == sum(names.values()) == len(view.trials) + 1
    assert set(points.values()) == {1}
    return {
        "same scores": True,
        "seconds of the study": round(seconds, 1),
        "runs afterwards": sum(names.values()),
        "points more than once": 0,
    }


def wait_for(url: str, process: subprocess.Popen[bytes], *, timeout_s: float = 90) -> None:
    ends_at = time.monotonic() + timeout_s
    while True:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            assert time.monotonic() < ends_at
            time.sleep(0.2)


def odd_metric(folder: Path) -> Figures:
    """Let the metric raise and return NaN for some rows."""
    with FakeServer(answer) as server:
        path = write_study(folder, server.url, metric="odd_metric:odd", rows=40)
        (folder / "odd_metric.py").write_text(METRIC)
        view = run_here(path, folder / "runs")
    with closing(sqlite3.connect(folder / "runs/fruit/study.db")) as connection:
        outcomes = [json.loads(text) for (text,) in connection.execute("SELECT outcome FROM evaluation")]
    failed = [outcome for trial in view.trials for outcome in trial.outcomes if outcome.kind == "failed"]
    assert view.verdict is not None
    assert not any("nan" in json.dumps(outcome).lower().split('"error"')[0] for outcome in outcomes)
    assert all(outcome.score is None for outcome in failed)
    assert all(0 <= outcome["score"] <= 1 for outcome in outcomes if outcome["kind"] == "scored")
    return {"verdict": view.verdict.decision, "scores from a failure": 0}
