"""Changed studies: refused with a readable difference, or begun anew with what was paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optimizer.cli.commands import run_study
from optimizer.config.file import load_config
from optimizer.config.keys import Config
from optimizer.errors import StudyError
from optimizer.run import run
from optimizer.study.fork import differences
from optimizer.study.job import open_job
from optimizer.study.saved import open_saved
from tests.fake_server import FakeServer
from tests.test_main_job import answer, config, labelled_rows, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(url: str, **changes: Any) -> dict[str, Any]:
    settings = config(url, tracking={"enabled": False}, **changes)
    settings["search"]["trials"] = 4
    settings["data"]["max_rows"] = {"dev": 20, "test": 20}
    return settings


@pytest.mark.slow
def test_a_changed_study_is_refused_readably_and_a_fork_reuses_its_replies(folder: Path) -> None:
    """Another metric scores the answers that are there without a call; the old study stays as it was."""
    with FakeServer(answer) as server:
        write(folder, small(server.url))
        assert run_study(Path("study.yaml"), (), Path("runs")) == 0
        before, n_calls = open_saved(Path("runs"), "fruit").view(), len(server.calls)
        write(folder, small(server.url, metric="exact_match"))
        with pytest.raises(StudyError, match=r"has changed since it was started: metric \(.*\); undo .* --fork \S+-2$"):
            run_study(Path("study.yaml"), (), Path("runs"))
        assert run_study(Path("study.yaml"), (), Path("runs"), fork="fruit-exact") == 0
        assert len(server.calls) == n_calls
        assert run_study(Path("study.yaml"), (), Path("runs"), fork="fruit-exact") == 0  # the same line continues it
        write(folder, {**small(server.url), "prompt": "Which team takes the box?"})
        with pytest.raises(StudyError, match=r'prompt \("Which team packs.*" -> "Which team takes'):
            run_study(Path("study.yaml"), (), Path("runs"))
        assert len(server.calls) == n_calls
    forked = open_saved(Path("runs"), "fruit-exact").view()
    assert (forked.state, forked.best, forked.spend.calls) == ("finished", before.best, {})
    assert open_saved(Path("runs"), "fruit").view() == before


def test_differences_name_what_changed() -> None:
    """Settings are shown before and after, data by split and number of rows; what did not change is not named."""
    known: dict[str, Any] = {"data": "a", "metric": "m", "search": {"seed": 1, "block": 5}, "task model": "x"}
    wanted: dict[str, Any] = {"data": "b", "metric": "m", "search": {"seed": 2}, "task model": "x@http://y"}
    old: dict[str, Any] = {"fingerprints": {"dev": "1", "test": "2"}, "n_rows": {"dev": 40, "test": 50}}
    new: dict[str, Any] = {"fingerprints": {"dev": "3", "test": "4"}, "n_rows": {"dev": 45, "test": 50}}
    settings = Config.model_validate(small("http://127.0.0.1:9/v1"))
    record: dict[str, Any] = {
        "identity": known,
        "facts": old,
        "state": "paused",
        "config": settings.model_dump(mode="json"),
    }
    assert differences(record, wanted, config=settings, facts=new) == [
        "data (dev: 40 -> 45 rows, test: other rows)",
        "search (block: 5 -> default, seed: 1 -> 2)",
        'task model ("x" -> "x@http://y")',
    ]
    assert differences(record, known, config=settings, facts=new) == []


def test_another_version_of_the_program_is_not_the_users_change() -> None:
    """The same settings and another version: the program scores otherwise, and once a study is finished no matter."""
    settings = Config.model_validate(small("http://127.0.0.1:9/v1"))
    record: dict[str, Any] = {
        "identity": {"metric": "1"},
        "facts": {},
        "state": "paused",
        "config": settings.model_dump(mode="json"),
    }
    said = differences(record, {"metric": "2"}, config=settings, facts={})
    assert said == ["metric (this version of the program scores answers in another way)"]
    assert differences({**record, "state": "finished"}, {"metric": "2"}, config=settings, facts={}) == []
    other = Config.model_validate(small("http://127.0.0.1:9/v1", metric="exact_match"))
    assert differences(record, {"metric": "2"}, config=other, facts={}) == ["metric (its settings or its source code)"]


@pytest.mark.slow
def test_a_finished_study_is_shown_with_its_outcomes_by_a_later_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was scored by the version that ran it is what is shown, with every trial's rows."""

    with FakeServer(answer) as server:
        write(folder, small(server.url))
        assert run_study(Path("study.yaml"), (), Path("runs")) == 0
        before = open_saved(Path("runs"), "fruit").view()
        monkeypatch.setattr("optimizer.metrics._SCORING", 99)
        job = open_job(load_config(folder / "study.yaml"), folder=folder, runs_dir=folder / "runs")
        try:
            assert run(job).trials == before.trials
        finally:
            job.close()
    assert any(trial.outcomes for trial in before.trials)
