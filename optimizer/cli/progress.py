"""What a terminal shows while a study runs: one live block, and a line for each new best.

Piped output gets plain lines instead. Reads the session, changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.text import Text

from optimizer.budget.limits import expected_in_all
from optimizer.candidate import Candidate
from optimizer.cli.terminal import is_live
from optimizer.command_line import command_name, run_command
from optimizer.proof.aim import worst_in
from optimizer.proof.earlier import warning
from optimizer.propose.rest import rest_note
from optimizer.records import StudyView, TrialRecord
from optimizer.study.fork import raised, reshown
from optimizer.study.observe import Observer
from optimizer.study.stops import left_s
from optimizer.study.view import seen_from_json
from optimizer.words import count, duration, money, percent, trial_word, visible

if TYPE_CHECKING:
    from optimizer.search.optuna_study import Ticket
    from optimizer.study.session import Session

REFRESH_PER_S = 4.0
BAR_WIDTH = 60
GAP = "   "  # between two facts in a line
WAITS_EVERY_S = 60.0  # between two lines on calls that wait, so that they do not drown the trials


class Progress(Observer):
    """Shows a run on a terminal. Use as a context manager, so that the terminal is left as it was."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_live = is_live(console)
        self._session: Session | None = None
        self._phase = "starting"
        self._waiting, self._waits, self._n_waits, self._next_wait_at = "", threading.Lock(), 0, 0.0
        self._n_trials = 0
        self._started_at = time.monotonic()
        self._phase_rows = (0, 0)  # scored, to score: known only for the final test
        self._live = Live(get_renderable=self._block, console=console, refresh_per_second=REFRESH_PER_S, transient=True)

    def __enter__(self) -> Progress:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    # -- told by the run ------------------------------------------------------------------------

    def opened(self, session: Session) -> None:
        self._session = session
        self._n_trials = session.study.n_finished()
        report = session.splits.report
        sizes = ", ".join(f"{n} {split}" for split, n in report.n.items())
        if session.is_finished:
            self._tell_finished(session)
            return
        verb = "Continuing" if self._n_trials else "Starting"
        self._console.print(f"{verb} study [bold]{session.job.config.name}[/bold]: {sizes} examples", highlight=False)
        seen = warning(seen_from_json(session.journal.load_study() or {}))
        aim = worst_in(session.job.config.metric.slices)
        whose = [f"scores of trials are means of all dev rows; the final test is judged by the {aim}"] if aim else []
        for note in (*report.warnings, *([seen] if seen else []), *whose):
            self._console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
        self._phase = "searching"

    def _tell_finished(self, session: Session) -> None:
        self._phase, config = "done", session.job.config
        self._console.print(f"Study [bold]{config.name}[/bold] is finished: nothing was asked.", highlight=False)
        if changed := reshown(session.journal.load_study() or {}, config):
            self._console.print(
                f"Changed since: {', '.join(changed)}. That holds for new studies; this one, its report and MLflow "
                f"keep what it began with. `{command_name()} run CONFIG --fork NAME` begins one, paying nothing twice.",
                highlight=False,
                markup=False,
            )
        if higher := raised(session.journal.load_study() or {}, config):
            self._console.print(
                f"Raised since: {', '.join(higher)}. A finished study is not searched on, because its test rows have "
                f"been opened. To search on: `{run_command('--fork', f'{config.name}-2')}` goes the same way, "
                f"pays nothing twice, and goes further; `--set name=NAME --warm-start {config.name}` begins with its "
                "best prompts.",
                highlight=False,
                markup=False,
            )

    def trial_started(self, ticket: Ticket) -> None:
        self._phase = f"trial {ticket.number + 1}: {ticket.start or ticket.recipe.operator}"

    def scored(self) -> None:
        done, total = self._phase_rows
        self._phase_rows = (done + 1, total)

    def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
        self._n_trials += 1
        if is_best or not self._is_live:
            self._console.print(_trial_line(trial, is_best=is_best), highlight=False, soft_wrap=True)

    def waiting(self, reason: str) -> None:
        if reason and not self._is_live:
            self._tell_waiting(reason)
        self._waiting = reason

    def _tell_waiting(self, reason: str) -> None:
        """Print one wait in a while and how many there were since; the log file has all of them."""
        with self._waits:
            self._n_waits += 1
            now = time.monotonic()
            if now < self._next_wait_at:
                return
            since = f" ({self._n_waits} waits since the last such line)" if self._n_waits > 1 else ""
            self._n_waits, self._next_wait_at = 0, now + WAITS_EVERY_S
        self._console.print(f"waiting: {reason}{since}", highlight=False, markup=False, soft_wrap=True)

    def silent(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def finalists(self, candidates: Sequence[Candidate]) -> None:
        self._phase = f"scoring {len(candidates)} finalists on all dev examples"

    def final_started(self, winner: Candidate, n_rows: int) -> None:
        del winner
        done, total = self._phase_rows
        self._phase_rows = (done if total else 0, 2 * n_rows)  # it may be told again, with further rows
        self._phase = f"final test on {n_rows} examples"

    def finished(self, view: StudyView) -> None:
        del view
        self._phase = "done"
        if (session := self._session) is None:
            return
        for note in filter(None, (session.models.cut_note(), rest_note(session.n_plain))):
            self._console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)

    # -- the live block -------------------------------------------------------------------------

    def _block(self) -> RenderableType:
        session = self._session
        if session is None:
            return Text(f"{self._phase} ...", style="dim")
        n_all = session.job.config.search.trials
        spend, left = session.journal.spend(), left_s(session)
        in_all = expected_in_all(spend, session.job.config.budget, elapsed_s=session.elapsed_s, left_s=left)
        price = money(spend.usd, is_free=session.job.is_free)
        facts = [
            Text.assemble("best ", (percent(_best(session)), "bold green")),
            Text(f"trial {min(self._n_trials, n_all)} of {n_all}"),
            Text(f"{count(sum(spend.calls.values()))} calls" + (f" of about {count(in_all.calls)}" if in_all else "")),
            Text(price + (f" of about {money(in_all.usd)}" if in_all and in_all.usd and spend.usd is not None else "")),
            Text(f"{duration(time.monotonic() - self._started_at)} so far"),
            *([Text(f"about {duration(left)} left")] if left is not None else _at_most(session.deadline.left_s())),
        ]
        width = self._console.width
        lines: list[RenderableType] = [*_in_lines(facts, width)]
        lines.append(ProgressBar(total=n_all, completed=self._n_trials, width=min(BAR_WIDTH, width)))
        phase = self._phase + (
            f" ({done} of {total})" if (total := self._phase_rows[1]) and (done := self._phase_rows[0]) else ""
        )
        lines.append(
            Text(f"waiting: {self._waiting}" if self._waiting else phase, style="yellow" if self._waiting else "dim")
        )
        return Group(*lines)


