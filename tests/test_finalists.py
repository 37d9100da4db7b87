"""Which prompts may go to the final test: those that were really raced, and that do more than give one label."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from optimizer.candidate import Candidate, Example, Part
from optimizer.cli.comparison import _name, compare_trials
from optimizer.cli.tables import lineage_tree
from optimizer.config.keys import Config
from optimizer.metrics import open_metric
from optimizer.records import Outcome, StudyView
from optimizer.report import Material
from optimizer.review.finalists import finalists
from optimizer.run import run
from optimizer.search.elite import Elite
from optimizer.study.held import by_aim
from optimizer.study.job import open_job
from optimizer.study.showing import picked
from tests.fake_server import Body, FakeServer
from tests.sample_study import SEED, sample_view
from tests.test_review import config

FRUIT = {"apple": "red", "lime": "green", "plum": "blue"}
WARDS = ("north", "south", "east")
MACRO_STUDY = {
    "name": "s",
    "task": {"inputs": {"note": ""}, "outputs": {"answer": {"kind": "label", "choices": ["red", "green", "blue"]}}},
    "data": {"source": "x.csv"},
    "metric": "macro_f1",
}


def study(folder: Path, url: str, rows: list[dict[str, str]], **changes: Any) -> StudyView:
    lm = {"api_base": url, "max_tokens": 100, "concurrency": 4, "price_in": 0, "price_out": 0}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "data": {"source": "rows.jsonl", "max_rows": {"dev": 60, "test": 60}},
        "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
        "search": {"trials": 8, "formats": ["chat"], "max_demos": 0, "operators": ["rewrite"]},
    }
    job = open_job(config(url, **settings | changes), folder=folder, runs_dir=folder / "runs")
    try:
        return run(job)
    finally:
        job.close()


def boxes(n: int, fruits: tuple[str, ...] = ("apple", "lime", "plum")) -> list[dict[str, str]]:
    return [
        {
            "note": f"Box {i} holds {i * 7 % 40} {fruits[i % len(fruits)]}s.",
            "team": FRUIT[fruits[i % len(fruits)]],
            "ward": WARDS[i % 7 % 3],
        }
        for i in range(n)
    ]


def fruit_of(text: str) -> str:
    return next((fruit for fruit in FRUIT if fruit in text.casefold().rpartition("note")[2]), "apple")


def improving(body: Body) -> str:
    """Words of the proposer are worth much, others hardly anything."""
    text = "\n".join(str(message["content"]) for message in body["messages"])
    if body["model"] == "proposer":
        return f"<instruction>Please say which team packs the box, way {zlib.crc32(text.encode())}.</instruction>"
    hit = zlib.crc32(text.encode()) % 10 < (7 if "Please" in text else 3)
    right = FRUIT[fruit_of(str(body["messages"][-1]["content"]))]
    return right if hit else next(team for team in FRUIT.values() if team != right)


@pytest.mark.slow
@pytest.mark.parametrize("task_calls", [190, 200, 210])
def test_a_trial_that_a_cap_cut_short_is_no_finalist(tmp_path: Path, task_calls: int) -> None:
    """A few rows of each group look like anything: what goes to the test was raced, and screens name its trial."""
    slices = {"by": "ward", "aim": "worst", "min_rows": 5}
    with FakeServer(improving) as server:
        view = study(
            tmp_path,
            server.url,
            boxes(300),
            metric={"name": "accuracy", "slices": slices},
            budget={"task_calls": task_calls},
        )
    trial = view.trial_of(view.best)
    assert view.stop_reason == "budget"
    assert trial is not None
    assert trial.state == "complete"
    assert view.best in [each.candidate for each in finalists(view, frozenset())]
    assert picked(view, str(trial.number + 1)) == view.best
    assert _name(view, view.best).startswith(f"trial {trial.number + 1}")


def lazy(body: Body) -> str:
    """The first words that the proposer finds make the model answer `red`; later ones make it look at the box."""
    text = "\n".join(str(message["content"]) for message in body["messages"])
    if body["model"] == "proposer":
        what = "Please look into" if "Just name" in text else "Just name"
        return f"<instruction>{what} the team for the box, way {zlib.crc32(text.encode())}.</instruction>"
    last = str(body["messages"][-1]["content"])
    if "Just name" in text:
        return "red"
    if "Please look into" in text:
        return FRUIT[fruit_of(last)] if zlib.crc32(last.encode()) % 2 else "green"
    return "blue"


@pytest.mark.slow
def test_a_candidate_that_gives_one_label_makes_room_for_another(tmp_path: Path) -> None:
    """The constant answer scores most on dev; the finalist that reads its input is taken to the test."""
    rows = boxes(300, ("apple", "apple", "apple", "apple", "lime", "apple", "plum"))
    with FakeServer(lazy) as server:
        view = study(tmp_path, server.url, rows)
    scores = {trial.candidate.parts[0].instructions[:4]: trial.score for trial in view.trials if trial.candidate}
    assert {"Just", "Plea"} <= set(scores)
    assert view.best.parts[0].instructions.startswith("Please")
    assert view.verdict is not None
    assert view.verdict.constant is not None
    assert view.verdict.constant.label == "red"


def test_a_candidate_without_a_trial_is_not_called_yours() -> None:
    """Older studies may have tested one whose trial was cut short: no screen says that you made it."""
    view = sample_view()
    stray = Candidate(parts=(Part(predictor="answer", instructions="Of no trial"),))
    material = Material(view=replace(view, best=stray), render=lambda _: "x")
    out = StringIO()
    Console(file=out, width=200).print(lineage_tree(material.view, "How"), compare_trials(material, SEED, stray))
    assert "a candidate whose trial was cut short, not scored" in out.getvalue()
    assert "its trial was cut short" in out.getvalue()
    assert "your prompt, not scored" not in out.getvalue()


def test_a_comparison_has_the_dev_figures_of_the_table() -> None:
    """A finalist is scored on all of dev after its race: that score stands in every table."""
    view = sample_view()
    trial = view.trial_of(view.best)
    assert trial is not None
    assert view.dev_score(trial) == (trial.score, len(trial.outcomes))
    material = Material(view=replace(view, dev_scores={view.best.id: (0.412, 87)}), render=lambda _: "x")
    out = StringIO()
    Console(file=out, width=200).print(compare_trials(material, SEED, view.best))
    assert "41.2% on 87 rows" in out.getvalue()


def test_macro_f1_chooses_the_finalist_that_serves_every_label() -> None:
    """Giving the frequent label is right on more rows; the measure that the study is judged by decides."""
    expected = ["red"] * 16 + ["green"] * 2 + ["blue"] * 2
    rows = [Example(id=f"r{i}", inputs={"note": str(i)}, outputs={"answer": team}) for i, team in enumerate(expected)]
    answers = {"frequent": ["red"] * 20, "fair": ["red"] * 11 + ["green"] * 7 + ["blue"] * 2}
    metric = open_metric(Config.model_validate(MACRO_STUDY), folder=Path())
    elite, kept = Elite([row.id for row in rows]), {}
    for name, given in answers.items():
        candidate = Candidate(parts=(Part(predictor="answer", instructions=name),))
        values = [float(said == row.outputs["answer"]) for said, row in zip(given, rows, strict=True)]
        elite.add(candidate, {row.id: value for row, value in zip(rows, values, strict=True)})
        elite.challenge(candidate)
        kept[candidate.id] = {
            row.id: Outcome(example_id=row.id, kind="scored", score=value, answer={"answer": said})
            for row, value, said in zip(rows, values, given, strict=True)
        }
    session: Any = SimpleNamespace(
        job=SimpleNamespace(metric=metric, groups=None),
        splits=SimpleNamespace(dev=rows),
        elite=elite,
        seed=elite.ranked()[-1],
        journal=SimpleNamespace(outcomes_of=lambda ids, _: {each: kept[each] for each in ids}),
    )
    assert [each.parts[0].instructions for each in elite.ranked()] == ["frequent", "fair"]
    assert [each.parts[0].instructions for each in by_aim(session, elite.ranked())] == ["fair", "frequent"]
