"""What studies survive, in figures: `uv run python -m experiments.faults`.

Real studies in processes of their own against a server on a loopback socket; see tests/fault*.py for each scenario.
Writes experiments/results/faults.json after each of them. `--missing` goes on where an earlier run was ended.
`--kills`, `--named` and `--away` make it shorter or longer; words choose scenarios by name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from filelock import FileLock

from tests import fault_disk, fault_kills, fault_tracker, faults
from tests.faults import Figures

RESULTS = Path(__file__).parent / "results" / "faults.json"
SEED = 7
CAPS = (60, 61, 80, 100, 137, 200)

Scenario = Callable[[Path], Figures]


def suite(*, n_random: int, n_each: int, away_s: float) -> dict[str, Scenario]:
    """Name each scenario of the suite."""
    rng = random.Random(SEED)
    killed: dict[str, Scenario] = {}
    for n_flight, words in ((1, "one call in flight"), (8, "eight calls in flight")):
        at_random = fault_kills.random_kills(n_random // 2, rng)
        named = fault_kills.named_kills(max(1, n_each // 2), rng)
        killed |= {
            f"kill -9 at named points, {words}": partial(fault_kills.kills, plan=named, concurrency=n_flight),
            f"kill -9 at random moments, {words}": partial(fault_kills.kills, plan=at_random, concurrency=n_flight),
            f"kill -9 between MLflow and the outbox, {words}": partial(
                fault_kills.outbox_kills, n=max(1, n_each // 2), concurrency=n_flight
            ),
        }
    return {
        "a finished study is run again": faults.finished,
        **killed,
        **{f"storm: {name}": partial(faults.storm, names=[name]) for name in faults.STORMS},
        "storm: all by turns": partial(faults.storm, names=list(faults.STORMS)),
        "the provider is away": partial(faults.outage, seconds=away_s),
        "a budget": partial(faults.budget, caps=CAPS),
        "a budget, every fifth connection breaks": partial(faults.budget, caps=CAPS, breaks=True),
        "the account runs dry": faults.exhausted,
        "MLflow is away all night": fault_tracker.tracker_away,
        "MLflow is killed three times": fault_tracker.tracker_killed,
        "no file may grow over a size": fault_disk.limited_files,
        "the disk is full": fault_disk.full_disk,
        "the disk of an export is full": fault_disk.full_output,
        "disks read-only and locked": lambda folder: tests(folder, "tests/test_storage.py"),
        "the metric raises, returns NaN and hangs": faults.odd_metric,
        "the metric is broken": faults.broken_metric,
        "canary keys": lambda folder: tests(folder, "tests/test_secrets.py"),
    }


def tests(folder: Path, path: str) -> Figures:
    """Run a file of tests and say how many passed."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", path, f"--junit-xml={report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    text = report.read_text()
    return {"passed": text.count("<testcase"), "skipped": text.count("<skipped")}


def known() -> dict[str, Figures]:
    """Return the results so far by scenario."""
    found: dict[str, Figures] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    return found


def enter(name: str, found: Figures) -> None:
    """Add one result; scenarios may run side by side."""
    with FileLock(Path(tempfile.gettempdir()) / "faults.lock"):
        spare = RESULTS.with_suffix(f".{os.getpid()}")
        spare.write_text(json.dumps({**known(), name: found}, indent=2) + "\n")
        os.replace(spare, RESULTS)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=200, help="at random moments, half with one call in flight")
    options.add_argument("--named", type=int, default=8, help="kills at each named point, half likewise")
    options.add_argument("--away", type=float, default=300.0, help="seconds for which the provider is away")
    options.add_argument("--missing", action="store_true", help="leave out what has a result")
    options.add_argument("words", nargs="*")
    given = options.parse_args()
    failed = []
    for name, scenario in suite(n_random=given.kills, n_each=given.named, away_s=given.away).items():
        if given.words and not any(word in name for word in given.words):
            continue
        if given.missing and name in known() and "BROKEN" not in known()[name]:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = scenario(Path(folder))
            except AssertionError as error:
                found = {"BROKEN": str(error).splitlines()[0] if str(error) else "assertion"}
                failed.append(name)
        found["took_s"] = round(time.monotonic() - started, 1)
        print(name, json.dumps(found), flush=True)
        enter(name, found)
    if failed:
        sys.exit(f"broken: {', '.join(failed)}")


if __name__ == "__main__":
    main()
