"""What large inputs cost: a data set of a million rows, a study of 5,000 trials, prompts of 20,000 characters.

Method: each figure comes from a process of its own, which is asked for its own peak of resident memory (`VmHWM`),
its processor seconds and the seconds that passed. Files and studies are made here, by seed.

    rows     `load_splits` on 1,000,000 rows as JSON Lines, CSV and Parquet, with nothing set but the source
    trials   `show`, `show --json`, `status`, `report` and `export` of studies of 50 and 5,000 trials (20 dev rows each)
    prompts  a whole study whose prompts have 20,000 characters, on a model at a loopback socket that answers at once,
             with MLflow; then the same commands

    uv run python -m experiments.large_inputs --out experiments/results/large_inputs.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from optimizer.candidate import Candidate, Part
from optimizer.config.file import load_config
from optimizer.search.trial_storage import open_storage
from optimizer.storage.database import candidate_table, evaluation_table, ledger_table, spend_table
from optimizer.storage.journal import Journal, open_engine
from optimizer.study.job import Job, open_job
from optimizer.study.opening import open_record
from optimizer.study.saved import leave_pointer
from tests.fake_server import Body, FakeServer
from tests.faults import write_study
from tests.test_main_job import answer

Figures = dict[str, Any]
TEAMS = ("billing", "delivery", "technical", "account")
STARTS, ENDS = ("ka", "lo", "mi", "ne", "ru", "sa", "ti", "vo"), ("ber", "dal", "fin", "gos", "hul", "jim")
WORDS = [start + end for start in STARTS for end in ENDS]
AT_ONCE = 10_000
COMMANDS = (["show", "fruit"], ["show", "fruit", "--json"], ["status"], ["status", "fruit"], ["report", "fruit"])
MEASURED = """
import json, sys, time
started, cpu = time.perf_counter(), time.process_time()
try:
    {body}
finally:
    peak = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
    took = {{"seconds": round(time.perf_counter() - started, 1), "cpu_s": round(time.process_time() - cpu, 1)}}
    print(json.dumps({{**took, "peak_mb": round(peak), **found}}), file=sys.stderr)
"""
LOAD = """
    from optimizer.config.file import load_config
    from optimizer.data.loading import load_splits
    from pathlib import Path
    found = {{}}
    path = Path({path!r})
    splits = load_splits(load_config(path), folder=path.parent)
    found |= {{"rows": splits.report.n, "read": splits.report.n_read}}
"""
COMMAND = """
    found = {{}}
    sys.argv = ["optimizer", *{words!r}]
    from optimizer.cli.main import main
    main()
"""


def measured(body: str, folder: Path) -> Figures:
    """Run some lines in a process of their own and return what they took."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(body=body)], cwd=folder, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("{"), done.stderr
    found: Figures = json.loads(last)
    return found


# -- a million rows -------------------------------------------------------------------------------------


def rows(n: int) -> Iterator[dict[str, str]]:
    rng = random.Random(0)
    for number in range(n):
        text = " ".join(rng.choices(WORDS, k=rng.randint(8, 40)))
        yield {"id": str(number), "message": f"Order {number}: {text}", "team": TEAMS[rng.randrange(4)]}


def write_rows(folder: Path, kind: str, n: int) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(n))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "message", "team"])
            writer.writeheader()
            writer.writerows(rows(n))
    else:
        schema = pa.schema([(name, pa.string()) for name in ("id", "message", "team")])
        with pq.ParquetWriter(path, schema) as sheet:
            part: list[dict[str, str]] = []
            for row in rows(n):
                part.append(row)
                if len(part) == AT_ONCE:
                    sheet.write_table(pa.Table.from_pylist(part, schema=schema))
                    part.clear()
            sheet.write_table(pa.Table.from_pylist(part, schema=schema))
    return path


def load_rows(folder: Path, kind: str, n: int) -> Figures:
    source = write_rows(folder, kind, n)
    config = {
        "name": "large",
        "task": {
            "inputs": {"message": "what the customer wrote"},
            "outputs": {"team": {"kind": "label", "choices": list(TEAMS)}},
        },
        "data": {"source": source.name},
        "metric": "accuracy",
    }
    path = folder / "large.yaml"
    path.write_text(json.dumps(config))
    found = measured(LOAD.format(path=str(path)), folder)
    return {"file_mb": round(source.stat().st_size / 2**20), **found}


# -- many trials ----------------------------------------------------------------------------------------


def made_study(folder: Path, n_trials: int) -> Path:
    """Write a study of so many trials straight into its database; return the runs folder."""
    path = write_study(folder, "http://127.0.0.1:9/v1", trials=n_trials, rows=20)
    runs_dir = folder / "runs"
    job = open_job(load_config(path), folder=folder, runs_dir=runs_dir)
    job.run_dir.mkdir(parents=True)
    leave_pointer(job.run_dir, storage=None, folder=folder)
    journal = Journal(open_engine(job.storage_url, is_durable=False), "fruit", owner="made")
    open_record(journal, job, job.seed)
    storage = open_storage(job.storage_url)
    sa.event.listen(storage.engine, "connect", lambda each, _: each.execute("PRAGMA synchronous=OFF"))
    storage.engine.dispose()
    study = optuna.create_study(storage=storage, study_name="fruit", direction="maximize")
    candidates = [_candidate(number) for number in range(n_trials)]
    study.add_trials([_trial(job, number, each) for number, each in enumerate(candidates)])
    _fill(journal, job, candidates)
    journal.update_study(records={"best": candidates[-1].to_json()})
    journal.engine.dispose()
    storage.engine.dispose()
    job.close()
    return runs_dir


