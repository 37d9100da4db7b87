"""What the commands do that read a finished or running study: show, compare, status, report, export."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from optimizer.cli.terminal import console, wide_console
from optimizer.errors import ConfigError, Paused, UserError
from optimizer.unattended.background import runs_flag
from optimizer.words import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.candidate import Candidate, Example
    from optimizer.prompts.program import Program
    from optimizer.records import StudyView
    from optimizer.study.saved import SavedStudy


def show_study(name: str, runs_dir: Path, *, is_json: bool) -> int:
    """Print one study: its trials and operators, how the winner came to be, what changed, the verdict."""
    from optimizer.cli.summary import print_summary, summary_json
    from optimizer.cli.tables import OPERATOR_HEADS, diff_text, lineage_tree, lineage_words, operator_table, trial_table
    from optimizer.proof import insight
    from optimizer.proof.aim import worst_of
    from optimizer.study.saved import open_saved
    from optimizer.study.showing import material_of

    saved = open_saved(runs_dir, name)
    material = material_of(saved, needs_rows=False)
    view = material.view
    prompts = {candidate.id: material.render(candidate) for candidate in (view.seed, view.best)}
    if is_json:
        print(json.dumps(summary_json(view, prompts), indent=2, ensure_ascii=False))
        return 0
    wide = wide_console()
    marks = material.marks.values()
    means = f"\ndev scores are means of all rows, not of the {whose}" if (whose := worst_of(view)) else ""
    why = f"\n{said}" if not whose and (said := insight.why_not_highest(view)) else ""
    marked = "\none label: gives one label to nearly all rows, so it cannot win" if "one label" in marks else ""
    trials = trial_table(view, material.n_chars, material.marks, width=wide.width)
    starred = "* no other trial is better and shorter" if any(each.header == "chars" for each in trials.columns) else ""
    star = Text(f"{starred}{marked}{means}{why}".lstrip("\n") + "\n", style="dim")
    made = insight.lineage(view)
    came = Group(lineage_tree(view, "How the best prompt came to be"), lineage_words(made))
    paid = Text(OPERATOR_HEADS, style="dim")
    wide.print(Group(trials, star, operator_table(view), paid, came), highlight=False)
    out = console()
    if view.best != view.seed:
        title = "From your prompt to the best one: {+added+} [-removed-]"
        changes = diff_text(prompts[view.seed.id], prompts[view.best.id])
        out.print(Text(), Panel(changes, title=title, title_align="left"), highlight=False)
    print_summary(out, view, prompts, runs_flag=runs_flag(runs_dir))
    return 0


def compare(name: str, one: str | None, other: str | None, runs_dir: Path) -> int:
    """Print two trials of one study side by side, or two studies; by default seed and best prompt."""
    from optimizer.cli.comparison import compare_studies, compare_trials
    from optimizer.study.saved import open_saved
    from optimizer.study.showing import material_of, picked

    first = material_of(open_saved(runs_dir, name))
    if one is not None and other is None:
        if (one.isdecimal() or one in ("seed", "best")) and not (runs_dir / one).exists():
            other = "seed" if one == "best" else "best"
            raise UserError(f"compare: name two trials, or another study; for example: {name} {one} {other}")
        second = material_of(open_saved(runs_dir, one))
        wide_console().print(compare_studies(first, second), highlight=False)
        return 0
    sides = picked(first.view, one or "seed"), picked(first.view, other or "best")
    wide_console().print(compare_trials(first, *sides), highlight=False)
    return 0


def show_status(name: str | None, runs_dir: Path, *, is_json: bool = False) -> int:
    """Print how far one study is, or a line for each."""
    from optimizer.cli.tables import print_statuses, status_cells, status_json
    from optimizer.machines.roster import lines, workers
    from optimizer.unattended import background

    studies = [(one, background.live(one.run_dir), workers(one.journal)) for one in _opened(name, runs_dir)]
    if is_json:
        told = [
            status_json(background.until_now(one.view(), live), is_running=bool(at_work) or live is not None)
            | {"workers": [each.name for each in at_work]}
            for one, live, at_work in studies
        ]
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    cells = []
    for saved, live, at_work in studies:
        view = background.until_now(saved.view(), live)
        cells.append(status_cells(view, is_running=live is not None or bool(at_work)))
    print_statuses(wide_console(), cells)
    if name:
        pause = str((saved.journal.load_study() or {}).get("pause") or "")
        status_lines = background.lines(view, saved.journal.n_failed(), live, budget=saved.config.budget, pause=pause)
        for line in [*status_lines, *lines(at_work)]:
            console().print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _opened(name: str | None, runs_dir: Path) -> list[SavedStudy]:
    """Open one study, or all that have begun; of the others one line each says what became of them."""
    from optimizer.study.saved import open_saved, study_names

    names = [name] if name else study_names(runs_dir)
    if len(names) < 2:
        return [open_saved(runs_dir, name)]
    found = []
    for each in names:
        try:
            found.append(open_saved(runs_dir, each))
        except (UserError, Paused) as error:  # its database is damaged or away; the others can be seen
            console(is_error=True).print(str(error), highlight=False, markup=False, soft_wrap=True)
    return found


def write_report(name: str, runs_dir: Path, *, output: Path | None, is_forced: bool, opens_browser: bool) -> int:
    """Write the report beside the study, or to the file that is asked for."""
    from optimizer.init.rows import listed
    from optimizer.privacy.personal_data import count_findings
    from optimizer.report import report_html, shown_texts
    from optimizer.storage.files import write_new, write_text
    from optimizer.study.saved import open_saved
    from optimizer.study.showing import report_material

    saved = open_saved(runs_dir, name)
    path = output or saved.run_dir / "report.html"
    text = report_html(material := report_material(saved))
    if output is None:
        write_text(path, text)
    else:
        write_new(path, text, is_forced=is_forced)
    console().print(f"wrote {path}", highlight=False)
    if found := count_findings(shown_texts(material)):
        said = f"personal data? the report shows{listed(found)}; look at it before you send it on"
        console(is_error=True).print(said, highlight=False, markup=False, style="yellow", soft_wrap=True)
    if opens_browser and sys.stdout.isatty():
        webbrowser.open(path.resolve().as_uri())
    return 0


def export_study(
    name: str, runs_dir: Path, *, format: str, output: Path | None, is_forced: bool, trial: str | None = None
) -> int:
    """Print or write one prompt in the form that is asked for."""
    from optimizer.export import export, export_format
    from optimizer.storage.files import write_new
    from optimizer.study.saved import open_saved
    from optimizer.study.showing import picked

    chosen = export_format(format)
    saved = open_saved(runs_dir, name)
    view = saved.view()
    candidate = view.chosen if trial is None else picked(view, trial)
    rows, said = suite_rows(saved, view) if chosen == "promptfoo" else ((), "")
    text = export(view, saved.program(), chosen, candidate, rows=rows)
    _tell_rows(rows, said)
    if output is None:
        sys.stdout.write(visible(text) if sys.stdout.isatty() else text)  # a row must not steer a terminal
    else:
        write_new(output, text, is_forced=is_forced)
        console().print(f"wrote {output}", highlight=False)
    if trial is None and view.chosen != view.best:
        _tell_kept(view)
    if chosen == "dspy":
        _tell_dspy(saved.program(), candidate)
    _tell_local(view, chosen)
    if chosen in ("langchain", "mlflow") and candidate.format == "json":
        said = "note: this layout shows inputs as JSON: give json.dumps(value, ensure_ascii=False) for each of them"
        console(is_error=True).print(said, highlight=False, markup=False, style="yellow", soft_wrap=True)
    _tell_personal(candidate)
    return 0


def _tell_local(view: StudyView, chosen: str) -> None:
    """Say that a request is for the model that the prompt was made for, where that runs in no provider's hands."""
    from optimizer.export.facts import is_local, task_model

    if chosen in ("openai", "anthropic") and is_local(view):
        said = (
            f"note: the request is for {task_model(view)['model']!r} on a llama.cpp server, as the prompt was found; "
            "for another model change `model` and path, and let `verify --lm` prove the prompt on it first"
        )
        console(is_error=True).print(said, highlight=False, markup=False, style="yellow", soft_wrap=True)


