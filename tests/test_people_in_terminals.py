"""People at a terminal: questions that can be taken up again, reviews, completion, narrow windows."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from rich.cells import cell_len
from rich.console import Console

import optimizer
from optimizer.cli import main as cli
from optimizer.cli.progress import Progress
from optimizer.cli.reading import export_study, show_study, write_report
from optimizer.cli.review import review_study
from optimizer.cli.tables import print_statuses, status_cells
from optimizer.config.file import load_config
from optimizer.data.loading import load_splits
from optimizer.errors import ConfigError
from optimizer.init.examples import FOLDER, PACKED, copy_example, examples
from optimizer.records import TrialRecord
from optimizer.study.saved import open_saved
from tests.fake_server import FakeServer
from tests.pseudo_terminal import in_terminal
from tests.sample_study import sample_view
from tests.test_init import as_csv, rows
from tests.test_review import After, study
from tests.test_review import server as server

EDITOR = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text().replace('Which', 'What'))"


@pytest.mark.slow
def test_a_break_in_the_questions_loses_nothing(tmp_path: Path) -> None:
    """Ctrl-C after some answers prints the command that goes on with them, `--private` included; it asks no more."""
    table = [{**row, "Nachricht": f"{row['Nachricht']} Ich heiße Rosa Lind."} for row in rows()]
    (tmp_path / "a.csv").write_text(as_csv(table, ";"), encoding="utf-8")
    with in_terminal(["init", "a.csv"], tmp_path) as screen:
        seen = screen.wait_for("Column of the answer")
        assert "Rosa Lind" in seen or "Meine Lampe" in seen
        screen.wait_for("]: ")
        screen.type("Taem\n")
        screen.wait_for("Did you mean 'Team'?")
        screen.wait_for("]: ")
        screen.type("Team\n\nSort mail\n\n")
        screen.wait_for("Must all rows stay on this machine (name 60), yes or no [yes]: ")
        screen.type("vielleicht\n")
        screen.wait_for("'vielleicht' is neither yes nor no")
        screen.wait_for("[yes]: ")
        screen.type("\n")
        screen.wait_for("Model (")
        screen.wait_for("[embedded]: ")
        screen.type("nein\n")
        screen.wait_for("'nein' is no model; give `embedded`, a .gguf file, or provider/name")
        screen.wait_for("[embedded]: ")
        assert screen.interrupt() == 2
    command = " ".join(screen.shown.split()).partition("go on with `")[2].partition("`")[0]
    words = shlex.split(command.removeprefix("uv run "))
    assert words[:3] == ["optimizer", "init", "a.csv"]
    assert "--private" in words
    done = subprocess.run(
        [sys.executable, "-m", "optimizer", *words[1:], "--yes"], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    written = load_config(tmp_path / "a.yaml")
    assert (written.privacy, written.task.goal, list(written.task.outputs)) == ("local", "Sort mail", ["team"])


@pytest.mark.slow
def test_a_review_in_a_terminal_vetoes_and_edits(tmp_path: Path, server: FakeServer) -> None:
    """After the prompts it asks; `edit` opens $EDITOR, and what comes of it is raced; wrong words are told."""

    def at_the_terminal() -> None:
        editor = shlex.join([sys.executable, "-c", EDITOR])
        with in_terminal(["review", "fruit"], tmp_path, env={"EDITOR": editor, "VISUAL": editor}) as screen:
            screen.wait_for("or Enter to leave: ")
            screen.type("keep 1\n")
            screen.wait_for("say `veto 4` or `edit 4`")
            screen.wait_for("leave: ")
            screen.type("veto 1\n")
            screen.wait_for("your own prompt cannot be vetoed")
            screen.wait_for("leave: ")
            screen.type("edit 1\n")
            screen.wait_for("added: the running study takes it up next")
            screen.wait_for("leave: ")
            screen.type("\n")
            assert screen.end() == 0
            assert "trial 1 (yours)" in screen.shown
        with in_terminal(["review", "fruit"], tmp_path, env={"EDITOR": "false", "VISUAL": "false"}) as screen:
            screen.wait_for("leave: ")
            screen.type("edit 1\n")
            screen.wait_for("set EDITOR, or give the new prompt")
            screen.wait_for("leave: ")
            screen.type("\n")
            assert screen.end() == 0
        words = [sys.executable, "-m", "optimizer", "review", "fruit", "--edit", "1"]
        alone = subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        assert alone.returncode == 2
        assert "there is no terminal for an editor; give the new prompt with --text @FILE" in alone.stderr

    view = study(tmp_path, server.url, After(0, at_the_terminal))
    person: TrialRecord = next(trial for trial in view.trials if trial.recipe.operator == "person")
    assert person.candidate is not None
    assert person.candidate.parts[0].instructions == "What team packs this box?"
    assert person.state in ("complete", "pruned")
    with in_terminal(["review", "fruit"], tmp_path) as screen:
        assert screen.end() == 0
    assert "leave" not in screen.shown


def test_the_shell_completes_commands_studies_and_examples(tmp_path: Path) -> None:
    """`eval` of the script that the guide names gives names that are there, not only options."""

    def optimizer(**env: str) -> str:
        call = "from optimizer.cli.main import app; app(prog_name='optimizer')"
        done = subprocess.run(
            [sys.executable, "-c", call], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env={**os.environ, **env},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "runs/tickets").mkdir(parents=True)
    (tmp_path / "runs/tickets/study.json").touch()
    (tmp_path / "runs/other").mkdir()
    assert "_OPTIMIZER_COMPLETE=bash_complete" in optimizer(_OPTIMIZER_COMPLETE="bash_source")
    for words, found in (
        ("optimizer ex", {"example", "export"}),
        ("optimizer show ", {"tickets"}),
        ("optimizer review tick", {"tickets"}),
        ("optimizer example trans", {"translation-fr"}),
    ):
        n = len(words.split(" ")) - 1
        lines = optimizer(_OPTIMIZER_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(n)).split()
        assert {line.partition(",")[2] for line in lines} == found


def test_every_help_fits_80_columns() -> None:
    """The narrowest usual terminal shows each command's help without breaking a line."""
    for name in [None, *cli.app.commands]:
        command = cli.app if name is None else cli.app.commands[name]
        text = command.get_help(click.Context(command, info_name="optimizer", max_content_width=80, terminal_width=80))
        assert max(map(len, text.splitlines())) <= 80, name


