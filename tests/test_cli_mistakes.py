"""What people get wrong: each mistake is one clear line, exit code 2, and leaves existing runs as they were."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.cli import main as cli

TEAMS = ("red", "green", "blue")
PRICED = {"model": "openai/x", "api_base": "http://127.0.0.1:9/v1", "max_tokens": 8, "price_in": 5, "price_out": 5}


WORDS = ("lamp", "kettle", "mirror", "carpet", "ladder", "bucket", "pillow", "hammer", "candle", "basket")


def rows(n: int = 60) -> list[dict[str, str]]:
    """Notes that share no more than a word or two."""
    pairs = list(itertools.permutations(WORDS, 2))[:n]
    return [{"note": f"a {one} with a {other}", "team": TEAMS[i % 3]} for i, (one, other) in enumerate(pairs)]


def good_config() -> dict[str, Any]:
    return {
        "name": "study",
        "task": {
            "goal": "Name the team.",
            "inputs": {"note": "a note"},
            "outputs": {"team": {"kind": "label", "choices": list(TEAMS)}},
        },
        "prompt": "Name the team.",
        "data": {"source": "rows.jsonl"},
        "metric": "accuracy",
        "lm": {"task": {"model": "embedded", "max_tokens": 8}},
        "search": {"trials": 2, "max_demos": 2},
        "tracking": {"enabled": False},
    }


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A change to a good study, the command that meets it, and what must stand in the one line."""

    says: tuple[str, ...]
    change: Callable[[dict[str, Any]], object] = len  # no change
    files: dict[str, str | bytes] = field(default_factory=dict)
    args: tuple[str, ...] = ("run", "study.yaml")


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return a change that sets a dotted key."""

    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            config = config.setdefault(parent, {})
        config[last] = value

    return change


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.pop(key)


def jsonl(items: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


MISTAKES: dict[str, Mistake] = {
    # the command line
    "unknown command": Mistake(args=("rnu", "study.yaml"), says=("'rnu'", "Did you mean 'run'?")),
    "no argument": Mistake(args=("run",), says=("CONFIG",)),
    "unknown option": Mistake(args=("run", "study.yaml", "--trails", "3"), says=("--trails",)),
    "missing file": Mistake(args=("run", "stduy.yaml"), says=("no such file", "Did you mean 'study.yaml'?")),
    "a folder": Mistake(args=("run", "."), says=("folder",)),
    "a data file for a configuration": Mistake(
        args=("run", "rows.jsonl"), says=("rows.jsonl: is a data file", "optimizer init rows.jsonl`")
    ),
    "a data file to check": Mistake(
        args=("check", "My Rows.xlsx"),
        files={"My Rows.xlsx": b"PK\x03\x04\xff"},
        says=("is a data file", "optimizer init 'My Rows.xlsx'`"),
    ),
    "a missing file for init": Mistake(
        args=("init", "row.jsonl"), says=("init: no file 'row.jsonl' in '/", "Did you mean 'rows.jsonl'?")
    ),
    "a model for init that is none": Mistake(args=("init", "rows.jsonl", "--model", "nein"), says=("--model: 'nein'",)),
    "a missing file to suggest": Mistake(
        args=("suggest", "old", "@mein prompt.txt"), says=("no file 'mein prompt.txt' in '/",)
    ),
    "override without value": Mistake(args=("run", "study.yaml", "--set", "search.trials"), says=("search.trials",)),
    "override of an unknown key": Mistake(
        args=("run", "study.yaml", "--set", "search.trails=4"), says=("search.trails", "Did you mean 'trials'?")
    ),
    "override of the wrong type": Mistake(
        args=("run", "study.yaml", "--set", "search.trials=many"), says=("search.trials", "whole number")
    ),
    "unknown study in show": Mistake(args=("show", "oldd"), says=("'oldd'", "Did you mean 'old'?")),
    "unknown study in export": Mistake(args=("export", "oldd"), says=("'oldd'",)),
    "unknown study in status": Mistake(args=("status", "oldd"), says=("'oldd'",)),
    "unknown study in track": Mistake(args=("track", "oldd"), says=("'oldd'",)),
    "unknown study in ui": Mistake(args=("ui", "oldd", "--no-browser"), says=("'oldd'",)),
    "unknown export format": Mistake(
        args=("export", "old", "--format", "markdwon"), says=("'markdwon'", "Did you mean 'markdown'?")
    ),
    "a port out of range": Mistake(args=("ui", "--port", "99999"), says=("--port",)),
    # the configuration
    "unknown key": Mistake(change=put("serach", {}), says=("serach", "Did you mean 'search'?")),
    "unknown nested key": Mistake(change=put("lm.task.modle", "x"), says=("lm.task.modle", "Did you mean 'model'?")),
    "missing key": Mistake(change=drop("data"), says=("data", "missing")),
    "wrong type": Mistake(change=put("search.trials", "forty"), says=("search.trials", "'forty'")),
    "out of range": Mistake(change=put("search.trials", 0), says=("search.trials", ">= 1")),
    "bad name": Mistake(change=put("name", "../evil"), says=("name", "../evil")),
    "one choice": Mistake(change=put("task.outputs.team.choices", ["red"]), says=("task.outputs.team", "two or more")),
    "choices without label": Mistake(
        change=put("task.outputs.team.kind", "text"), says=("task.outputs.team", "choices")
    ),
    "unknown output kind": Mistake(
        change=put("task.outputs.team.kind", "lable"), says=("task.outputs.team.kind", "label")
    ),
    "unknown operator": Mistake(change=put("search.operators", ["rewrit"]), says=("rewrit", "Did you mean 'rewrite'?")),
    "unknown format": Mistake(change=put("search.formats", ["pain"]), says=("search.formats", "plain")),
    "bad clock time": Mistake(change=put("budget.finish_by", "25:00"), says=("budget.finish_by",)),
    "budget too small": Mistake(change=put("budget.task_calls", 5), says=("budget.task_calls: 5", "final test")),
    "yaml that is none": Mistake(files={"study.yaml": "name: [unclosed"}, says=("study.yaml", "line")),
    "an empty file": Mistake(files={"study.yaml": ""}, says=("empty",)),
    "a binary file": Mistake(files={"study.yaml": b"\xff\xfe\x00\x01"}, says=("UTF-8",)),
    "a key in the file": Mistake(change=put("lm.task.api_key", "sk-live-1234567890abcd"), says=("api_key",)),
    # data
    "missing data file": Mistake(change=put("data.source", "rwos.jsonl"), says=("rwos.jsonl",)),
    "empty data": Mistake(files={"rows.jsonl": ""}, says=("rows.jsonl",)),
    "one row": Mistake(files={"rows.jsonl": jsonl(rows(1))}, says=("row",)),
    "too few rows": Mistake(files={"rows.jsonl": jsonl(rows(12))}, says=("dev",)),
    "one class": Mistake(files={"rows.jsonl": jsonl([{**row, "team": "red"} for row in rows()])}, says=("red",)),
    "output field missing": Mistake(
        files={"rows.jsonl": jsonl([{"note": row["note"]} for row in rows()])}, says=("team",)
    ),
    "output field misspelt": Mistake(
        files={"rows.jsonl": jsonl([{"note": row["note"], "taem": row["team"]} for row in rows()])},
        says=("team", "taem"),
    ),
    "a label outside the choices": Mistake(
        files={"rows.jsonl": jsonl([*rows(), {"note": "another note", "team": "purple"}])}, says=("purple",)
    ),
    "a broken line": Mistake(files={"rows.jsonl": jsonl(rows()) + "{not json\n"}, says=("rows.jsonl", "61")),
    "an unknown file type": Mistake(
        change=put("data.source", "rows.docx"), files={"rows.docx": "x"}, says=("rows.docx",)
    ),
    # models
    "a model without provider": Mistake(
        change=put("lm.task.model", "gpt-nothing"),
        says=("lm: ", "'gpt-nothing' names no provider", "'openai/gpt-nothing'", "api_base", "gguf:PATH"),
    ),
    "a model of the hub without provider": Mistake(
        args=("check", "study.yaml"),
        change=put("lm.task", {"model": "owner/small", "api_base": "http://127.0.0.1:9/v1"}),
        says=("lm.task", "'owner/small' names no provider", "'openai/small'"),
    ),
    "a cap below the least in dollars": Mistake(
        change=lambda config: (put("lm.task", PRICED)(config), put("budget.usd", 0.0001)(config)),
        says=("budget.usd: 0.0001 is too little", "the final test on", "at least"),
    ),
    "a cap below the least in tokens": Mistake(
        args=("check", "study.yaml"), change=put("budget.tokens", 100), says=("budget.tokens: 100 are too few", "rows")
    ),
    "a missing GGUF file": Mistake(
        change=put("lm.task.model", "gguf:nothing.gguf"), says=("nothing.gguf", "no such file")
    ),
    "a file that is no GGUF": Mistake(
        change=put("lm.task.model", "gguf:fake.gguf"), files={"fake.gguf": "not a model"}, says=("fake.gguf",)
    ),
    "a key that is not set": Mistake(
        change=put("lm.task", {"model": "openai/x", "api_key_env": "OPTIMIZER_TEST_NO_SUCH_KEY"}),
        says=("OPTIMIZER_TEST_NO_SUCH_KEY", "not set"),
    ),
    "an endpoint that is not there": Mistake(
        args=("check", "study.yaml"),
        change=put("lm.task", {"model": "openai/x", "api_base": "http://127.0.0.1:9/v1", "timeout": 2.0}),
        says=("lm.task", "openai/x"),
    ),
    "money without a price": Mistake(
        change=lambda config: (
            put("lm.task", {"model": "openai/x", "api_base": "http://127.0.0.1:9/v1"})(config),
            put("budget.usd", 1.0)(config),
        ),
        says=("price_in",),
    ),
    # code
    "unknown metric": Mistake(change=put("metric", "acuracy"), says=("acuracy", "Did you mean 'accuracy'?")),
    "a metric that is not there": Mistake(change=put("metric", "my_metric:score"), says=("my_metric",)),
    "a metric with a syntax error": Mistake(
        change=put("metric", "broken_metric:score"),
        files={"broken_metric.py": "def score(:\n"},
        says=("broken_metric",),
    ),
    "a judge without rubric": Mistake(change=put("metric", "judge"), says=("rubric",)),
    "a regex that is none": Mistake(change=put("metric", {"name": "regex", "pattern": "("}), says=("pattern",)),
    "a metric of an unknown output": Mistake(
        change=put("metric", {"name": "accuracy", "output": "taem"}), says=("taem", "team")
    ),
    "a program that is not there": Mistake(change=put("task.program", "no_program:build"), says=("no_program",)),
    "a program that is none": Mistake(
        change=put("task.program", "number_program:build"),
        files={"number_program.py": "def build():\n    return 7\n"},
        says=("number_program", "dspy.Module"),
    ),
    "an operator that has nothing to do": Mistake(
        change=lambda config: (put("search.operators", ["demos"])(config), put("search.max_demos", 0)(config)),
        says=("search.operators", "max_demos"),
    ),
    "an operator that is not there": Mistake(
        change=put("search.operators", ["no_operator:operator"]), says=("no_operator",)
    ),
    **{
        f"a metric that returns {result}": Mistake(
            args=args,
            change=put("metric", f"{module}:score"),
            files={f"{module}.py": f"def score(example, answer):\n    return {result}\n"},
            says=(f"metric '{module}:score', example", f"returned {result}", "number from 0 to 1"),
        )
        for module, result, args in (
            ("text_metric", "'good'", ("check", "study.yaml")),
            ("none_metric", "None", ("check", "study.yaml", "--json")),
            ("large_metric", "7", ("check", "study.yaml", "--probe")),
        )
    },
    "a metric that fails on wrong answers": Mistake(
        args=("check", "study.yaml"),
        change=put("metric", "fails_metric:score"),
        files={"fails_metric.py": "def score(example, answer):\n    return 1 / (answer == example.outputs)\n"},
        says=("another row's answer", "ZeroDivisionError", "fails_metric.py line 2"),
    ),
    # storage and tracking
    "a storage that is none": Mistake(change=put("storage", "nonsense"), says=("storage",)),
    "a storage that is away": Mistake(
        change=put("storage", "postgresql+psycopg://nobody@127.0.0.1:9/none"), says=("storage",)
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good data and one old study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(jsonl(rows()))
    old = tmp_path / "runs" / "old"
    old.mkdir(parents=True)
    (old / "study.json").write_text('{"storage": null, "folder": "."}')
    (old / "study.db").write_bytes(b"")
    (old / "best_prompt.txt").write_text("kept")
    return tmp_path


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The commands send all logging to a file; here they run inside the tests' own process."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before):
        handler.close()
    root.handlers[:] = before
    logging.captureWarnings(False)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call(*args: str) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["optimizer", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def test_the_corpus_holds_at_least_forty_mistakes() -> None:
    """The corpus does not shrink unnoticed."""
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line on standard error says what is wrong, the exit code is 2, existing runs are untouched."""
    mistake = MISTAKES[name]
    config = good_config()
    mistake.change(config)
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    for path, content in mistake.files.items():
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = snapshot(folder / "runs")

    code = call(*mistake.args)

    err = capfd.readouterr().err.strip()
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error:")
    assert "Traceback" not in err
    for words in mistake.says:
        assert words in err
    assert {path: text for path, text in snapshot(folder / "runs").items() if path in before} == before
    assert "sk-live" not in err
