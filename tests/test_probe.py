"""`check --probe`: what is asked, what is counted, and what is advised."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.probe.advice import Luck, ProbeFacts, advise
from tests.fake_server import Body, FakeServer
from tests.test_main_job import FRUIT, config, labelled_rows

UNKNOWN = {"luck": None, "luck_with_examples": None}
FACTS = ProbeFacts(
    n_rows=24, n_test=300, seed=0.5, with_examples=0.6, constant=0.4, is_mean=True, read_share=1.0, unread_reason="",
    noise=0.1, metric_noise=0.0, spread=0.5, n_pairs=24, unsettled=(), n_repeated=8, contradictory_share=0.0,
    leaked_share=0.0, luck=Luck(mean=0.35, spread=0.06), luck_with_examples=Luck(mean=0.35, spread=0.06), n_examples=16,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "decision", "said"),
    [
        ({}, "go", "may find 17 of the 50 points that are left above your prompt, and a gain of 8"),
        ({"read_share": 0.4, "unread_reason": "is cut"}, "stop", "only 40.0% of the replies can be read (is cut)"),
        (
            {"read_share": 0.0, "n_rows": 20, "unread_reason": "x"},
            "stop",
            "none of the first 20 replies can be read (x)",
        ),
        ({"seed": 0.99, "with_examples": 0.9}, "stop", "nothing left to gain"),
        ({"leaked_share": 0.5}, "stop", "an input is the answer"),
        ({"contradictory_share": 0.3}, "stop", "contradict"),
        ({"seed": 0.0, "with_examples": 0.0, "constant": 0.0}, "another metric", "every answer scores 0"),
        (
            {"seed": 0.0, "with_examples": 0.0, "expected": 1.0},
            "stop",
            "the model cannot do this, or the prompt does not",
        ),
        ({"expected": 0.1}, "another metric", "the expected answers themselves score 10.0%"),
        ({"constant": 0.95, "seed": 0.2}, "another metric", "macro_f1"),
        ({"constant": 0.95, "seed": 0.2, "is_mean": False}, "go", "points that are left"),
        ({"metric_noise": 0.3}, "another metric", "scored again moves by 0.30"),
        ({"n_test": 20}, "more data", "20 test rows prove a gain of 31 points"),
        ({"seed": 0.9, "with_examples": 0.9}, "more data", "about 874 test rows would do"),
        ({"seed": 0.38, "with_examples": 0.42}, "stop", "at random (with 16 examples 42.0% and 35.0%); the inputs"),
        ({"seed": 0.38, "with_examples": None}, "stop", "scores 38.0%, and 35.0% with its answers swapped between the"),
        ({"seed": 0.38, "with_examples": 0.5, "constant": 0.6}, "go", "points that are left"),
        ({"seed": 0.38, "with_examples": None, **UNKNOWN}, "go", "points that are left"),
        ({"seed": 0.1, "with_examples": 0.1}, "stop", "your prompt scores 10.0%, and 35.0% with its answers swapped"),
        ({"seed": 0.1, "with_examples": 0.45}, "go", "may find 30 of the 90 points"),
        ({"seed": 0.0, "with_examples": 0.5, "constant": 0.1}, "go", "may find 27 of the 100 points"),
        ({"seed": 0.02, "with_examples": 0.08, "constant": 0.01, **UNKNOWN}, "more data", "a good search may find 3"),
        ({"n_test": 20, "read_share": 0.1}, "stop", "can be read"),
    ],
)
def test_the_advice_follows_from_the_facts(changes: dict[str, Any], decision: str, said: str) -> None:
    """The strongest objection decides, and its reason comes first."""
    advice = advise(replace(FACTS, **changes))
    assert advice.decision == decision
    assert said in advice.reasons[0]
    assert advice.exit_code == (0 if decision == "go" else 4)


def test_more_rows_prove_smaller_gains() -> None:
    """Four times the rows prove half the gain; the rows asked for would prove the likely gain."""
    assert replace(FACTS, n_test=1200).smallest_gain == pytest.approx(FACTS.smallest_gain / 2)
    few = replace(FACTS, n_test=20)
    assert replace(few, n_test=few.n_test_wanted).smallest_gain <= few.likely_gain


def test_a_likely_gain_is_smaller_near_the_ends() -> None:
    """Twice the odds is 17 points from a half, and few from next to nothing or next to all; labels set the limit."""
    alike = replace(FACTS, constant=0.0, luck=None, luck_with_examples=None)
    gains = [replace(alike, seed=seed, with_examples=seed).likely_gain for seed in (0.05, 0.5, 0.95)]
    assert gains == pytest.approx([0.1 / 1.05 - 0.05, 1 / 6, 1.9 / 1.95 - 0.95])
    disputed = replace(alike, seed=0.9, with_examples=0.9, contradictory_share=0.14)
    assert disputed.likely_gain == pytest.approx(0.03)


def folder_with(tmp_path: Path, url: str, rows: list[dict[str, Any]], **changes: Any) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(url, **{"search": {"formats": ["chat"], "max_demos": 4}, **changes})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def right(body: Body) -> str:
    fruit = next((fruit for fruit in FRUIT if fruit in body["messages"][-1]["content"]), "apple")
    return FRUIT[fruit]


WAVERING = itertools.cycle(["red", "blue"])


def model(body: Body) -> str:
    """Right for apples, wavering for plums, wrong for limes; as proposer it asks what is open."""
    if body["model"] == "proposer":
        return "1. Who packs boxes of plums?\n2. Is a lime green when ripe?"
    text = str(body["messages"][-1]["content"])
    if "plum" in text:
        return next(WAVERING)
    return "red"


def wrong_about_limes(body: Body) -> str:
    """Better than any one answer, and steady."""
    return "red" if "lime" in str(body["messages"][-1]["content"]) else right(body)


def probe(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimizer", "check", "study.yaml", "--probe", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_probe_announces_its_calls_counts_and_asks(tmp_path: Path) -> None:
    """No more calls than announced; scores, wavering rows and questions are there; nothing is written."""
    with FakeServer(model) as server:
        folder = folder_with(tmp_path, server.url, labelled_rows(400))
        done = probe(folder, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert "The probe makes 144 task calls and one proposer call" in " ".join(done.stderr.split())
        assert len(server.calls) == 145
    assert found["advice"] == "go"
    facts = found["facts"]
    assert 0.2 < facts["seed"] < 0.8
    assert 0.2 < facts["constant"] < 0.5
    assert facts["luck"][0] < facts["seed"] - facts["luck"][1]
    assert facts["unsettled"]
    assert all("plum" in each["shown"] for each in facts["unsettled"])
    assert found["questions"] == ["Who packs boxes of plums?", "Is a lime green when ripe?"]
    assert found["estimate"]["n_calls"] > 100
    assert not (folder / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "n", "advice", "said"),
    [
        (right, 400, "stop", "nothing left to gain"),
        (lambda _: "well, who knows", 400, "stop", "one was 'well, who knows'; raise lm.task.max_tokens"),
        (lambda _: "red", 400, "stop", "with its answers swapped between the rows at random"),
        (wrong_about_limes, 60, "more data", "test rows would do"),
    ],
    ids=["perfect", "unreadable", "one answer", "few rows"],
)
def test_a_probe_advises_against_a_lost_night(
    tmp_path: Path, answer: Callable[[Body], str], n: int, advice: str, said: str
) -> None:
    """Advice and reason are printed, within 80 columns, and the exit code is 4."""
    with FakeServer(answer) as server:
        done = probe(folder_with(tmp_path, server.url, labelled_rows(n)))
    assert done.returncode == 4, done.stderr
    is_unread = "one was" in said
    assert (len(server.calls) == 20) == is_unread  # there is no use in asking further
    assert ("none of the first 20 replies can be read" in " ".join(done.stdout.split())) == is_unread
    assert f"Advice: {advice}" in done.stdout
    assert said in " ".join(done.stdout.split())
    assert ("a good search may find" in " ".join(done.stdout.split())) == (advice != "stop")  # it would contradict it
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "\x1b" not in done.stdout
