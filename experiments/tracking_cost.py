"""What following a study in MLflow costs: the same study with and without, against a model on a loopback socket.

Method: each study is a process of its own (`optimizer run`), as users start it, and asks a server that answers after a
set time, as hosted models do. What the model says follows from what it is asked, so that all studies try the same
candidates and make the same calls. The two studies of a pair run at the same time, so that they meet the same load of
the machine; which one starts first takes turns. A pair gives one figure: how much longer the whole process took with
MLflow, start, report, traces and end included. Processor seconds of both are given, too.

    uv run python -m experiments.tracking_cost --trials 500 --pairs 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from optimizer.candidate import content_hash
from tests.fake_server import Body, FakeServer

RESULTS = Path(__file__).parent / "results" / "tracking_cost.json"
COLOURS = ("red", "green", "blue", "white")
WORDS = """
read each note with care then name the one team that packs the box think of colour weight size fruit
order place shelf door number first last answer plain short exact never guess always check twice
"""
N_ROWS = 400


def main() -> None:
    """Run the pairs and write the figures after each."""
    said = arguments()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        for number in range(said.pairs):
            found.append(pair(Path(folder), said, number))
            print(json.dumps(found[-1]), flush=True)
            write_results(said, found)


def pair(folder: Path, said: argparse.Namespace, number: int) -> dict[str, Any]:
    """Run both studies at the same time and say what MLflow added."""
    order = (True, False) if number % 2 else (False, True)
    with ThreadPoolExecutor(2) as pool:
        running = {is_on: pool.submit(measure, folder, said, number=number, is_on=is_on) for is_on in order}
        on, off = running[True].result(), running[False].result()
    if on.calls != off.calls:
        raise SystemExit(f"pair {number}: {on.calls} calls with MLflow, {off.calls} without; not the same study")
    return {
        "seconds_without": round(off.wall_s, 2),
        "seconds_with": round(on.wall_s, 2),
        "added_percent": round(100 * (on.wall_s / off.wall_s - 1), 2),
        "processor_seconds_without": round(off.cpu_s, 2),
        "processor_seconds_with": round(on.cpu_s, 2),
        "calls": on.calls,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--task-s", type=float, default=0.3, help="how long the model takes for an answer")
    parser.add_argument("--proposer-s", type=float, default=1.0, help="how long it takes for a mutation")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


class Measured(NamedTuple):
    """One study: seconds from its start to its end, processor seconds of its process, calls at the server."""

    wall_s: float
    cpu_s: float
    calls: int


def measure(folder: Path, said: argparse.Namespace, *, number: int, is_on: bool) -> Measured:
    """Run one study in a process of its own."""
    name = f"pair-{number}-{'with' if is_on else 'without'}"

    def slowly(body: Body) -> str:
        time.sleep(said.proposer_s if body["model"] == "proposer" else said.task_s)
        return reply_to(body)

    with FakeServer(slowly) as server:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config(name, server.url, said.trials, is_tracked=is_on)))
        command = [sys.executable, "-m", "optimizer", "run", str(path), "--runs-dir", str(folder / name), "--quiet"]
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - started
        if status:
            raise SystemExit(f"{name} ended with status {status}")
        return Measured(wall_s, used.ru_utime + used.ru_stime, len(server.calls))


def reply_to(body: Body) -> str:
    """Answer as a model whose skill depends on the prompt and whose luck depends on prompt and row."""
    messages = body["messages"]
    text = json.dumps(messages)
    if body["model"] == "proposer":
        rng = random.Random(content_hash([text], n_chars=16))
        return f"<prompt>{' '.join(rng.choices(WORDS.split(), k=30))}.</prompt>"
    prompt, row = json.dumps(messages[:-1]), str(messages[-1]["content"])
    truth = next((colour for colour in COLOURS if f"{colour} box" in row.rpartition("Note:")[2]), COLOURS[0])
    skill = 0.4 + 0.4 * chance(prompt)
    return truth if chance(text) < skill else COLOURS[(COLOURS.index(truth) + 1) % len(COLOURS)]


def chance(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(content_hash([text], n_chars=8), 16) / 16**8


def write_rows(folder: Path) -> None:
    rows = ({"note": f"Item {i}: the {COLOURS[i % 4]} box.", "team": COLOURS[i % 4]} for i in range(N_ROWS))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(name: str, url: str, n_trials: int, *, is_tracked: bool) -> Mapping[str, Any]:
    """The study, with everything that could end it early switched off."""
    lm = {"api_base": url, "max_tokens": 100}
    return {
        "name": name,
        "task": {
            "goal": "Say which team packs the box.",
            "inputs": {"note": "what is in the box"},
            "outputs": {"team": {"kind": "label", "choices": list(COLOURS)}},
        },
        "prompt": "Which team packs this box?",
        "data": {"source": "rows.jsonl"},
        "metric": "accuracy",
        "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
        "search": {"trials": n_trials, "formats": ["chat"], "patience": 0},
        "tracking": {"enabled": is_tracked},
    }


def write_results(said: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    added = [one["added_percent"] for one in found]
    result = {
        "trials": said.trials,
        "seconds_per_answer": said.task_s,
        "seconds_per_mutation": said.proposer_s,
        "added_percent": {"median": statistics.median(added), "least": min(added), "most": max(added)},
        "pairs": found,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_of_the_machine": [round(each, 1) for each in os.getloadavg()],
    }
    said.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
