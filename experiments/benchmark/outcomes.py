"""Records what many candidates make of the same dev rows: real material for replaying races and stop rules.

    uv run python -m experiments.benchmark.outcomes --data FOLDER

For each task one study with random recipes, in which every candidate is scored on all of dev. Writes a table of scores,
candidates x rows, to experiments/results/outcomes/TASK.json. Tasks that are written already are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.benchmark.studies import open_model, open_study
from experiments.benchmark.tasks import ROOT, TASKS, open_task
from optimizer.candidate import content_hash
from optimizer.records import StudyView
from optimizer.run import run


def table_of(view: StudyView) -> dict[str, object]:
    """Return the scores of all candidates that were scored on every row, and how each was made."""
    trials = [trial for trial in view.trials if trial.state == "complete" and trial.candidate is not None]
    rows = [outcome.example_id for outcome in trials[0].outcomes]
    table = []
    for trial in trials:
        values = {outcome.example_id: outcome.value for outcome in trial.outcomes}
        table.append([values[row] for row in rows])
    made = [
        {
            "trial": trial.number,
            "operator": trial.recipe.operator,
            "parents": list(trial.parents),
            "candidate": trial.candidate.id,
            "n_demos": trial.candidate.n_demos,
            "format": trial.candidate.format,
            "words": content_hash([part.instructions for part in trial.candidate.parts]),
            "demos": [demo.example_id for demo in trial.candidate.parts[0].demos],
        }
        for trial in trials
        if trial.candidate is not None
    ]
    return {"candidates": made, "scores": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--rows", type=int, default=100, help="dev rows")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/outcomes"))
    parser.add_argument("--replies", type=Path, default=Path("runs/replies.db"))
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/outcomes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = open_model(args.replies)
    for name in args.tasks:
        out = args.out / f"{name}.json"
        if out.exists():
            continue
        config, folder = open_task(name, data=args.data, n_dev=args.rows, n_test=20)
        search = {"trials": args.trials, "sampler": "random", "racing": False, "max_demos": 16}
        job = open_study(config, folder, model, name=config.name, runs_dir=args.runs_dir, search=search, budget={})
        table = table_of(run(job))
        out.write_text(json.dumps(table) + "\n", encoding="utf-8")
        print(name, np.array(table["scores"], dtype=float).mean(axis=1).round(2).tolist(), flush=True)


if __name__ == "__main__":
    main()
