"""Studies that are killed again and again, as by `kill -9`, with the promises checked after every kill.

Each scenario runs the fruit study in processes of its own against a server on a loopback socket, which counts every
call and is the truth. It raises AssertionError when a promise is broken and returns what it measured.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.study.saved import open_saved
from tests.fake_server import Body, FakeServer
from tests.fault_tracker import shown_once
from tests.faults import Figures, answer, kept_rows, n_in_ledger, n_paid_twice, outline, run_here, write_study

Crash = tuple[str, int]
N_CALLS = 12  # most calls that a process makes before it is killed at a named point
MOST = {"reserve": N_CALLS, "send": N_CALLS, "reply": N_CALLS, "commit": N_CALLS, "export": 2, "resume": 3}
HOLD_AFTER = 30  # calls; then the model waits for MLflow to be written, which takes longer than this study
PATIENCE_S = 400.0


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
class Model:
    """The fruit model, which can kill its client in the middle of a call, or keep it waiting until it is dead."""

    pid: int = 0
    n_until_kill: int | None = None
    n_until_hold: int | None = None
    gone: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, body: Body) -> str:
        with self.lock:
            if self.n_until_kill is not None:
                self.n_until_kill -= 1
                if self.n_until_kill == 0:
                    os.kill(self.pid, signal.SIGKILL)
            if self.n_until_hold is not None:
                self.n_until_hold -= 1
            is_held = self.n_until_hold is not None and self.n_until_hold < 0
        if is_held:
            self.gone.wait(PATIENCE_S)
        return answer(body)


class Killing:
    """Studies that are killed at planned moments. The same kills of the same study may be many: it goes on each time.

    Args:
        store: an empty MLflow store to show the studies in; None: they are not shown.
    """

    def __init__(
        self, folder: Path, child: subprocess.Popen[str], *, concurrency: int, store: Path | None = None
    ) -> None:
        self.folder, self.child, self.concurrency, self.store = folder, child, concurrency, store
        self.n_kills = self.n_studies = self.n_twice = self.n_calls = self.n_least_calls = self.n_shown = 0
        self.by_point: Counter[str] = Counter()
        with FakeServer(answer) as server:
            path = write_study(folder / "whole", server.url, concurrency=concurrency)
            self.expected = outline(run_here(path, folder / "whole/runs"))
            self.n_whole = len(server.calls)

    def study(self, plan: list[Crash]) -> None:
        """Carry one study to its end through the next kills of the plan, which are taken out of it."""
        model = Model()
        with FakeServer(model) as server:
            place = self.folder / f"study-{self.n_studies}"
            path = write_study(place, server.url, concurrency=self.concurrency, tracking={"enabled": bool(self.store)})
            if self.store:
                (place / "runs").mkdir()
                shutil.copy(self.store, place / "runs/mlflow.db")
            kept: set[tuple[str, str]] = set()
            n_kills, was_killed = 0, True
            while was_killed:
                crash = plan[0] if plan else None
                database = place / "runs/fruit/study.db"
                while crash is not None and crash[0] == "resume" and n_told(database) < crash[1]:
                    n_kills += self._killed(path, model, ("send", N_CALLS // 2))  # there is nothing to resume yet
                n_kills += (was_killed := self._killed(path, model, crash))
                now = kept_rows(database)
                assert kept <= now, f"{len(kept - now)} acknowledged results are lost after {crash}"
                kept = now
                if now:
                    assert n_in_ledger(database) >= len(server.calls), "the ledger shows less than the bill"
                if was_killed:
                    del plan[:1]
                elif crash is not None:  # a moment that did not come is the next study's, and comes sooner there
                    plan[0] = (crash[0], crash[1] // 2) if crash[0] == "time" else crash
            self._check_whole(place / "runs")
            n_twice = n_paid_twice(server)
            assert n_twice <= n_kills * self.concurrency, f"{n_twice} calls paid twice in {n_kills} kills"
            self.n_kills, self.n_twice = self.n_kills + n_kills, self.n_twice + n_twice
            self.n_calls, self.n_least_calls = self.n_calls + len(server.calls), self.n_least_calls + self.n_whole
        self.n_studies += 1

    def _check_whole(self, runs_dir: Path) -> None:
        """The study has ended as if nothing had been, its database is sound, and MLflow shows each thing once."""
        view = open_saved(runs_dir, "fruit").view()
        assert outline(view) == self.expected, "killed and resumed, the study went another way"
        with closing(sqlite3.connect(runs_dir / "fruit/study.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if self.store:
            self.n_shown += shown_once(runs_dir, runs_dir / "mlflow.db")["runs in MLflow"]

    def _killed(self, path: Path, model: Model, crash: Crash | None) -> bool:
        """Run a process until it is killed, or until the study has its verdict; return whether it was killed."""
        code = self._process(path, path.parent / "runs", model, crash)
        if code == 0:
            return False
        assert code == -signal.SIGKILL, f"ended with {code} instead of being killed at {crash}"
        assert crash is not None
        self.by_point[crash[0]] += 1
        for name in ("best_prompt.json", "study.json"):
            if (path.parent / "runs/fruit" / name).exists():
                json.loads((path.parent / "runs/fruit" / name).read_text())
        return True

    def _process(self, path: Path, runs_dir: Path, model: Model, crash: Crash | None) -> int:
        child = self.child
        assert child.stdin is not None
        assert child.stdout is not None
        name, number = crash or ("", 0)
        is_inside = name not in ("", "time", "send")
        model.n_until_kill = number if name == "send" else None
        model.n_until_hold, model.gone = HOLD_AFTER if name == "outbox" else None, threading.Event()
        request = {"config": str(path), "runs_dir": str(runs_dir), "crash": [name, number] if is_inside else None}
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        model.pid = int(child.stdout.readline())
        timer = threading.Timer(number / 1000, os.kill, (model.pid, signal.SIGKILL)) if name == "time" else None
        if timer:
            timer.start()
        code = int(child.stdout.readline())
        model.n_until_kill = model.n_until_hold = None
        model.gone.set()
        if timer:
            timer.cancel()
        return code

    def figures(self) -> Figures:
        shown = {"runs in MLflow, each once": self.n_shown} if self.store else {}
        return {
            "kills": self.n_kills,
            "kills by point": dict(sorted(self.by_point.items())),
            "studies": self.n_studies,
            "acknowledged results lost": 0,
            "calls paid twice": self.n_twice,
            "calls in flight at most": self.concurrency,
            "calls": self.n_calls,
            "calls without kills": self.n_least_calls,
            "same winner, trials and scores": self.n_studies,
            "ledger below the server's count": 0,
            **shown,
        }


def n_told(database: Path) -> int:
    """Trials of a study that have ended, which its next process reads again."""
    if not database.is_file():
        return 0
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trials'").fetchone():
            return 0
        query = "SELECT COUNT(*) FROM trials WHERE state NOT IN ('RUNNING', 'WAITING')"
        return int(connection.execute(query).fetchone()[0])


def random_kills(n: int, rng: random.Random) -> list[Crash]:
    """Moments: some milliseconds after the start, or in the middle of some call."""
    return [("time", rng.randint(100, 2500)) if rng.random() < 0.5 else ("send", rng.randint(1, 14)) for _ in range(n)]


def named_kills(n_each: int, rng: random.Random) -> list[Crash]:
    """Every named point, early and later, so that resumes are killed, too."""
    return [(name, rng.randint(1, n)) for _ in range(n_each) for name, n in MOST.items()]


def kills(folder: Path, plan: Sequence[Crash], *, concurrency: int) -> Figures:
    """Kill studies at the moments of a plan until it is used up."""
    with zygote() as child:
        return _carry_out(Killing(folder, child, concurrency=concurrency), plan)


def outbox_kills(folder: Path, n: int, *, concurrency: int) -> Figures:
    """Kill studies between an entry in MLflow and the mark that it was made; in the end each stands there once."""
    with zygote() as child:
        killing = Killing(folder, child, concurrency=concurrency, store=empty_store(folder))
        return _carry_out(killing, [("outbox", 1 + i % 2) for i in range(n)])


def empty_store(folder: Path) -> Path:
    """Make a store of MLflow's own, to be copied: to make one takes seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "empty.db"
    create = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", create, f"sqlite:///{store}"], check=True, capture_output=True, timeout=600)
    return store


def _carry_out(killing: Killing, plan: Sequence[Crash]) -> Figures:
    left = list(plan)
    while left:
        killing.study(left)
    return killing.figures()
