"""The study in a real browser: MLflow's own pages and the report open without an error and show what they should.

Skipped where Playwright or a Chromium is not installed; OPTIMIZER_CHROMIUM may name the program.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer.report import report_html
from optimizer.track import Projection, free_port, ui_command
from optimizer.track.mlflow_view import MlflowView
from tests.servers import serving
from tests.test_morning_in_mlflow import projection as projection
from tests.test_report import material
from tests.test_track import runs_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
CHROMIUM = os.environ.get("OPTIMIZER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as running:
        try:
            opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(projection: Projection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's UI on the study, as `optimizer ui` starts it."""
    port = free_port(preferred=0)  # the usual one may be another server's by the time that ours is up
    command, extra = ui_command(projection.uri, port=port, artifact_root=projection.artifact_root)
    url = f"http://127.0.0.1:{port}"
    with serving(command, f"{url}/health", log=tmp_path_factory.mktemp("server") / "log.txt", env=extra):
        yield url


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test when a script of it fails or a request for data does."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("response", lambda answer: errors.append(answer.url) if answer.status >= 500 else None)
    opened.set_default_timeout(120_000)
    yield opened
    assert errors == []
    opened.close()


def test_the_study_opens_with_its_verdict(page: Any, server: str, projection: Projection) -> None:
    """The link that `optimizer ui` prints leads to the parent run with the verdict in words."""
    experiment_id, run_id = MlflowView(projection).locate("mail-routing") or ("", "")
    page.goto(f"{server}/#/experiments/{experiment_id}/runs/{run_id}")
    page.get_by_text("Verdict: promote.").first.wait_for()


def test_trials_are_listed_and_sorted_by_score(page: Any, server: str, projection: Projection) -> None:
    """The list of runs opens sorted by score, best first, with readable names."""
    experiment_id, _ = MlflowView(projection).locate("mail-routing") or ("", "")
    page.goto(f"{server}/#/experiments/{experiment_id}/runs?orderByKey=metrics.`score`&orderByAsc=false")
    runs = [run for name, run in runs_of(projection).items() if "score" in run.data.metrics]
    best, *_, worst = sorted(runs, key=lambda run: -run.data.metrics["score"])
    first, last = (page.get_by_text(run.info.run_name, exact=True).first for run in (best, worst))
    first.wait_for()
    assert first.bounding_box()["y"] < last.bounding_box()["y"]


def test_trials_are_grouped_by_operator(page: Any, server: str, projection: Projection) -> None:
    """MLflow's own grouping takes the operator of a trial and makes a row of each."""
    experiment_id, _ = MlflowView(projection).locate("mail-routing") or ("", "")
    page.goto(f"{server}/#/experiments/{experiment_id}/runs?orderByKey=metrics.`score`&orderByAsc=false")
    page.get_by_text("Group by").first.click()
    page.keyboard.type("operator")
    page.get_by_text("optimizer.operator", exact=True).last.click()
    page.get_by_text("Group: demos").first.wait_for()


def test_two_trials_are_compared(page: Any, server: str, projection: Projection) -> None:
    """MLflow's page for comparing runs shows both trials side by side."""
    experiment_id, _ = MlflowView(projection).locate("mail-routing") or ("", "")
    two = list(runs_of(projection).values())[:2]
    ids = ",".join(f'"{run.info.run_id}"' for run in two)
    page.goto(f'{server}/#/compare-runs?runs=[{ids}]&experiments=["{experiment_id}"]')
    for run in two:
        page.get_by_text(run.info.run_name, exact=True).first.wait_for()


def test_the_winning_prompt_opens(page: Any, server: str) -> None:
    """The registered version shows its alias, and word for word the prompt that won."""
    words = material().view.best.parts[0].instructions.split(".")[0]
    page.goto(f"{server}/#/prompts/mail-routing")
    page.get_by_text("champion").first.wait_for()
    page.get_by_text("Version 1").first.click()
    page.get_by_text(words).first.wait_for()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_the_screen(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    """At phone and desktop width nothing sticks out sideways, and dark rooms get a dark page."""
    path = tmp_path / "report.html"
    path.write_text(report_html(material()))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    shade = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (shade == "rgb(255, 255, 255)") == (scheme == "light")
    assert asked == [path.as_uri()]
    context.close()
