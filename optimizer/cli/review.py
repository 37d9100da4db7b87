"""What `optimizer suggest` and `optimizer review` do: show, and pass on what a person decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from optimizer.budget.limits import affordable_test_rows
from optimizer.candidate import Candidate, Example
from optimizer.cli.terminal import console, hold_logs, print_command
from optimizer.command_line import command_name
from optimizer.data.text_files import text_of
from optimizer.errors import ConfigError, StudyError, UserError
from optimizer.prompts.marks import without_input_marks
from optimizer.prompts.render import render
from optimizer.proof.aim import worst_of
from optimizer.proof.slices import group_rows
from optimizer.propose.gate import HeldOut, leaking, too_long
from optimizer.records import StudyView
from optimizer.review.finalists import Difference, Finalist, by_worst_group, differences, finalists
from optimizer.review.wishes import refuse_finished, reworded, suggest, veto, vetoes
from optimizer.study.saved import SavedStudy, open_saved
from optimizer.words import percent, visible

SIDE_BY_SIDE = 100  # columns of the terminal from which panels stand beside each other


def suggest_prompt(name: str, text: str, runs_dir: Path, *, like: str, predictor: str | None) -> int:
    """Add a person's prompt to a study as its next trial."""
    words = text_of(text)
    saved = open_saved(runs_dir, name)
    view = saved.view()
    refuse_finished(view)
    base = view.seed if like == "seed" else view.best if like == "best" else _finalist(saved, _number(like)).candidate
    _suggest(saved, view, _reworded(saved, base, words, predictor))
    return 0


def review_study(
    name: str,
    runs_dir: Path,
    *,
    vetoed: tuple[int, ...],
    edited: int | None,
    text: str | None,
    is_json: bool,
    edit: Callable[[str], str | None],
    predictor: str | None = None,
    ask: Callable[[str], str] | None = None,
) -> int:
    """Show the finalists and, with somebody to ask, what should become of them; or veto and edit as the flags say."""
    hold_logs()
    saved = open_saved(runs_dir, name)
    if text is not None and edited is None:
        raise ConfigError("--text: goes with --edit N, the trial whose prompt it replaces")
    for number in vetoed:
        _veto(saved, number)
    if edited is not None:
        _edit(saved, _finalist(saved, edited), text, edit, predictor)
    if not vetoed and edited is None:
        _show(saved, is_json=is_json)
        if ask is not None and not is_json and saved.view().state != "finished":
            _decide(saved, ask, edit)
    return 0


def _decide(saved: SavedStudy, ask: Callable[[str], str], edit: Callable[[str], str | None]) -> None:
    """Veto and edit by word until nothing more is said; a wrong word is told and asked again."""
    while words := ask("\nveto N, edit N (and of a program: edit N PREDICTOR), or Enter to leave").split():
        try:
            match words:
                case ["veto", number] if number.isdigit():
                    _veto(saved, int(number))
                case ["edit", number, *rest] if number.isdigit() and len(rest) < 2:
                    _edit(saved, _finalist(saved, int(number)), None, edit, rest[0] if rest else None)
                case _:
                    console().print("say `veto 4` or `edit 4`, with the number of a trial", highlight=False)
        except UserError as error:
            console().print(str(error), highlight=False, markup=False)


def _veto(saved: SavedStudy, number: int) -> None:
    is_new = veto(saved.journal, saved.view(), _finalist(saved, number).candidate)
    said = "cannot win any more" if is_new else "was vetoed before: it cannot win"
    console().print(f"trial {number} {said}", highlight=False)


def _edit(
    saved: SavedStudy, finalist: Finalist, text: str | None, edit: Callable[[str], str | None], predictor: str | None
) -> None:
    refuse_finished(view := saved.view())
    names = [part.predictor for part in finalist.candidate.parts]
    if predictor not in (names if len(names) > 1 else [None, *names]):
        raise StudyError(f"the program has the prompts {', '.join(names)}; name the one that you mean (--predictor)")
    old = finalist.candidate.part(predictor or names[0]).instructions
    new = text_of(text) if text is not None else edit(old)
    if new is None or new.strip() == old.strip():
        raise ConfigError("--edit: nothing was changed")
    _suggest(saved, view, _reworded(saved, finalist.candidate, new, predictor))


def _reworded(saved: SavedStudy, base: Candidate, text: str, predictor: str | None) -> Candidate:
    """The candidate in a person's words, without marks for inputs, which the layout adds."""
    spec = saved.program().specs.get(predictor or base.parts[0].predictor)
    return reworded(base, without_input_marks(text, spec) if spec else text, predictor)


def _suggest(saved: SavedStudy, view: StudyView, candidate: Candidate) -> None:
    """Pass a prompt on, unless the study would refuse it unseen."""
    if reason := too_long(candidate, saved.config.search.max_prompt_chars) or _leak(saved, view, candidate):
        raise StudyError(f"{reason}; the study would not score it, so it was not added")
    if refused := suggest(saved.journal, view, candidate):
        console().print(f"{refused}; see: {command_name()} show {view.name}", highlight=False)
        return
    when = (
        "the running study takes it up next, if there is time and budget left for it"
        if view.state == "running"
        else "it is raced next when the study is run again, if its budget allows"
    )
    console().print(f"added: {when}", highlight=False)


def _leak(saved: SavedStudy, view: StudyView, candidate: Candidate) -> str | None:
    """Say which rows the words of a prompt show and must not; None, too, where the data can no longer be read."""
    if (splits := saved.splits()) is None:
        return None
    rows, hides_rows = [*splits.dev, *splits.test], saved.config.tracking.rows == "ids"
    held_out = HeldOut.of_study(rows, train=splits.train, task=saved.config.task, seed=view.seed, hides_rows=hides_rows)
    return leaking(candidate, held_out)


