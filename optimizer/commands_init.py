"""What `optimizer init` prints."""

from __future__ import annotations

from optimizer.errors import ConfigError
from optimizer.init_study import Ask, Dialogue, Wishes, Written
from optimizer.terminal import console, hold_logs


def init_study(wishes: Wishes, ask: Ask | None, *, is_forced: bool) -> int:
    """Ask, write, and say what was written and what to do next. A break says how to go on."""
    import click

    hold_logs()
    dialogue = Dialogue(wishes, ask)
    try:
        written = dialogue.run(is_forced=is_forced)
    except click.Abort:
        raise ConfigError(
            f"init: stopped before the last answer, nothing was written; go on with `{dialogue.wishes.as_flags()}`, "
            "or add --yes to take every proposal"
        ) from None
    _print(written)
    return 0


def _print(written: Written) -> None:
    out, draft, report = console(), written.draft, written.splits.report
    for name, guess in draft.outputs.items():
        labels = f" with {len(guess.choices)} labels" if guess.choices else ""
        out.print(f"answer: {name}, {guess.kind}{labels}", highlight=False, markup=False)
    inputs = ", ".join(name for name in draft.columns if name not in draft.outputs)
    out.print(f"read: {inputs}", highlight=False, markup=False)
    out.print(f"metric: {draft.metric}, {draft.metric_reason}", highlight=False, markup=False)
    rows = ", ".join(f"{n} {name}" for name, n in report.n.items())
    out.print(f"rows: {rows}", highlight=False, markup=False)
    for warning in (*draft.notes, *report.warnings[:5]):
        out.print(f"note: {warning}", highlight=False, markup=False)
    out.print(f"Wrote {written.path}. Read it, then: optimizer check {written.path}", highlight=False, markup=False)
