"""What `optimizer check` says of personal data: what the rows hold, where it may be shown, and where it would go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console

from optimizer.candidate import Example
from optimizer.privacy.local import places
from optimizer.privacy.personal_data import Kind, count_findings, findings
from optimizer.study.job import Job

MAX_ROWS = 500  # of a split; what a few hundred rows do not show is rare


def print_privacy(out: Console, job: Job) -> None:
    """Print a line for each place where personal data would be shown or sent; one line when there is none."""
    away = [f"lm.{place.role} ({place.address or place.model})" for place in places(job.config) if not place.is_here]
    goes = f"sent to {', '.join(away)}" if away else "read by models on this machine only"
    named = {"train": job.splits.train, "dev and test": (*job.splits.dev, *job.splits.test)}
    uses = {"train": f"prompts and exports may show them; {goes}", "dev and test": goes}
    lines = []
    for split, rows in named.items():
        checked = rows[:MAX_ROWS]
        n, counts = _found(checked)
        if n:
            kinds = ", ".join(f"{kind} {n_kind}" for kind, n_kind in counts.items())
            lines.append(f"personal data: {n} of {len(checked)} {split} rows ({kinds}): {uses[split]}")
    advice = [] if job.config.data.withheld_by else ["`data.no_demos: COLUMN` keeps rows out of prompts"]
    advice += [] if job.config.privacy == "local" else ["`privacy: local` keeps them on this machine"]
    if lines and advice:
        lines.append(f"personal data: {', '.join(advice)}")
    if columns := job.config.data.withheld_by.values():
        out.print(job.splits.held_back.words(columns), highlight=False, markup=False)
    for line in lines or ["personal data: none recognised by its form (bare names and rare facts have no form)"]:
        out.print(line, highlight=False, markup=False)


def _found(rows: Sequence[Example]) -> tuple[int, dict[Kind, int]]:
    texts = ["\n".join(_texts(row)) for row in rows]
    return sum(bool(findings(text)) for text in texts), count_findings(texts)


def _texts(row: Example) -> Iterable[str]:
    return (str(value) for fields in (row.inputs, row.outputs) for value in fields.values())
