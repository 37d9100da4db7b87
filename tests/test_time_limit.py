"""A limit on time: what is kept for finalists and final test, how that is measured anew, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.budget.limits import Deadline
from optimizer.candidate import Candidate
from optimizer.cli.summary import print_summary
from optimizer.cli.terminal import console
from optimizer.config.keys import Config
from optimizer.proof.ending import stopped_words, time_notes
from optimizer.records import Timing, TrialRecord
from optimizer.report import report_html
from optimizer.report.page import Material
from optimizer.run import run
from optimizer.search.evaluate import Busy
from optimizer.study.job import open_job
from optimizer.study.observe import Observer
from optimizer.study.session import Session
from optimizer.study.stops import n_final_rows
from tests.fake_server import FakeServer
from tests.sample_study import sample_view
from tests.test_main_job import answer, config, folder

__all__ = ["folder"]

SHORT = Timing(
    key="wall_clock",
    n_wanted=30,
    limit_s=420.0,
    kept_s=300.0,
    expected_s=290.0,
    row_s=0.9,
    final_s=130.0,
)


class Clockwork(Observer):
    """Lets the time be over after four trials, enough when the finalists are scored, and over a trial later."""

    def __init__(self) -> None:
        self.session: Session
        self.at_s = 0.0
        self.rows_left: list[int] = []
        self.n_trials = 0

    def opened(self, session: Session) -> None:
        self.session = session
        session.deadline = Deadline(at_s=1e6, clock=lambda: self.at_s)

    def _leave(self, seconds: float) -> None:
        self.at_s = 1e6 - seconds

    def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
        del trial, is_best
        self.n_trials += 1
        if self.n_trials == 4:
            self._leave(0.0)
        if self.n_trials == 5:
            self._leave(-12.0)

    def finalists(self, candidates: Sequence[Candidate]) -> None:
        del candidates
        self.rows_left.append(n_final_rows(self.session))
        if self.n_trials == 4:
            self._leave(1e5)


@pytest.mark.slow
def test_a_search_goes_on_when_the_finalists_took_less_than_was_feared(folder: Path) -> None:
    """What the final test will take is measured again with the finalists; by how much it is late is in the record."""
    watch = Clockwork()
    with FakeServer(answer) as server:
        settings = Config.model_validate(config(server.url, tracking={"enabled": False}))
        job = open_job(settings, folder=folder, runs_dir=folder / "runs")
        try:
            view = run(job, watch)
        finally:
            job.close()
    n_test, n_dev = job.n_test, len(job.splits.dev)
    assert len(watch.rows_left) == 2
    assert 2 * n_test <= watch.rows_left[0] <= 2 * n_test + n_dev  # one finalist; others only if there is time
    assert watch.rows_left[1] < watch.rows_left[0]
    assert (len(view.trials), view.stop_reason) == (5, "time")
    assert view.verdict is not None
    assert view.verdict.n == n_test
    assert view.timing is not None
    assert (view.timing.over_s, view.timing.n_wanted, view.timing.key) == (12.0, 12, "wall_clock")
    assert "was passed by 0:12: finalists and final test took" in time_notes(view)[0]


def test_slow_moments_are_forgotten_and_time_side_by_side_counts_once() -> None:
    """Two hundred quick rows outweigh fifty slow ones; two evaluations at once do not take twice the time."""
    busy = Busy()
    busy.begin(0.0)
    busy.end(100.0, n_rows=50)
    assert busy.seconds / busy.n_rows == pytest.approx(2.0)
    for i in range(10):
        busy.begin(100.0 + i)
        busy.end(101.0 + i, n_rows=20)
    assert busy.seconds / busy.n_rows == pytest.approx(0.05, rel=0.6)
    both = Busy()
    both.begin(0.0)
    both.begin(0.0)
    both.end(10.0, n_rows=10)
    both.end(10.0, n_rows=10)
    assert both.seconds < 10.0
    assert both.seconds / both.n_rows == pytest.approx(0.5, rel=0.2)


def test_an_evaluation_that_broke_says_nothing_of_the_pace() -> None:
    """The time until a cap or an outage ended it is not charged to rows that were scored before or after."""
    busy = Busy()
    busy.begin(0.0)
    busy.end(500.0, n_rows=0)
    busy.begin(600.0)
    busy.end(601.0, n_rows=10)
    assert busy.seconds / busy.n_rows == pytest.approx(0.1)


def test_the_words_say_what_was_kept_what_it_took_and_what_helps() -> None:
    """A search that ended early names the time kept, the pace and the key; few trials are said to be few."""
    view = sample_view(4, stop_reason="time", timing=SHORT)
    assert stopped_words(view) == (
        "stopped after 4 of 30 trials: 5:00 of the 7:00 were kept for finalists and final test "
        "(4:50 expected at 0.9 s a row, took 2:10); raise budget.wall_clock for more"
    )
    (few,) = time_notes(view)
    assert few.startswith("Only 4 trials fitted: this machine or model was too slow for the limit. A higher")
    assert time_notes(sample_view(12, stop_reason="time", timing=SHORT)) == []
    assert time_notes(sample_view(4)) == []
    assert stopped_words(sample_view(4)) == "stopped: all trials done"


def test_a_budget_that_left_nothing_to_compare_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With one scored prompt there is no comparison: only what it scores, what was too small, and what to raise."""
    view = sample_view(1, stop_reason="budget")
    assert view.verdict is not None
    config = {**view.config, "budget": {"task_calls": 50}}
    view = replace(view, config=config, best=view.seed, verdict=replace(view.verdict, n=10, decision="keep", reason=""))
    print_summary(console(), view, {view.seed.id: "a prompt"}, runs_flag="")
    printed = " ".join(capsys.readouterr().out.split())
    assert "too small for a second candidate to be scored, so nothing was compared: raise budget.task_calls" in printed
    assert "The final test had 10 of 30 test rows: the budget had room for no more." in printed
    assert "new prompt" not in printed


def test_a_limit_that_was_passed_is_said_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Terminal and report say by how much, and why; a time of day is named."""
    timing = replace(SHORT, key="finish_by", over_s=99.0)
    view = sample_view(13, stop_reason="time", timing=timing)
    view = replace(view, config={**view.config, "budget": {"finish_by": "06:30"}})
    said = "The limit of 7:00 until 06:30 was passed by 1:39: finalists and final test took 2:10 where 4:50"
    assert time_notes(view)[0].startswith(said)
    prompts = {each.id: "a prompt" for each in (view.seed, view.best)}
    print_summary(console(), view, prompts, runs_flag="")
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed
    assert "begin earlier for more" in printed
    page = report_html(Material(view=view, render=lambda _: "a prompt"))
    assert said in page
    assert f"Stopped after 13 of {timing.n_wanted} trials" in page
