"""The MLflow view of a study: what it shows, that it can be repeated, and that it never holds up a run."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine

from optimizer.candidate import Candidate, Demo, JsonValue, Part
from optimizer.config.file import load_config
from optimizer.errors import ConfigError
from optimizer.records import DevEstimate, Outcome, Recipe, Spend, StudyView, TrialRecord, Verdict
from optimizer.run import run as carry_out
from optimizer.study.job import open_job
from optimizer.study.observe import Observer
from optimizer.track import (
    NoTracker,
    Outbox,
    Projection,
    SplitInput,
    Tracker,
    free_port,
    rebuild,
    storage_id,
    study_url,
    ui_command,
)
from optimizer.track.content import Lineage, trial_content
from optimizer.track.mlflow_view import MlflowView
from optimizer.track.note import fenced, study_note
from optimizer.track.outbox import WAITING, Entry, EntryKind, is_settled
from optimizer.track.points import Charts, final_points, trial_points
from optimizer.track.traces import sampled
from optimizer.track.tracker import grouped, show
from tests.fake_server import FakeServer
from tests.faults import answer, write_study

# MLflow uses parts of SQLAlchemy that are on their way out.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

START_S = 1_790_000_000.0
N_DEV, N_TEST, BLOCK = 13, 7, 5
ROW_TEXT = "the customer wrote this sentence"


def one_part(instructions: str, *demos: Demo) -> Candidate:
    return Candidate(parts=(Part(predictor="answer", instructions=instructions, demos=demos),))


SEED = one_part("Classify the message.")
DEMO = Demo(example_id="t1", inputs={"message": "Where is my parcel?"}, outputs={"team": "shipping"})
WITH_DEMO = one_part("Classify the message.", DEMO)
REWRITTEN = one_part("Say which team answers.")
BROKEN = one_part("Reflect \ud835 on\0it. `````")
TWO_PARTS = Candidate(
    parts=(
        Part(predictor="find", instructions="Find the topic."),
        Part(predictor="route", instructions="Name a team."),
    ),
    format="chat",
)
MERGED = one_part("Name the one team that should answer.\n" + "Be exact. " * 900, DEMO)


def render(candidate: Candidate) -> str:
    parts = (f"# {part.predictor}\n{part.instructions}\n" + "\n".join(map(str, part.demos)) for part in candidate.parts)
    return "\n".join(parts)


def outcomes(values: Sequence[float | None], *, split: str = "dev") -> tuple[Outcome, ...]:
    return tuple(
        Outcome(
            example_id=f"{split}{index}",
            kind="failed" if value is None else "scored",
            score=value,
            text=ROW_TEXT,
            error="server said 500" if value is None else None,
        )
        for index, value in enumerate(values)
    )


def trial(number: int, operator: str, **fields: Any) -> TrialRecord:
    defaults = {"started_s": START_S + 60 * number, "duration_s": 40.0, "tokens": 100 * number, "cost_usd": 0.01}
    return TrialRecord(number=number, recipe=Recipe(operator=operator), **{**defaults, **fields})


def make_view(**changes: Any) -> StudyView:
    seed_scores = [float(index % 2) for index in range(N_DEV)]
    better = [1.0] * 9 + [0.0] * 4
    trials = (
        trial(0, "seed", state="complete", candidate=SEED, outcomes=outcomes(seed_scores), task_calls=13),
        trial(
            1,
            "demos",
            state="complete",
            candidate=WITH_DEMO,
            parents=(SEED.id,),
            outcomes=outcomes(better),
            difference=0.23,
            task_calls=13,
        ),
        trial(
            2,
            "rewrite",
            state="pruned",
            candidate=REWRITTEN,
            parents=(WITH_DEMO.id,),
            outcomes=outcomes([0.0, 0.0, 1.0, 0.0, 0.0]),
            difference=-0.8,
            reason="too far behind after 5 rows",
            task_calls=5,
            proposer_calls=1,
        ),
        trial(3, "clarify", state="rejected", reason="copies a dev row", proposer_calls=1),
        trial(
            4,
            "reflect",
            state="failed",
            candidate=BROKEN,
            parents=(WITH_DEMO.id,),
            outcomes=outcomes([1.0, None, None]),
            reason="2 rows failed: server said 500",
            cost_usd=math.inf,
            difference=math.nan,
            task_calls=3,
        ),
        trial(5, "format", state="complete", candidate=TWO_PARTS, outcomes=outcomes(seed_scores), difference=-0.2),
        trial(
            6,
            "crossover",
            state="complete",
            candidate=MERGED,
            parents=(WITH_DEMO.id, REWRITTEN.id),
            outcomes=outcomes([1.0] * 11 + [0.0] * 2),
            difference=0.15,
            task_calls=13,
            proposer_calls=1,
        ),
    )
    view = StudyView(
        name="mail-routing",
        state="finished",
        stop_reason="trials",
        config={
            "name": "mail-routing",
            "prompt": "Classify the message.",
            "search": {"trials": 7, "block": BLOCK, "operators": ["demos", "edit"]},
            "lm": {"task": {"model": "embedded"}},
            "budget": {"task_calls": 500},
        },
        facts={"git_commit": "abc123", "n_dev": N_DEV},
        seed=SEED,
        best=MERGED,
        trials=trials,
        dev=DevEstimate(n=N_DEV, seed=6 / 13, winner=0.8, low=0.6, high=0.9, raw=11 / 13),
        verdict=make_verdict("promote"),
        spend=Spend(calls={"task": 61, "proposer": 3}, tokens_in=900, tokens_out=50, cost_usd=0.5),
        wall_s=500.0,
    )
    return replace(view, **changes)


def make_verdict(decision: Any) -> Verdict:
    return Verdict(
        decision=decision,
        reason="The winner answers 3 of 7 test rows more than the seed.",
        n=N_TEST,
        seed_score=3 / 7,
        winner_score=6 / 7,
        difference=3 / 7,
        low=0.1,
        high=0.7,
        p_value=0.03,
        test_name="exact McNemar",
        confidence=0.95,
        seed_outcomes=outcomes([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], split="test"),
        winner_outcomes=outcomes([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, None], split="test"),
    )


@pytest.fixture(scope="module")
def shown(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Projection:
    """A projection whose store holds the study; for tests that only look."""
    projection = make_projection(empty_store, tmp_path_factory.mktemp("shown"))
    rebuild(make_view(), projection)
    return projection


def make_projection(empty_store: Path, folder: Path) -> Projection:
    shutil.copy(empty_store, folder / "mlflow.db")
    return Projection(
        uri=f"sqlite:///{folder / 'mlflow.db'}",
        artifact_root=folder / "artifacts",
        storage_id="5eed",
        render=render,
        splits=(
            SplitInput(split="dev", n_rows=N_DEV, digest="d" * 64, source="mail.jsonl"),
            SplitInput(split="test", n_rows=N_TEST, digest="e" * 64, source="mail.jsonl"),
        ),
    )


@pytest.fixture
def projection(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Projection]:
    """A projection to a fresh store; the working folder must stay empty."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield make_projection(empty_store, tmp_path)
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'study.db'}")
    yield engine
    engine.dispose()


