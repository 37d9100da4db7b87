"""Disks that are full or read-only and databases that are locked: the study pauses, nothing is damaged."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer.config.file import load_config
from optimizer.errors import Paused
from optimizer.records import StudyView
from optimizer.run import run
from optimizer.storage import database
from optimizer.storage.files import write_atomically
from optimizer.study.job import open_job
from tests import fault_disk
from tests.fake_server import FakeServer
from tests.fault_disk import At, fill
from tests.test_main_job import answer, config, labelled_rows, write

DISK_BYTES = 8 * 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyView, int]:
    """The study as it goes without trouble, and how many calls it takes."""
    place = tmp_path_factory.mktemp("whole")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    with FakeServer(answer) as server:
        return study(place, server, place / "runs"), len(server.calls)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes; skipped where none may be mounted."""
    with fault_disk.small_disk(tmp_path / "disk", n_bytes=DISK_BYTES) as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        yield disk


def study(folder: Path, server: FakeServer, runs_dir: Path, **search: Any) -> StudyView:
    """Run the fruit study in this process, one call at a time."""
    settings = config(server.url, tracking={"enabled": False})
    settings["search"] |= {"trials": 6, **search}
    settings["data"]["max_rows"] = {"dev": 20, "test": 20}
    for lm in settings["lm"].values():
        lm["concurrency"] = 1
    write(folder, settings)
    job = open_job(load_config(folder / "study.yaml"), folder=folder, runs_dir=runs_dir)
    try:
        return run(job)
    finally:
        job.close()


def assert_best_is_whole(run_dir: Path) -> None:
    """What is on disk as the best prompt can be read; of two files both are there."""
    if (run_dir / "best_prompt.json").exists():
        assert json.loads((run_dir / "best_prompt.json").read_text())["candidate"]
        assert "Note" in (run_dir / "best_prompt.txt").read_text()
    assert not list(run_dir.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("n_call", "leave"), [(2, 0), (2, 60_000), (35, 0), (35, 8_000), (35, 300_000)])
def test_a_full_disk_pauses_the_study_wherever_it_is_met(
    leave: int,
    n_call: int,
    folder: Path,
    small_disk: Path,
    whole: tuple[StudyView, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever writer hits the end first, the run pauses with one line; with space it ends like an undisturbed one."""
    monkeypatch.setattr(database, "MIN_FREE_BYTES", 0)  # else the run stops before any writer fails
    undisturbed, n_calls = whole
    runs = small_disk / "runs"
    with FakeServer(At(n_call, lambda: fill(small_disk, leave=leave), answer)) as server:
        with pytest.raises(Paused, match=r"storage: .*(full|No space|I/O)") as paused:
            study(folder, server, runs)
        assert paused.value.reason == "storage"
        assert len(str(paused.value).splitlines()) == 1
        assert_best_is_whole(runs / "fruit")
        (small_disk / "ballast").unlink()
        resumed = study(folder, server, runs)
        assert len(server.calls) <= n_calls + 1
    assert resumed.best == undisturbed.best
    assert [trial.candidate for trial in resumed.trials] == [trial.candidate for trial in undisturbed.trials]
    assert json.loads((runs / "fruit/best_prompt.json").read_text())["candidate_id"] == resumed.best.id


def test_nothing_is_spent_when_space_is_short(folder: Path, small_disk: Path) -> None:
    """Below a floor of free space no call is made, because its reply might find no room."""
    with FakeServer(answer) as server:
        with pytest.raises(Paused, match=r"MiB are left on the disk"):
            study(folder, server, small_disk / "runs")
        assert server.calls == []


@pytest.mark.slow
def test_a_read_only_disk_pauses_the_study(folder: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has become read-only between two runs is one line, and nothing is sent."""
    monkeypatch.setattr(database, "MIN_FREE_BYTES", 0)
    runs = small_disk / "runs"
    with FakeServer(At(30, lambda: fill(small_disk, leave=0), answer)) as server:
        with pytest.raises(Paused):
            study(folder, server, runs)
        (small_disk / "ballast").unlink()
        n_calls = len(server.calls)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        with pytest.raises(Paused, match=r"storage: .*Read-only"):
            study(folder, server, runs)
        assert len(server.calls) == n_calls
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        assert study(folder, server, runs).verdict is not None


@pytest.mark.slow
def test_a_best_prompt_that_cannot_be_written_pauses_and_is_mended(folder: Path) -> None:
    """The prompt that stood there stays, and the next run writes the one that is missing."""
    run_dir = folder / "runs/fruit"
    block = run_dir / "best_prompt.txt.previous"
    with FakeServer(At(30, block.mkdir, answer)) as server:
        with pytest.raises(Paused, match=r"storage: .*cannot be written"):
            study(folder, server, folder / "runs")
        assert_best_is_whole(run_dir)
        block.rmdir()
        view = study(folder, server, folder / "runs")
        n_calls = len(server.calls)
        for name in ("best_prompt.txt", "best_prompt.json"):
            (run_dir / name).unlink()
            assert study(folder, server, folder / "runs").best == view.best
            assert json.loads((run_dir / "best_prompt.json").read_text())["candidate_id"] == view.best.id
            assert_best_is_whole(run_dir)
        assert len(server.calls) == n_calls


@pytest.mark.slow
def test_a_locked_database_pauses_the_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the database nothing is sent; without the lock the study goes on."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    holders: list[sqlite3.Connection] = []

    def lock() -> None:
        holder = sqlite3.connect(
            folder / "runs/fruit/study.db", check_same_thread=False, isolation_level=None, timeout=9
        )
        holder.execute("BEGIN IMMEDIATE")
        holders.append(holder)

    with FakeServer(At(30, lock, answer)) as server:
        with pytest.raises(Paused, match=r"storage: .*locked"):
            study(folder, server, folder / "runs")
        assert len(server.calls) == 30
        with pytest.raises(Paused, match=r"storage: .*locked"):
            study(folder, server, folder / "runs")
        assert len(server.calls) == 30
        holders[0].close()
        assert study(folder, server, folder / "runs").verdict is not None


@pytest.mark.slow
def test_side_by_side_no_more_trials_start_than_are_wanted(folder: Path) -> None:
    """With eight candidates in the race at once the study has as many trials as asked for, not one more."""
    with FakeServer(answer) as server:
        view = study(folder, server, folder / "runs", trials=9, in_flight=8)
    assert len(view.trials) == 9


def test_the_old_content_is_kept_where_files_have_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links keeps the previous content as a copy."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "link", refuse)
    for text in ("one", "two", "three"):
        write_atomically(tmp_path / "prompt.txt", text)
    assert (tmp_path / "prompt.txt").read_text() == "three"
    assert (tmp_path / "prompt.txt.previous").read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 2
