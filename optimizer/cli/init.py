"""What `optimizer init` prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from optimizer.cli.terminal import console, hold_logs, print_command
from optimizer.errors import ConfigError, UserError
from optimizer.init.study import Ask, Dialogue, Written
from optimizer.init.task import Column
from optimizer.init.wishes import Wishes
from optimizer.words import count, visible

MAX_COLUMNS_SHOWN = 30


def init_study(wishes: Wishes, ask: Ask | None, *, is_forced: bool) -> int:
    """Ask, write, and say what was written and what to do next. A break says how to go on."""
    import click

    hold_logs()
    dialogue = Dialogue(wishes, ask, _show_columns if ask is not None else None)
    try:
        written = dialogue.run(is_forced=is_forced)
    except (click.Abort, KeyboardInterrupt):
        raise ConfigError(
            f"init: stopped before the last answer, nothing was written; go on with `{_again(dialogue, is_forced)}`, "
            "or add --yes to take every proposal"
        ) from None
    except UserError as error:
        if not dialogue.has_answers:
            raise
        said = str(error).removesuffix(".")
        end = "" if said.endswith("?") else "."
        again = f"`{_again(dialogue, is_forced)}`"
        raise type(error)(f"{said}{end} Nothing was written; your answers are in {again}") from error
    _print(written)
    return 0


def _again(dialogue: Dialogue, is_forced: bool) -> str:
    return dialogue.wishes.as_flags() + (" --force" if is_forced else "")


def show_example(name: str | None, into: Path) -> int:
    """List the ready configurations, or copy one."""
    from optimizer.init.examples import copy_example, examples

    out = console()
    if name is None:
        table = Table.grid(padding=(0, 2))
        for each, said in examples().items():
            table.add_row(Text(each, style="bold"), Text(said))
        out.print(table)
        out.print("\nTake one with its data:")
        print_command(out, "example quickstart")
        return 0
    config, *others = copy_example(name, into)
    out.print(f"Wrote {', '.join(map(str, (config, *others)))}. Next:", highlight=False, markup=False)
    for command in ("check", "run"):
        print_command(out, f"{command} {shlex.quote(str(config))}")
    return 0


def _show_columns(columns: Mapping[str, Column]) -> None:
    """Show what the file holds, so that the questions can be answered without opening it."""
    out, n_rows = console(), next(iter(columns.values())).n_rows
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    shown = list(columns.values())[:MAX_COLUMNS_SHOWN]
    name_width = min(24, max(len(column.name) for column in shown))
    table.add_column("column", overflow="ellipsis", no_wrap=True, width=max(len("column"), name_width))
    for head in ("different", "empty"):
        table.add_column(head, justify="right", no_wrap=True, width=len(head))
    rest = out.width - name_width - len("different" + "empty") - 8
    table.add_column("for example", overflow="ellipsis", no_wrap=True, width=max(10, rest))
    for column in shown:
        first = " ".join(visible(column.texts[0]).split())
        table.add_row(Text(visible(column.name)), count(column.n_different), count(column.n_empty), Text(first))
    out.print(f"{count(n_rows)} rows. Enter takes what stands in [brackets].", highlight=False, markup=False)
    out.print(table)
    if len(columns) > MAX_COLUMNS_SHOWN:
        out.print(f"and {len(columns) - MAX_COLUMNS_SHOWN} more columns")
    out.print()


def _print(written: Written) -> None:
    out, draft, report = console(), written.draft, written.splits.report

    def say(line: str) -> None:
        out.print(visible(line), highlight=False, markup=False)

    for name, guess in draft.outputs.items():
        labels = f" with {len(guess.choices)} labels" if guess.choices else ""
        say(f"answer: {name}, {guess.kind}{labels}")
    say(f"read: {', '.join(name for name in draft.columns if name not in draft.outputs)}")
    say(f"metric: {draft.metric}, {draft.metric_reason}")
    say(f"rows: {', '.join(f'{n} {name}' for name, n in report.n.items())}")
    other_way = "--no-consent leaves it out"
    if draft.opt_out_column:
        say(f"never shown as examples: rows with a yes in {draft.opt_out_column!r} (data.no_demos; {other_way})")
    if draft.consent_column:
        say(f"shown as examples: only rows with a yes in {draft.consent_column!r} (data.demos_only; {other_way})")
    for note in (*draft.notes, *draft.split_notes, *report.warnings[:5], *_missing_model(draft.model)):
        say(f"note: {note}")
    if written.kept is not None:
        say(f"Your old {written.path.name} is kept as {written.kept}.")
    say(f"Wrote {written.path}. Read it, then:")
    print_command(out, f"check {shlex.quote(str(written.path))} --probe")


def _missing_model(model: str) -> list[str]:
    """What is still to be installed, told now and not after the file has been read and corrected."""
    from optimizer.lm.embedded import gguf_path

    try:
        if model == "embedded" or (model.startswith("gguf:") and not model.startswith("gguf:hub:")):
            gguf_path(model)
    except ConfigError as error:
        return [str(error)]
    return []
