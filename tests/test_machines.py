"""The recipes for many machines, as far as one machine can follow them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from optimizer.cli.main import app
from optimizer.config.keys import LM, LMs
from optimizer.errors import ConfigError
from optimizer.lm import open_backend
from optimizer.lm.backend import CallRequest
from optimizer.prompts.spec import Choice, Constraint, Json, Line, Message, Text
from optimizer.storage.database import open_engine
from tests.fake_server import FakeServer

RECIPES = Path(__file__).parent.parent / "configs/machines"


def test_the_kubernetes_job_fits_the_schema_and_our_command_line() -> None:
    """Kubernetes would take the Job, its pods restart after a pause, and its words are a command of ours."""
    job: dict[str, Any] = yaml.safe_load((RECIPES / "kubernetes.yaml").read_text())
    kubernetes_validate.validate(job, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "OnFailure"
    mounted, volumes = {each["name"] for each in container["volumeMounts"]}, {each["name"] for each in pod["volumes"]}
    assert mounted == volumes
    name, *words = container["args"]
    command = app.get_command(click.Context(app), name)
    assert command is not None
    command.make_context(name, list(words))
    assert words[0].startswith(container["volumeMounts"][0]["mountPath"])


def test_the_slurm_script_starts_a_worker_with_a_folder_of_its_own(tmp_path: Path) -> None:
    """Run by bash with a stand-in for `srun`, each task of the array gets our command and another runs folder."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\necho "$@"\n')
    srun.chmod(0o755)
    said = []
    for task in ("0", "3"):
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": task}
        done = subprocess.run(
            ["bash", RECIPES / "slurm.sh", "my.yaml"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        said.append(shlex.split(done.stdout))
        assert Path(said[-1][4]).is_dir()
    assert [words[:4] for words in said] == [["optimizer", "worker", "my.yaml", "--runs-dir"]] * 2
    assert said[0][4] != said[1][4]
    options = re.findall(r"^#SBATCH (--\S+)", (RECIPES / "slurm.sh").read_text(), re.M)
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", option) for option in options)


def test_without_a_configuration_the_slurm_script_says_what_it_wants(tmp_path: Path) -> None:
    """A forgotten argument is one line, and nothing is started."""
    done = subprocess.run(["bash", RECIPES / "slurm.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "give the configuration" in done.stderr


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ((Text(" "), Choice(("red", "blue"))), {"choice": [" red", " blue"]}),
        ((Json('{"type": "object"}'),), {"json": {"type": "object"}}),
        ((Text("Team: "), Line()), {"grammar": 'root ::= "Team: " [^\\n]{1,400}'}),
        ((), None),
    ],
)
def test_vllm_gets_the_form_of_a_reply_in_the_field_that_it_documents(
    constraint: Constraint, expected: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`guided: vllm` sends `structured_outputs` with choice, json or grammar, and nothing without a form."""
    monkeypatch.setenv("VLLM_API_KEY", "token")
    with FakeServer() as server:
        settings: dict[str, Any] = {
            "model": "openai/Qwen/Qwen3-8B",
            "api_base": server.url,
            "api_key_env": "VLLM_API_KEY",
        }
        backends = [open_backend(LM(**settings)), open_backend(LM(**settings, guided="vllm"))]
        for backend in backends:
            backend.complete(CallRequest(messages=(Message("user", "hi"),), max_tokens=5, constraint=constraint))
            backend.close()
        plain, guided = (call.body for call in server.calls)
    assert guided.get("structured_outputs") == expected
    assert {key: value for key, value in guided.items() if key != "structured_outputs"} == plain
    assert guided["model"] == "Qwen/Qwen3-8B"
    assert backends[0].identity != backends[1].identity


def test_a_missing_driver_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg a PostgreSQL URL is refused before anything is opened; another driver's name is met alike."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for url in ("postgresql+psycopg://me:secret@host/name", "postgresql://host/name"):
        with pytest.raises(ConfigError, match=r"is not installed; pip install '.*\[postgres\]'") as caught:
            open_engine(url)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_configurations_of_the_recipes_are_allowed() -> None:
    """What the guide shows for vLLM and for batches loads as it stands."""
    text = (RECIPES.parent / "README.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"\n\n((?:    lm:\n)(?:     .*\n)+)", text)]
    tasks = [LMs.model_validate(block["lm"]).task for block in blocks]
    assert [(task.mode, task.guided) for task in tasks] == [("batch", "off"), ("live", "vllm")]
