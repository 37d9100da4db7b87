"""Caps in tokens and money: whatever stands at the start ends with a verdict, and nothing passes the cap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optimizer.budget.limits import TEST_SHARE
from optimizer.cli.reading import show_status
from optimizer.config.file import load_config
from optimizer.errors import ConfigError
from optimizer.probe.bill import estimate
from optimizer.probe.check import concerns, probes
from optimizer.records import StudyView
from optimizer.run import run
from optimizer.study.job import Job, open_job
from optimizer.study.reserve import worst_call
from optimizer.study.saved import forked
from tests.fake_server import Body, FakeServer, Fault, reply
from tests.faults import answer, write_study

PRICES = {"price_in": 1.0, "price_out": 2.0}
N_TEST = 20
WHOLE = {"tokens": 8045, "usd": 0.0124}  # what the study takes without a cap


def long_winded(body: Body) -> Fault:
    """Answers as the careful model does; what a call takes goes by what it is sent."""
    n_in = sum(len(str(message["content"])) for message in body["messages"]) // 4
    return reply(answer(body), tokens=(n_in, 40))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(long_winded) as running:
        yield running


def bill(server: FakeServer) -> tuple[int, float]:
    """Tokens and dollars that the server counted."""
    usages = [json.loads(call.fault.payload)["usage"] for call in server.calls]
    n_in, n_out = (sum(each[key] for each in usages) for key in ("prompt_tokens", "completion_tokens"))
    return n_in + n_out, (n_in * PRICES["price_in"] + n_out * PRICES["price_out"]) / 1e6


def opened(folder: Path, server: FakeServer, *, concurrency: int, rows: int = N_TEST, **changes: Any) -> Job:
    path = write_study(folder, server.url, concurrency=concurrency, trials=5, rows=rows, **changes)
    settings = json.loads(path.read_text())
    for lm in settings["lm"].values():
        lm |= PRICES
    path.write_text(json.dumps(settings))
    return open_job(load_config(path), folder=folder, runs_dir=folder / "runs")


def carried_out(folder: Path, server: FakeServer, **changes: Any) -> StudyView:
    job = opened(folder, server, **changes)
    try:
        return run(job)
    finally:
        job.close()


def checked(folder: Path, server: FakeServer, **changes: Any) -> str:
    """Return why `check` refuses the study; empty if it does not."""
    try:
        job = opened(folder, server, **changes)
    except ConfigError as refusal:
        return str(refusal)
    try:
        concerns(job, next(iter(probes(job))))
    except ConfigError as refusal:
        return str(refusal)
    finally:
        job.close()
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.35, 0.6, 0.9])
@pytest.mark.parametrize("cap", ["tokens", "usd"])
def test_a_cap_that_check_lets_pass_ends_in_a_verdict(
    tmp_path: Path, server: FakeServer, cap: str, share: float, concurrency: int
) -> None:
    """From the smallest that is not refused on, for one call and for eight at once; the server's bill stays below."""
    amount = round(share * WHOLE["tokens"]) if cap == "tokens" else share * WHOLE["usd"]
    settings: dict[str, Any] = {"concurrency": concurrency, "budget": {cap: amount}}
    if refusal := checked(tmp_path, server, **settings):
        assert f"budget.{cap}: " in refusal
        assert share < 0.3
        return
    server.calls.clear()
    view = carried_out(tmp_path, server, **settings)
    assert view.verdict is not None
    assert (view.state, view.verdict.n >= 5) == ("finished", True)
    assert bill(server)[0 if cap == "tokens" else 1] <= amount
    said = "" if view.verdict.n == N_TEST else f"{view.verdict.n} of {N_TEST} test rows; the cap paid for no more"
    assert view.verdict.shortfall == said


def test_the_bill_has_the_judge_and_the_proposer_in_it(tmp_path: Path, server: FakeServer) -> None:
    """Each answer is judged by a call that reads more than the task's, and each trial asks for a prompt."""

    def bill_of(**changes: Any) -> float:
        job = opened(tmp_path, server, concurrency=1, **changes)
        try:
            found = estimate(job, next(iter(probes(job))))
        finally:
            job.close()
        assert found.usd is not None
        return found.usd

    plain = bill_of()
    judged = bill_of(metric={"name": "judge", "rubric": "Polite and right."})
    assert plain > bill_of(search={"trials": 1}) > 0
    assert judged > 2 * plain


