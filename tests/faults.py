"""Faults that a night brings, done to real studies, and what came of them in figures.

Each scenario runs the fruit study against a server on a loopback socket, which counts every call and is the truth; it
raises AssertionError when a promise is broken and returns what it measured. `tests/test_faults.py` takes a small part
of them, `experiments/faults.py` all.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

from optimizer.config.file import load_config
from optimizer.data.loading import load_splits
from optimizer.metrics import user_metric
from optimizer.records import StudyView
from optimizer.run import run
from optimizer.study.job import open_job
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
from tests.test_main_job import FRUIT, HINT, config, labelled_rows

Figures = dict[str, Any]
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


CARE = ("quick", "careful", "thorough", "exact")  # the more, the fewer mistakes


def answer(body: Body) -> str:
    """Answer as a model that follows the hint as carefully as it is told, and as a proposer that knows the hint.

    It never gets all boxes right, so that a study does not end early; the same request gets the same reply.
    """
    text = "\n".join(str(message["content"]) for message in body["messages"])
    if body["model"] == "proposer":
        return f"<instruction>{HINT} Be {CARE[crc32(text.encode()) % len(CARE)]}.</instruction>"
    found = re.search(r"Box (\d+) holds \d+ (\w+)s\.", text[text.rfind("Note:") :])
    level = next((i for i, word in enumerate(CARE) if f"Be {word}." in text), 0)
    if found is None or "apple is red" not in text or int(found[1]) % 10 < len(CARE) - level:
        return "red"
    return FRUIT[found[2]]


def write_study(
    folder: Path,
    url: str,
    *,
    concurrency: int = 1,
    trials: int = 6,
    rows: int = 20,
    timeout_s: float = 120.0,
    **changes: Any,
) -> Path:
    """Write rows and configuration of a study; return the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    settings = config(url, **{"tracking": {"enabled": False}, **changes})
    settings["search"] |= {"trials": trials, "in_flight": changes.get("search", {}).get("in_flight", 1)}
    settings["data"]["max_rows"] = {"dev": rows, "test": rows}
    for lm in settings["lm"].values():
        lm |= {"concurrency": concurrency, "timeout": timeout_s}
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


def cli(*args: str | Path, limit_s: float = 600.0) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does: in a process of its own, with Python's compiled files where they usually are."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "optimizer", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=limit_s, env=environment, check=False, stdin=subprocess.DEVNULL
    )


