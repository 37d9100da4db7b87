"""A study whose best candidate was luck: after `keep` nothing hands the lucky prompt out as if it had won."""

from __future__ import annotations

import json
import stat
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizer.records import StudyView
from tests.fake_server import Body, FakeServer
from tests.faults import run_here, write_study
from tests.test_main_job import answer, command


def lucky(body: Body) -> str:
    """A model on which words make no difference but by chance, and a proposer that always has other ones."""
    text = json.dumps(body["messages"])
    if body["model"] == "proposer":
        return f"<instruction>Look at the box, then say who packs it, way {zlib.crc32(text.encode())}.</instruction>"
    told = {"model": "task", "messages": [{"role": "user", "content": f"{text} apple is red"}]}
    return answer(told) if zlib.crc32(text.encode()) % 2 else "blue"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, StudyView]]:
    folder = tmp_path_factory.mktemp("kept")
    with FakeServer(lucky) as server:
        path = write_study(folder, server.url, trials=12)
        view = run_here(path, folder / "runs")
        assert view.verdict is not None
        assert view.verdict.decision == "keep"
        assert view.best != view.seed
        yield folder, view


def optimizer(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def test_what_is_handed_out_is_the_prompt_that_stays(kept: tuple[Path, StudyView]) -> None:
    """The files of the study and an export hold the user's own prompt; the export says so, and how to get the other."""
    folder, view = kept
    saved = json.loads((folder / "runs/fruit/best_prompt.json").read_text())
    assert (saved["candidate_id"], saved["verdict"]) == (view.seed.id, "keep")
    own = "Which team packs this box?"
    assert own in (folder / "runs/fruit/best_prompt.txt").read_text()
    plain = optimizer(folder, "export", "fruit", "--format", "chat-json")
    said = json.loads(plain.stdout)
    assert (said["candidate"], said["verdict"]["decision"]) == (view.seed.id, "keep")
    trial = view.trial_of(view.best)
    assert trial is not None
    assert "the verdict is keep, so this is the prompt that you had; the best candidate of the search: --trial " in (
        " ".join(plain.stderr.split())
    )
    other = optimizer(folder, "export", "fruit", "--format", "chat-json", "--trial", str(trial.number + 1))
    assert json.loads(other.stdout)["candidate"] == view.best.id
    best = optimizer(folder, "export", "fruit", "--format", "chat-json", "--trial", "best")
    assert json.loads(best.stdout)["candidate"] == view.best.id
    wrong = optimizer(folder, "export", "fruit", "--trial", "first")
    assert wrong.returncode == 2
    assert "no prompt of trial first: it has trials 1 to " in wrong.stderr
    assert optimizer(folder, "export", "fruit", "--pareto", "-o", "front").returncode == 0
    assert stat.S_IMODE((folder / "front").stat().st_mode) == 0o700
    assert "the verdict is keep" not in other.stderr


def test_the_summary_does_not_call_it_a_winner(kept: tuple[Path, StudyView]) -> None:
    """It is the best candidate, not proven to be better, and nothing invites to take it away."""
    folder, _ = kept
    shown = optimizer(folder, "show", "fruit").stdout
    assert "Best candidate, not proven to be better" in shown
    assert "Winning prompt" not in shown
    assert "take the prompt away" not in shown


def test_there_is_nothing_to_verify(kept: tuple[Path, StudyView]) -> None:
    """A prompt that never won can neither hold nor fail; its export can be checked all the same."""
    folder, view = kept
    done = optimizer(folder, "verify", "fruit")
    assert done.returncode == 2
    assert "study 'fruit' ended in `keep`" in done.stderr
    trial = view.trial_of(view.best)
    assert trial is not None
    optimizer(folder, "export", "fruit", "--format", "chat-json", "--trial", str(trial.number + 1), "-o", "best.json")
    assert optimizer(folder, "verify", "best.json").returncode in (0, 4, 5)


def test_a_comparison_of_both_has_the_figures_of_the_verdict(kept: tuple[Path, StudyView]) -> None:
    """Two intervals for the same rows would leave people wondering which one is right."""
    folder, view = kept
    assert view.verdict is not None
    said = " ".join(optimizer(folder, "compare", "fruit", "seed", "best").stdout.split())
    low, high = (f"{100 * value:+.1f}" for value in (view.verdict.low, view.verdict.high))
    assert f"95% interval {low} to {high}" in said
