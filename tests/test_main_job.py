"""The main job as a user runs it: the command line in its own process, from a YAML file to an exported prompt."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.command_line import command_name
from optimizer.lm.embedded import open_embedded
from tests.fake_server import Body, FakeServer, Fault, raw, reply

FRUIT = {"apple": "red", "lime": "green", "plum": "blue"}
N_ROWS = 150
HINT = "Decide by the fruit that is named: apple is red, lime is green, plum is blue."


def labelled_rows(n: int = N_ROWS) -> list[dict[str, str]]:
    fruits = list(FRUIT)
    return [{"note": f"Box {i} holds {i * 7 % 40} {fruits[i % 3]}s.", "team": FRUIT[fruits[i % 3]]} for i in range(n)]


def answer(body: Body) -> str:
    """A model that follows the hint, guesses `red` without it, and as proposer always knows the hint."""
    text = "\n".join(str(message["content"]) for message in body["messages"])
    if body["model"] == "proposer":
        return f"<prompt>{HINT}</prompt>"
    last = str(body["messages"][-1]["content"])
    fruit = next((fruit for fruit in FRUIT if fruit in last.rpartition("Note:")[2]), "apple")
    return FRUIT[fruit] if "apple is red" in text else "red"


def config(url: str, **changes: Any) -> dict[str, Any]:
    lm = {"api_base": url, "max_tokens": 100}
    return {
        "name": "fruit",
        "task": {
            "goal": "Say which team packs the box.",
            "inputs": {"note": "what is in the box"},
            "outputs": {"team": {"kind": "label", "choices": ["red", "green", "blue"]}},
        },
        "prompt": "Which team packs this box?",
        "data": {"source": "rows.jsonl"},
        "metric": "accuracy",
        "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
        "search": {"trials": 12, "formats": ["chat", "plain"], "max_demos": 2},
        **changes,
    }


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answer) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    return tmp_path


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "optimizer", *args]


def optimizer(folder: Path, *args: str, code: int = 0) -> str:
    done = subprocess.run(command(*args), cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def write(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))


def shown(folder: Path, study: str = "fruit") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(optimizer(folder, "show", study, "--json"))
    return loaded


def trials(folder: Path) -> list[tuple[int, str, str | None, str | None]]:
    """Number, state, candidate and recipe of each trial, from the study's database."""
    query = """
        SELECT t.number, t.state,
               MAX(CASE WHEN a.key = 'candidate' THEN a.value_json END),
               MAX(CASE WHEN a.key = 'recipe' THEN a.value_json END)
        FROM trials t LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id GROUP BY t.trial_id ORDER BY t.number
    """
    with sqlite3.connect(folder / "runs/fruit/study.db") as connection:
        return list(connection.execute(query))


@pytest.mark.slow
def test_a_study_runs_from_yaml_to_an_exported_prompt(folder: Path, server: FakeServer) -> None:
    """The search finds what helps, proves it on test rows, logs it to MLflow, and exports it; a second run is free."""
    write(folder, config(server.url))

    printed = optimizer(folder, "run", "study.yaml")
    assert "Verdict: promote" in printed
    assert "optimizer export fruit" in printed
    result = shown(folder)
    assert list(result) == [
        "study", "state", "stop_reason", "seed_prompt", "winner_prompt", "verdict", "dev", "test", "calls", "tokens",
        "cost_usd", "wall_s", "trials", "test_seen_before",
    ]  # fmt: skip
    assert list(result["test"])[:7] == ["n", "seed", "winner", "difference", "low", "high", "p_value"]
    assert list(result["trials"]) == ["complete", "pruned", "rejected", "failed", "unfinished"]
    assert result["cost_usd"] is None  # nobody has told what a call costs
    assert "; price unknown; " in printed
    assert "on your own data" not in printed
    assert (result["state"], result["verdict"], result["test"]["winner"]) == ("finished", "promote", 1.0)
    assert result["test"]["low"] > 0
    assert HINT in result["winner_prompt"]
    assert result["calls"]["task"] + result["calls"]["proposer"] == len(server.calls)

    n_calls = len(server.calls)
    assert "Verdict: promote" in optimizer(folder, "run", "study.yaml")
    assert len(server.calls) == n_calls

    assert HINT in optimizer(folder, "export", "fruit")
    assert "Which team packs this box?" in optimizer(folder, "export", "fruit", "--trial", "1")
    assert re.search(r"1 +start +complete", optimizer(folder, "show", "fruit"))
    assert "fruit is in MLflow" in optimizer(folder, "track", "fruit")
    assert json.loads(optimizer(folder, "export", "fruit", "--format", "chat-json"))
    assert "finished" in optimizer(folder, "status")
    assert HINT in (folder / "runs/fruit/best_prompt.txt").read_text()
    found = [folder / "runs", *(folder / "runs").rglob("*")]
    assert [str(path) for path in found if path.stat().st_mode & 0o077] == []
    _assert_mlflow_holds(folder, n_trials=sum(result["trials"].values()))


