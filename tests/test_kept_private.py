"""A finished study of rows that must stay here: what later commands send, write and print of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizer.config import Config
from optimizer.errors import ConfigError
from optimizer.job import open_job
from optimizer.run import run
from optimizer.verify import plan_check
from tests.fake_server import FakeServer
from tests.test_main_job import answer, command, config, labelled_rows

AWAY = "http://192.0.2.2/v1"  # reserved for documentation: nothing answers there


def private_rows() -> list[dict[str, str]]:
    """Every fourth row is held back; its text says so, so that it can be looked for."""
    return [
        {**row, "note": f"HELD {row['note']}", "closed": "yes", "who": f"Alder{i}"} if i % 4 == 0 else
        {**row, "closed": "no", "who": ""}
        for i, row in enumerate(labelled_rows())
    ]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished study with a winner; `privacy: local`, and a column that holds rows back."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in private_rows()))
    with FakeServer(answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        settings = config(
            server.url,
            privacy="local",
            data={"source": "rows.jsonl", "no_demos": "closed"},
            search={"trials": 3, "formats": ["plain"], "max_demos": 2},
            tracking={"enabled": False},
        )
        run(open_job(Config.model_validate(settings), folder=folder, runs_dir=folder / "runs"))
        yield folder


def test_verify_obeys_the_study(study: Path) -> None:
    """Another address is refused with one line and exit code 2, for the study and for an exported file of it."""
    for target in ("fruit", str(study / "runs/fruit/best_prompt.json")):
        for model in (None, "openai/other"):
            with pytest.raises(ConfigError, match=r"privacy: local, but lm\.task is .* at '192\.0\.2\.2'"):
                plan_check(target, study / "runs", model=model, api_base=AWAY, data=None)
    with pytest.raises(ConfigError, match="at its provider"):
        plan_check("fruit", study / "runs", model="gemini/other", api_base=None, data=study / "gone.jsonl")
    done = subprocess.run(
        command("verify", "fruit", "--lm", "openai/other", "--api-base", AWAY),
        cwd=study, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    plan_check("fruit", study / "runs", model="openai/other", api_base="http://127.0.0.1:9/v1", data=None)
