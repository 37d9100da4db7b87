"""Which prompts may go to the final test: those that were really raced, and that do more than give one label."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from optimizer.candidate import Candidate, Example, Part
from optimizer.cli.comparison import _name, compare_trials
from optimizer.cli.review import review_study
from optimizer.cli.tables import lineage_tree, trial_table
from optimizer.config.keys import Config
from optimizer.metrics import open_metric
from optimizer.proof.slices import Groups
from optimizer.records import Outcome, StudyView
from optimizer.report import Material
from optimizer.review.finalists import by_worst_group, finalists
from optimizer.run import run
from optimizer.search.elite import Elite
from optimizer.study.held import by_aim
from optimizer.study.job import open_job
from optimizer.study.observe import Observer
from optimizer.study.saved import open_saved
from optimizer.study.showing import material_of, picked
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


def study(
    folder: Path, url: str, rows: list[dict[str, str]], observer: Observer | None = None, **changes: Any
) -> StudyView:
    lm = {"api_base": url, "max_tokens": 100, "concurrency": 4, "price_in": 0, "price_out": 0}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "data": {"source": "rows.jsonl", "max_rows": {"dev": 60, "test": 60}},
        "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
        "search": {"trials": 8, "formats": ["chat"], "max_demos": 0, "operators": ["rewrite"]},
    }
    job = open_job(config(url, **settings | changes), folder=folder, runs_dir=folder / "runs")
    try:
        return run(job, observer)
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


class AtFinalists(Observer):
    """Reviews a study from another terminal when its finalists have been chosen."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.chosen = folder, list[str]()

    def finalists(self, candidates: Sequence[Candidate]) -> None:
        self.chosen = [each.id for each in candidates]
        runs = self._folder / "runs"
        review_study("fruit", runs, vetoed=(), edited=None, text=None, is_json=True, edit=lambda _: None)


def by_ward(body: Body) -> str:
    """A prompt is good to each ward by its own luck."""
    text = "\n".join(str(message["content"]) for message in body["messages"])
    if body["model"] == "proposer":
        return improving(body)
    last = str(body["messages"][-1]["content"])
    ward = int(last.rpartition("Box ")[2].split()[0]) % 7 % 3
    words = text.partition("way ")[2][:4]
    share = zlib.crc32(f"{words} {ward}".encode()) % 8
    right = FRUIT[fruit_of(last)]
    hit = zlib.crc32(last.encode()) % 8 < share
    return right if hit else next(team for team in FRUIT.values() if team != right)


@pytest.mark.slow
def test_a_review_of_a_running_study_has_its_own_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the study aims at its worst group, the finalists stand as the study itself has just chosen them."""
    slices = {"by": "ward", "aim": "worst", "min_rows": 5}
    watcher = AtFinalists(tmp_path)
    with FakeServer(by_ward) as server:
        study(tmp_path, server.url, boxes(300), watcher, metric={"name": "accuracy", "slices": slices})
    shown = json.loads(capsys.readouterr().out)["finalists"]
    n_same = min(len(watcher.chosen), 3)
    assert n_same >= 2
    assert [each["candidate"] for each in shown][:n_same] == watcher.chosen[:n_same]


def test_the_one_that_serves_every_group_stands_before_a_better_mean() -> None:
    """Of a running study the leader by the mean is not the first then; of a finished one the winner is."""
    dev = [Example(id=f"d{i}", inputs={}, outputs={}) for i in range(30)]
    groups = Groups(of={row.id: "a" if i < 20 else "b" for i, row in enumerate(dev)})
    rights = {"mean": range(20), "fair": [*range(0, 20, 2), *range(20, 27)]}
    trials, kept = [], {}
    for number, (name, right) in enumerate(rights.items()):
        made = Candidate(parts=(Part(predictor="answer", instructions=name),))
        scored = [Outcome(example_id=row.id, kind="scored", score=float(i in right)) for i, row in enumerate(dev)]
        kept[made.id] = {each.example_id: each for each in scored}
        trials.append(replace(sample_view(1).trials[0], number=number, candidate=made, outcomes=tuple(scored)))
    mean, fair = (trial.candidate for trial in trials)
    assert mean is not None
    view = sample_view(1, trials=tuple(trials), best=mean, state="running")
    order = by_worst_group(view, dev, groups, kept, n_wide=9)
    assert order == [fair, mean]
    assert by_worst_group(view, dev, groups, kept, n_wide=1) == [mean, fair]
    assert [each.candidate for each in finalists(view, frozenset(), order=order)] == [fair, mean]
    assert [each.candidate for each in finalists(view, frozenset())] == [mean, fair]
    ended = replace(view, state="finished")
    assert [each.candidate for each in finalists(ended, frozenset(), order=order)] == [mean, fair]


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
    material = material_of(open_saved(tmp_path / "runs", "fruit"))
    table = trial_table(view, material.n_chars, material.marks)
    marked = zip(table.columns[0].cells, table.columns[-1].cells, strict=True)
    left_out = {str(number) for number, why in marked if "one label" in str(why)}
    words = {str(trial.number + 1): trial.candidate.parts[0].instructions for trial in view.trials if trial.candidate}
    assert "Just" in {words[number][:4] for number in left_out}
    assert not any(words[number].startswith("Please") for number in left_out)


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
