"""Runs the quickstart study once for each seed and sums up what it gained on test rows.

    uv run python experiments/quickstart_seeds.py --seeds 5 --out experiments/results/quickstart_seeds.json

Nothing but `search.seed` changes between the studies. Finished studies are not repeated: the script can be stopped and
started again. Every study has the same data split, so the mean over seeds says how much depends on luck in the search.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

from optimizer.study.saved import open_saved

ROOT = Path(__file__).parent.parent


def run(seed: int, runs_dir: Path) -> dict[str, Any]:
    name = f"quickstart-{seed}"
    cli = [sys.executable, "-m", "optimizer"]
    where = ["--runs-dir", str(runs_dir)]
    settings = ["--set", f"search.seed={seed}", "--set", f"name={name}"]
    subprocess.run([*cli, "run", str(ROOT / "configs/quickstart.yaml"), *settings, *where], check=True)
    shown = subprocess.run([*cli, "show", name, "--json", *where], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(shown.stdout)
    view = open_saved(runs_dir, name).view()
    trial = view.trial_of(view.best)
    operators = Counter(each.recipe.operator for each in view.trials if each.state in ("complete", "pruned"))
    return {
        "seed": seed,
        **result,
        "winner_trial": trial.number + 1 if trial else None,
        "winner_operator": trial.recipe.operator if trial else None,
        "scored_by_operator": dict(operators),
    }


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    gains = [result["test"]["difference"] for result in results]
    return {
        "n_studies": len(results),
        "mean_gain": mean(gains),
        "lowest_gain": min(gains),
        "highest_gain": max(gains),
        "mean_seed_score": mean(result["test"]["seed"] for result in results),
        "mean_winner_score": mean(result["test"]["winner"] for result in results),
        "winner_operators": dict(Counter(result["winner_operator"] for result in results)),
        "n_promoted": sum(result["verdict"] == "promote" for result in results),
        "mean_wall_s": mean(result["wall_s"] for result in results),
        "mean_task_calls": mean(result["calls"]["task"] for result in results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of studies")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/quickstart_seeds.json")
    args = parser.parse_args()
    results = [run(seed, args.runs_dir) for seed in range(args.seeds)]
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "summary": summary(results),
        "studies": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(report["summary"], indent=2))


if __name__ == "__main__":
    main()
