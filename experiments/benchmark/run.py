"""Start reading here: every method on every task, a fixed number of task calls, tested on rows that none of them saw.

    uv run python -m experiments.benchmark.run --data FOLDER --calls 300 --seeds 3

Writes one JSON file a run to experiments/results/benchmark: steps of the search, prompts, per-example test scores. Runs
that are written already are not repeated, so the script can be stopped and started again, and several can work side by
side on one folder. `experiments.benchmark.table` turns the files into the table and the plot.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmark.ablations import ABLATIONS
from experiments.benchmark.methods import METHODS, Bench, Step
from experiments.benchmark.replies import KeptReplies
from experiments.benchmark.studies import open_model, open_study
from experiments.benchmark.tasks import ROOT, TASKS, open_task
from optimizer.candidate import Candidate
from optimizer.metrics import score
from optimizer.prompts.formats import UnreadableReply
from optimizer.prompts.render import render
from optimizer.study.job import Job

N_DEV = {100: 50, 300: 50, 1000: 100}
N_TEST = 100
N_OWN_TEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One cell of the grid."""

    task: str
    method: str
    n_calls: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.method}-{self.n_calls}-{self.seed}".replace("_", "-").replace(" ", "-").lower()


def carry_out(cell: Run, *, data: Path, model: KeptReplies, runs_dir: Path) -> dict[str, object]:
    """Run one method, then test its answer and what it would have answered earlier.

    Prompts hold rows of the data sets, so they stay in `runs_dir`; the result names and measures them.
    """
    config, folder = open_task(cell.task, data=data, n_dev=N_DEV[cell.n_calls], n_test=N_TEST)

    def open_(search: Mapping[str, Any]) -> Job:
        """Our own final test is small here, and paid for besides: all methods are tested below, on more rows."""
        own, _ = open_task(cell.task, data=data, n_dev=N_DEV[cell.n_calls], n_test=N_OWN_TEST)
        budget = {"task_calls": cell.n_calls + 2 * N_OWN_TEST}
        settings = {"seed": cell.seed, **search}
        return open_study(own, folder, model, name=cell.name, runs_dir=runs_dir, search=settings, budget=budget)

    job = open_study(config, folder, model, name=cell.name, runs_dir=runs_dir, search={}, budget={})
    seed = job.program.seed(config.prompt)
    started = time.monotonic()
    bench = Bench(job=job, seed=seed, n_calls=cell.n_calls, run_seed=cell.seed, open_study=open_)
    steps = {**METHODS, **ABLATIONS}[cell.method](bench)
    wall_s = time.monotonic() - started
    return {
        "task": cell.task,
        "method": cell.method,
        "calls": cell.n_calls,
        "seed": cell.seed,
        "wall_s": round(wall_s, 1),
        "rows": [row.id for row in job.splits.test],
        "steps": [_tested(step, job) for step in steps],
    }


def _tested(step: Step, job: Job) -> dict[str, object]:
    (prompts := job.runs_dir / "prompts").mkdir(parents=True, exist_ok=True)
    prompt = json.dumps(step.candidate.to_json(), indent=2, ensure_ascii=False)
    (prompts / f"{step.candidate.id}.json").write_text(prompt + "\n", encoding="utf-8")
    return {
        "n_calls": step.n_calls,
        "dev": round(step.dev, 4),
        "candidate": step.candidate.id,
        "n_demos": step.candidate.n_demos,
        "n_chars": len(render(job.program, step.candidate)),
        "test": test_scores(step.candidate, job),
    }


def test_scores(candidate: Candidate, job: Job) -> list[float]:
    """Return the score of a prompt on each test row; a reply that cannot be read scores 0."""
    return [_score(candidate, row, job) for row in job.splits.test]


def _score(candidate: Candidate, row: Any, job: Job) -> float:
    try:
        answer = job.program.run(candidate, row.inputs, job.task_backend.complete)
    except UnreadableReply:
        return 0.0
    return score(job.metric, row, answer.fields).value


def grid(args: argparse.Namespace) -> Iterator[Run]:
    """All cells, seed by seed."""
    for seed in range(args.seeds):
        for method in ABLATIONS if args.ablations else args.methods:
            for task in args.tasks:
                yield Run(task=task, method=method, n_calls=args.calls, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--calls", type=int, default=300, choices=N_DEV, help="task calls of one run, its test apart")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=[*METHODS, *ABLATIONS])
    parser.add_argument("--ablations", action="store_true", help="run our search without each of its parts instead")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--replies", type=Path, default=Path("runs/replies.db"))
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/benchmark")
    args = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    args.out.mkdir(parents=True, exist_ok=True)
    model = open_model(args.replies)
    for cell in grid(args):
        path = args.out / f"{cell.name}.json"
        claim = path.with_suffix(".running")
        if path.exists() or not _claimed(claim):
            continue
        try:
            result = carry_out(cell, data=args.data, model=model, runs_dir=args.runs_dir)
            path.write_text(json.dumps(result) + "\n", encoding="utf-8")
        finally:
            claim.unlink()
        steps: Any = result["steps"]
        print(f"{cell.name:44} dev {steps[-1]['dev']:.3f}  test {sum(steps[-1]['test']) / N_TEST:.3f}", flush=True)


def _claimed(path: Path) -> bool:
    """Take a cell for this process; a claim of a process that is gone is taken over."""
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        pid = path.read_text()
        if pid and Path(f"/proc/{pid}").exists():
            return False
        path.write_text(str(os.getpid()))
    return True


if __name__ == "__main__":
    main()
