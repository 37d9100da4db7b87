"""Turns the runs of the benchmark into a table with paired intervals, and a plot of test score against calls.

    uv run python -m experiments.benchmark.table

Reads experiments/results/benchmark/*.json; writes benchmark.md, benchmark.csv and benchmark.svg beside the folder, and
ablations.md of what is in experiments/results/ablations.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.ablations import ABLATIONS
from experiments.benchmark.tasks import ROOT
from optimizer.stats import compare

FloatArray = NDArray[np.float64]
OURS = "ours"
ORDER = (OURS, "BootstrapRS", "MIPROv2", "GEPA", "COPRO", "random search", "seed")
N_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: what its answer scores on test rows [n], and what earlier answers would have."""

    task: str
    method: str
    n_calls: int
    seed: int
    scores: FloatArray
    curve: Sequence[tuple[int, float]]

    @property
    def mean(self) -> float:
        return float(self.scores.mean())


def read(folder: Path) -> list[Cell]:
    cells = []
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        curve = [(step["n_calls"], float(np.mean(step["test"]))) for step in run["steps"]]
        scores = np.array(run["steps"][-1]["test"], dtype=np.float64)
        cells.append(Cell(run["task"], run["method"], run["calls"], run["seed"], scores, curve))
    return cells


def paired(cells: Sequence[Cell], method: str) -> list[tuple[Cell, Cell]]:
    """Return (ours, theirs) for each task and seed that both have; untouched prompts do not depend on the seed."""
    theirs = {(cell.task, cell.seed): cell for cell in cells if cell.method == method}
    return [
        (cell, theirs[cell.task, cell.seed])
        for cell in cells
        if cell.method == OURS and (cell.task, cell.seed) in theirs
    ]


def interval(pairs: Sequence[tuple[Cell, Cell]]) -> tuple[float, float, float]:
    """Mean difference with a 95% interval: runs and rows are drawn again within each task.

    All runs of a task are tested on the same rows, so one draw of rows holds for all of them. The draws are the same
    whatever else is in the table (NumPy seed 0).
    """
    rng = np.random.default_rng(0)
    tasks = list(by_task(pairs).values())
    drawn = np.zeros(N_RESAMPLES)
    for differences in tasks:
        k, n = differences.shape
        for i in range(N_RESAMPLES):
            runs, rows = rng.integers(k, size=k), rng.integers(n, size=n)
            drawn[i] += differences[np.ix_(runs, rows)].mean() / len(tasks)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean([differences.mean() for differences in tasks])), float(low), float(high)


def by_task(pairs: Sequence[tuple[Cell, Cell]]) -> dict[str, FloatArray]:
    """Return differences [runs, rows] of each task."""
    found: dict[str, list[FloatArray]] = defaultdict(list)
    for ours, theirs in pairs:
        found[ours.task].append(ours.scores - theirs.scores)
    return {task: np.stack(found[task]) for task in sorted(found)}


def losses(pairs: Sequence[tuple[Cell, Cell]]) -> tuple[int, int, list[str]]:
    """Return the runs won and lost, and the tasks on which ours is significantly behind.

    A row counts once, with its mean over the runs: three answers to one row are not three rows.
    """
    won = sum(ours.mean > theirs.mean for ours, theirs in pairs)
    lost = sum(ours.mean < theirs.mean for ours, theirs in pairs)
    behind = []
    for task, differences in by_task(pairs).items():
        means = differences.mean(axis=0)
        rng = np.random.default_rng(0)
        found = compare((1 - means) / 2, (1 + means) / 2, is_binary=False, confidence=0.95, rng=rng)
        if found.difference < 0 and found.p_value < 0.05:
            behind.append(f"{task} (p = {found.p_value:.2f})")
    return won, lost, behind