def _assert_mlflow_holds(folder: Path, *, n_trials: int) -> None:
    with sqlite3.connect(folder / "runs/mlflow.db") as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM runs")]
        operators = {value for (value,) in connection.execute("SELECT value FROM tags WHERE key LIKE '%operator'")}
        prompts = list(connection.execute("SELECT name FROM registered_models"))
    assert len(names) == n_trials + 1
    assert {"start", "format"} & operators
    assert prompts


@pytest.mark.slow
def test_check_tells_what_a_run_will_find_and_take(folder: Path, server: FakeServer) -> None:
    """Data, one call to each model, and an estimate; nothing is written."""
    write(folder, config(server.url))
    printed = optimizer(folder, "check", "study.yaml")
    assert re.search(r"train +\d+ +shown in prompts", printed)
    assert "lm.task: openai/task@" in printed
    assert "lm.proposer: openai/proposer@" in printed
    assert re.search(r"about [\d,]+ task calls \(at most [\d,]+\)", printed)
    assert "It can run, but look at the warnings first" in printed
    assert "lm.proposer.max_tokens: 100 cuts most instructions" in " ".join(printed.split())
    assert len(server.calls) == 2
    small = " ".join(optimizer(folder, "check", "study.yaml", "--set", "budget.task_calls=60").split())
    assert "budget.task_calls: 60 leaves room for about 4 of 12 candidates, and for 12 of" in small
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_check_as_json_knows_no_price_that_nobody_gave(folder: Path) -> None:
    """A call of unknown price costs null and not 0; that of a priced proposer costs what it costs."""
    with FakeServer(lambda _: "red") as server:
        settings = config(server.url)
        settings["lm"]["proposer"] |= {"price_in": 2.0, "price_out": 4.0}
        write(folder, settings)
        models = json.loads(optimizer(folder, "check", "study.yaml", "--json"))["models"]
    assert [each["role"] for each in models] == ["task", "proposer"]
    assert models[0]["usd"] is None
    assert 0 < models[1]["usd"] < 0.01


@pytest.mark.slow
def test_check_says_what_to_mend(folder: Path) -> None:
    """A reply that cannot be read is to be mended, exit code 2; a metric that refuses expected answers is a warning."""
    (folder / "stern.py").write_text("def score(example, answer):\n    return 0.5\n")
    with FakeServer(lambda _: "I would rather not say") as server:
        settings = config(server.url, metric="stern:score")
        settings["lm"]["proposer"]["max_tokens"] = 1000
        write(folder, settings)
        printed = " ".join(optimizer(folder, "check", "study.yaml", code=2).split())
        warned = json.loads(optimizer(folder, "check", "study.yaml", "--json", code=2))["warnings"]
    assert any("Raise lm.task.max_tokens (now 100)" in each for each in warned)
    assert "Everything is in place" not in printed
    assert "it was 'I would rather not say'. Raise lm.task.max_tokens (now 100)" in printed
    assert "the expected answers of 3 dev rows score 50.0% at most" in printed
    assert "lm.proposer.max_tokens" not in printed