def _tell_dspy(program: Program, candidate: Candidate) -> None:
    """Say what a program needs besides the state, which holds no layout and no reasoning of the search's."""
    from optimizer.export.dspy_state import needs

    for said in needs(program, candidate):
        console(is_error=True).print(f"note: {said}", highlight=False, markup=False, style="yellow", soft_wrap=True)


def suite_rows(saved: SavedStudy, view: StudyView) -> tuple[tuple[Example, ...], str]:
    """The test rows that an exported suite may hold, and a sentence on how many these are.

    After the final test they are those that it judged, so that the suite asks what the verdict rests on.
    """
    from optimizer.export.promptfoo import has_assertions

    if saved.config.tracking.rows == "ids":
        return (), "the file holds 0 test rows (tracking.rows is `ids`: the suite has the prompt alone)"
    columns, known = saved.config.data.withheld_by.values(), saved.test_rows(shows_withheld=False)
    judged = {each.example_id for each in view.verdict.seed_outcomes} if view.verdict else {row.id for row in known}
    rows = tuple(row for row in known if row.id in judged)
    n_unjudged = len(known) - len(rows)
    why = f"; {n_unjudged} that the final test did not judge are left out" if n_unjudged else ""
    why += f"; rows held back by {' and '.join(columns)} are left out" if columns else ""
    if rows and not has_assertions(saved.config.metric.name):
        why += "; promptfoo has nothing like the study's metric: they assert nothing, the answers are in `metadata`"
    return rows, f"the file holds {len(rows)} test rows{why}"