def client_of(projection: Projection) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=projection.uri, registry_uri=projection.uri)


def runs_of(projection: Projection) -> dict[str, Any]:
    """All runs by name; a name that occurs twice fails the test."""
    client = client_of(projection)
    experiment = client.get_experiment_by_name(projection.experiment)
    runs = list(client.search_runs([experiment.experiment_id]))
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def artifact(run: Any, path: str) -> str:
    return (Path(run.info.artifact_uri.removeprefix("file://")) / path).read_text()


def snapshot(projection: Projection, *, with_ids: bool = True) -> dict[str, Any]:
    """Everything that the store holds, with or without what MLflow made up itself (ids, clock)."""
    client = client_of(projection)
    found: dict[str, Any] = {}
    for name, run in runs_of(projection).items():
        history = {
            key: sorted(
                (p.step, p.timestamp - run.info.start_time, p.value)
                for p in client.get_metric_history(run.info.run_id, key)
            )
            for key in run.data.metrics
        }
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        files = {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}
        inputs = [(row.dataset.name, row.dataset.digest) for row in run.inputs.dataset_inputs]
        tags = {key: value for key, value in run.data.tags.items() if with_ids or key != "mlflow.parentRunId"}
        ids = (run.info.run_id, run.info.start_time, run.info.end_time) if with_ids else ()
        found[name] = (ids, run.info.status, tags, run.data.params, history, files, sorted(inputs))
    found["prompts"] = versions_of(projection, with_ids=with_ids)
    return found


def versions_of(projection: Projection, *, with_ids: bool = True) -> list[tuple[int, str, dict[str, str]]]:
    client = client_of(projection)
    if client.get_prompt("mail-routing") is None:
        return []
    return [
        (int(v.version), v.template, {key: value for key, value in v.tags.items() if with_ids or key != "run_id"})
        for v in client.search_prompt_versions("mail-routing")
    ]


