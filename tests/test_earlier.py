"""Test rows that another study had before, finished studies that are run again, and the scores of finalists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from optimizer.cli.commands import run_study
from optimizer.cli.progress import Progress
from optimizer.cli.summary import print_summary, summary_json
from optimizer.cli.tables import status_cells, status_json, trial_table
from optimizer.cli.terminal import console
from optimizer.config.keys import Config
from optimizer.proof import earlier
from optimizer.records import SeenBefore, Spend
from optimizer.report import report_html
from optimizer.report.page import Material
from optimizer.study.fork import limits_of, raised, reshown
from optimizer.study.neighbours import opened_nearby
from optimizer.study.saved import open_saved
from optimizer.track.note import study_note
from optimizer.track.projection import Projection
from tests.fake_server import FakeServer
from tests.sample_study import sample_view
from tests.test_fork import folder, small
from tests.test_main_job import answer, write

__all__ = ["folder"]

TEST_IDS = [f"test{i}" for i in range(30)]
OPENED = SeenBefore(study="first", opened=("test3", "test4"), searched=())


def test_rows_are_known_again_by_their_content() -> None:
    """The final test of a finished study opened its test rows; its dev rows count where its prompts come over."""
    first = sample_view(13)
    (same,) = earlier.seen_before(first, TEST_IDS, takes_prompts=True)
    assert (same.study, len(same.opened), same.searched) == ("mail-routing", 30, ())
    mixed = [*TEST_IDS[:4], "dev2", "dev39", "new1"]
    (other,) = earlier.seen_before(first, mixed, takes_prompts=True)
    assert (other.opened, other.searched) == (("test0", "test1", "test2", "test3"), ("dev2", "dev39"))
    (fork,) = earlier.seen_before(first, mixed, takes_prompts=False)
    assert fork.searched == ()
    assert earlier.seen_before(first, ["new1"], takes_prompts=True) == ()
    assert earlier.seen_before(replace(first, verdict=None), TEST_IDS, takes_prompts=True) == ()


def test_many_studies_are_summed_up() -> None:
    """A folder of a dozen studies on the same rows fills no page with names."""
    seen = [SeenBefore(study=f"s{i}", opened=("test3",), searched=()) for i in range(6)]
    assert earlier.label(seen) == "test, opened before by s0, s1, s2 and 3 more"


def test_a_record_that_cannot_be_read_stops_no_study(tmp_path: Path) -> None:
    """What lies in the folder beside a new study is looked at, and left alone where it is broken."""
    for name in ("broken", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text("{}")
        (tmp_path / name / "study.db").write_bytes(b"no database")
    assert opened_nearby(tmp_path, "own", TEST_IDS) == ()


def test_what_a_forerunner_had_from_its_own_counts_too() -> None:
    """A third study knows of the rows that the first one opened, through the second."""
    second = replace(sample_view(4), name="second", verdict=None, seen_before=(OPENED,))
    assert earlier.seen_before(second, ["test4", "test9"], takes_prompts=True) == (
        SeenBefore(study="first", opened=("test4",), searched=()),
    )


def test_every_view_says_that_the_test_is_not_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Terminal, JSON, report and MLflow's note name the study that opened the rows, and claim nothing more."""
    view = sample_view(13, seen_before=(OPENED,))
    prompts = {each.id: "a prompt" for each in (view.seed, view.best)}
    print_summary(console(), view, prompts, runs_flag="")
    printed = " ".join(capsys.readouterr().out.split())
    said = "2 test rows were opened before, in the final test of first: the interval is a little optimistic."
    assert "test, opened before by first" in printed
    assert "never seen" not in printed
    assert said in printed
    assert summary_json(view, prompts)["test_seen_before"] == [{"study": "first", "opened": 2, "searched": 0}]
    page = report_html(Material(view=view, render=lambda _: "a prompt"))
    assert said in page
    assert "which no part of the search had seen" not in page
    projection = Projection(uri="", artifact_root=Path(), storage_id="", render=lambda _: "a prompt")
    note = study_note(view, projection)
    assert "| test, opened before by first | 30 |" in note
    assert said in note


def test_rows_that_were_searched_on_are_worse_than_opened_ones() -> None:
    """Prompts that were chosen by some of the test rows make the interval more than a little optimistic."""
    seen = (replace(OPENED, searched=("test1",)),)
    assert earlier.label(seen) == "test, searched on by first"
    assert earlier.tested_on(seen) == "test examples that first had searched on"
    assert "the interval is too optimistic" in earlier.warning(seen)
    assert (earlier.label(()), earlier.warning(())) == ("test, never seen", "")