def _finalist(saved: SavedStudy, number: int) -> Finalist:
    every = finalists(saved.view(), vetoes(saved.journal), n=10**6)
    found = next((each for each in every if each.number == number), None)
    if found is None:
        allowed = ", ".join(str(each.number) for each in sorted(every, key=lambda each: each.number))
        raise StudyError(f"no trial {number} with a scored prompt; there are: {allowed or 'none yet'}")
    return found


def _number(like: str) -> int:
    if not like.isdigit():
        raise ConfigError(f"--like: {like!r} is neither `seed`, `best` nor the number of a trial")
    return int(like)


def _show(saved: SavedStudy, *, is_json: bool) -> None:
    view = saved.view()
    found = finalists(view, vetoes(saved.journal), order=_order(saved, view))
    rows = differences(found, _rows(saved))
    if is_json:
        prompts = {each.number: render(saved.program(), each.candidate) for each in found}
        print(json.dumps(_json(view, found, rows, prompts), indent=2, ensure_ascii=False))
        return
    out = console()
    if not found:
        out.print("no prompt has been scored yet")
        return
    if whose := worst_of(view):
        out.print(f"ordered by the {whose}, which the study aims at; dev scores are means of all rows", markup=False)
    panels = [_panel(each, saved, view, out) for each in found]
    out.print(Columns(panels, equal=True) if out.width >= SIDE_BY_SIDE else "", end="")
    for panel in panels if out.width < SIDE_BY_SIDE else ():
        out.print(panel)
    _print_differences(out, rows, _places(saved, rows))
    if view.state != "finished":
        out.print("\nveto or edit one:")
        for flag in ("--veto N", "--edit N", "--edit N --text @FILE"):
            print_command(out, f"review {view.name} {flag}")


def _order(saved: SavedStudy, view: StudyView) -> list[Candidate]:
    """The candidates as the study ranks them where it aims at its worst group; else, or without its data, nothing."""
    from optimizer.study.held import WIDER

    settings = saved.config.metric.slices
    splits = saved.splits() if settings is not None and settings.aim == "worst" else None
    if settings is None or splits is None:
        return []
    n_test, n_calls = len(splits.test), len(view.seed.parts)
    n_tested = affordable_test_rows(saved.config.budget, n_test=n_test, calls_per_example=n_calls)
    groups = group_rows(settings, splits.test, (*splits.dev, *splits.train), n_tested=n_tested)
    version = str((saved.journal.load_study() or {})["metric_version"])
    made = {trial.candidate.id for trial in view.trials if trial.candidate}
    outcomes = saved.journal.outcomes_of(made, version)
    return by_worst_group(view, splits.dev, groups, outcomes, n_wide=WIDER * saved.config.search.finalists)


def _panel(each: Finalist, saved: SavedStudy, view: StudyView, out: Console) -> Panel:
    mean, n_rows = view.dev_score(each.trial)
    score = f"{percent(mean)} on {n_rows} dev rows"
    marks = " (yours)" if each.is_seed else " (vetoed)" if each.is_vetoed else ""
    width = max(30, out.width // 3 - 2) if out.width >= SIDE_BY_SIDE else None
    text = Text(visible(render(saved.program(), each.candidate)))
    return Panel(text, title=f"trial {each.number}{marks}", subtitle=score, title_align="left", width=width)


def _print_differences(out: Console, rows: list[Difference], places: Mapping[str, tuple[str, ...]]) -> None:
    out.print(Text("Where they differ:" if rows else "They answer no shared dev row differently.", style="bold"))
    for row in rows:
        place = f" ({places[row.example_id][0]})" if row.example_id in places else ""
        out.print(Text(f"\n{row.shown}{place}"))
        if row.expected:
            out.print(Text(f"  expected: {row.expected}", style="dim"))
        for number, answer in row.answers.items():
            value = row.values.get(number)
            out.print(Text(f"  trial {number}: {answer} ({'failed' if value is None else f'{value:.2f}'})"))


def _rows(saved: SavedStudy) -> Mapping[str, Example]:
    """The dev rows by id, read again from the study's data; none when the data is gone or came from Python."""
    from optimizer.data.loading import load_splits

    try:
        return {row.id: row for row in load_splits(saved.config, folder=saved.folder).dev}
    except UserError:
        return {}


def _places(saved: SavedStudy, rows: list[Difference]) -> Mapping[str, tuple[str, ...]]:
    """Where these rows stand in the study's files, as far as they can still be read."""
    from optimizer.data.loading import places_of

    try:
        return places_of(saved.config, {row.example_id for row in rows}, folder=saved.folder)
    except UserError:
        return {}


def _json(
    view: StudyView, found: list[Finalist], rows: list[Difference], prompts: Mapping[int, str]
) -> dict[str, object]:
    return {
        "finalists": [
            {
                "trial": each.number,
                "candidate": each.candidate.id,
                "score": view.dev_score(each.trial)[0],
                "rows": view.dev_score(each.trial)[1],
                "is_seed": each.is_seed,
                "is_vetoed": each.is_vetoed,
                "prompt": prompts[each.number],
            }
            for each in found
        ],
        "differences": [
            {
                "example": row.example_id,
                "input": row.shown,
                "expected": row.expected,
                "answers": {str(number): answer for number, answer in row.answers.items()},
                "values": {str(number): value for number, value in row.values.items()},
            }
            for row in rows
        ],
    }