def alias(projection: Projection, name: str) -> int | None:
    from mlflow.exceptions import MlflowException

    try:
        return int(client_of(projection).get_prompt_version_by_alias("mail-routing", name).version)
    except MlflowException:
        return None


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_the_list_of_runs_reads_by_itself(shown: Projection) -> None:
    """Names carry number, operator and score or fate; red marks are left to what was never or not fully scored."""
    assert {name: run.info.status for name, run in runs_of(shown).items()} == {
        "mail-routing": "FINISHED",
        "01 seed 0.46": "FINISHED",
        "02 demos 0.69": "FINISHED",
        "03 rewrite 0.20 pruned": "FINISHED",
        "04 clarify rejected": "KILLED",
        "05 reflect failed": "FAILED",
        "06 format 0.46": "FINISHED",
        "07 crossover 0.85": "FINISHED",
    }


def test_a_trial_shows_where_it_came_from_and_what_it_cost(shown: Projection) -> None:
    """A nested run has recipe, parents, reason and totals, and the running score at each block."""
    runs = runs_of(shown)
    parent_id = runs["mail-routing"].info.run_id
    merged, rejected, pruned = runs["07 crossover 0.85"], runs["04 clarify rejected"], runs["03 rewrite 0.20 pruned"]

    assert merged.data.tags["mlflow.parentRunId"] == parent_id
    assert merged.data.tags["optimizer.parent_trials"] == "02,03"
    assert merged.data.params["recipe.operator"] == "crossover"
    assert merged.data.metrics["calls"] == 14
    assert rejected.data.tags["optimizer.reason"] == "copies a dev row"
    assert "score" not in rejected.data.metrics
    assert pruned.data.metrics["n_scored"] == 5
    steps = client_of(shown).get_metric_history(merged.info.run_id, "score")
    assert [(point.step, round(point.value, 3)) for point in steps] == [(5, 1.0), (10, 1.0), (13, 0.846)]


def test_prompts_are_whole_artifacts_and_rows_stay_out(shown: Projection) -> None:
    """Prompts beyond a param's limit arrive whole, with their diff; outcomes hold ids and values, no texts."""
    run = runs_of(shown)["07 crossover 0.85"]

    assert artifact(run, "prompt.txt") == render(MERGED)
    assert len(render(MERGED)) > 6000
    assert Candidate.from_json(json.loads(artifact(run, "candidate.json"))) == MERGED
    assert "-Classify the message." in artifact(run, "diff.txt")
    assert "+Name the one team that should answer." in artifact(run, "diff.txt")
    assert json.loads(artifact(run, "outcomes.json"))[12] == {"example_id": "dev12", "kind": "scored", "value": 0.0}
    assert ROW_TEXT not in json.dumps(snapshot(shown), default=str)


def test_text_that_no_store_takes_is_mended(shown: Projection) -> None:
    """Lone surrogates and NUL become replacement characters; infinite and undefined numbers are left out."""
    run = runs_of(shown)["05 reflect failed"]

    assert "Reflect \ufffd on\ufffdit." in artifact(run, "prompt.txt")
    assert Candidate.from_json(json.loads(artifact(run, "candidate.json"))) == BROKEN
    assert run.data.metrics.keys() == {"score", "n_scored", "calls", "tokens", "duration_s"}


def test_the_parent_run_tells_the_outcome(shown: Projection) -> None:
    """The parent has the verdict in words and numbers, both prompts, settings, splits and the rows that flipped."""
    run = runs_of(shown)["mail-routing"]

    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("**Verdict: promote.** The winner answers 3 of 7")
    assert "| test | 7 | 0.429 | 0.857 | +0.429 |" in note
    assert "optimizer export mail-routing" in note
    assert run.data.metrics["test_difference"] == pytest.approx(3 / 7)
    assert run.data.metrics["best_dev"] == pytest.approx(11 / 13)
    assert run.data.params["lm.task.model"] == "embedded"
    assert not any(key.startswith("budget") for key in run.data.params)
    assert {row.dataset.name for row in run.inputs.dataset_inputs} == {"dev", "test"}
    assert artifact(run, "winner_prompt.txt") == render(MERGED)
    assert [row[-1] for row in json.loads(artifact(run, "test_flips.json"))["data"]] == [
        "same", "same", "broken", "fixed", "fixed", "fixed", "not compared"
    ]  # fmt: skip


