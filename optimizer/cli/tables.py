"""Tables of studies and trials for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from optimizer.candidate import JsonValue
from optimizer.proof import insight
from optimizer.proof.insight import Step
from optimizer.records import StudyView, TrialRecord
from optimizer.word_diff import word_diff
from optimizer.words import (
    count,
    duration,
    money,
    operator_words,
    percent,
    points,
    state_words,
    trial_counts,
    trial_word,
    visible,
)

OPERATOR_HEADS = "new best: trials that became the best so far; points: by how much these were better, added up\n"
LEAST_WANTED = ("calls", "chars", "vs best", "operator", "rows")  # columns of the trial table
LEAST_WHY = 14  # characters for the reason
UNLIMITED = 10_000  # characters; to see how wide a table would like to be


def status_json(view: StudyView, *, is_running: bool) -> dict[str, JsonValue]:
    """Return how far a study is as numbers; the keys stay the same between versions, and are those of `show --json`."""
    trial, verdict = view.trial_of(view.best), view.verdict
    best: dict[str, JsonValue] | None = None
    if trial is not None:
        mean, n_rows = view.dev_score(trial)
        if (dev := view.dev) is not None:
            mean, n_rows = dev.winner, dev.n if dev.n_winner is None else dev.n_winner
        best = {"trial": trial.number + 1, "score": mean, "n": n_rows}
    return {
        "study": view.name,
        "state": "interrupted" if view.state == "running" and not is_running else view.state,
        "stop_reason": view.stop_reason,
        "trials": cast(JsonValue, trial_counts(each.state for each in view.trials)),
        "best": best,
        "verdict": verdict.decision if verdict else None,
        "difference": verdict.difference if verdict else None,
        "calls": {role: view.spend.calls.get(role, 0) for role in ("task", "proposer", "judge")},
        "tokens": view.spend.tokens,
        "cost_usd": view.spend.usd,
        "wall_s": round(view.wall_s, 3),
    }


def status_cells(view: StudyView, *, is_running: bool) -> list[str]:
    """One line of `optimizer status`."""
    trial = view.trial_of(view.best)
    best = f"{_best(view, trial)} (trial {trial.number + 1})" if trial else "-"
    verdict = view.verdict
    said = f"{verdict.decision}, {points(verdict.difference)}" if verdict else "-"
    state = "running" if view.state == "running" and is_running else state_words(view.state, view.stop_reason)
    calls = count(sum(view.spend.calls.values()))
    return [
        view.name,
        state,
        str(len(view.trials)),
        best,
        calls,
        money(view.spend.usd),
        duration(view.wall_s),
        said,
    ]


def print_statuses(out: Console, studies: Sequence[Sequence[str]]) -> None:
    """Print a line for each study; a few short lines where the window is too narrow for that.

    Args:
        studies: the cells of each, see `status_cells`.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for head in ("study", "state", "trials", "best on dev", "calls", "cost", "time", "verdict"):
        table.add_column(head)
    for cells in studies:
        table.add_row(*cells)
    if out.measure(table, options=out.options.update(max_width=UNLIMITED)).maximum <= out.width:
        out.print(table, highlight=False)
        return
    for name, state, trials, best, calls, cost, time, verdict in studies:
        said = "" if verdict == "-" else f"; verdict: {verdict}"
        facts = (f"{state}{said}", f"{trials} trials, best on dev {best}", f"{calls} calls, {cost}, {time}")
        out.print("\n  ".join([name, *facts]), highlight=False, markup=False, soft_wrap=True)


def _best(view: StudyView, trial: TrialRecord) -> str:
    """The score on dev, corrected for having been chosen once that can be done; before, on how many rows it is."""
    if view.dev is not None:
        return percent(view.dev.winner)
    return f"{percent(trial.score)} on {len(trial.outcomes)}" if trial.outcomes else "-"


