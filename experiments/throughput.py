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
import http.client
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

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
    things = [f"thing {i:06d}, which came in a box with a few words around it" for i in range(start, start + n)]
    return [{"thing": thing, "colour": answer_of(thing)} for thing in things]


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
    from optimizer.candidate import Example
    from optimizer.caps import Caps
    from optimizer.config import Config
    from optimizer.evaluate import Evaluator
    from optimizer.journal import Journal, open_engine
    from optimizer.lm.model import Model, Pricing, RetryPolicy
    from optimizer.metrics import open_metric
    from optimizer.program import TaskProgram
    from optimizer.prompt import spec_of_task

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
        max_in_flight=concurrency,
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
    from optimizer.config import LM
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
    """Ours includes reservation, reply, settlement and outcome in the journal; DSPy's keeps nothing."""
    found: Figures = {}
    for n in (100, 3000, 30_000):
        each: dict[str, list[float]] = {"ours": [], "dspy": []}
        for _ in range(given.repeats if n < 30_000 else 1):
            with tempfile.TemporaryDirectory() as folder, bench(Path(folder), Instant(0.02), n + 64) as ready:
                ready.evaluator.outcomes(ready.candidate, ready.examples[n:])
                with stopwatch() as taken:
                    ready.evaluator.outcomes(ready.candidate, ready.examples[:n])
            each["ours"].append(1000 * taken[0].cpu_s / n)
            lm = dspy_model(0.02)
            dspys(lm, 64)
            each["dspy"].append(1000 * dspys(lm, n).cpu_s / n)
            print(" ", n, {name: round(values[-1], 3) for name, values in each.items()}, flush=True)
        ours_ms, dspy_ms = statistics.median(each["ours"]), statistics.median(each["dspy"])
        found[f"{n} rows"] = {
            "ours, ms": round(ours_ms, 3),
            "dspy.Predict + dspy.Evaluate, ms": round(dspy_ms, 3),
            "ours / dspy": round(ours_ms / dspy_ms, 3),
        }
    found["ours, 30,000 rows / 100 rows"] = round(found["30000 rows"]["ours, ms"] / found["100 rows"]["ours, ms"], 2)
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {"evaluations": evaluations, "cpu": cpu}


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
