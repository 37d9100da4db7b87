"""What the data of a study is, as `check` shows it before anything is asked."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from optimizer.data.classes import classes_text
from optimizer.data.report import provable_gain, unquoted
from optimizer.prompts.marks import mark_notes
from optimizer.proof.slices import group_notes
from optimizer.study.job import Job
from optimizer.words import percent


def print_data(out: Console, job: Job) -> None:
    """Print sizes, uses and classes of the splits, what they can prove, and what is odd about the rows."""
    report = job.splits.report
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("split", "rows", "used for", "classes"):
        table.add_column(head)
    uses = {"train": "shown in prompts", "dev": "scoring candidates", "test": "the verdict, once"}
    for split, n in report.n.items():
        table.add_row(split, str(n), uses[split], escape(classes_text(report.class_counts.get(split, {}))))
    out.print(table, highlight=False)
    if report.constant_answer is not None:
        answer, share = report.constant_answer
        share_words = f"score {percent(share)} on dev" if job.metric.is_mean else f"be right on {percent(share)} of dev"
        out.print(f"Always answering {answer!r} would {share_words}.", highlight=False)
    gain = provable_gain(report.n["test"])
    out.print(
        f"A true gain of {100 * gain:.0f} points is proved on this test split four times out of five.", highlight=False
    )
    hides_rows = job.config.tracking.rows == "ids"
    notes = [unquoted(each) if hides_rows else each for each in report.warnings]
    notes += mark_notes(job.config.prompt, next(iter(job.program.specs.values())))
    notes += group_notes(job.config.metric.slices, job.groups, job.splits.test[: job.n_test])
    n_losses = len(report.losses)
    for i, said in enumerate(notes):
        style, what = ("bold red", "warning") if i < n_losses else ("yellow", "note")
        out.print(f"[{style}]{what}:[/] {escape(said)}", highlight=False)
