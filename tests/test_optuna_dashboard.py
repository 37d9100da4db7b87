"""The study in optuna-dashboard: it reads the study's database as any other of Optuna's."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from optimizer.config.keys import Search
from optimizer.search.optuna_study import RacePruner, Study
from optimizer.search.race import FloatArray, RaceRule
from optimizer.storage.journal import Journal, open_engine
from optimizer.track import free_port
from tests.servers import serving
from tests.test_browser import browser as browser
from tests.test_browser import page as page

pytestmark = pytest.mark.slow
SCORES = (0.4, 0.7, 0.5)


def no_pair(number: int) -> tuple[FloatArray, FloatArray] | None:
    del number
    return None


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study as the search leaves it: two starts and two recipes, of which the last was pruned."""
    url = f"sqlite:///{tmp_path_factory.mktemp('study') / 'study.db'}"
    study = Study(
        url=url,
        name="mail-routing",
        journal=Journal(open_engine(url, is_durable=False), "mail-routing", owner="test"),
        search=Search(),
        operators=("rewrite", "demos"),
        predictors=("answer",),
        pruner=RacePruner(RaceRule(), no_pair),
    )
    study.enqueue_starts(["seed", "plain words"])
    for score in SCORES:
        ticket = study.ask()
        ticket.trial.report(score, step=5)
        study.tell(ticket, optuna.trial.TrialState.COMPLETE, score, {"candidate": f"c{ticket.number}"})
    ticket = study.ask()
    ticket.trial.report(0.1, step=5)
    study.tell(ticket, optuna.trial.TrialState.PRUNED, None, {"reason": "behind after 5 examples"})
    study.close()
    return url


@pytest.fixture(scope="module")
def dashboard(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard as its users start it, on a study's database."""
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    port = free_port(preferred=0)
    program = Path(sys.executable).parent / "optuna-dashboard"
    command = [str(program), database, "--port", str(port), "--server", "wsgiref"]
    base = f"http://127.0.0.1:{port}"
    with serving(command, f"{base}/api/studies", log=tmp_path_factory.mktemp("dashboard") / "log.txt"):
        yield base


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def test_the_dashboard_reads_scores_recipes_and_reasons(dashboard: str) -> None:
    """Every trial arrives with its state, its score, what Optuna suggested and why it was dropped."""
    listed = read(f"{dashboard}/api/studies")["study_summaries"]
    assert [study["study_name"] for study in listed] == ["mail-routing"]
    trials = read(f"{dashboard}/api/studies/{listed[0]['study_id']}?after=0")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete"] * 3 + ["Pruned"]
    assert tuple(trial["values"][0] for trial in trials[:3]) == SCORES
    assert {param["name"] for param in trials[2]["params"]} >= {"operator", "parent"}
    notes = {note["key"]: note["value"] for note in trials[3]["user_attrs"]}
    assert notes["reason"] == "behind after 5 examples"


def test_the_dashboard_opens_in_a_browser(page: Any, dashboard: str) -> None:
    """Its page for the study draws the history and lists the trials without an error."""
    study_id = read(f"{dashboard}/api/studies")["study_summaries"][0]["study_id"]
    page.set_default_timeout(120_000)  # its one script is large, and its server answers one request at a time
    page.goto(f"{dashboard}/dashboard/studies/{study_id}")
    page.get_by_text("mail-routing").first.wait_for()
    page.get_by_role("heading", name="History").or_(page.get_by_text("mail-routing")).first.wait_for()
    page.goto(f"{dashboard}/dashboard/studies/{study_id}/trials")
    page.get_by_text("Trial 3").first.wait_for()
