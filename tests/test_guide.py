"""The guide in configs/README.md tells the truth: its commands run in order, its code works, its messages exist."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from optimizer.candidate import Candidate, Example, Part
from optimizer.config.keys import Config, Task
from optimizer.metrics import from_function, score
from optimizer.propose import open_operators
from optimizer.propose.operator import Context
from optimizer.records import Recipe
from tests.fake_server import Body, FakeServer

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "configs/README.md").read_text(encoding="utf-8").partition("<!-- reference")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
CODE = [text for kind, text in BLOCKS if kind == "python"]
FRUIT = {"apple": "billing", "lime": "delivery", "plum": "technical"}


def answer(body: Body) -> str:
    text = "\n".join(str(message["content"]) for message in body["messages"])
    if body["model"] == "proposer":
        return "<prompt>Money questions go to billing, parcels to delivery, the rest to technical.</prompt>"
    word = next((word for word in FRUIT if word in str(body["messages"][-1]["content"])), "apple")
    return FRUIT[word] if "go to billing" in text or word == "lime" else "billing"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answer) as running:
        yield running


def tickets(path: Path) -> None:
    words = list(FRUIT)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["message", "team"])
        for i in range(180):
            word = words[i % 3]
            writer.writerow([f"About my {word} {'abcdefghij'[i // 10 % 10]}{i} order", FRUIT[word]])


# Runs command lines one after the other in one process: starting Python anew for each would take most of the time.
DRIVER = """
import contextlib, io, json, pathlib, shlex, sys, yaml
from optimizer.cli.main import app
lines, changes = json.load(sys.stdin)
results = []
for line in lines:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main(shlex.split(line)[1:], standalone_mode=False)
        except SystemExit as end:
            code = end.code or 0
    results.append([line, code, out.getvalue(), err.getvalue()])
    path = pathlib.Path("tickets.yaml")
    if line.startswith("optimizer init") and path.exists():
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
print(json.dumps(results))
"""


@pytest.mark.slow
def test_every_command_of_the_guide_runs(tmp_path: Path, server: FakeServer) -> None:
    """In the order of the guide, on a file like the reader's. People's wishes come too late once a verdict stands."""
    tickets(tmp_path / "tickets.csv")
    (tmp_path / "my_prompt.txt").write_text("Name the team.")
    lm = {"api_base": server.url, "max_tokens": 50}
    changes = {
        "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
        "search": {"trials": 4, "formats": ["chat"], "max_demos": 2},
        "tracking": {"enabled": False},
    }
    command = [sys.executable, "-c", DRIVER]
    given = json.dumps([LINES, changes])
    done = subprocess.run(command, input=given, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results) == len(LINES) >= 15
    for line, code, out, err in results:
        is_late = line.startswith(("optimizer suggest", "optimizer review tickets --"))
        assert code in ((0, 4) if "--probe" in line else (2,) if is_late else (0,)), f"{line}: {out}{err}"
        assert not is_late or "is finished" in " ".join(err.split()) or "no trial" in err


def test_the_metric_of_the_guide_scores() -> None:
    """Its function is a metric as it stands."""
    names: dict[str, Any] = {}
    exec(CODE[0], names)
    metric = from_function(names["close_enough"])
    row = Example(id="a", inputs={}, outputs={"minutes": 30})
    assert score(metric, row, {"minutes": 33}).value == 1.0
    found = score(metric, row, {"minutes": 60})
    assert (found.value, found.feedback) == (0.5, "off by 30 minutes")


def test_the_operator_of_the_guide_makes_a_candidate(tmp_path: Path) -> None:
    """The class is named in `search.operators` as the guide does, and follows the contract of operators."""
    (tmp_path / "guide_code.py").write_text(CODE[1])
    operator = open_operators(["demos", "guide_code:Polite"], folder=tmp_path)[1]
    parent = Candidate(parts=(Part(predictor="answer", instructions="Sort mail."),))
    context = Context(
        task=Task.model_validate({"inputs": {"a": ""}, "outputs": {"b": ""}}),
        recipe=Recipe(operator="polite"),
        predictor="answer",
        parent=parent,
        parent_score=None,
        other=None,
        train=[],
        attempts=[],
        history=(),
        rng=np.random.default_rng(0),
        style="chat",
    )
    assert operator.request(context) is None
    assert operator.parse("", context).parts[0].instructions == "Sort mail. Please be brief."


def test_the_yaml_of_the_guide_is_valid() -> None:
    """Its sections fit a whole file."""
    (text,) = [text for kind, text in BLOCKS if kind == "yaml"]
    base = {
        "name": "a",
        "task": {"inputs": {"report": ""}, "outputs": {"summary": ""}},
        "data": {"source": "rows.csv"},
    }
    config = Config.model_validate({**base, **yaml.safe_load(text)})
    assert config.metric.slices is not None


@pytest.mark.parametrize("message", re.findall(r"`([^`]+)`", TEXT.partition("| Message |")[2].partition("\n## ")[0]))
def test_the_messages_of_the_guide_exist(message: str) -> None:
    """A person who searches the guide for what they saw finds it: each quoted message or key is in the program."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "optimizer").rglob("*.py"))
    plain = re.sub(r'"\s*\n\s*f?"', "", source)
    plain = re.sub(r"\{[^{}\n]*\}", "*", plain)
    wanted = re.escape(message).replace("10", r"(10|\*)")
    known = message.partition(":")[0].rpartition(".")[2] in source or message.startswith(("export", "optimizer", "uv "))
    assert re.search(wanted, plain) or known, message
