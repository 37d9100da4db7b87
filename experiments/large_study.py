"""How long the views of a long study take: is a study of 500 trials still quick to look at?

Method: a finished study of N trials made by hand, 40 dev rows a whole race, as the tests use it. The report with its
plots and the tables of `show` are built in this process; processor seconds count: the median of R builds, and apart
from it the first one, which imports and warms caches. Reading the study from its database is not part of it.

With `--browser` the study is also written to an MLflow store, MLflow's own server started on it, and its list of runs
opened in a Chromium, sorted by score, R times after a first visit: seconds from the click on the link to the best trial
in the list, and processor seconds of server and browser together, which other work on the machine does not lengthen.

    uv run python -m experiments.large_study --trials 500 --browser --out experiments/results/large_study.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group

from experiments.screenshots import wait_until_up
from optimizer.cli.tables import lineage_tree, operator_table, trial_table
from optimizer.prompts.render import render
from optimizer.report import Material, report_html
from optimizer.track import Projection, free_port, rebuild, ui_command
from optimizer.track.content import number_width, trial_name
from optimizer.track.mlflow_view import MlflowView
from tests.sample_study import PROGRAM, ROWS, sample_view

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
TIMEOUT_MS = 300_000


def material(n_trials: int) -> Material:
    return Material(view=sample_view(n_trials), rows=ROWS, render=lambda each: render(PROGRAM, each))


def show(given: Material) -> str:
    console = Console(file=io.StringIO(), width=200)
    view = given.view
    tree = lineage_tree(view, "how it came to be")
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


def in_the_browser(n_trials: int, *, repeats: int) -> dict[str, Any]:
    """Write the study to MLflow and open its list of runs, again and again."""
    from playwright.sync_api import sync_playwright

    view = sample_view(n_trials)
    best = max((t for t in view.trials if t.score is not None), key=lambda t: (t.score or 0.0, t.number))
    best_names = {trial_name(t, t.score, width=number_width(view)) for t in view.trials if t.score == best.score}
    with tempfile.TemporaryDirectory() as folder:
        projection = projection_in(Path(folder))
        started = time.process_time()
        rebuild(view, projection)
        written_s = time.process_time() - started
        experiment_id, _ = MlflowView(projection).locate(view.name) or ("", "")
        with server_on(projection) as (base, server), sync_playwright() as running:
            program = os.environ.get("OPTIMIZER_CHROMIUM") or shutil.which("chromium")
            browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
            context = browser.new_context(viewport={"width": 1400, "height": 900})
            url = f"{base}/#/experiments/{experiment_id}/runs?orderByKey=metrics.`score`&orderByAsc=false"
            visits = [visit(context, url, best_names, server.pid) for _ in range(repeats + 1)]
            browser.close()
    return {
        "write_processor_s": round(written_s, 2),
        "first": visits[0],
        "median": {key: round(statistics.median(one[key] for one in visits[1:]), 2) for key in visits[0]},
        "visits": visits[1:],
    }


def visit(context: Any, url: str, names: set[str], server_pid: int) -> dict[str, float]:
    """Open the list in a new tab and wait for one of the best trials."""
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto("about:blank")
    pids = [server_pid, os.getpid()]
    before, started = processor_s(pids), time.monotonic()
    page.goto(url, wait_until="commit")
    page.get_by_text(re.compile(f"^({'|'.join(map(re.escape, sorted(names)))})$")).first.wait_for()
    wall_s, used_s = time.monotonic() - started, processor_s(pids) - before
    page.close()
    return {"seconds": round(wall_s, 2), "processor_s": round(used_s, 2)}


def processor_s(roots: list[int]) -> float:
    """Processor seconds of these processes and of all that they started."""
    stats: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # gone since
        stats[int(path.parent.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    family = set(roots)
    while more := {pid for pid, (parent, _) in stats.items() if parent in family} - family:
        family |= more
    return sum(stats[pid][1] for pid in family if pid in stats) / TICKS_PER_S


def projection_in(folder: Path) -> Projection:
    return Projection(
        uri=f"sqlite:///{folder / 'mlflow.db'}",
        artifact_root=folder / "artifacts",
        storage_id="1a59e",
        render=lambda each: render(PROGRAM, each),
        rows=lambda: ROWS,
        register=False,
    )


@contextmanager
def server_on(projection: Projection) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve MLflow's UI on the store, as `optimizer ui` does."""
    port = free_port(preferred=0)  # the usual one may be another server's by the time that ours is up
    command, extra = ui_command(projection.uri, port=port, artifact_root=projection.artifact_root)
    environment = {**os.environ, **extra}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_up(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--browser", action="store_true", help="also MLflow's list of runs; needs a Chromium")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {
        "trials": given.trials,
        "repeats": given.repeats,
        "report": seconds(report_html, given.trials, repeats=given.repeats),
        "show": seconds(show, given.trials, repeats=given.repeats),
        "python": platform.python_version(),
    }
    if given.browser:
        result["mlflow_list"] = in_the_browser(given.trials, repeats=given.repeats)
        result["load_of_the_machine"], result["cores"] = [round(each, 1) for each in os.getloadavg()], os.cpu_count()
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
