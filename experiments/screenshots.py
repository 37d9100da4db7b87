"""Pictures of a study's report and of its pages in MLflow: `uv run python -m experiments.screenshots`.

Takes a finished study (`quickstart` in `runs`, or `--study` and `--runs-dir`) and writes PNGs to
experiments/results/screenshots. Needs Playwright and a Chromium; OPTIMIZER_CHROMIUM may name the program.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image  # comes with Matplotlib

from optimizer.report import report_html
from optimizer.study.saved import SavedStudy, open_saved
from optimizer.study.showing import material_of
from optimizer.study.tracking import saved_projection
from optimizer.track import free_port, study_url, ui_command

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(__file__).parent / "results" / "screenshots"
MAX_BYTES = 150_000
N_COLOURS = 96
START_S = 120
SETTLE_MS = 5000  # the pages ask the server on and on, so that no event says they are done


def main() -> None:
    """Take every picture."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    said = parser.parse_args()
    saved = open_saved(said.runs_dir, said.study)
    FOLDER.mkdir(parents=True, exist_ok=True)
    program = os.environ.get("OPTIMIZER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(60_000)
        take_report(page, saved)
        page.set_viewport_size({"width": 1400, "height": 900})
        take_mlflow(page, saved)
        browser.close()


def take_report(page: Page, saved: SavedStudy) -> None:
    """The first screen of the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(report_html(material_of(saved)), encoding="utf-8")
        page.goto(path.as_uri())
        save(page, "report")


def take_mlflow(page: Page, saved: SavedStudy) -> None:
    """The study's page, and its trials sorted by score."""
    with mlflow_ui(saved) as base:
        study = study_url(base, saved.view(), saved_projection(saved))
        if study is None:
            raise SystemExit(f"study {saved.config.name!r} is not in MLflow; optimizer track {saved.config.name}")
        page.goto(study)
        page.get_by_text("Verdict:").first.wait_for()
        page.wait_for_timeout(SETTLE_MS)
        close_assistant(page)
        page.get_by_text("Show more").first.click()
        save(page, "mlflow-study")
        experiment = study.partition("/runs/")[0]
        page.goto(f"{experiment}/runs?orderByKey=metrics.`score`&orderByAsc=false")
        page.get_by_text("start").first.wait_for()
        page.wait_for_timeout(SETTLE_MS)
        close_assistant(page)
        save(page, "mlflow-trials")


def close_assistant(page: Page) -> None:
    """Close the panel with which newer versions of MLflow open."""
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()
        page.wait_for_timeout(SETTLE_MS // 5)


@contextmanager
def mlflow_ui(saved: SavedStudy) -> Iterator[str]:
    """Serve MLflow's UI on the study's store for a while; gives its address."""
    projection = saved_projection(saved)
    port = free_port(preferred=0)
    command, extra = ui_command(projection.uri, port=port, artifact_root=projection.artifact_root)
    server = subprocess.Popen(
        command, env={**os.environ, **extra}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(base)
        yield base
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_until_up(base: str) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("MLflow's server did not start")


def save(page: Page, name: str) -> None:
    """Write what the page shows, with few colours, so that the file stays small."""
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}")
    print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
