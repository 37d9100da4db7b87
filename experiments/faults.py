"""What studies survive, in figures: `uv run python -m experiments.faults`.

Real studies in processes of their own against a server on a loopback socket; see tests/faults.py for each scenario.
Writes experiments/results/faults.json. `--kills`, `--named` and `--away` make it shorter or longer; words choose
scenarios by name.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests import faults
from tests.faults import Figures

RESULTS = Path(__file__).parent / "results" / "faults.json"
SEED = 7


def suite(*, n_random: int, n_each: int, away_s: float) -> dict[str, Callable[[Path], Figures]]:
    """Name each scenario of the suite."""
    rng = random.Random(SEED)
    one_by_one, eight = faults.random_kills(n_random // 2, rng), faults.random_kills(n_random // 2, rng)
    named = faults.named_kills(n_each, rng)
    storms = {f"storm: {name}": partial(faults.storm, names=[name]) for name in faults.STORMS}
    return {
        "kill -9 at named points, one call in flight": lambda folder: faults.kills(folder, named, concurrency=1),
        "kill -9 at random moments, one call in flight": lambda folder: faults.kills(folder, one_by_one, concurrency=1),
        "kill -9 at random moments, eight calls in flight": lambda folder: faults.kills(folder, eight, concurrency=8),
        "kill -9 between MLflow and the outbox": lambda folder: faults.outbox_kills(folder, 3),
        "a finished study is run again": faults.finished,
        **storms,
        "storm: all by turns": lambda folder: faults.storm(folder, list(faults.STORMS)),
        "the provider is away": lambda folder: faults.outage(folder, seconds=away_s),
        "a budget, eight calls in flight": lambda folder: faults.budget(folder, task_calls=100),
        "the account runs dry": faults.exhausted,
        "MLflow is away all night": faults.tracker_away,
        "the metric raises and returns NaN": faults.odd_metric,
        "disks full, read-only, locked": lambda folder: tests(folder, "tests/test_storage.py"),
        "canary keys": lambda folder: tests(folder, "tests/test_secrets.py"),
    }


def tests(folder: Path, path: str) -> Figures:
    """Run a file of tests and say how many passed."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", path, f"--junit-xml={report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    text = report.read_text()
    return {"passed": text.count("<testcase"), "skipped": text.count("<skipped")}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=200, help="at random moments")
    options.add_argument("--named", type=int, default=8, help="kills at each named point")
    options.add_argument("--away", type=float, default=300.0, help="seconds for which the provider is away")
    options.add_argument("words", nargs="*")
    given = options.parse_args()
    figures: dict[str, Figures] = json.loads(RESULTS.read_text()) if given.words and RESULTS.is_file() else {}
    failed = []
    for name, scenario in suite(n_random=given.kills, n_each=given.named, away_s=given.away).items():
        if given.words and not any(word in name for word in given.words):
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = scenario(Path(folder))
            except AssertionError as error:
                found = {"BROKEN": str(error).splitlines()[0] if str(error) else "assertion"}
                failed.append(name)
        figures[name] = {**found, "took_s": round(time.monotonic() - started, 1)}
        print(name, json.dumps(figures[name]), flush=True)
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    if failed:
        sys.exit(f"broken: {', '.join(failed)}")


if __name__ == "__main__":
    main()