def test_only_limits_that_are_higher_count_as_raised() -> None:
    """More trials, a higher cap and a cap that is gone let a search go on; lower ones and times of day do not."""
    base = json.loads(
        '{"name": "a", "task": {"goal": "g", "inputs": {"q": ""}, "outputs": {"a": {}}}, "data": {"source": "x.csv"}, '
        '"metric": "exact_match", "lm": {"task": {"model": "embedded"}}}'
    )

    def made(trials: int, **budget: object) -> Config:
        return Config.model_validate({**base, "search": {"trials": trials}, "budget": budget})

    record = {"limits": limits_of(made(30, task_calls=500, usd=2.0, wall_clock=60.0, finish_by="06:30"))}
    now = made(60, task_calls=400, wall_clock=90.0, finish_by="07:30")
    assert raised(record, now) == [
        "search.trials (30 -> 60)",
        "budget.usd (2.0 -> default)",
        "budget.wall_clock (60.0 -> 90.0)",
    ]
    assert raised({}, now) == []


def test_a_finished_study_shows_scores_on_all_of_dev() -> None:
    """`status` has the corrected score; the list of trials has what finalists and seed score on all rows."""
    view = sample_view(13)
    assert view.dev is not None
    assert status_cells(view, is_running=False)[3].startswith("70.0% (trial ")
    going = replace(view, state="running", dev=None, verdict=None)
    assert " on 40 (trial " in status_cells(going, is_running=True)[3]
    full = replace(view, dev_scores={view.seed.id: (0.4125, 37)})
    n_chars = {trial.candidate.id: 9 for trial in view.trials if trial.candidate}
    table = trial_table(full, n_chars)
    assert [next(iter(table.columns[i].cells)) for i in (3, 4)] == ["41.2%", "37"]
    assert list(table.columns[4].cells)[1:] == list(trial_table(view, n_chars).columns[4].cells)[1:]


def test_scores_on_dev_say_on_how_many_rows_they_rest() -> None:
    """A seed that was scored on fewer rows than the winner has its count, no difference, and both counts as JSON."""
    view = sample_view(13)
    assert view.dev is not None
    view = replace(view, dev=replace(view.dev, seed=0.256, n_seed=20, n_winner=36))
    out = console()
    with out.capture() as printed:
        print_summary(out, view, {view.seed.id: "a", view.best.id: "b"}, runs_flag="")
    assert next(line.split()[3:] for line in printed.get().splitlines() if line.startswith("dev, searched on")) == [
        "36",
        "25.6%",
        "on",
        "20",
        "70.0%",
        "-",
    ]
    told = summary_json(view, {view.seed.id: "a", view.best.id: "b"})["dev"]
    assert isinstance(told, dict)
    assert (told["seed"], told["n_seed"], told["n_winner"]) == (0.256, 20, 36)


def test_status_as_json_holds_numbers() -> None:
    """A program reads scores, counts and dollars with the keys of `show --json`; the state is one word."""
    view = sample_view(13)
    told = status_json(view, is_running=False)
    assert list(told) == [
        "study", "state", "stop_reason", "trials", "best", "verdict", "difference", "calls", "tokens", "cost_usd",
        "wall_s",
    ]  # fmt: skip
    shown = summary_json(view, {view.seed.id: "a", view.best.id: "b"})
    assert all(told[key] == shown[key] for key in ("trials", "verdict", "calls", "tokens", "cost_usd", "wall_s"))
    best = view.trial_of(view.best)
    assert best is not None
    assert told["best"] == {"trial": best.number + 1, "score": 0.7, "n": len(best.outcomes)}
    assert status_json(replace(view, state="running", verdict=None), is_running=False)["state"] == "interrupted"


def test_calls_that_wait_do_not_drown_the_trials() -> None:
    """Of many waits in a row one line is printed, and with the next one how many there were."""
    out = console()
    progress = Progress(out)
    with out.capture() as printed:
        for i in range(100):
            progress.waiting(f"model [{i}]; trying again in 1 s")
            progress.waiting("")
        progress._next_wait_at = 0.0
        progress.waiting("model: gone")
    assert printed.get().splitlines() == [
        "waiting: model [0]; trying again in 1 s",
        "waiting: model: gone (100 waits since the last such line)",
    ]


