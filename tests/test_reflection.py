"""`reflect` with a capable proposer: a study on a transcript of the replies that such a model gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from optimizer.records import StudyView
from tests.fake_server import Body, FakeServer
from tests.faults import run_here

TRANSCRIPT = json.loads((Path(__file__).parent / "transcripts/reflections.json").read_text(encoding="utf-8"))
KINDS = {
    "today": "My chest {} when I climb stairs.",
    "week": "The tablets for my {} are nearly gone.",
    "routine": "Could I have a letter about my {}?",
}
THINGS = (
    "aches", "back", "burns", "ears", "eyes", "heart", "hip", "hurts", "knee", "nerves", "skin", "sleep", "stings"
)  # fmt: skip
METRIC = """
def metric(example, answer):
    right = example.outputs["urgency"]
    is_right = answer.get("urgency") == right
    return (1.0, "") if is_right else (0.0, f"a nurse would have said {right}")
"""


def task_model(body: Body) -> str:
    """Follow the rules that stand in the prompt, and call everything else routine."""
    messages = [str(message["content"]) for message in body["messages"]]
    rules, note = "\n".join(messages), messages[-1].rpartition("Message:")[2]
    if "chest" in note and re.search(r"today when .*chest|chest .*for today", rules, re.IGNORECASE):
        return "today"
    return "week" if "tablets" in note and "week when tablets" in rules else "routine"


def proposer(body: Body) -> str:
    """Give the reply that was recorded for mistakes of this kind."""
    shown = str(body["messages"][-1]["content"]).casefold()
    return next(str(each["reply"]) for each in TRANSCRIPT if all(word in shown for word in each["if"]))


def study(folder: Path, url: str, judge: str = "judge", **search: Any) -> Path:
    rows = [
        {"message": text.format(f"{thing} {i}" if kind != "today" else f"{thing} at {i} o'clock"), "urgency": kind}
        for kind, text in KINDS.items()
        for i, thing in enumerate(THINGS * 3)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / f"{judge}.py").write_text(METRIC, encoding="utf-8")
    lm = {"api_base": url, "max_tokens": 300}
    settings = {
        "name": "clinic",
        "task": {
            "goal": "Say how soon the practice must act.",
            "inputs": {"message": "what the patient wrote"},
            "outputs": {"urgency": {"kind": "label", "choices": list(KINDS)}},
        },
        "prompt": "Decide how soon the practice must act on the message.",
        "data": {"source": "rows.jsonl"},
        "metric": f"{judge}:metric",
        "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
        "search": {"trials": 14, "formats": ["chat"], "max_demos": 0, "operators": ["reflect"], **search},
        "tracking": {"enabled": False},
    }
    path = folder / "clinic.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reflected(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyView, list[str]]:
    """A finished study, and what its proposer was asked."""

    def model(body: Body) -> str:
        return proposer(body) if body["model"] == "proposer" else task_model(body)

    with FakeServer(model) as server:
        view = run_here(study(folder := tmp_path_factory.mktemp("clinic"), server.url), folder / "runs")
        asked = [call.body for call in server.calls if call.body["model"] == "proposer"]
    return view, ["\n".join(str(message["content"]) for message in body["messages"]) for body in asked]


def test_reflections_mend_the_prompt_and_the_mended_one_is_promoted(reflected: tuple[StudyView, list[str]]) -> None:
    """The rules that were left unsaid are in the winner, which is right on every test row."""
    view, _ = reflected
    assert view.verdict is not None
    assert (view.verdict.decision, view.verdict.winner_score) == ("promote", 1.0)
    words = view.best.parts[0].instructions.casefold()
    assert "chest" in words
    assert "tablets" in words
    assert "diagnosis" not in words
    assert "<" not in words


def test_the_model_is_shown_inputs_answers_expected_answers_and_remarks(
    reflected: tuple[StudyView, list[str]],
) -> None:
    """Each mistake comes with what was answered, what was expected, and what the metric says about it."""
    _, asked = reflected
    first = asked[0]
    assert re.search(r"input: My chest .* \| answer: routine \| expected: today \| remark: a nurse would", first)
    assert re.search(r"input: The tablets .* \| answer: routine \| expected: week", first)
    assert "letter about" not in first, "what went right is no mistake"


def test_what_is_no_instruction_costs_no_evaluation(reflected: tuple[StudyView, list[str]]) -> None:
    """Once the winner makes no mistake there is nothing to reflect on; words that were tried are not paid twice."""
    view, _ = reflected
    rejected = [trial for trial in view.trials if trial.state == "rejected"]
    assert rejected
    assert all(trial.task_calls <= 8 for trial in rejected), "at most the parent's own rows"


def test_the_starts_end_with_instructions_induced_from_examples(tmp_path: Path) -> None:
    """A capable proposer is shown examples alone, before Optuna draws the first recipe."""
    asked: list[str] = []

    def model(body: Body) -> str:
        if body["model"] != "proposer":
            return task_model(body)
        asked.append("\n".join(str(message["content"]) for message in body["messages"]))
        return proposer(body)

    with FakeServer(model) as server:
        path = study(tmp_path, server.url, judge="nurse", operators=["reflect", "induce"], trials=9)
        view = run_here(path, tmp_path / "runs")
    first = next(trial for trial in view.trials if trial.recipe.operator != "start")
    assert (first.recipe.operator, first.recipe.parent) == ("induce", "seed")
    assert "Decide how soon" not in asked[0], "the seed's words are not shown"
    assert first.candidate is not None
    assert "tablets are about to run out" in first.candidate.parts[0].instructions