@pytest.mark.parametrize("columns", [24, 40, 50, 80])
def test_progress_survives_a_narrow_window(columns: int, tmp_path: Path, server: FakeServer) -> None:
    """The live block is never wider than the window, the best score first; from 50 columns on no fact is broken."""

    class Looked(Progress):
        def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
            super().trial_finished(trial, is_best=is_best)
            with console.capture() as captured:
                console.print(self._block())
            blocks.append(captured.get())

    blocks: list[str] = []
    console = Console(width=columns, force_terminal=False)
    study(tmp_path, server.url, Looked(console), search={"trials": 1, "max_demos": 0, "formats": ["chat"]})
    assert blocks
    lines = blocks[-1].splitlines()
    assert all(cell_len(line) <= columns for line in lines)
    assert lines[0].startswith("best")
    if columns >= 50:
        whole = (
            r"(best \S+|trial 1 of 1|\d+ calls( of about \d+)?|free|unknown|\$\S+|\d+:\d\d so far|about \d+:\d\d left)"
        )
        bar = next(i for i, line in enumerate(lines) if "━" in line)
        assert all(re.fullmatch(whole, fact) for line in lines[:bar] for fact in line.split("   "))


@pytest.mark.parametrize("columns", [50, 60, 80, 200])
def test_status_cuts_nothing_in_a_narrow_window(columns: int) -> None:
    """Where the table would not fit a study gets a few short lines, its name first and whole."""
    view = sample_view(name="customer-messages-of-the-autumn-2")
    with (console := Console(width=columns, force_terminal=False)).capture() as captured:
        print_statuses(
            console, [status_cells(each, is_running=False) for each in (view, replace(view, state="running"))]
        )
    lines = captured.get().splitlines()
    assert all(cell_len(line.rstrip()) <= columns for line in lines)
    assert len([line for line in lines if line.startswith(view.name)]) == 2
    assert ("dev" in lines[0]) is (columns == 200)
    assert any("interrupted; verdict: promote, " in line for line in lines) or columns == 200


@pytest.mark.parametrize("name", list(examples()))
def test_each_example_can_be_taken_away(name: str, tmp_path: Path) -> None:
    """The copy stands alone: it loads with its rows from a folder of its own, and overwrites nothing."""
    files = copy_example(name, tmp_path)
    copied = load_config(files[0])
    assert load_splits(copied, folder=tmp_path).test
    if copied.task.program:
        assert (tmp_path / "programs/two_steps.py") in files
    files[0].write_text("mine")
    with pytest.raises(ConfigError, match="exists; give another folder with --into"):
        copy_example(name, tmp_path)
    assert files[0].read_text() == "mine"