def _at_most(deadline_s: float | None) -> list[Text]:
    return [] if deadline_s is None else [Text(f"at most {duration(deadline_s)} left")]


def _in_lines(facts: Sequence[Text], width: int) -> list[Text]:
    """Put facts side by side, as many as fit in a line; none is broken where the window is wide enough for one."""
    lines: list[Text] = []
    for fact in facts:
        if lines and lines[-1].cell_len + len(GAP) + fact.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], GAP, fact)
        else:
            lines.append(fact)
    return lines


def _best(session: Session) -> float | None:
    incumbent = session.elite.incumbent
    return None if incumbent is None else session.elite.estimate(incumbent)


def _trial_line(trial: TrialRecord, *, is_best: bool) -> Text:
    score = f"{percent(trial.score)} on {len(trial.outcomes)}" if trial.score is not None else ""
    text = Text(f"trial {trial.number + 1:>3}  {trial.recipe.operator:<10}  {score:<14}  ")
    text.append("new best" if is_best else trial_word(trial.state), style="green" if is_best else "dim")
    n_unread = sum(outcome.kind in ("unparsed", "refused") for outcome in trial.outcomes)
    if 2 * n_unread > len(trial.outcomes):
        text.append(f"  {n_unread} of {len(trial.outcomes)} replies cannot be read", style="yellow")
    if trial.reason and not is_best:
        text.append(f"  {visible(trial.reason)}", style="dim")
    return text
