"""The README tells the truth: its commands exist, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from optimizer.cli.main import app
from optimizer.config.file import load_config
from optimizer.export import export
from optimizer.prompts.program import TaskProgram
from optimizer.prompts.spec import spec_of_task
from tests.sample_study import sample_view

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = sorted(
    {line.partition("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()}
    | set(re.findall(r"`(optimizer [^`]+)`", TEXT))
)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


def test_the_two_lines_for_a_fresh_machine_are_there() -> None:
    """Newcomers and CI copy these lines."""
    for line in ("pip install uv && uv run optimizer run configs/quickstart.yaml", "pip install uv && uv run pytest"):
        assert f"\n{line}\n" in TEXT
    assert "pip install uv && uv run pytest" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("line", [line for line in COMMANDS if "optimizer " in line])
def test_each_command_is_understood(line: str) -> None:
    """Every `optimizer ...` line names a command, its options and its arguments as the parser takes them."""
    words = shlex.split(line[line.index("optimizer ") :])[1:]
    command = app.get_command(click.Context(app), words[0])
    assert command is not None, words[0]
    command.make_context(words[0], words[1:])
    for word in words[1:]:
        if word.endswith(".yaml") and "/" in word:
            assert (ROOT / word).is_file()


def test_the_help_lists_commands_as_they_are_used() -> None:
    """`optimizer --help` begins with how to begin, leaves no command out, and no line of it is cut."""
    shown = app.get_help(click.Context(app, terminal_width=80)).partition("Commands:\n")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in shown.splitlines()]
    assert names[:4] == ["example", "init", "check", "run"]
    assert set(names) == set(app.commands)
    assert "..." not in shown


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_each_link_leads_somewhere(link: str) -> None:
    """Relative links name files of the repository."""
    assert link.startswith("https://") or (ROOT / link).exists()


def exported_quickstart() -> str:
    """What `optimizer export quickstart --format dspy` writes, of the quickstart's own prompt."""
    config = load_config(ROOT / "configs/quickstart.yaml")
    program = TaskProgram(spec_of_task(config.task), max_tokens=16)
    view = replace(sample_view(1), config=config.model_dump(mode="json"), best=program.seed(config.prompt))
    return export(view, program, "dspy")


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.split("\n")[-2][:30])
def test_each_python_block_runs(code: str, tmp_path: Path) -> None:
    """Python in the README runs as it stands, in an empty folder with the quickstart's exported prompt."""
    (tmp_path / "prompt.json").write_text(exported_quickstart())
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_each_configuration_loads(path: Path) -> None:
    """Everything in configs/ is valid."""
    assert load_config(path).name