def _tell_rows(rows: Sequence[Example], said: str) -> None:
    """Say how many test rows a suite has, and what in them looks like personal data, on standard error."""
    from optimizer.export.personal import personal_kinds
    from optimizer.init.rows import listed

    err = console(is_error=True)
    if said:
        err.print(said, highlight=False, markup=False, soft_wrap=True)
    if found := personal_kinds(rows):
        told = f"personal data? the test rows show{listed(found)}; look at the file before you send it on"
        err.print(told, highlight=False, markup=False, style="yellow", soft_wrap=True)


def _tell_kept(view: StudyView) -> None:
    """Say that the search's prompt has not won, and how to get it all the same."""
    best = view.trial_of(view.best)
    other = f"; the best candidate of the search: --trial {best.number + 1}" if best else ""
    said = f"note: the verdict is keep, so this is the prompt that you had{other}"
    console(is_error=True).print(said, highlight=False, style="yellow")


def export_front(name: str, runs_dir: Path, *, format: str, output: Path | None, is_forced: bool) -> int:
    """Write every prompt that no other one beats in score and length at once, a file each, into a folder."""
    from optimizer.export import SUFFIXES, export, export_format
    from optimizer.proof import insight
    from optimizer.storage.files import make_private_folder, write_into
    from optimizer.study.saved import open_saved
    from optimizer.study.showing import material_of

    chosen = export_format(format)
    if output is None:
        raise ConfigError("--pareto: writes a file for each prompt; name a folder with --output")
    saved = open_saved(runs_dir, name)
    material, program = material_of(saved, needs_rows=False), saved.program()
    rows, said = suite_rows(saved, material.view) if chosen == "promptfoo" else ((), "")
    front = {each.number + 1: each.candidate for each in insight.front_of(material.view, material.n_chars)}
    texts = {
        f"{material.view.name}-trial-{n}{SUFFIXES[chosen]}": export(
            material.view, program, chosen, candidate, rows=rows
        )
        for n, candidate in front.items()
    }
    _tell_rows(rows, said)
    if not output.exists() and output.parent.is_dir():
        make_private_folder(output)  # prompts may show rows
    write_into(output, texts, is_forced=is_forced)
    console().print(f"wrote {len(texts)} prompts to {output}", highlight=False)
    _tell_personal(*(candidate for candidate in front.values() if candidate))
    return 0


def _tell_personal(*candidates: Candidate) -> None:
    """Name the rows that prompts show, and what in them looks like personal data, on standard error."""
    from optimizer.export.personal import personal_data

    err = console(is_error=True)
    demos = sorted({demo.example_id for each in candidates for part in each.parts for demo in part.demos})
    if not demos:
        return
    err.print(f"examples in the prompt: rows {', '.join(demos)}", highlight=False, style="dim")
    found = dict.fromkeys(one for each in candidates for one in personal_data(each))
    for one in found:
        said = Text(f"personal data? row {one.example_id}, {one.field}: {one.kind} {one.masked}", style="yellow")
        err.print(said, highlight=False)
