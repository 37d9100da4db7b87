"""Every ready configuration is loaded, checked and, with small settings, run.

Those for the embedded model run on it. Those for hosted models run against a loopback server that replays answers:
`REPLAYED` says for each task what a weak model would answer, and the data file what a good one would.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer.candidate import content_hash
from optimizer.config.file import load_config
from optimizer.config.keys import Config
from optimizer.probe.check import probes
from optimizer.prompts.spec import as_text
from optimizer.propose.wording import placeholders
from optimizer.run import run
from optimizer.study.job import Job, open_job
from tests.fake_server import Body, FakeServer

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
SMALL = [
    "search.trials=3", "search.finalists=1", "data.max_rows.train=30", "data.max_rows.dev=10", "data.max_rows.test=12",
    "tracking.enabled=false", "search.block=5",
]  # fmt: skip
HINT = "Work with care and keep to the form of the examples."
Row = dict[str, Any]
# What the file's main input is called, what a weak model says to a row, and what a good one says.
REPLAYED: dict[str, tuple[str, Callable[[Row], str], Callable[[Row], str]]] = {
    "openai.yaml": ("message", lambda _: "billing", lambda row: row["team"]),
    "two-steps.yaml": ("message", lambda _: "billing", lambda row: row["team"]),
    "extraction.yaml": (
        "mail",
        lambda row: json.dumps({"customer": row["order"]["customer"]}),
        lambda row: json.dumps(row["order"]),
    ),
    "arithmetic.yaml": (
        "question",
        lambda row: f"The result must be {row['answer'] + 1}",
        lambda row: f"It is {row['answer']}",
    ),
    "summary.yaml": ("report", lambda row: row["report"].partition(".")[0], lambda row: row["summary"]),
    "translation-fr.yaml": ("english", lambda row: row["english"], lambda row: row["french"]),
    "rewrite.yaml": ("draft", lambda row: row["draft"], lambda row: row["rewritten"]),
    "answers.yaml": ("question", lambda _: "The text gives no answer to this.", lambda row: row["answer"]),
}


class Replay:
    """Answers as task model, proposer and judge of one configuration."""

    def __init__(self, config: Config, file: str) -> None:
        self._field, self._weak, self._good = REPLAYED[file]
        lines = (CONFIGS / str(config.data.source)).read_text(encoding="utf-8").splitlines()
        self._rows: list[Row] = [json.loads(line) for line in lines]
        self._problem_of: dict[str, Row] = {}

    def __call__(self, body: Body) -> str:
        text = "\n".join(str(message["content"]) for message in body["messages"])
        if body["model"] == "proposer":
            return f"<prompt>{HINT}</prompt>"
        if body["model"] == "judge":
            answer = text.partition("[BEGIN ANSWER")[2].partition("\n")[2].partition("\n[END")[0]
            return f"As asked.\nScore: {5 if any(answer == row.get('rewritten') for row in self._rows) else 2}"
        last = str(body["messages"][-1]["content"])
        row = self._row(last)
        is_good = HINT in text or int(content_hash(row[self._field], n_chars=2), 16) < 128
        return (self._good if is_good else self._weak)(row)

    def _row(self, text: str) -> Row:
        """The row that a message asks about; the second of two steps only knows what the first one said."""
        found = [row for row in self._rows if row[self._field] in text]
        return max(found, key=lambda row: len(row[self._field])) if found else self._rows[0]


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """A configuration with small settings; hosted models are replayed."""
    path: Path = request.param
    config = load_config(path, SMALL)
    if config.lm.task.model == "embedded":
        quick = ["search.trials=1", "search.max_demos=0", "search.formats=[plain]", "data.max_rows.test=10"]
        job = open_job(load_config(path, [*SMALL, *quick]), folder=CONFIGS, runs_dir=tmp_path)
        yield job
        job.close()
        return
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FakeServer(Replay(config, path.name)) as server:
        roles = ["task", "proposer", *(["judge"] if config.lm.judge else [])]
        models = [f"lm.{role}.{key}" for role in roles for key in (f"model=openai/{role}", f"api_base={server.url}")]
        fast = ["search.operators=[rewrite]", "search.formats=[chat]", "budget.usd=null", "budget.task_calls=400"]
        fast += ["search.trials=4", "lm.task.concurrency=4", "search.max_demos=0"]
        job = open_job(load_config(path, [*SMALL, *models, *fast]), folder=CONFIGS, runs_dir=tmp_path)
        yield job
        job.close()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_says_what_it_shows(path: Path) -> None:
    """A first comment says what the file is for, the README lists it, and the editor finds the schema."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    assert lines[1].startswith("# ")
    assert f"]({path.name})" in (CONFIGS / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("opened", FILES, indirect=True, ids=lambda path: path.name)
def test_each_runs_to_a_verdict(opened: Job) -> None:
    """The check passes, a short search ends in a verdict, and no call failed."""
    probe = next(iter(probes(opened)))
    assert not probe.note
    view = run(opened)
    assert view.verdict is not None
    assert view.verdict.n >= 10
    assert not [trial for trial in view.trials if trial.state == "failed"]
    marks = placeholders(opened.config.prompt)
    assert all(mark in view.best.parts[0].instructions for mark in marks)


def test_every_hosted_configuration_is_replayed() -> None:
    """A new file for a hosted model needs answers to be replayed, or its run would be no test."""
    hosted = {path.name for path in FILES if load_config(path).lm.task.model != "embedded"}
    assert hosted == set(REPLAYED)


def test_a_conversation_reads_like_one() -> None:
    """Turns become lines; other lists stay JSON."""
    turns = [{"role": "customer", "content": "It broke.\nAgain."}, {"role": "agent", "content": "Oh."}]
    assert as_text(turns) == "Customer: It broke. Again.\nAgent: Oh."
    assert as_text([{"role": "customer"}]) == '[{"role": "customer"}]'
    assert as_text([]) == "[]"