@pytest.mark.slow
def test_a_row_is_measured_alone_when_many_candidates_race_at_once(tmp_path: Path, server: FakeServer) -> None:
    """Calls of other trials under way, at their worst case, are not taken for the price of the first row."""
    budget = {"tokens": WHOLE["tokens"]}
    view = carried_out(tmp_path, server, concurrency=8, budget=budget, search={"in_flight": 5})
    assert view.verdict is not None
    assert view.verdict.n == N_TEST
    assert bill(server)[0] <= WHOLE["tokens"]


@pytest.mark.slow
def test_a_cap_that_one_row_shows_to_be_too_small_is_refused_by_run_as_well(
    tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who did not ask `check` learns it after one call, with what the shortest study costs; `status` says it again."""
    with pytest.raises(ConfigError, match=r"budget\.tokens: 900 are too few: .* first 5 dev rows and the final test"):
        carried_out(tmp_path, server, concurrency=1, budget={"tokens": 900})
    assert len(server.calls) == 1
    show_status("fruit", tmp_path / "runs")
    said = capsys.readouterr().out
    assert "fruit refused" in " ".join(said.split())
    assert "interrupted" not in said
    assert "budget.tokens: 900 are too few: " in said


@pytest.mark.slow
def test_the_final_test_takes_all_rows_that_the_calls_left_pay_for(tmp_path: Path, server: FakeServer) -> None:
    """Calls are kept back for 12 of 20 test rows; a search that leaves some gives them to further ones."""
    view = carried_out(tmp_path, server, concurrency=8, budget={"task_calls": 62}, search={"in_flight": 1})
    assert view.verdict is not None
    assert view.verdict.n > 62 * TEST_SHARE / 2
    assert view.spend.calls["task"] <= 62


@pytest.mark.slow
def test_a_finalist_that_a_cap_cuts_short_is_shown_with_all_its_rows(tmp_path: Path, server: FakeServer) -> None:
    """Rows of a finalist that were paid for count in its score wherever it stands, be they all of dev or not."""
    settings: dict[str, Any] = {"in_flight": 1, "block": 3}
    view = carried_out(tmp_path, server, concurrency=1, budget={"task_calls": 62}, search=settings)
    trials = [trial for trial in view.trials if trial.candidate and trial.outcomes]
    assert {view.dev_score(trial)[1] for trial in trials} - {view.dev.n if view.dev else 0}
    for trial in trials:
        values = [outcome.value for outcome in view.dev_rows(trial) if outcome.value is not None]
        mean, n_rows = view.dev_score(trial)
        assert (mean, n_rows) == pytest.approx((sum(values) / len(values), len(values)))
    best = view.trial_of(view.best)
    assert view.dev is not None
    assert view.dev_score(best) == (view.dev.raw, view.dev.n_winner)
    assert any(len(view.dev_rows(trial)) > len(trial.outcomes) for trial in trials)


@pytest.mark.slow
def test_replies_that_are_known_leave_calls_for_further_test_rows(tmp_path: Path, server: FakeServer) -> None:
    """The cap is held against what rows cost, not against what they might have cost: here all but nothing."""
    settings: dict[str, Any] = {"concurrency": 8, "rows": 40, "search": {"in_flight": 1, "max_demos": 0}}
    whole = carried_out(tmp_path, server, **settings)
    job = forked(opened(tmp_path, server, **settings, name="second", budget={"task_calls": 60}), "fruit")
    try:
        view = run(job)
    finally:
        job.close()
    assert whole.verdict is not None
    assert view.verdict is not None
    assert (whole.verdict.n, view.verdict.n) == (40, 40)
    assert view.verdict.shortfall == ""
    assert view.spend.calls.get("task", 0) <= 60


def test_the_worst_call_is_that_of_the_row_with_the_most_bytes(tmp_path: Path, server: FakeServer) -> None:
    """Tokens are bounded by bytes: a shorter text in another script may take more of them than a longer one."""
    job = opened(tmp_path, server, concurrency=1)
    try:
        row = job.splits.test[0]
        latin, greek = (replace(row, inputs={"note": text}) for text in ("a" * 300, "λ" * 200))
        worst = [
            worst_call(replace(job, splits=replace(job.splits, test=rows)), job.seed).tokens
            for rows in ((latin,), (greek,), (latin, greek), (greek, latin))
        ]
    finally:
        job.close()
    assert worst[0] < worst[1] == worst[2] == worst[3]