def table(cells: Sequence[Cell], n_calls: int) -> list[dict[str, str]]:
    """One row a method: mean test score on each task, over all, and what ours is ahead."""
    cells = [cell for cell in cells if cell.n_calls == n_calls]
    tasks = sorted({cell.task for cell in cells})
    rows = []
    for method in [name for name in ORDER if any(cell.method == name for cell in cells)]:
        means = {task: [c.mean for c in cells if c.method == method and c.task == task] for task in tasks}
        known = [float(np.mean(found)) for found in means.values() if found]
        row = {"method": method, **{task: f"{100 * np.mean(v):.1f}" if v else "" for task, v in means.items()}}
        row |= {"mean": f"{100 * np.mean(known):.1f}"}
        pairs = [] if method == OURS else paired(cells, method)
        if pairs:
            difference, low, high = interval(pairs)
            won, lost, behind = losses(pairs)
            row |= {
                "ours ahead by": f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                "won : lost": f"{won} : {lost}",
                "behind on": ", ".join(behind) or "none",
            }
        rows.append(row)
    return rows


def ablation_table(whole: Sequence[Cell], parts: Sequence[Cell]) -> list[dict[str, str]]:
    """One row a part: what our search gains by having it, over the runs made both with and without it.

    A whole search that was run beside the ablations goes before that of the benchmark: another machine answers a row
    differently now and then.
    """
    beside = [cell for cell in parts if cell.method == OURS]
    known = {(cell.task, cell.n_calls, cell.seed) for cell in beside}
    whole = [*beside, *(cell for cell in whole if (cell.task, cell.n_calls, cell.seed) not in known)]
    rows = []
    for n_calls, method in itertools.product(sorted({cell.n_calls for cell in parts}), ABLATIONS):
        without = [cell for cell in parts if cell.method == method]
        pairs = paired([cell for cell in (*whole, *without) if cell.n_calls == n_calls], method)
        if pairs:
            worth, low, high = interval(pairs)
            won, lost, _ = losses(pairs)
            rows.append(
                {
                    "search with": method,
                    "calls": str(n_calls),
                    "runs": str(len(pairs)),
                    "mean": f"{100 * np.mean([cell.mean for _, cell in pairs]):.1f}",
                    "whole search": f"{100 * np.mean([cell.mean for cell, _ in pairs]):.1f}",
                    "whole search ahead by": f"{100 * worth:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                    "won : lost": f"{won} : {lost}",
                }
            )
    return rows


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _score_at(run: Cell, n_calls: int) -> float:
    """Test score of the last answer that was known after so many calls; before the first one, of the first."""
    return [score for at, score in run.curve if at <= n_calls or at == run.curve[0][0]][-1]


def plot(cells: Sequence[Cell], n_calls: int, axes: Any) -> None:
    """Mean test score over tasks and seeds of what each method would answer after so many calls."""
    grid = np.arange(0, n_calls + 1, 10)
    for method in ORDER:
        runs = [cell for cell in cells if cell.method == method and cell.n_calls == n_calls]
        if not runs:
            continue
        curves = [[_score_at(run, int(x)) for x in grid] for run in runs]
        axes.plot(grid, 100 * np.mean(curves, axis=0), label=method, linewidth=2.5 if method == OURS else 1.2)
    axes.set_xlabel("task calls")
    axes.set_ylabel("test score, %")
    axes.set_title(f"{n_calls} calls")
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "experiments/results/benchmark")
    args = parser.parse_args()
    cells, out = read(args.results), args.results.parent
    budgets = sorted({cell.n_calls for cell in cells})
    parts = []
    with (out / "benchmark.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "method", "calls", "seed", "test"])
        writer.writerows([c.task, c.method, c.n_calls, c.seed, round(c.mean, 4)] for c in cells)
    for n_calls in budgets:
        found = markdown(table(cells, n_calls))
        n_seeds = len({cell.seed for cell in cells if cell.n_calls == n_calls})
        parts.append(f"## {n_calls} task calls, up to {n_seeds} seeds, mean test score in %\n\n{found}\n")
    (out / "benchmark.md").write_text("\n".join(parts), encoding="utf-8")
    if ablated := ablation_table(cells, read(out / "ablations")):
        parts.append(text := markdown(ablated) + "\n")
        (out / "ablations.md").write_text(text, encoding="utf-8")
    print("\n".join(parts))
    figure, axes = plt.subplots(1, len(budgets), figsize=(5.5 * len(budgets), 4), squeeze=False)
    for n_calls, axis in zip(budgets, axes[0], strict=True):
        plot(cells, n_calls, axis)
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(out / "benchmark.svg")


if __name__ == "__main__":
    main()
