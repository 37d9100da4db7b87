"""Tables of studies and trials for the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from optimizer.front import pareto_front
from optimizer.program import Program
from optimizer.records import StudyView, TrialRecord
from optimizer.render import render
from optimizer.words import count, duration, money, percent, points

STATUS_KEYS = ("study", "state", "trials", "best", "calls", "cost", "time", "verdict")


def status_cells(view: StudyView, *, is_running: bool) -> list[str]:
    """One line of `optimizer status`."""
    trial = view.trial_of(view.best)
    best = f"{percent(trial.score)} (trial {trial.number + 1})" if trial else "-"
    verdict = view.verdict
    said = f"{verdict.decision}, {points(verdict.difference)}" if verdict else "-"
    state: str = "interrupted" if view.state == "running" and not is_running else view.state
    state += f": {view.stop_reason}" if view.state == "paused" else ""
    calls = count(sum(view.spend.calls.values()))
    return [
        view.name,
        state,
        str(len(view.trials)),
        best,
        calls,
        money(view.spend.cost_usd),
        duration(view.wall_s),
        said,
    ]


def trial_table(view: StudyView, program: Program) -> Table:
    """One line a trial. A star marks the front of score against length, among trials that ran their whole race."""
    n_chars = [len(render(program, trial.candidate)) if trial.candidate else 0 for trial in view.trials]
    raced = [i for i, trial in enumerate(view.trials) if trial.state == "complete"]
    front = pareto_front([view.trials[i].score or 0.0 for i in raced], [n_chars[i] for i in raced])
    starred = {raced[i] for i in front}
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    heads = ("trial", "operator", "state", "dev score", "rows", "vs best", "chars", "calls")
    cells = [
        _trial_cells(trial, f"{n_chars[i]}{'*' if i in starred else ''}" if trial.candidate else "")
        for i, trial in enumerate(view.trials)
    ]
    for i, head in enumerate(heads):  # in a narrow window the reason gives way, the numbers do not
        table.add_column(head, no_wrap=True, min_width=max([len(head), *(len(row[i]) for row in cells)]))
    table.add_column("why", overflow="fold")
    for trial, row in zip(view.trials, cells, strict=True):
        table.add_row(*row, style="green" if trial.candidate == view.best else None)
    return table


def _trial_cells(trial: TrialRecord, length: str) -> list[str]:
    difference = points(trial.difference) if trial.difference is not None else ""
    calls = str(trial.task_calls + trial.proposer_calls)
    rows = str(len(trial.outcomes)) if trial.outcomes else ""
    score = percent(trial.score) if trial.score is not None else ""
    number, made_by = str(trial.number + 1), trial.recipe.operator
    return [number, made_by, trial.state, score, rows, difference, length, calls, escape(trial.reason[:80])]