def trial_table(
    view: StudyView, n_chars: Mapping[str, int], marks: Mapping[str, str] | None = None, *, width: int = UNLIMITED
) -> Table:
    """One line a trial, with its score on all dev rows that it has.

    A star marks the front of score against length, among trials that ran their whole race.

    Args:
        n_chars: candidate id to prompt length.
        marks: by candidate id, why a prompt could not win, in one or two words.
        width: of the window; in a narrow one whole columns give way, as the title says.
    """
    starred = {trial.number for trial in insight.front_of(view, n_chars)}
    lengths = {trial.number: n_chars[trial.candidate.id] for trial in view.trials if trial.candidate}
    shown = {number: f"{n}{'*' if number in starred else ''}" for number, n in lengths.items()}
    cells = [_trial_cells(trial, shown.get(trial.number, ""), view.dev_score(trial)) for trial in view.trials]
    heads = ("trial", "operator", "state", "dev score", "rows", "vs best", "chars", "calls")
    widths = [max([len(head), *(len(row[i]) for row in cells)]) for i, head in enumerate(heads)]
    kept = _kept_columns(heads, widths, width)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    if len(kept) < len(heads):
        gone = ", ".join(head for i, head in enumerate(heads) if i not in kept)
        table.title, table.title_justify, table.title_style = f"(a wider window has: {gone})", "left", "dim"
    for i in kept:
        table.add_column(heads[i], no_wrap=True, min_width=widths[i])
    table.add_column("why", overflow="fold")
    for trial, (*row, why) in zip(view.trials, cells, strict=True):
        if marks and trial.candidate and (mark := marks.get(trial.candidate.id)):
            why = f"{mark}; {why}" if why else mark
        style = "green" if trial.candidate == view.best else None
        table.add_row(*(row[i] for i in kept), why, style=style)
    return table


def _kept_columns(heads: Sequence[str], widths: Sequence[int], width: int) -> list[int]:
    """Return the columns of the trial table that fit beside the reason, those that say least gone first."""
    kept = list(range(len(heads)))
    for head in LEAST_WANTED:
        if sum(widths[each] + 1 for each in kept) + LEAST_WHY > width:
            kept.remove(heads.index(head))
    return kept


def operator_table(view: StudyView) -> Table:
    """One line an operator: what was tried, what became of it, what it gained; see `OPERATOR_HEADS`."""
    table = _table("operator", "tried", "new best", "points", "complete", "dropped", "rejected", "failed", "calls")
    for row in insight.operators(view):
        fates = (row.complete, row.pruned, row.rejected, row.failed)
        gained = points(row.gain) if row.won else "-"
        cells = [row.operator, str(row.tried), str(row.won), gained, *map(str, fates), count(row.calls)]
        table.add_row(*cells, style="green" if row.is_winner else None)
    return table


def lineage_tree(view: StudyView, title: str) -> Tree:
    """The best candidate above what it was made from, each with its score and what the step was worth."""
    tree = Tree(Text(title, style="bold"), guide_style="dim")
    _grow(tree, view, insight.lineage(view))
    return tree


def lineage_words(step: Step) -> Text:
    """What the operators on the way do, a line each."""
    found = operator_words(_operators(step))
    return Text("\n".join(f"{name}: {what}" for name, what in found.items()), style="dim")


def _operators(step: Step) -> Iterator[str]:
    if step.trial:
        yield step.trial.recipe.operator
    for parent in step.parents:
        yield from _operators(parent)


def _grow(tree: Tree, view: StudyView, step: Step, note: str = "") -> None:
    trial, (mean, n) = step.trial, view.dev_score(step.trial)
    name = f"trial {trial.number + 1}  {trial.recipe.operator}" if trial else f"{step.name}, not scored"
    score = f"  {percent(mean)} on {n} rows" if n else ""
    branch = tree.add(Text(f"{name}{score}{note}"))
    for parent, gained in zip(step.parents, step.worth, strict=True):
        said = f"  (the step above: {points(gained.difference)} on {gained.n} shared rows)" if gained else ""
        _grow(branch, view, parent, said)


def diff_text(old: str, new: str) -> Text:
    """The new text with what was added in green and what was removed in red, marked `[-...-]{+...+}` without colour."""
    text = Text()
    for kind, piece in word_diff(visible(old), visible(new)):
        if kind == "same":
            text.append(piece)
        elif kind == "added":
            text.append("{+", style="dim").append(piece, style="green").append("+}", style="dim")
        else:
            text.append("[-", style="dim").append(piece, style="red strike").append("-]", style="dim")
    return text


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, overflow="ellipsis", no_wrap=True)
    return table


def _trial_cells(trial: TrialRecord, length: str, scored: tuple[float | None, int]) -> list[str]:
    difference = points(trial.difference) if trial.difference is not None else ""
    calls = str(trial.task_calls + trial.proposer_calls)
    rows = str(scored[1]) if scored[1] else ""
    score = percent(scored[0]) if scored[0] is not None else ""
    number, made_by = str(trial.number + 1), trial.recipe.operator
    return [
        number,
        made_by,
        trial_word(trial.state),
        score,
        rows,
        difference,
        length,
        calls,
        escape(visible(trial.reason[:80])),
    ]
