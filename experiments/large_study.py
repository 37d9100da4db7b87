"""How long the views of a long study take to build: is a study of 500 trials still quick to look at?

Method: a finished study of N trials made by hand, 40 dev rows a whole race, as the tests use it. The report with its
plots and the tables of `show` are built in this process. Processor seconds count: the median of R builds, and apart
from it the first one, which imports and warms caches. Reading the study from its database is not part of it.

    uv run python experiments/large_study.py --trials 500 --out experiments/results/large_study.json
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group

from optimizer import insight
from optimizer.render import render
from optimizer.report import Material, report_html
from optimizer.tables import lineage_tree, operator_table, trial_table
from tests.sample_study import PROGRAM, ROWS, sample_view


def material(n_trials: int) -> Material:
    return Material(view=sample_view(n_trials), rows=ROWS, render=lambda each: render(PROGRAM, each))


def show(given: Material) -> str:
    console = Console(file=io.StringIO(), width=200)
    view = given.view
    tree = lineage_tree(insight.lineage(view), "how it came to be")
    console.print(Group(trial_table(view, given.n_chars), operator_table(view), tree))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def seconds(build: Callable[[Material], str], n_trials: int, *, repeats: int) -> dict[str, float]:
    """Return the first and the median of `repeats` later builds, each from a fresh study."""
    taken: list[float] = []
    for _ in range(repeats + 1):
        given = material(n_trials)
        started = time.process_time()
        text = build(given)
        taken.append(time.process_time() - started)
    return {"first_s": round(taken[0], 3), "median_s": round(statistics.median(taken[1:]), 3), "characters": len(text)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = {
        "trials": given.trials,
        "repeats": given.repeats,
        "report": seconds(report_html, given.trials, repeats=given.repeats),
        "show": seconds(show, given.trials, repeats=given.repeats),
        "python": platform.python_version(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