@pytest.mark.slow
def test_a_warm_start_and_a_fork_say_that_their_test_rows_were_opened(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the same rows the second study is told so at its start and in its verdict; run again, nothing is asked."""
    with FakeServer(answer) as server:
        write(folder, small(server.url))
        assert run_study(Path("study.yaml"), (), Path("runs")) == 0
        assert "opened before" not in capsys.readouterr().out
        again = ("name=again", "search.trials=3")
        assert run_study(Path("study.yaml"), again, Path("runs"), warm_start="fruit") == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.count("note: 20 test rows were opened before, in the final test of fruit") == 1
        assert "test, opened before by fruit" in printed
        assert "never saw" not in printed
        assert "test examples that fruit had opened before" in printed
        assert run_study(Path("study.yaml"), ("name=apart", "data.seed=0"), Path("runs")) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "note: 20 test rows were opened before, in the final test of again and fruit" in printed
        assert "never saw" not in printed
        assert run_study(Path("study.yaml"), ("name=fresh", "data.seed=7", "data.max_rows.test=10"), Path("runs")) == 0
        apart = open_saved(Path("runs"), "fresh").view()
        ids = {each.example_id for each in apart.verdict.seed_outcomes} if apart.verdict else set()
        known = {row for each in apart.seen_before for row in each.opened}
        assert known < ids  # only those that are the same rows
        capsys.readouterr()
        assert run_study(Path("study.yaml"), (), Path("runs"), fork="other") == 0
        assert "test, opened before by fruit" in capsys.readouterr().out
        n_calls = len(server.calls)
        assert run_study(Path("study.yaml"), again, Path("runs")) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.startswith("Study again is finished: nothing was asked. Verdict")
        assert run_study(Path("study.yaml"), (*again, "tracking.rows=ids"), Path("runs")) == 0
        assert "Changed since: tracking.rows (" in " ".join(capsys.readouterr().out.split())
        assert run_study(Path("study.yaml"), (*again[:1], "search.trials=9"), Path("runs")) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "Raised since: search.trials (3 -> 9)." in printed
        assert "--set name=NAME --warm-start again" in printed
        assert len(server.calls) == n_calls
    view = open_saved(Path("runs"), "again").view()
    n_dev = len(view.seen_before[0].opened)
    assert (view.seen_before[0].study, n_dev) == ("fruit", 20)
    assert view.dev_scores[view.seed.id][1] == 20
    assert view.best.id in view.dev_scores


def test_what_may_be_shown_is_settled_when_a_study_begins() -> None:
    """Changed afterwards, such a setting is named: the study's views keep what it began with."""
    began = Config.model_validate(
        {
            "name": "s",
            "task": {"inputs": {"a": "a"}, "outputs": {"b": {}}},
            "data": {"source": "x.csv"},
            "metric": "accuracy",
        }
    )
    record = {"config": began.model_dump(mode="json")}
    assert reshown(record, began) == []
    later = began.model_copy(update={"privacy": "local", "tracking": began.tracking.model_copy(update={"rows": "ids"})})
    assert reshown(record, later) == ['privacy ("open" -> "local")', 'tracking.rows ("full" -> "ids")']


def test_a_bill_of_nothing_is_said_in_words() -> None:
    """A study that has asked nothing yet has no calls, and one trial is no plural."""
    view = sample_view(13)
    view = replace(view, spend=Spend(), trials=view.trials[:1])
    out = console()
    with out.capture() as printed:
        print_summary(out, view, {view.seed.id: "a", view.best.id: "b"}, runs_flag="")
    assert "calls: none; 0 tokens" in printed.get()
    assert "\n1 trial (" in printed.get()


def test_only_rows_of_the_final_test_count_as_opened_before() -> None:
    """Of a test cut short by a cap the other rows are left out of the warning; none of its own: it never saw them."""
    view = sample_view(4, seen_before=(OPENED,))
    assert view.verdict is not None
    assert earlier.of_test(view) == (OPENED,)
    others = tuple(each for each in view.verdict.seed_outcomes if each.example_id not in OPENED.opened[:1])
    cut = replace(view, verdict=replace(view.verdict, seed_outcomes=others))
    assert earlier.of_test(cut)[0].opened == OPENED.opened[1:]
    fresh = tuple(each for each in others if each.example_id not in OPENED.opened)
    assert earlier.of_test(replace(view, verdict=replace(view.verdict, seed_outcomes=fresh))) == ()
    assert earlier.of_test(replace(view, verdict=None)) == view.seen_before


@pytest.mark.parametrize("width", [40, 50, 66, 80, 200])
def test_a_narrow_window_drops_whole_columns_and_says_which(width: int) -> None:
    """Numbers are never cut: what finds no room is named above, and the reason keeps some."""
    view = sample_view()
    n_chars = {trial.candidate.id: 1000 for trial in view.trials if trial.candidate}
    table = trial_table(view, n_chars, width=width)
    heads = [str(column.header) for column in table.columns]
    gone = {"operator", "rows", "vs best", "chars", "calls"} - set(heads)
    assert heads[-1] == "why"
    assert all(head in str(table.title) for head in gone)
    assert bool(gone) == (width < 80)
    assert Console(width=width).measure(table).minimum <= width