def test_a_finalists_run_has_the_rows_after_its_race_too(projection: Projection) -> None:
    """Once the study is finished, name, score and outcomes are those of every other table; the race is still there."""
    view = make_view()
    every = outcomes([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    rebuild(replace(view, state="running", verdict=None), projection)
    ended = replace(view, dev_scores={REWRITTEN.id: (3 / 8, 8)}, dev_outcomes={REWRITTEN.id: tuple(every)})
    rebuild(ended, projection)
    run = runs_of(projection)["03 rewrite 0.38 pruned"]
    steps = client_of(projection).get_metric_history(run.info.run_id, "score")

    assert [(point.step, point.value) for point in steps] == [(5, 0.2), (8, 0.375)]
    assert run.data.metrics["n_scored"] == 8
    assert len(json.loads(artifact(run, "outcomes.json"))) == 8
    first = snapshot(projection)
    rebuild(ended, projection)
    assert snapshot(projection) == first


def test_the_interval_of_graded_scores_is_no_interval_of_shares() -> None:
    """Scores that are all alike near the middle leave little doubt, where answers right or wrong leave much."""
    graded = trial(0, "seed", state="complete", candidate=SEED, outcomes=outcomes([0.5, 0.6] * 10))
    (_, points), *_ = Charts().points(replace(make_view(), trials=(graded,)))
    chart = {point.key: point.value for point in points}

    assert 0.5 < chart["best_dev_low"] < 0.55 < chart["best_dev_high"] < 0.6


def test_charts_run_over_trials_and_over_calls() -> None:
    """Best so far never falls, calls add up, and a trial without calls has no point on the axis of calls."""
    charts = {number: {point.key: point for point in points} for number, points in Charts().points(make_view())}

    assert [round(charts[number]["best_dev"].value, 2) for number in range(7)] == [0.46] + [0.69] * 5 + [0.85]
    assert [charts[number]["calls"].value for number in range(7)] == [13, 26, 32, 33, 36, 36, 50]
    assert charts[6]["over_calls/best_dev"].step == 50
    assert "over_calls/best_dev" not in charts[5]
    assert "trial_dev" not in charts[3]


def test_charts_go_on_from_where_they_were() -> None:
    """Looked at as the study grows they are the same as at its end; what was seen is not given again."""
    view, charts = make_view(), Charts()
    grown = [each for n in (2, 5, 7) for each in charts.points(replace(view, trials=view.trials[:n]))]

    assert grown == list(Charts().points(view))
    assert not list(charts.points(view))


def test_charts_wait_for_a_trial_that_still_runs() -> None:
    """What follows a running trial may still move, so its points are held back until the study is over."""
    view = make_view(state="running", verdict=None)
    trials = tuple(replace(row, state="running") if row.number == 2 else row for row in view.trials)

    assert [number for number, _ in Charts().points(replace(view, trials=trials))] == [0, 1]
    finished = replace(view, trials=trials, state="finished")
    assert [number for number, _ in Charts().points(finished)] == [0, 1, 3, 4, 5, 6]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=30), st.integers(2, 7), st.integers(0, 30))
