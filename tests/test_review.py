"""A person in the loop: their own prompt joins a study, and finalists can be read, vetoed and edited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from optimizer.candidate import Candidate, Part
from optimizer.cli.review import review_study, suggest_prompt
from optimizer.cli.summary import summary_json
from optimizer.cli.tables import trial_table
from optimizer.config.keys import Config
from optimizer.data.text_files import text_of
from optimizer.errors import ConfigError, Paused, StudyError
from optimizer.records import StudyView, TrialRecord
from optimizer.report import report_html
from optimizer.review.finalists import differences, finalists
from optimizer.review.wishes import reworded, suggestions
from optimizer.run import run
from optimizer.study.job import open_job
from optimizer.study.observe import Observer
from optimizer.study.saved import open_saved
from optimizer.study.session import Session
from optimizer.study.showing import material_of
from optimizer.words import visible
from tests.fake_server import Body, FakeServer

FRUIT = {"apple": "red", "lime": "green", "plum": "blue"}
HINT = "Apples go to red, limes to green, plums to blue. Which team packs this box?"


def answer(body: Body) -> str:
    text = "\n".join(str(message["content"]) for message in body["messages"])
    last = str(body["messages"][-1]["content"])
    if body["model"] == "proposer":
        return "<prompt>Please say which team packs the box that is described here.</prompt>"
    fruit = next((fruit for fruit in FRUIT if fruit in last.casefold().rpartition("note")[2]), "apple")
    return FRUIT[fruit] if "limes to green" in text else "red"


def config(url: str, **changes: Any) -> Config:
    lm = {"api_base": url, "max_tokens": 100, "concurrency": 4}
    return Config.model_validate(
        {
            "name": "fruit",
            "task": {
                "goal": "Say which team packs the box.",
                "inputs": {"note": "what is in the box"},
                "outputs": {"team": {"kind": "label", "choices": ["red", "green", "blue"]}},
            },
            "prompt": "Which team packs this box?",
            "data": {"source": "rows.jsonl", "max_rows": {"dev": 20, "test": 40}},
            "metric": "accuracy",
            "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
            "search": {"trials": 4, "formats": ["chat"], "max_demos": 0, "operators": ["rewrite"]},
            "tracking": {"enabled": False},
            **changes,
        }
    )


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answer) as running:
        yield running


class After(Observer):
    """Does something once, when a trial has ended: what another terminal would do meanwhile."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self._number, self._act, self.done = number, act, False

    def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
        del is_best
        if trial.number == self._number and not self.done:
            self.done = True
            self._act()