def test_examples_are_listed_with_what_they_show() -> None:
    """The quickstart comes first, each has a sentence, and a misspelt name gets the nearest one."""
    listed = examples()
    assert next(iter(listed)) == "quickstart"
    assert all(said.endswith(".") and ",." not in said and len(said) > 15 for said in listed.values())
    with pytest.raises(ConfigError, match="Did you mean 'many-labels'"):
        copy_example("many-label", Path())


def test_the_wheel_carries_the_examples() -> None:
    """The build puts `configs` where the installed package looks for it."""
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert '"configs" = "optimizer/examples"' in project
    in_wheel, in_checkout = Path(optimizer.__file__).parent / "examples", Path(__file__).parent.parent / "configs"
    assert in_checkout == FOLDER
    assert in_wheel == PACKED


# -- right-to-left, wide letters, emoji ------------------------------------------------------------

HEBREW = (
    "\u05dc\u05d0\u05d9\u05d6\u05d4 \u05e6\u05d5\u05d5\u05ea \u05e9\u05d9\u05d9\u05da \u05d4\u05d0\u05e8\u05d2\u05d6?"
)
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
MIXED = f"{HEBREW} \u8fd4\u91d1\u306f\u3044\u3064\u3067\u3059\u304b {FAMILY} \U0001f680 e\u0301 {PERSIAN}"


@pytest.mark.slow
def test_any_script_survives_terminal_report_and_exports(
    tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hebrew, Japanese, joined emoji and escape sequences: frames fit, and every export has the letters."""
    hostile = f"{MIXED} \x1b[31mred \u202eback"
    study(tmp_path, server.url, prompt=hostile, search={"trials": 1, "max_demos": 0, "formats": ["chat"]})
    runs = tmp_path / "runs"

    def shown(call: Callable[[], int], columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        assert call() == 0
        return capsys.readouterr().out

    def review() -> int:
        return review_study("fruit", runs, vetoed=(), edited=None, text=None, is_json=False, edit=lambda _: None)

    for text in (shown(lambda: show_study("fruit", runs, is_json=False)), shown(review), shown(review, 120)):
        frame = [line for line in text.splitlines() if line.startswith(("│", "╭", "╰"))]
        assert len({cell_len(line) for line in frame}) == 1
        assert all(cell_len(line) <= 120 for line in text.splitlines())
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert HEBREW.split()[0] in text
        assert FAMILY in text

    def exported(format: str, output: Path | None = None) -> str:
        return shown(lambda: export_study("fruit", runs, format=format, output=output, is_forced=False, trial=None))

    target = tmp_path / "\u05e4\u05e7\u05d5\u05d3\u05d4 \U0001f680.json"
    exported("chat-json", target)
    messages = json.loads(target.read_text(encoding="utf-8"))["messages"]
    assert hostile in "".join(message["content"] for message in messages)
    for format in ("text", "markdown", "yaml", "python", "openai", "anthropic", "langchain"):
        text = exported(format)
        assert HEBREW in text or json.dumps(HEBREW)[1:-1] in text, format
    write_report("fruit", runs, output=tmp_path / "r.html", is_forced=False, opens_browser=False)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert HEBREW in html
    assert "unicode-bidi:plaintext" in html
    saved = open_saved(tmp_path / "runs", "fruit")
    assert saved.view().seed.parts[0].instructions == hostile


def test_files_may_be_called_anything(tmp_path: Path) -> None:
    """Data and configuration with spaces, Hebrew and emoji in their names become a study with a plain name."""
    folder = tmp_path / f"{HEBREW[:4]} \U0001f680"
    folder.mkdir()
    data = folder / f"\u05e9\u05d0\u05dc\u05d5\u05ea {FAMILY}.csv"
    data.write_text(as_csv(rows(), ";"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "optimizer", "init", str(data), "--yes", "--config", str(folder / "\u05d0 b.yaml")],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = load_config(folder / "\u05d0 b.yaml")
    assert written.name == "study"
    assert load_splits(written, folder=folder).test
    command = done.stdout.splitlines()[-1].strip()
    assert shlex.split(command.removeprefix("uv run "))[:3] == ["optimizer", "check", str(folder / "\u05d0 b.yaml")]