def test_more_rows_add_points_and_change_none(values: list[float | None], block: int, n_first: int) -> None:
    """A finalist that is scored on more rows keeps every whole-block point of its score."""
    first = (min(n_first, len(values)) // block) * block
    before = trial_points(trial(1, "edit", state="pruned", outcomes=outcomes(values[:first])), block=block)
    after = trial_points(trial(1, "edit", state="complete", outcomes=outcomes(values)), block=block)

    assert {p for p in before if p.key == "score"} <= {p for p in after if p.key == "score"}
    steps = [point.step for point in after if point.key == "score"]
    assert steps == sorted(set(steps))


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_can_be_stored_and_fenced(text: str) -> None:
    """Cleaned text is valid UTF-8 without NUL, cleaning twice changes nothing, a fence cannot be closed from inside."""
    projection = Projection(uri="x", artifact_root=Path("x"), storage_id="s", render=render)
    clean = projection.clean(text)

    assert "\0" not in clean.encode().decode()
    assert projection.clean(clean) == clean
    fence = fenced(clean).partition("text\n")[0]
    assert fence not in clean


def test_a_rejected_text_is_not_shown_where_rows_are_hidden() -> None:
    """It may have been rejected for quoting a row; its reason stands there, and elsewhere the text does, too."""
    projection = Projection(uri="x", artifact_root=Path("x"), storage_id="s", render=render)
    said = REWRITTEN.with_instructions(REWRITTEN.parts[0].predictor, "As Mrs Niedermayr, born 22.07.1955, said.")
    view = make_view(trials=(trial(0, "rewrite", state="rejected", candidate=said, reason="copies a dev row"),))
    for hides_rows in (False, True):
        projection = replace(projection, hides_rows=hides_rows)
        content = trial_content(view, view.trials[0], projection, Lineage(view))
        assert content.tags["optimizer.reason"] == "copies a dev row"
        assert ("Niedermayr" in json.dumps([content.tags, content.files])) != hides_rows


def test_the_description_names_the_files_that_are_there() -> None:
    """The report is an artifact, but not where rows are hidden: there the plots alone are named."""
    projection = Projection(uri="x", artifact_root=Path("x"), storage_id="s", render=render)
    view = make_view(state="finished")
    assert "`report.html` and the plots are among the artifacts." in study_note(view, projection)
    note = study_note(view, replace(projection, hides_rows=True))
    assert "report.html" not in note
    assert "The plots are among the artifacts; the report is not" in note


def test_the_description_fits_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two very long prompts are cut, with a pointer to the artifacts; the commands work under `uv run`, too."""
    projection = Projection(uri="x", artifact_root=Path("x"), storage_id="s", render=lambda _: "long ` " * 5000)
    note = study_note(make_view(), projection)

    assert len(note) < 8000
    assert "whole text is in `winner_prompt.txt`" in note
    assert "optimizer show mail-routing" in note
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert "\nuv run optimizer show mail-routing\n" in study_note(make_view(), projection)


def test_secrets_are_removed_from_every_text(projection: Projection) -> None:
    """The redaction that is passed in reaches names, params, tags, descriptions and files."""
    secret = "sk-canary-123"
    dirty = one_part(f"Use {secret} now.")
    view = make_view(best=dirty, config={"lm": {"task": {"api_base": f"http://{secret}@host"}}}, facts={"env": secret})
    trials = (trial(0, "edit", state="failed", candidate=dirty, reason="x " * 245 + secret),)
    rebuild(replace(view, trials=trials), replace(projection, redact=lambda text: text.replace(secret, "[key]")))

    content = json.dumps(snapshot(projection), default=str)
    assert "[key]" in content
    assert "canary" not in content


# -- showing it again -------------------------------------------------------------------------------------------------


def test_two_rebuilds_give_the_same_store(projection: Projection) -> None:
    """A rebuild adds what is missing and nothing else: no run, point, file, input, tag or version twice."""
    rebuild(make_view(), projection)
    first = snapshot(projection)
    rebuild(make_view(), projection)

    assert snapshot(projection) == first
    assert len(first["prompts"]) == 1


def test_following_a_study_ends_like_a_rebuild(
    projection: Projection, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that is shown trial by trial leaves the same content as one that is rebuilt afterwards."""
    monkeypatch.setattr("optimizer.track.tracker.REST", 0)
    live = replace(projection, experiment="live")
    view = make_view()
    shown: list[TrialRecord] = []

    def read_view() -> StudyView:
        if len(shown) == len(view.trials):
            return view
        return replace(view, trials=tuple(shown), state="running", verdict=None, dev=None, best=SEED)

    tracker = Tracker.start(engine=engine, study=view.name, projection=live, read_view=read_view)
    for row in view.trials:
        shown.append(row)
        tracker.trial_finished(row.number)
        wait_for(lambda: tracker.status == "up to date")
    tracker.study_finished()
    tracker.close()
    followed = snapshot(live, with_ids=False)
    assert tracker.status == "up to date"

    rebuild(view, projection)
    rebuilt = snapshot(projection, with_ids=False)
    assert {k: v for k, v in followed.items() if k != "prompts"} == {k: v for k, v in rebuilt.items() if k != "prompts"}


def test_a_crash_between_effect_and_mark_shows_nothing_twice(projection: Projection, engine: Engine) -> None:
    """An entry whose effect has happened but was not marked is worked on again, without a trace."""
    view = make_view()
    outbox = Outbox(engine, view.name)
    outbox.add("start")
    outbox.add("trial", 2)
    outbox.add("finish")
    crashed = MlflowView(projection)
    for entry in outbox.waiting():
        show(crashed, [entry], view)
        if entry.kind != "finish":
            outbox.mark(entry)
    before = snapshot(projection)
    assert [entry.kind for entry in outbox.waiting()] == ["finish"]

    Tracker.start(engine=engine, study=view.name, projection=projection, read_view=lambda: view).close()

    assert outbox.n_with(WAITING) == 0
    assert snapshot(projection) == before


def test_a_run_that_was_half_written_is_completed(projection: Projection) -> None:
    """A crash right after a run was created leaves an empty run that the next attempt fills instead of adding one."""
    view = make_view()
    parent_id = MlflowView(projection).ensure_study(view)
    client = client_of(projection)
    experiment = client.get_experiment_by_name(projection.experiment)
    tags = {"mlflow.parentRunId": parent_id, "optimizer.trial": "2"}
    half = client.create_run(experiment.experiment_id, tags=tags, run_name="half")

    rebuild(view, projection)

    run = runs_of(projection)["02 demos 0.69"]
    assert run.info.run_id == half.info.run_id
    assert len(runs_of(projection)) == 8


def test_entries_are_worked_on_in_order_and_once(engine: Engine) -> None:
    """Entries of one study come oldest first, are gone when marked, and are not mixed with another study's."""
    mine, other = Outbox(engine, "mine"), Outbox(engine, "other")
    mine.add("start")
    other.add("trial", 9)
    mine.add("trial", 4)
    mine.add("trial", 2)

    assert [(entry.kind, entry.ref) for entry in mine.waiting()] == [("start", 0), ("trial", 4), ("trial", 2)]
    mine.mark(mine.waiting()[0])
    assert [entry.ref for entry in Outbox(engine, "mine").waiting()] == [4, 2]
    assert other.n_with(WAITING) == 1


def test_trials_that_gather_are_shown_together(
    projection: Projection, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the tracker rests, trials gather; then one look at the study shows them all, in one group."""
    for name in ("FIRST_PAUSE_S", "LONGEST_REST_S", "REST"):
        monkeypatch.setattr(f"optimizer.track.tracker.{name}", 3600.0)
    view, looks = make_view(state="running", verdict=None), 0

    def read_view() -> StudyView:
        nonlocal looks
        looks += 1
        return view if looks > 1 else replace(view, trials=())

    find, has_shown_all = Outbox.waiting, threading.Event()

    def waiting(outbox: Outbox) -> Sequence[Entry]:
        found = find(outbox)
        if not found:
            has_shown_all.set()
        return found

    monkeypatch.setattr(Outbox, "waiting", waiting)
    tracker = Tracker.start(engine=engine, study=view.name, projection=projection, read_view=read_view)
    assert has_shown_all.wait(60)
    for row in view.trials:
        tracker.trial_finished(row.number)
    assert tracker.status.startswith("7 waiting")
    assert (looks, len(runs_of(projection))) == (1, 1)
    tracker.close()

    assert (looks, len(runs_of(projection)), tracker.status) == (2, 8, "up to date")


def test_groups_keep_the_order_of_their_entries() -> None:
    """Trials in a row form groups of at most `n`; a start or an end stands alone."""
    kinds: list[EntryKind] = ["start", "trial", "trial", "trial", "finish", "trial", "start"]
    entries = [Entry(id=i, kind=kind, ref=i) for i, kind in enumerate(kinds)]
    assert [[entry.id for entry in group] for group in grouped(entries, n=2)] == [[0], [1, 2], [3], [4], [5], [6]]
    assert [[entry.id for entry in group] for group in grouped(entries, n=9)] == [[0], [1, 2, 3], [4], [5], [6]]


def test_a_study_is_settled_once_its_end_was_shown(engine: Engine) -> None:
    """Before any entry, with one that waits, and after a kill between verdict and mark there is something to show."""
    assert not is_settled(engine, "mine")
    outbox = Outbox(engine, "mine")
    assert not is_settled(engine, "mine")
    for kind, is_done, expected in (("trial", True, False), ("finish", False, False), ("finish", True, True)):
        outbox.add(cast(EntryKind, kind))
        for entry in outbox.waiting() if is_done else ():
            outbox.mark(entry)
        assert is_settled(engine, "mine") == expected
    Outbox(engine, "other").add("trial")
    assert is_settled(engine, "mine")
    outbox.add("start")
    assert not is_settled(engine, "mine")


def test_a_database_keeps_its_identity(engine: Engine, tmp_path: Path) -> None:
    """Reopening gives the same id, another database another one: a new study under an old name is a new run."""
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")

    assert storage_id(engine) == storage_id(engine)
    assert storage_id(engine) != storage_id(other)
    other.dispose()


def test_a_paused_study_waits_in_the_same_run(projection: Projection) -> None:
    """Pausing shows as scheduled, going on as running, in the run that was there before."""
    paused = make_view(state="paused", stop_reason="budget", verdict=None)
    first_id = rebuild(paused, projection)
    run = runs_of(projection)["mail-routing"]
    assert run.info.status == "SCHEDULED"
    assert "**Paused: budget** after" in run.data.tags["mlflow.note.content"]
    assert versions_of(projection) == []

    MlflowView(projection).log_all(replace(paused, state="running"))
    assert runs_of(projection)["mail-routing"].info.status == "RUNNING"
    assert rebuild(make_view(), projection) == first_id


def test_a_changed_setting_does_not_stop_the_view(projection: Projection) -> None:
    """MLflow's params cannot change; a setting that did between two sessions is in config.json instead."""
    view = make_view()
    rebuild(view, projection)
    changed: dict[str, JsonValue] = {
        **view.config,
        "lm": {"task": {"model": "embedded", "concurrency": 3}},
        "search": {"trials": 9},
    }
    rebuild(replace(view, config=changed), projection)

    run = runs_of(projection)["mail-routing"]
    assert (run.data.params["search.trials"], run.data.params["lm.task.concurrency"]) == ("7", "3")
    assert json.loads(artifact(run, "config.json")) == changed


# -- the prompt registry ----------------------------------------------------------------------------------------------


def test_promote_moves_the_champion_once_and_keeps_the_old_one(projection: Projection) -> None:
    """A second promotion moves `champion` and `previous`; rebuilding the first study does not move them back."""
    first = make_view()
    rebuild(first, projection)
    assert (alias(projection, "champion"), alias(projection, "previous")) == (1, None)

    later = replace(projection, storage_id="1ate")
    second = make_view(best=REWRITTEN)
    rebuild(second, later)
    assert (alias(projection, "champion"), alias(projection, "previous")) == (2, 1)

    rebuild(first, projection)
    rebuild(second, later)
    assert (alias(projection, "champion"), alias(projection, "previous")) == (2, 1)
    assert len(versions_of(projection)) == 2


def test_keep_registers_without_moving_the_champion(projection: Projection) -> None:
    """The prompt of a study that proved nothing is on record, and the champion stays."""
    rebuild(make_view(), projection)
    rebuild(make_view(best=REWRITTEN, verdict=make_verdict("keep")), replace(projection, storage_id="1ate"))

    assert (alias(projection, "champion"), alias(projection, "previous")) == (1, None)
    assert sorted(version for version, _, _ in versions_of(projection)) == [1, 2]


def test_a_version_carries_its_evidence(projection: Projection) -> None:
    """Tags sit on the version and not on the prompt; a second study with the same text adds no version."""
    rebuild(make_view(), projection)
    rebuild(make_view(), replace(projection, storage_id="1ate"))

    [(_, template, tags)] = versions_of(projection)
    assert template == render(MERGED)
    assert tags["study_id"] == "mail-routing.5eed"
    assert (tags["model"], tags["score"], tags["verdict"]) == ("embedded", "0.8571", "promote")
    assert tags["interval"].startswith("+0.1000 to +0.7000 (95%")
    assert "score" not in client_of(projection).get_prompt("mail-routing").tags


def test_a_prompt_too_long_for_the_registry_is_said_so(projection: Projection) -> None:
    """The registry takes 100,000 characters; a longer winner is only an artifact, and the run says why."""
    rebuild(make_view(), replace(projection, render=lambda _: "x" * 100_001))

    assert versions_of(projection) == []
    registered = runs_of(projection)["mail-routing"].data.tags["optimizer.registered"]
    assert registered == "no: the prompt has 100001 characters, the registry takes 100000"


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_store_that_is_away_costs_the_run_nothing(projection: Projection, engine: Engine) -> None:
    """With no server, marks take milliseconds, the status says what waits, and all is shown when it is back."""
    view = make_view()
    away = replace(projection, uri="http://user:pw@127.0.0.1:9")
    tracker = Tracker.start(engine=engine, study=view.name, projection=away, read_view=lambda: view)
    slowest_s = 0.0
    for row in view.trials:
        start = time.perf_counter()
        tracker.trial_finished(row.number)
        slowest_s = max(slowest_s, time.perf_counter() - start)
    tracker.study_finished()
    start = time.perf_counter()
    tracker.close(timeout_s=1.0)
    closed_s = time.perf_counter() - start

    assert slowest_s < 0.1
    assert closed_s < 1.5
    assert tracker.status.startswith("9 waiting: ")
    assert "pw" not in tracker.status
    Tracker.start(engine=engine, study=view.name, projection=projection, read_view=lambda: view).close()
    assert Outbox(engine, view.name).n_with(WAITING) == 0
    rebuilt = snapshot(projection)
    rebuild(view, projection)
    assert snapshot(projection) == rebuilt
    assert len(runs_of(projection)) == 8


def test_a_store_that_is_wrong_is_one_clear_line(projection: Projection, tmp_path: Path) -> None:
    """A rebuild into something that is no store names the key, the value and what to do."""
    (tmp_path / "text.db").write_text("this is not a database, but it is long enough to look at " * 20)

    with pytest.raises(ConfigError, match=r"^tracking\.uri: MLflow at 'sqlite:///.*text\.db' cannot be written: "):
        rebuild(make_view(), replace(projection, uri=f"sqlite:///{tmp_path / 'text.db'}"))


def test_an_entry_that_can_never_be_shown_does_not_block_the_rest(
    projection: Projection, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate that cannot be rendered is left out after a few tries; later trials are shown, the status tells."""
    monkeypatch.setattr("optimizer.track.tracker.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("optimizer.track.tracker.REST", 0)

    def picky(candidate: Candidate) -> str:
        if candidate == TWO_PARTS:
            raise ValueError("no layout for two parts")
        return render(candidate)

    view = make_view(state="running", verdict=None, trials=())
    tracker = Tracker.start(
        engine=engine, study=view.name, projection=replace(projection, render=picky), read_view=lambda: view
    )
    wait_for(lambda: tracker.status == "up to date")
    view = make_view(state="running", verdict=None)
    tracker.trial_finished(5)
    tracker.trial_finished(6)
    wait_for(lambda: "waiting" not in tracker.status)
    tracker.close()

    assert "no layout for two parts" in tracker.status
    assert tracker.status.startswith("1 left out: ")
    assert "07 crossover 0.85" in runs_of(projection)


def test_no_tracking_is_the_same_three_calls() -> None:
    """A run without MLflow talks to a tracker that does nothing."""
    tracker = NoTracker()
    tracker.trial_finished(1)
    tracker.study_finished()
    tracker.close()

    assert tracker.status == "off"


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    """MLflow takes seconds to import, so that is left to the tracker's thread."""
    check = "import sys, optimizer.track; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_numbers_of_the_verdict_are_finite() -> None:
    """An undefined p-value is left out rather than stored as a number."""
    verdict = replace(make_verdict("keep"), p_value=math.nan, high=math.inf)
    keys = {point.key for point in final_points(make_view(verdict=verdict))}

    assert {"test_low", "test_difference"} <= keys
    assert not {"p_value", "test_high"} & keys


# -- the UI -----------------------------------------------------------------------------------------------------------


def test_the_ui_is_lean_and_local(tmp_path: Path) -> None:
    """One worker, no job queue, loopback, absolute paths; a URI that is a server already is refused."""
    command, environment = ui_command(f"sqlite:///{tmp_path}/mlflow.db", port=5017)

    assert command[1:6] == ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--workers") + 1] == "1"
    assert command[command.index("--artifacts-destination") + 1] == (tmp_path / "artifacts").as_uri()
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    with pytest.raises(ConfigError, match="'http://host:5000' is an MLflow server"):
        ui_command("http://me:secret@host:5000", port=5017)


def test_a_link_leads_to_the_study(projection: Projection) -> None:
    """The link names experiment and parent run, and there is none before the study is in the store."""
    assert study_url("http://127.0.0.1:5000/", make_view(), projection) is None
    run_id = rebuild(make_view(), projection)
    run = runs_of(projection)["mail-routing"]

    expected = f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run_id}"
    assert study_url("http://127.0.0.1:5000/", make_view(), projection) == expected


def test_a_taken_port_is_passed_over() -> None:
    """The preferred port is taken when free, and another one when not."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(preferred=port) != port
    assert free_port(preferred=port) == port


@pytest.mark.slow
def test_the_ui_serves_runs_and_artifacts(projection: Projection) -> None:
    """A server started by our command serves a study with its artifacts, and takes another one over HTTP."""
    run_id = rebuild(make_view(), projection)
    port = free_port(preferred=0)
    command, environment = ui_command(projection.uri, port=port)
    server = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def fetch(path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
                body: bytes = reply.read()
                return body
        except OSError:
            return None

    try:
        wait_for(lambda: fetch("/health") is not None, timeout_s=120)
        run = json.loads(fetch(f"/api/2.0/mlflow/runs/get?run_id={run_id}") or b"{}")
        assert run["run"]["info"]["run_name"] == "mail-routing"
        listed = json.loads(fetch(f"/api/2.0/mlflow/artifacts/list?run_id={run_id}") or b"{}")
        assert "winner_prompt.txt" in {file["path"] for file in listed["files"]}
        text = fetch(f"/get-artifact?run_id={run_id}&path=winner_prompt.txt")
        assert text is not None
        assert text.decode() == render(MERGED)

        remote = replace(projection, uri=f"http://127.0.0.1:{port}", experiment="remote", storage_id="4fa4", n_traces=2)
        assert rebuild(make_view(), remote) == rebuild(make_view(), remote)
        assert len(runs_of(remote)) == 8
        place = client_of(remote).get_experiment_by_name("remote").experiment_id
        traces = client_of(remote).search_traces(locations=[place], include_spans=False)
        assert len(traces) == min(2, len(sampled(make_view(), remote))) > 0
        assert len(versions_of(remote)) == 1
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def test_an_observer_that_fails_at_the_start_leaves_no_thread(tmp_path: Path) -> None:
    """The tracker is closed with everything else that a study had opened by then."""

    class Broken(Observer):
        def opened(self, session: object) -> None:
            del session
            raise RuntimeError("no screen")

    with FakeServer(answer) as server:
        path = write_study(tmp_path, server.url, tracking={"enabled": True})
        job = open_job(load_config(path), folder=tmp_path, runs_dir=tmp_path / "runs")
        try:
            with pytest.raises(RuntimeError, match="no screen"):
                carry_out(job, Broken())
        finally:
            job.close()
    assert "optimizer-track" not in [thread.name for thread in threading.enumerate()]