def _candidate(number: int) -> Candidate:
    words = random.Random(number).choices(WORDS, k=40)
    return Candidate(parts=(Part(predictor="answer", instructions=f"Way {number}. Sort by {' '.join(words)}."),))


def _trial(job: Job, number: int, candidate: Candidate) -> optuna.trial.FrozenTrial:
    scored = [example.id for example in job.splits.dev]
    facts = {"candidate": candidate.id, "parents": [_candidate(number // 2).id] if number else [], "state": "complete"}
    recipe = {"operator": ("rewrite", "demos", "trim")[number % 3]}
    attributes = {**facts, "recipe": json.dumps(recipe), "scored": scored, "difference": 0.01, "duration_s": 1.0}
    return optuna.trial.create_trial(state=optuna.trial.TrialState.COMPLETE, value=0.0, user_attrs=attributes)


def _fill(journal: Journal, job: Job, candidates: Sequence[Candidate]) -> None:
    rng = random.Random(1)
    with journal.engine.begin() as connection:
        connection.execute(
            sa.insert(candidate_table), [{"id": each.id, "body": json.dumps(each.to_json())} for each in candidates]
        )
        for number, each in enumerate(candidates):
            made = [
                {"study": "fruit", "candidate": each.id, "example": example.id, "metric": job.metric.version}
                | {"outcome": json.dumps(_outcome(example.id, rng.random() < number / len(candidates)))}
                for example in job.splits.dev
            ]
            connection.execute(sa.insert(evaluation_table), made)
            calls = [
                {"study": "fruit", "role": "task", "key": f"{number}-{i}", "state": "settled", "trial": number}
                | {"owner": "made", "at": time.time(), "tokens_in": 100, "tokens_out": 5, "usd": 0.0}
                for i in range(len(made))
            ]
            connection.execute(sa.insert(ledger_table), calls)
        total = {"calls": 20 * len(candidates), "tokens_in": 2000 * len(candidates), "tokens_out": 0, "usd": 0.0}
        connection.execute(sa.insert(spend_table).values(study="fruit", role="task", **total))


def _outcome(example_id: str, is_right: bool) -> dict[str, Any]:
    return {
        "example_id": example_id,
        "kind": "scored",
        "score": float(is_right),
        "answer": {"team": "red"},
        "text": "red",
    }


def command(words: Sequence[str], runs_dir: Path) -> Figures:
    return measured(COMMAND.format(words=[*words, "--runs-dir", str(runs_dir)]), runs_dir.parent)


# -- long prompts ---------------------------------------------------------------------------------------


def long_prompts(folder: Path, n_chars: int) -> Figures:
    rng = random.Random(2)

    def long(text: str) -> str:
        while len(text) < n_chars:
            text += " " + " ".join(rng.choices(WORDS, k=12)) + "."
        return text[:n_chars]

    def model(body: Body) -> str:
        said = answer(body)
        return (
            f"<prompt>{long(said.removeprefix('<prompt>').removesuffix('</prompt>'))}</prompt>" if "<" in said else said
        )

    with FakeServer(model) as server:
        path = write_study(folder, server.url, concurrency=8, trials=12, tracking={"enabled": True})
        settings = json.loads(path.read_text())
        settings["prompt"] = long("Which team packs this box?")
        settings["search"] |= {"max_prompt_chars": 2 * n_chars, "operators": ["rewrite", "reflect", "demos", "trim"]}
        for lm in settings["lm"].values():
            lm |= {"max_tokens": 8000, "timeout": 60.0}
        path.write_text(json.dumps(settings))
        found = {"run": command(["run", str(path), "--quiet"], folder / "runs")}
    for words in (*COMMANDS, ["export", "fruit", "--format", "markdown"]):
        found[" ".join(words)] = command(words, folder / "runs")
    best = json.loads((folder / "runs/fruit/best_prompt.json").read_text())
    return {"characters of the best prompt": len(best["candidate"]["parts"][0]["instructions"]), **found}


def figures(folder: Path, given: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """Yield what was measured, one after the other."""
    for kind in given.kinds if "rows" in given.parts else ():
        yield f"{given.rows:,} rows, {kind}", load_rows(folder, kind, given.rows)
        (folder / f"rows.{kind}").unlink()
    for n in (50, given.trials) if "trials" in given.parts else ():
        runs_dir = made_study(folder / str(n), n)
        for words in (*COMMANDS, ["export", "fruit"]):
            yield f"{n:,} trials, {' '.join(words)}", command(words, runs_dir)
    if "prompts" in given.parts:
        yield f"prompts of {given.chars:,} characters", long_prompts(folder / "long", given.chars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--trials", type=int, default=5_000)
    parser.add_argument("--chars", type=int, default=20_000)
    parser.add_argument("--parts", nargs="+", default=["rows", "trials", "prompts"])
    parser.add_argument("--kinds", nargs="+", default=["jsonl", "csv", "parquet"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    result: Figures = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    result |= {"python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine()}
    with tempfile.TemporaryDirectory() as name:
        for what, found in figures(Path(name), given):
            result[what] = found
            print(f"{what}: {found}", flush=True)
            if given.out:
                given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