def study(folder: Path, url: str, observer: Observer | None = None, **changes: Any) -> StudyView:
    fruits = list(FRUIT)
    rows = [{"note": f"Box {i} holds {i * 7 % 40} {fruits[i % 3]}s.", "team": FRUIT[fruits[i % 3]]} for i in range(200)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = open_job(config(url, **changes), folder=folder, runs_dir=folder / "runs")
    try:
        return run(job, observer)
    finally:
        job.close()


def suggested(folder: Path, text: str = HINT, like: str = "seed") -> Callable[[], None]:
    return lambda: print(suggest_prompt("fruit", text, folder / "runs", like=like, predictor=None))


@pytest.mark.slow
def test_a_suggested_prompt_is_raced_next_and_can_win(tmp_path: Path, server: FakeServer) -> None:
    """Given while the study runs, it is the very next trial, ahead of the queue, and is judged like any other."""
    view = study(tmp_path, server.url, After(0, suggested(tmp_path)))
    person = [trial for trial in view.trials if trial.recipe.operator == "person"]
    assert len(person) == 1
    assert person[0].state == "complete"
    others = [trial for trial in view.trials if trial.number not in (0, person[0].number)]
    assert all(person[0].started_s <= trial.started_s for trial in others)
    assert view.best == person[0].candidate
    assert view.best.parts[0].instructions == HINT
    assert view.verdict is not None
    assert view.verdict.decision == "promote"


@pytest.mark.slow
def test_a_vetoed_candidate_does_not_win(
    tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Best on dev, and still not taken to the test: somebody said no. Said twice it is told; every list marks it."""

    class Both(After):
        def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
            super().trial_finished(trial, is_best=is_best)
            if trial.recipe.operator == "person" and is_best:
                _review(tmp_path, vetoed=(trial.number + 1,))
                _review(tmp_path, vetoed=(trial.number + 1,))

    view = study(tmp_path, server.url, Both(0, suggested(tmp_path)))
    person = next(trial for trial in view.trials if trial.recipe.operator == "person")
    assert person.score == 1.0
    assert view.best != person.candidate
    number = person.number + 1
    said = capsys.readouterr().out
    assert f"trial {number} cannot win any more" in said
    assert f"trial {number} was vetoed before: it cannot win" in said
    material = material_of(open_saved(tmp_path / "runs", "fruit"))
    table = trial_table(material.view, material.n_chars, material.marks)
    whys = list(table.columns[-1].cells)
    assert [i for i, why in enumerate(whys) if "vetoed" in str(why)] == [person.number]
    assert report_html(material).count("<td>vetoed ") == 1


class Late(After):
    """Does more when the finalists are scored and when the final test begins: another terminal, late."""

    def __init__(
        self, *, first: Callable[[], None], at_finalists: Callable[[], None], at_test: Callable[[], None]
    ) -> None:
        super().__init__(0, first)
        self._at_finalists, self._at_test, self.n_tests = at_finalists, at_test, 0

    def finalists(self, candidates: Sequence[Candidate]) -> None:
        del candidates
        self._at_finalists()

    def final_started(self, winner: Candidate, n_rows: int) -> None:
        del winner, n_rows
        self.n_tests += 1
        self._at_test()


@pytest.mark.slow
def test_a_veto_while_finalists_are_scored_holds(tmp_path: Path, server: FakeServer) -> None:
    """The winner is chosen again from those that are left, before any test row is used; suggestions are too late."""

    def veto_best() -> None:
        if not vetoed:
            vetoed.append(finalists(open_saved(tmp_path / "runs", "fruit").view(), frozenset())[0].number)
            _review(tmp_path, vetoed=(vetoed[0],))
            with pytest.raises(StudyError, match=r"no budget left for a suggestion: the search is over \("):
                suggested(tmp_path, "Name the team.")()

    vetoed: list[int] = []
    observer = Late(first=suggested(tmp_path), at_finalists=veto_best, at_test=lambda: None)
    view = study(tmp_path, server.url, observer)
    best = view.trials[vetoed[0] - 1]
    assert best.score == 1.0
    assert view.best != best.candidate
    assert observer.n_tests == 1
    assert view.verdict is not None


@pytest.mark.slow
def test_a_veto_is_refused_once_the_final_test_has_begun(tmp_path: Path, server: FakeServer) -> None:
    """It could not be kept any more, so it is not accepted; nor is a suggestion."""

    def too_late() -> None:
        best = finalists(open_saved(tmp_path / "runs", "fruit").view(), frozenset())[0].number
        with pytest.raises(StudyError, match="too late to veto: the final test of this prompt has begun"):
            _review(tmp_path, vetoed=(best,))
        with pytest.raises(StudyError, match="no budget left for a suggestion: the final test has begun"):
            suggested(tmp_path, "Name the team.")()

    observer = Late(first=suggested(tmp_path), at_finalists=lambda: None, at_test=too_late)
    view = study(tmp_path, server.url, observer)
    assert observer.n_tests == 1
    assert view.best.parts[0].instructions == HINT


@pytest.mark.slow
def test_a_test_that_was_broken_off_does_not_keep_people_out(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the study is continued with more trials after an outage in its final test, suggestions count again."""

    def outage(*_: object) -> None:
        raise Paused("provider", "nobody answers")

    with monkeypatch.context() as patched:
        patched.setattr("optimizer.run.final_test", outage)
        with pytest.raises(Paused):
            study(tmp_path, server.url)
    search = {"trials": 6, "formats": ["chat"], "max_demos": 0, "operators": ["rewrite"]}
    view = study(tmp_path, server.url, After(4, suggested(tmp_path)), search=search)
    assert any(trial.recipe.operator == "person" for trial in view.trials)
    assert view.best.parts[0].instructions == HINT


@pytest.mark.slow
def test_a_continued_study_knows_its_trials_in_the_order_told(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suggestion is told second under the number after the queued starts, and is second again after a stop."""
    search = {"trials": 12, "formats": ["chat", "plain", "json"], "max_demos": 4}
    told: list[int] = []

    class Listens(After):
        def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
            told.append(trial.number)
            super().trial_finished(trial, is_best=is_best)

    def outage(*_: object) -> None:
        raise Paused("provider", "nobody answers")

    monkeypatch.setattr("optimizer.run.final_test", outage)
    with pytest.raises(Paused):
        study(tmp_path, server.url, Listens(0, suggested(tmp_path, "Name the packers.")), search=search)
    assert told != sorted(told)
    job = open_job(config(server.url, search=search), folder=tmp_path, runs_dir=tmp_path / "runs")
    session = Session(job, Observer())
    try:
        session.restore()
        assert [trial.number for trial in session.known.trials] == told
    finally:
        session.close()
        job.close()


@pytest.mark.slow
def test_a_finished_study_says_which_suggestions_were_not_tried(tmp_path: Path, server: FakeServer) -> None:
    """With no calls left for them they end as `unfinished`, with the reason; nothing of a finished study runs."""

    def two() -> None:
        suggested(tmp_path)()
        suggested(tmp_path, HINT + " Answer in one word.")()

    view = study(tmp_path, server.url, After(0, two), budget={"task_calls": 110})
    assert view.state == "finished"
    left = [trial for trial in view.trials if trial.state == "unfinished"]
    assert [trial.reason for trial in left][-1] == "not tried: the search had ended"
    assert all(trial.recipe.operator == "person" for trial in left)
    assert left[-1].candidate is not None
    assert all(trial.state != "running" for trial in view.trials)
    assert summary_json(view, {view.seed.id: "", view.best.id: ""})["trials"]["unfinished"] == len(left)  # type: ignore[index, call-overload]


def _review(folder: Path, **changes: Any) -> int:
    flags: dict[str, Any] = {"vetoed": (), "edited": None, "text": None, "is_json": False, "edit": lambda _: None}
    return review_study("fruit", folder / "runs", **{**flags, **changes})


@pytest.mark.slow
def test_an_edited_prompt_is_raced_even_if_next_to_nothing_changed(tmp_path: Path, server: FakeServer) -> None:
    """One word may be the point, so the gate against near-copies does not hold for people; copies are told."""

    def edit() -> None:
        _review(tmp_path, edited=1, edit=lambda old: old.replace("Which", "What"))

    view = study(tmp_path, server.url, After(0, edit))
    person = next(trial for trial in view.trials if trial.recipe.operator == "person")
    assert person.candidate is not None
    assert person.candidate.parts[0].instructions == "What team packs this box?"
    assert person.state in ("complete", "pruned")


@pytest.mark.slow
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished studies, unknown trials, empty prompts, the seed: each says what is wrong and what to do."""
    observer = After(1, lambda: _refusals(tmp_path, capsys))
    study(tmp_path, server.url, observer)
    assert observer.done
    with pytest.raises(StudyError, match="is finished and its test rows are used; begin another one"):
        suggested(tmp_path)()
    with pytest.raises(StudyError, match="finished"):
        _review(tmp_path, vetoed=(1,))


def _refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StudyError, match="your own prompt cannot be vetoed"):
        _review(folder, vetoed=(1,))
    with pytest.raises(StudyError, match="no trial 99 with a scored prompt; there are: 1"):
        _review(folder, vetoed=(99,))
    with pytest.raises(StudyError, match="0 characters"):
        suggested(folder, "  ")()
    with pytest.raises(StudyError, match=r"new placeholder \{shop\}"):
        suggested(folder, "Which team at {shop}?")()
    with pytest.raises(StudyError, match="the prompt copies text of a held-out row; the study would not score it"):
        suggested(folder, _every_note(folder))()
    with pytest.raises(StudyError, match="too long: 21000 characters, at most 12000"):
        suggested(folder, "Which team?" + "." * 20989)()
    with pytest.raises(ConfigError, match="nothing was changed"):
        _review(folder, edited=1)
    with pytest.raises(ConfigError, match="--text: goes with --edit"):
        _review(folder, text="x")
    with pytest.raises(ConfigError, match="--like"):
        suggested(folder, like="first")()
    suggested(folder, "Which team packs this box?")()
    assert "has been tried, in trial 1 (complete); not added" in capsys.readouterr().out
    wishes = suggestions(open_saved(folder / "runs", "fruit").journal)
    suggested(folder, "Name the packers.")()
    assert "added: " in capsys.readouterr().out
    suggested(folder, "Name the packers.")()
    assert "was suggested before and waits for its trial; not added" in capsys.readouterr().out
    assert len(suggestions(open_saved(folder / "runs", "fruit").journal)) == len(wishes) + 1


def _every_note(folder: Path) -> str:
    """A prompt that quotes the inputs, some of which are dev rows."""
    notes = [json.loads(line)["note"] for line in (folder / "rows.jsonl").read_text().splitlines()]
    return "Which team? For example: " + " ".join(notes)


@pytest.mark.slow
def test_review_shows_prompts_scores_and_rows_that_divide_them(tmp_path: Path, server: FakeServer) -> None:
    """Side by side with the expected answer; test rows are not among them; JSON has the same, in 80 columns or not."""
    view = study(tmp_path, server.url, After(0, suggested(tmp_path)))
    saved = open_saved(tmp_path / "runs", "fruit")
    found = finalists(saved.view(), frozenset())
    assert found[0].candidate == view.best
    assert any(each.is_seed for each in found)
    assert len(differences(found, {})) == 5

    def optimizer(*words: str) -> str:
        command = [sys.executable, "-m", "optimizer", "review", "fruit", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = optimizer()
    assert HINT[:40] in printed
    assert "expected: " in printed
    assert "\x1b" not in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
    shown = json.loads(optimizer("--json"))
    assert shown["finalists"][0]["score"] == 1.0
    test_ids = {outcome.example_id for outcome in view.verdict.seed_outcomes} if view.verdict else set()
    assert shown["differences"]
    assert not {row["example"] for row in shown["differences"]} & test_ids


def test_words_can_come_from_a_file(tmp_path: Path) -> None:
    """A prompt of many lines is given as @FILE; a missing file is told."""
    (tmp_path / "p.txt").write_text("line one\nzeile zwei ü\n", encoding="utf-8")
    assert text_of(f"@{tmp_path / 'p.txt'}") == "line one\nzeile zwei ü\n"
    assert text_of("just words") == "just words"
    (tmp_path / "utf16.txt").write_text("zeile zwei ü", encoding="utf-16")
    assert text_of(f"@{tmp_path / 'utf16.txt'}") == "zeile zwei ü"
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff")
    for name, said in (
        ("my p.txt", rf"no file 'my p\.txt' in '.*{tmp_path.name}'\. Did you mean 'p\.txt'\?"),
        ("nowhere/p.txt", "there is no folder"),
        ("", "is a folder"),
        ("picture.txt", "is not UTF-8 text"),
        ("x" * 300, "cannot be read"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            text_of(f"@{tmp_path}/{name}")
        assert "Errno" not in str(error.value)
    with pytest.raises(ConfigError, match="names no file"):
        text_of("@")


def test_a_program_of_two_prompts_asks_which_one() -> None:
    """With several predictors the one that is meant must be named."""
    two = Candidate(parts=(Part(predictor="first", instructions="a"), Part(predictor="second", instructions="b")))
    assert reworded(two, " new ", "second").part("second").instructions == "new"
    for name in (None, "third"):
        with pytest.raises(StudyError, match="the program has first, second"):
            reworded(two, "new", name)


def test_no_text_steers_the_terminal() -> None:
    """Escape sequences and direction overrides are replaced; scripts, joined emoji and line ends are kept."""
    assert visible("a\x1b[31mb\u202ec\x9bd") == "a\ufffd[31mb\ufffdc\ufffdd"
    for text in (
        "\u05e9\u05dc\u05d5\u05dd",
        "\U0001f469\u200d\U0001f4bb",
        "\u8fd4\u91d1\n\tok",
        "\u0645\u06cc\u200c\u062e",
    ):
        assert visible(text) == text


def test_a_terminal_without_the_letters_gets_question_marks(tmp_path: Path) -> None:
    """An old code page is no reason to crash half-way through a message."""
    command = [sys.executable, "-m", "optimizer", "check", "\u914d\u9054.yaml"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ??.yaml: no such file")


def test_a_file_of_another_name_is_not_meant(tmp_path: Path) -> None:
    """An ending in common makes no two names alike; a slip in the name still finds it."""
    for name in ("ui.txt", "run1.txt", "notes.xlsx"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"no file 'nofile\.txt' in '.*'\.$"):
        text_of(f"@{tmp_path}/nofile.txt")
    with pytest.raises(ConfigError, match=r"Did you mean 'run1\.txt'\?"):
        text_of(f"@{tmp_path}/run.txt")
