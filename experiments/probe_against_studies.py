"""Does the advice of `check --probe` come true? Probes tasks, then carries out the study whatever the advice was.

    uv run python -m experiments.probe_against_studies --data FOLDER

`FOLDER` holds public data sets as `benchmark/tasks.py` describes; the result has figures only, none of their rows.
Tasks that are done are not repeated: the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from experiments.benchmark.replies import KeptReplies
from experiments.benchmark.studies import open_model, open_study
from experiments.benchmark.tasks import ROOT, open_task
from optimizer.cli.summary import final_test_json
from optimizer.probe.advice import Advice, ProbeFacts, advise
from optimizer.probe.probe import plan, probe
from optimizer.records import StudyView, Verdict
from optimizer.run import run

# Chosen before any of them was probed. The advice was mended after the first eight; it had not seen the last five.
TASKS = (
    "ii_first_letter", "implicatures", "snips", "ii_sum", "ii_larger_animal", "bbh_navigate", "sms_spam",
    "restaurant8k", "ethos", "copa", "ii_antonyms", "bbh_sports", "epistemic_reasoning",
)  # fmt: skip
N_DEV, N_TEST, N_CALLS, N_TRIALS = 60, 120, 500, 40  # the calls leave 100 of the test rows for the verdict


def carry_out(task: str, *, data: Path, model: KeptReplies, runs_dir: Path, seed: int) -> dict[str, object]:
    """Probe one task, run its study, and return the figures of both."""
    config, folder = open_task(task, data=data, n_dev=N_DEV, n_test=N_TEST)
    name = f"probed-{config.name}-{seed}"
    search, budget = {"seed": seed, "trials": N_TRIALS}, {"task_calls": N_CALLS}
    job = open_study(config, folder, model, name=name, runs_dir=runs_dir, search=search, budget=budget)
    facts, spent = probe(job, plan(job))
    advice = advise(facts)
    view = run(job)
    assert view.verdict is not None
    return {
        "task": task,
        "seed": seed,
        "probe_calls": spent.n_calls,
        **_probed(facts, advice),
        **_studied(view, view.verdict),
    }


def _probed(facts: ProbeFacts, advice: Advice) -> dict[str, object]:
    """The figures of a probe; what it quotes from rows stays here."""
    figures = {
        name: getattr(facts, name)
        for name in (
            "n_rows", "n_test", "seed", "with_examples", "constant", "luck", "luck_with_examples", "read_share",
            "noise", "spread", "n_pairs", "contradictory_share", "leaked_share", "is_skilled", "likely_gain",
            "smallest_gain",
        )
    }  # fmt: skip
    return {"advice": advice.decision, "reasons": list(advice.reasons), "probe": figures}


def _studied(view: StudyView, verdict: Verdict) -> dict[str, object]:
    return {
        "verdict": verdict.decision,
        "test": final_test_json(verdict),
        "trials": len(view.trials),
        "task_calls": view.spend.calls.get("task", 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--seeds", type=int, default=1, help="studies of each task")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/probed"))
    parser.add_argument("--replies", type=Path, default=Path("runs/replies.db"))
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/probe.json")
    args = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    done = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else []
    model = open_model(args.replies)
    for seed in range(args.seeds):
        for task in args.tasks:
            if any((each["task"], each["seed"]) == (task, seed) for each in done):
                continue
            done.append(carry_out(task, data=args.data, model=model, runs_dir=args.runs_dir, seed=seed))
            args.out.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            print(f"{task:20} probe: {done[-1]['advice']:14} study: {done[-1]['verdict']}", flush=True)


if __name__ == "__main__":
    main()