def finished(folder: Path, *, n: int = 5) -> Figures:
    """Run a study from the command line, and then again and again."""
    seconds = []
    with FakeServer(answer) as server:
        run: list[str | Path] = ["run", write_study(folder, server.url), "--runs-dir", folder / "runs"]
        first = cli(*run)
        assert first.returncode == 0, first.stderr
        n_calls, busy_before = len(server.calls), cpu_s()
        for _ in range(n):
            started = time.monotonic()
            again = cli(*run)
            seconds.append(time.monotonic() - started)
            assert (again.returncode, len(server.calls)) == (0, n_calls), again.stderr
    found = sorted(round(each, 1) for each in seconds)
    return {
        "calls": 0,
        "seconds of one core": round((cpu_s() - busy_before) / n, 1),
        "seconds, start of Python included": {"median": found[n // 2], "all": found},
        "processes that wanted a core meanwhile, for each core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
    }


def cpu_s() -> float:
    """Seconds that ended processes of ours were at work."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    shape: dict[str, Any] = {"concurrency": concurrency, "trials": trials, "rows": rows, "timeout_s": 2.0}
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


def budget(folder: Path, *, caps: Sequence[int], breaks: bool = False) -> Figures:
    """Cap the calls with eight in flight and four candidates in the race.

    Args:
        breaks: every fifth connection breaks, so that nobody knows whether the call was billed. What that takes is
            missing in the final test, which then has fewer rows.
    """
    search = {"trials": 20, "formats": ["chat", "plain"], "max_demos": 2, "in_flight": 4}
    found = {}
    for cap in caps:
        numbers = count(1)

        def model(body: Body, numbers: Iterator[int] = numbers) -> str | Fault:
            return reset() if breaks and next(numbers) % 5 == 0 else answer(body)

        with FakeServer(model) as server:
            shape: dict[str, Any] = {"concurrency": 8, "trials": 20, "budget": {"task_calls": cap}, "search": search}
            place = folder / str(cap)
            view = run_here(write_study(place, server.url, **shape), place / "runs")
            n_calls = n_task_calls(server)
        assert n_calls <= cap, f"{n_calls} calls with a cap of {cap}"
        assert view.verdict is not None
        found[str(cap)] = {"calls at the server": n_calls, "verdict": view.verdict.decision, "rows": view.verdict.n}
    return {"calls in flight at most": 8, "by cap": found}


def n_task_calls(server: FakeServer) -> int:
    return sum(call.body["model"] == "task" for call in server.calls)


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
        n_before = len(server.calls)
        done = cli("run", write_study(folder / "dry", server.url), "--runs-dir", folder / "dry/runs")
        n_extra = len(server.calls) - n_before - 40
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
        n_left[0] = 10**9
        assert outline(run_here(folder / "dry/study.yaml", folder / "dry/runs")) == outline(whole)
    return {"exit code": 3, "calls after the account was empty": n_extra, "same scores": True}


METRIC = """
import threading

ODD = ODD_ROWS


def odd(example, answer):
    way = ODD.get(example.inputs["note"].split()[1])
    if way == "raises":
        raise KeyError("no such thing")
    if way == "hangs":
        threading.Event().wait(30)
    return float("nan") if way == "nan" else float(answer["team"] == example.outputs["team"])


def broken(example, answer):
    raise KeyError("no such thing")


def late(example, answer, n_seen=[]):
    n_seen.append(1)
    return 0.5 if len(n_seen) < 45 else float("nan")
"""
HANGS_FOR_S = 0.5
WAYS = ("raises", "nan", "hangs", "nan")


def odd_metric(folder: Path) -> Figures:
    """Let the metric raise, return NaN and hang, each for a dev row, and return NaN for a test row."""
    limit_s, user_metric.LIMIT_S = user_metric.LIMIT_S, HANGS_FOR_S  # five minutes otherwise
    try:
        with FakeServer(answer) as server:
            path = write_study(folder, server.url, metric="odd_metric:odd", concurrency=8)
            splits = load_splits(load_config(path), folder=folder)
            odd = (splits.dev[6], splits.dev[11], splits.dev[16], splits.test[3])
            numbers = {str(example.inputs["note"]).split()[1]: way for example, way in zip(odd, WAYS, strict=True)}
            (folder / "odd_metric.py").write_text(METRIC.replace("ODD_ROWS", repr(numbers)))
            view = run_here(path, folder / "runs")
    finally:
        user_metric.LIMIT_S = limit_s
    verdict = view.verdict
    assert verdict is not None
    compared = [{outcome.example_id for outcome in each} for each in (verdict.seed_outcomes, verdict.winner_outcomes)]
    assert compared == [{example.id for example in splits.test} - {splits.test[3].id}] * 2
    with closing(sqlite3.connect(folder / "runs/fruit/study.db")) as connection:
        kept = [
            (name, json.loads(text)) for name, text in connection.execute("SELECT example, outcome FROM evaluation")
        ]
    assert not {name for name, _ in kept} & {example.id for example in odd}
    assert all(outcome["score"] in (0.0, 1.0) for _, outcome in kept if outcome["kind"] == "scored")
    trials = Counter(trial.state for trial in view.trials)
    assert not trials["failed"]
    return {
        "odd rows": numbers,
        "test rows compared": f"{verdict.n} of {len(splits.test)}",
        "verdict": verdict.decision,
        "trials": dict(trials),
        "scores from a failure": 0,
    }


def broken_metric(folder: Path) -> Figures:
    """Let the metric fail on every row, and from some row on: the command says so in one line."""
    found = {}
    for name, code in (("broken", 2), ("late", 3)):
        with FakeServer(answer) as server:
            place = folder / name
            path = write_study(place, server.url, metric=f"odd_metric:{name}")
            (place / "odd_metric.py").write_text(METRIC.replace("ODD_ROWS", "{}"))
            done = cli("run", path, "--runs-dir", place / "runs")
            assert (done.returncode, len(done.stderr.strip().splitlines())) == (code, 1), done.stderr
            found[name] = {"exit code": code, "calls": len(server.calls), "line": done.stderr.strip()[:160]}
            with closing(sqlite3.connect(place / "runs/fruit/study.db")) as connection:
                outcomes = [json.loads(text) for (text,) in connection.execute("SELECT outcome FROM evaluation")]
            assert all(outcome["score"] == 0.5 for outcome in outcomes)
    return found