USAGE = b'"usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}'
EMPTY = b'{"id": "1", "object": "chat.completion", "created": 1, "model": "fake", "choices": [], ' + USAGE + b"}"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [reply(None), reply("I would rather not say"), raw(EMPTY)])
def test_a_model_whose_replies_can_never_be_read_ends_soon_in_one_line(folder: Path, fault: Fault) -> None:
    """Your prompt and the other first candidates are tried on a few rows; then the run pauses and names a reply."""
    with FakeServer(lambda _: fault) as server:
        settings = config(server.url, tracking={"enabled": False})
        settings["search"]["trials"] = 9
        write(folder, settings)
        done = subprocess.run(command("run", "study.yaml"), cwd=folder, capture_output=True, text=True, timeout=240)
        n_calls = len(server.calls)
    assert done.returncode in (2, 3), done.stdout + done.stderr
    assert re.search("none of .* can be read|could not be scored", done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
    assert n_calls < 200  # each empty reply is asked for once more


@pytest.mark.slow
def test_an_address_where_nobody_has_ever_answered_pauses_at_once(folder: Path) -> None:
    """A server that was not started, or a name with a typing error, is one line and not ten minutes of waiting."""
    with FakeServer() as server:
        closed = server.url
    for url, why in ((closed, "the connection is refused"), ("http://no-such-host.invalid/v1", "the name is unknown")):
        write(folder, config(url, tracking={"enabled": False}, budget={"task_calls": 300}))
        started = time.monotonic()
        done = subprocess.run(command("run", "study.yaml"), cwd=folder, capture_output=True, text=True, timeout=240)
        assert done.returncode == 3
        assert f"cannot be reached, {why}" in done.stderr
        assert time.monotonic() - started < 90
        shutil.rmtree(folder / "runs")


@pytest.mark.slow
def test_check_refuses_the_caps_that_run_refuses(folder: Path) -> None:
    """What the first row took, times the rows of the shortest study, is held against the caps by both; below a whole
    first race `check` warns, and it says how many calls a cap allows."""
    with FakeServer(lambda _: reply("red", tokens=(400, 100))) as server:
        settings = config(server.url, tracking={"enabled": False})
        for role in ("task", "proposer"):
            settings["lm"][role] |= {"price_in": 1.0, "price_out": 2.0}

        def tried(command_: str, usd: float) -> subprocess.CompletedProcess[str]:
            write(folder, settings | {"budget": {"usd": usd}})
            return subprocess.run(
                command(command_, "study.yaml"), cwd=folder, capture_output=True, text=True, timeout=240
            )

        said = [tried(each, 0.013) for each in ("check", "run")]
        low, high = tried("check", 0.03), tried("check", 0.5)
        assert tried("run", 0.03).returncode == 0
    assert [(each.returncode, len(each.stderr.splitlines())) for each in said] == [(2, 1), (2, 1)]
    assert said[0].stderr == said[1].stderr
    assert re.search(
        r"budget.usd: 0.013 is too little: .* cost \$0.0\d+ if all rows are like the first", said[0].stderr
    )
    words = " ".join(low.stdout.split())
    assert re.search(r"budget.usd: 0.03 is too little: .* cost \$0.0\d+ if all rows are like the first", words)
    assert re.search(
        r"about \d\d task calls, .* about \$0.0[23]\d*, all that budget.usd allows \(a whole search", words
    )
    assert "too little" not in high.stdout
    assert "allows" not in high.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_ui_opens_at_the_study(how: signal.Signals, folder: Path, server: FakeServer) -> None:
    """`optimizer ui` serves MLflow on loopback, prints a link to the study's run, and takes the server with it."""
    settings = config(server.url)
    settings["search"]["trials"] = 1
    write(folder, settings)
    optimizer(folder, "run", "study.yaml")
    ui = subprocess.Popen(
        command("ui", "fruit", "--no-browser", "--port", "5643"), cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert ui.stdout is not None
        link = ui.stdout.readline()
        found = re.match(r"study fruit: (http://127\.0\.0\.1:\d+)/#/experiments/\d+/runs/(\w+)", link)
        assert found, link
        with urllib.request.urlopen(f"{found[1]}/api/2.0/mlflow/runs/get?run_id={found[2]}", timeout=30) as reply:
            assert json.load(reply)["run"]["info"]["status"] == "FINISHED"
    finally:
        ui.send_signal(how)
        assert ui.wait(timeout=40) == 0
        ui.stdout.close() if ui.stdout else None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(found[1], timeout=5)


@pytest.mark.slow
def test_a_study_is_run_by_one_process_at_a_time(folder: Path, server: FakeServer) -> None:
    """A second process on a running study is refused with one line."""
    from optimizer.storage.files import claim, make_private_folder

    write(folder, config(server.url))
    make_private_folder(folder / "runs/fruit")
    lock = claim(folder / "runs/fruit")
    done = subprocess.run(command("run", "study.yaml"), cwd=folder, capture_output=True, text=True, timeout=120)
    lock.release()
    assert done.returncode == 2
    assert "being run by another process" in done.stderr
    assert not server.calls


@pytest.mark.slow
def test_a_killed_study_continues_as_if_nothing_had_happened(folder: Path, server: FakeServer) -> None:
    """Killed twice and resumed, the study has the trials and the winner of one that ran through."""
    lm = {"api_base": server.url, "max_tokens": 100, "concurrency": 1}
    quiet = {
        "tracking": {"enabled": False},
        "lm": {"task": {**lm, "model": "openai/task"}, "proposer": {**lm, "model": "openai/proposer"}},
    }
    write(folder, config(server.url, **quiet))
    optimizer(folder, "run", "study.yaml", "--runs-dir", "whole")
    n_calls = len(server.calls)
    undisturbed = json.loads(optimizer(folder, "show", "fruit", "--json", "--runs-dir", "whole"))
    (folder / "whole").rename(folder / "runs")
    expected = trials(folder)
    (folder / "runs").rename(folder / "whole")
    server.calls.clear()

    for n_before_kill in (40, 110):
        running = subprocess.Popen(command("run", "study.yaml"), cwd=folder, stdout=subprocess.DEVNULL)
        while len(server.calls) < n_before_kill and running.poll() is None:
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    optimizer(folder, "run", "study.yaml")

    result = shown(folder)
    assert trials(folder) == expected
    assert result["winner_prompt"] == undisturbed["winner_prompt"]
    assert result["test"] == undisturbed["test"]
    assert n_calls <= len(server.calls) <= n_calls + 2  # at most the call in flight is paid again at each kill


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_study_that_is_told_to_stop_pauses(folder: Path, server: FakeServer, number: int, code: int) -> None:
    """The first signal ends the run soon, with its state written and one line; the same command finishes the study."""
    write(folder, config(server.url, tracking={"enabled": False}))
    running = subprocess.Popen(
        command("run", "study.yaml"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while len(server.calls) < 30 and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(number)
    _, err = running.communicate(timeout=30)
    assert running.returncode == code, err
    assert err.decode().strip() == f"stopped; run the same command again to continue: {command_name()} run study.yaml"
    assert (shown(folder)["state"], shown(folder)["stop_reason"]) == ("paused", "user")
    assert (folder / "runs/fruit/best_prompt.txt").is_file()
    assert "Verdict: promote" in optimizer(folder, "run", "study.yaml")


@pytest.mark.slow
def test_a_proposer_that_babbles_is_left_alone_for_a_while(folder: Path) -> None:
    """After five rejected replies in a row the search goes on with operators that need no model, then tries again; it
    says so once, with the number of such trials at the end."""

    def babble(body: Body) -> str:
        return "la " * 200 if body["model"] == "proposer" else answer(body)

    with FakeServer(babble) as server:
        settings = config(server.url, tracking={"enabled": False})
        settings["search"] |= {"trials": 40, "operators": ["rewrite", "demos", "clarify"], "sampler": "random"}
        write(folder, settings)
        printed = " ".join(optimizer(folder, "run", "study.yaml").split())
        n_asked = sum(call.body["model"] == "proposer" for call in server.calls)
    log = (folder / "runs/fruit/log.txt").read_text()
    assert log.count("going on without it for a while") == 1
    for said in (printed, log):
        assert len(re.findall(r"\d\d trials did without the proposer, whose replies before were of no use", said)) == 1
    recipes = [json.loads(json.loads(recipe or '"{}"')) for *_, recipe in trials(folder)]
    operators = [recipe["operator"] for recipe in recipes]
    fifth = [i for i, name in enumerate(operators) if name in ("rewrite", "clarify")][4]
    assert set(operators[fifth + 1 : fifth + 11]) == {"demos"}
    assert set(operators[fifth + 11 :]) & {"rewrite", "clarify"}
    assert 5 <= n_asked < 15


@pytest.mark.slow
def test_a_changed_study_is_refused_with_what_changed(folder: Path, server: FakeServer) -> None:
    """A study continues only with the data, prompt and search it was started with; the refusal names what differs."""
    settings = config(server.url, tracking={"enabled": False})
    settings["search"]["trials"] = 2
    write(folder, settings)
    optimizer(folder, "run", "study.yaml")
    write(folder, {**settings, "prompt": "Another prompt."})
    done = subprocess.run(command("run", "study.yaml"), cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "prompt" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_call_budget_pauses_nothing_and_still_gives_a_verdict(folder: Path, server: FakeServer) -> None:
    """With a cap the search stops in time for the final test, and the server never sees a call more."""
    settings = config(server.url, budget={"task_calls": 150}, tracking={"enabled": False})
    write(folder, settings)
    optimizer(folder, "run", "study.yaml")
    result = shown(folder)
    assert (result["state"], result["stop_reason"]) == ("finished", "budget")
    assert result["calls"]["task"] <= 150
    assert sum(call.body["model"] == "task" for call in server.calls) == result["calls"]["task"]


@pytest.mark.slow
def test_a_rejected_key_pauses_with_one_line(folder: Path) -> None:
    """An expired key ends the run with exit code 3 and one line; nothing is scored."""
    from tests.fake_server import error

    with FakeServer(lambda _body: error(401, "Incorrect API key provided", code="invalid_api_key")) as server:
        write(folder, config(server.url, tracking={"enabled": False}))
        done = subprocess.run(command("run", "study.yaml"), cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert re.match(r"paused: lm\.task: openai/task@\S+: .*API key", done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(server.calls) <= 2


@pytest.mark.slow
def test_the_embedded_model_does_the_whole_job(folder: Path) -> None:
    """The shipped model is task model and proposer at once, in-process; the same configuration runs over HTTP, too."""
    settings = config("", tracking={"enabled": False})
    settings["lm"] = {"task": {"model": "embedded", "max_tokens": 16}, "proposer": {"max_tokens": 40}}
    settings["search"] |= {"trials": 4, "formats": ["plain", "chat"]}
    settings["data"]["max_rows"] = {"dev": 20, "test": 20}
    write(folder, settings)
    assert "Verdict:" in optimizer(folder, "run", "study.yaml")
    inside = shown(folder)
    assert inside["calls"]["task"] > 40

    served = open_embedded("embedded")
    try:
        settings["name"] = "over-http"
        lm = {"model": "openai/embedded", "api_base": served.url, "max_tokens": 16, "concurrency": 2}
        settings["lm"] = {"task": lm, "proposer": {"max_tokens": 40}}
        settings["search"]["formats"] = ["chat"]
        write(folder, settings)
        assert "Verdict:" in optimizer(folder, "run", "study.yaml")
    finally:
        served.close()
    assert shown(folder, "over-http")["test"]["n"] == inside["test"]["n"]
