"""Disks that are full for every writer in turn: the study pauses with one line, nothing is damaged, and it goes on.

Two ways that are real: a file system of a few megabytes that is filled up in the middle of a call (where one may be
mounted), and a limit on the size of files, which each writer meets in its own place (everywhere).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from optimizer.study.saved import open_saved
from tests.fake_server import Body, FakeServer
from tests.fault_kills import empty_store, zygote
from tests.fault_tracker import shown_once
from tests.faults import Figures, answer, cli, kept_rows, n_in_ledger, outline, run_here, write_study

DISK_BYTES = 24 * 2**20
LIMITS = (0, 200, 900, 4096, 9000, 20_000, 33_000, 50_000, 80_000, 120_000, 160_000, 200_000, 260_000, 400_000)
MOMENTS = [(2, 0), (2, 60_000), (20, 300_000), (35, 0), (35, 8_000), (60, 0), (60, 60_000), (95, 8_000), (95, 300_000)]


@contextmanager
def small_disk(place: Path, *, n_bytes: int = DISK_BYTES) -> Iterator[Path | None]:
    """A file system of a few megabytes; None where none may be mounted."""
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, *, leave: int) -> None:
    """Take all the space of a disk but some bytes."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(b"x" * 65536):
            pass
    os.truncate(disk / "ballast", max(0, (disk / "ballast").stat().st_size - leave))


class At:
    """A model that does something once, at one call."""

    def __init__(self, n_call: int, act: Callable[[], object], answer: Callable[[Body], str] = answer) -> None:
        self.n_left, self.act, self.answer = n_call, act, answer

    def __call__(self, body: Body) -> str:
        self.n_left -= 1
        if self.n_left == 0:
            self.act()
        return self.answer(body)


class Filling:
    """Studies that meet the end of a disk, each continued with space.

    Args:
        store: an empty MLflow store to show the studies in, on the same disk; None: they are not shown.
    """

    def __init__(self, folder: Path, child: subprocess.Popen[str], store: Path | None = None) -> None:
        self.folder, self.child, self.store = folder, child, store
        self.n_paused = self.n_unharmed = self.n_twice = 0
        self.lines: Counter[str] = Counter()
        with FakeServer(answer) as server:
            path = write_study(folder / "whole", server.url)
            self.expected = outline(run_here(path, folder / "whole/runs"))
            self.n_whole = len(server.calls)

    def study(self, place: Path, runs_dir: Path, model: Callable[[Body], str], **request: Any) -> None:
        """Run a study into the end of its disk, and on once `request` no longer limits it and space is back."""
        with FakeServer(model) as server:
            path = write_study(place, server.url, tracking={"enabled": bool(self.store)})
            if self.store:
                shutil.copy(self.store, runs_dir / "mlflow.db")
            code, said = self._process(path, runs_dir, place / "said.txt", **request)
            assert code in (0, 3), f"exit code {code}: {said}"
            assert len(said.splitlines()) == (code == 3), said
            self.n_paused, self.n_unharmed = self.n_paused + (code == 3), self.n_unharmed + (code == 0)
            self.lines[what_failed(said, place)] += code == 3
            self._check_best(runs_dir / "fruit")
            kept = kept_rows(runs_dir / "fruit/study.db")
            if (runs_dir / "ballast").exists():
                (runs_dir / "ballast").unlink()
            assert self._process(path, runs_dir, place / "said.txt") == (0, "")
            assert kept <= kept_rows(runs_dir / "fruit/study.db")
            assert n_in_ledger(runs_dir / "fruit/study.db") >= len(server.calls)
            n_twice = len(server.calls) - self.n_whole
            assert n_twice <= 1, f"{n_twice} calls paid twice"
            self.n_twice += n_twice
        with closing(sqlite3.connect(runs_dir / "fruit/study.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        view = open_saved(runs_dir, "fruit").view()
        assert outline(view) == self.expected
        assert json.loads((runs_dir / "fruit/best_prompt.json").read_text())["candidate_id"] == view.best.id

    @staticmethod
    def _check_best(run_dir: Path) -> None:
        if (run_dir / "best_prompt.json").exists():
            assert json.loads((run_dir / "best_prompt.json").read_text())["candidate"]
            assert "Note" in (run_dir / "best_prompt.txt").read_text()
        assert not list(run_dir.glob(".*.tmp"))

    def _process(self, path: Path, runs_dir: Path, said: Path, **request: Any) -> tuple[int, str]:
        child = self.child
        assert child.stdin is not None
        assert child.stdout is not None
        said.unlink(missing_ok=True)
        told = {"config": str(path), "runs_dir": str(runs_dir), "said": str(said), **request}
        child.stdin.write(json.dumps(told) + "\n")
        child.stdin.flush()
        child.stdout.readline()
        code = int(child.stdout.readline())
        return code, said.read_text().strip() if said.exists() else ""

    def figures(self) -> Figures:
        return {
            "studies": self.n_paused + self.n_unharmed,
            "paused with one line": self.n_paused,
            "not harmed": self.n_unharmed,
            "lines": {line: n for line, n in self.lines.items() if n},
            "best prompts damaged": 0,
            "calls paid twice": self.n_twice,
            "same winner, trials and scores": self.n_paused + self.n_unharmed,
        }


def what_failed(said: str, place: Path) -> str:
    """Return a line without what differs from run to run."""
    return said.replace(str(place), "").partition(";")[0][:100]


def limited_files(folder: Path, limits: Sequence[int] = LIMITS) -> Figures:
    """Let no file grow over a size, in bytes: small ones stop the first writer, larger ones those of larger files."""
    with zygote() as child:
        filling = Filling(folder, child)
        for limit in limits:
            place = folder / f"limit-{limit}"
            filling.study(place, place / "runs", answer, max_bytes=limit)
    return filling.figures()


def full_disk(folder: Path, moments: Sequence[tuple[int, int]] = MOMENTS) -> Figures:
    """Fill the disk of the run folder, MLflow's store included, in the middle of some call, but for some bytes."""
    with zygote() as child:
        filling = Filling(folder, child, empty_store(folder))
        for n_call, leave in moments:
            place = folder / f"full-{n_call}-{leave}"
            with small_disk(place / "disk") as disk:
                if disk is None:
                    return {"skipped": "no file system can be mounted here"}
                act = At(n_call, partial(fill, disk, leave=leave))
                filling.study(place, disk, act, floor=0)
                track_here(disk)
    return filling.figures()


def track_here(runs_dir: Path) -> None:
    """What MLflow's store could not take while the disk was full, it takes afterwards."""
    done = cli("track", "fruit", "--runs-dir", runs_dir)
    assert done.returncode == 0, done.stderr
    shown_once(runs_dir, runs_dir / "mlflow.db")


def full_output(folder: Path) -> Figures:
    """Write an export and a report onto a full disk, over files that stand there."""
    with FakeServer(answer) as server:
        run_here(write_study(folder, server.url), folder / "runs")
    found = {}
    with small_disk(folder / "disk") as disk:
        if disk is None:
            return {"skipped": "no file system can be mounted here"}
        before = {name: f"what stood in {name}" for name in ("prompt.txt", "report.html")}
        for name, text in before.items():
            (disk / name).write_text(text)
        fill(disk, leave=0)
        for command, name in (("export", "prompt.txt"), ("report", "report.html")):
            done = cli(command, "fruit", "--runs-dir", folder / "runs", "--output", disk / name, "--force")
            assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
            found[command] = {"exit code": 2, "line": done.stderr.strip().replace(str(disk), "")[:120]}
        assert {name: (disk / name).read_text() for name in before} == before
    return {**found, "files damaged": 0}
