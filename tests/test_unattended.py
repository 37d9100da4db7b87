"""Studies without a terminal: in the background, watched and stopped from another one, and heard of by a message."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from optimizer.budget.limits import earlier_end_s, expected_left_s
from optimizer.cli.reading import show_status
from optimizer.config.file import load_config
from optimizer.errors import ConfigError, Paused, StudyError
from optimizer.records import Recipe, StudyView, TrialRecord
from optimizer.run import run
from optimizer.storage.files import is_claimed
from optimizer.study.job import open_job
from optimizer.study.observe import Observer
from optimizer.study.saved import open_saved
from optimizer.study.stops import pace_s
from optimizer.unattended import background, heartbeat
from optimizer.unattended.background import stop_study
from optimizer.unattended.heartbeat import Heartbeat, Live, read_live
from tests.fake_server import Body, FakeServer, Fault, error
from tests.sample_study import sample_view
from tests.test_main_job import answer, command, config, labelled_rows, optimizer, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    return tmp_path


class Gate:
    """Answers like the fruit model, but holds every call back from one call on until it is opened."""

    def __init__(self, n_call: int) -> None:
        self.n_call, self.n_seen = n_call, 0
        self.reached, self.is_open = threading.Event(), threading.Event()

    def __call__(self, body: Body) -> str:
        self.n_seen += 1
        if self.n_seen >= self.n_call:
            self.reached.set()
            self.is_open.wait(60)
        return answer(body)


def small(url: str, **changes: Any) -> dict[str, Any]:
    settings = config(url, tracking={"enabled": False}, **changes)
    settings["search"]["trials"] = 4
    settings["data"]["max_rows"] = {"dev": 20, "test": 20}
    return settings


def study(folder: Path, observer: Observer | None = None) -> None:
    """Run the study in this process."""
    job = open_job(load_config(folder / "study.yaml"), folder=folder, runs_dir=folder / "runs")
    try:
        run(job, observer)
    finally:
        job.close()


@pytest.mark.slow
def test_a_study_runs_in_the_background_and_is_stopped_from_another_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run --detach` returns at once, `status` tells what goes on, `stop` ends it within its time, `run` goes on.
    Of a finished study it shows what came of it and starts nothing."""
    gate = Gate(30)
    with FakeServer(gate) as server:
        write(folder, small(server.url))
        words = command("run", "study.yaml", "--detach", "--json")
        refused = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=240)
        assert refused.returncode == 2
        assert "a run in the background prints no JSON" in " ".join(refused.stderr.split())
        said = optimizer(folder, "run", "study.yaml", "--detach")
        pid = int(re.findall(r"as process (\d+)", said)[0])
        assert os.getsid(pid) == pid  # no terminal's end reaches it
        assert gate.reached.wait(60)
        told, until = "", time.monotonic() + 60
        while "\ntrial " not in told and time.monotonic() < until:  # the file says every two seconds what is going on
            told = optimizer(folder, "status", "fruit")
        assert "running" in told
        assert re.search(rf"process {pid} on .*\ntrial \d+: .*\nverdict expected: ", told)
        assert "no call has failed" in told
        assert (folder / "runs/fruit/output.txt").stat().st_mode & 0o077 == 0
        with pytest.raises(StudyError, match="another process"):
            background.detach(["run", "study.yaml"], folder / "runs/fruit")

        os.kill(pid, signal.SIGKILL)
        while is_claimed(folder / "runs/fruit"):
            time.sleep(0.01)
        show_status("fruit", folder / "runs")
        assert "interrupted" in capsys.readouterr().out
        n_seen = gate.n_seen
        optimizer(folder, "run", "study.yaml", "--detach")
        while gate.n_seen == n_seen:
            time.sleep(0.01)
        started = time.monotonic()
        ended = optimizer(folder, "stop", "fruit")  # though no reply ever comes
        assert time.monotonic() - started < 30
        assert "study fruit stopped: paused" in ended
        show_status("fruit", folder / "runs")
        assert "paused by you; the same `optimizer run` continues it" in capsys.readouterr().out
        stop_study("fruit", folder / "runs")
        assert "study fruit is not running: paused" in capsys.readouterr().out
        gate.is_open.set()
        study(folder)
        said = optimizer(folder, "run", "study.yaml", "--detach")
        assert "is finished: nothing was asked" in said
        assert "Verdict" in said
        assert "in the background" not in said
    show_status("fruit", folder / "runs")
    assert "finished" in capsys.readouterr().out


@pytest.mark.slow
def test_a_background_study_that_cannot_start_says_why(folder: Path) -> None:
    """What is wrong is told in the terminal where it was started, with the exit code that it would have there."""
    write(folder, {**small("http://127.0.0.1:9/v1"), "data": {"source": "missing.jsonl"}})
    done = subprocess.run(command("run", "study.yaml", "--detach"), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert "missing.jsonl" in done.stderr
    missing = subprocess.run(command("stop", "fruit"), cwd=folder, capture_output=True, text=True)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)


def test_silence_is_broken_by_a_line_that_says_what_is_waited_for(tmp_path: Path) -> None:
    """After ten minutes in which nothing moved one line names the wait; the next comes ten minutes later."""
    said: list[str] = []
    now = [0.0]

    class Listener(Observer):
        def silent(self, line: str) -> None:
            said.append(line)

    watched = Heartbeat(tmp_path, Listener(), clock=lambda: now[0])
    for now[0] in (1.0, 599.0):
        watched.watch()
    assert said == []
    watched.waiting("openai/task: rate_limit: slow down; trying again in 60 s")
    for now[0] in (601.0, 700.0, 1100.0):
        watched.watch()
    assert len(said) == 1
    assert re.match(r"nothing has moved for 10:01 .*waiting for openai/task: rate_limit", said[0])
    now[0] = 1202.0
    watched.watch()
    assert len(said) == 2
    watched.scored()
    now[0] = 1700.0
    watched.watch()
    assert len(said) == 2


@pytest.mark.slow
def test_a_reply_that_never_comes_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of a silent run counts the replies it waits for and says since when."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    monkeypatch.setattr(heartbeat, "SILENT_AFTER_S", 3.0)  # on a busy machine a start takes a second or two
    gate, said = Gate(25), []

    class Listener(Observer):
        def silent(self, line: str) -> None:
            said.append(line)
            gate.is_open.set()

    with FakeServer(gate) as server:
        write(folder, small(server.url))
        study(folder, Listener())
    assert re.search(r"waiting for \d replies, the oldest of lm\.task since 0:0\d", said[0])
    live = read_live(folder / "runs/fruit")
    assert live is not None
    assert live.phase == "done"


@pytest.mark.parametrize(
    ("n_left", "trial_s", "deadline_s", "expected"),
    [
        (40, None, None, None),
        (40, None, 70.0, None),
        (30, 10.0, None, 320.0),
        (30, 10.0, 60.0, 60.0),
        (0, None, None, 20.0),
        (-2, 10.0, None, 20.0),
    ],
)
def test_the_end_is_expected_at_the_pace_so_far(
    n_left: int, trial_s: float | None, deadline_s: float | None, expected: float | None
) -> None:
    """Trials that are left take as long as those done, then the final test; a deadline alone forecasts nothing."""
    assert expected_left_s(n_left=n_left, trial_s=trial_s, final_s=20.0, deadline_s=deadline_s) == expected


def test_capped_calls_that_run_out_first_are_the_end() -> None:
    """At 20 calls in 10 s the 60 left take 30 s, which a later deadline does not change; without calls nobody knows."""
    assert earlier_end_s(170.0, cap=80, n_calls=20, elapsed_s=10.0) == 30.0
    assert earlier_end_s(20.0, cap=80, n_calls=20, elapsed_s=10.0) == 20.0
    assert earlier_end_s(170.0, cap=80, n_calls=90, elapsed_s=10.0) == 0.0
    assert earlier_end_s(170.0, cap=80, n_calls=0, elapsed_s=0.0) == 170.0
    assert earlier_end_s(None, cap=80, n_calls=20, elapsed_s=10.0) is None


def test_a_running_study_has_taken_the_time_up_to_its_last_sign_of_life() -> None:
    """Between two entries of its record, as in a long final test, the time goes on; it never goes back."""
    view = sample_view()
    sign = Live(
        pid=1, host="a", started_at=0.0, at=9.0, phase="final test", waiting="", moved_at=9.0, ends_at=None,
        elapsed_s=view.wall_s + 40,
    )  # fmt: skip
    assert background.until_now(view, sign).wall_s == view.wall_s + 40
    assert background.until_now(view, replace(sign, elapsed_s=0.0)).wall_s == view.wall_s
    assert background.until_now(view, None) is view


def paced(operator: str, started_s: float, duration_s: float) -> TrialRecord:
    recipe = Recipe(operator=operator)
    return TrialRecord(number=0, recipe=recipe, state="complete", started_s=started_s, duration_s=duration_s)


def test_a_pace_rests_on_trials_of_late_and_on_enough_of_them() -> None:
    """The first candidates do not count, four others are too few; side by side they count once, a pause not at all."""
    starts = [paced("start", 100.0 * i, 100.0) for i in range(7)]
    later = [paced("demos", 700.0 + 4.0 * i, 3.0) for i in range(13)]
    assert pace_s([*starts, *later[:4]]) is None
    assert pace_s([*starts, *later[:5]]) == pytest.approx(19 / 5)
    assert pace_s([*starts, *later]) == pytest.approx(39 / 10)
    in_pairs = [paced("demos", 4.0 * (i // 2), 4.0) for i in range(10)]
    assert pace_s(in_pairs) == pytest.approx(2.0)
    assert pace_s([*later[:5], *(replace(trial, started_s=trial.started_s + 9000) for trial in later[5:])]) == 3.0


class Hook(ThreadingHTTPServer):
    """Takes messages, or keeps their sender waiting."""

    daemon_threads = True

    def __init__(self, *, answers: bool) -> None:
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.answers, self.closing = answers, threading.Event()
        self.bodies: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook/secret-part-of-the-address"


class HookHandler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if not self.server.answers:
            self.server.closing.wait(30)
        self.send_response(200 if self.server.answers else 500)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook(request: pytest.FixtureRequest) -> Iterator[Hook]:
    running = Hook(answers=request.param)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.closing.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("hook", [True, False], indirect=True, ids=["answers", "hangs"])
def test_a_message_is_sent_when_a_study_pauses_and_when_it_ends(
    hook: Hook, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The address gets one message a pause and one at the end, without keys; a deaf address changes nothing."""
    monkeypatch.setattr("optimizer.unattended.notify.TIMEOUT_S", 0.5)
    monkeypatch.setenv("FRUIT_HOOK", hook.url)
    monkeypatch.setenv("FRUIT_API_KEY", "sk-canary-0123456789")
    broken: list[Fault] = [error(401, "Incorrect API key provided: sk-canary-0123456789", code="invalid_api_key")]

    def sometimes(body: Body) -> str | Fault:
        return broken[0] if broken else answer(body)

    with FakeServer(sometimes) as server:
        settings = small(server.url, notify={"webhook_env": "FRUIT_HOOK"})
        settings["lm"]["task"]["api_key_env"] = "FRUIT_API_KEY"
        write(folder, settings)
        with pytest.raises(Paused, match="API key"):
            study(folder)
        show_status("fruit", folder / "runs")
        said = capsys.readouterr()
        broken.clear()
        study(folder)
    assert "Incorrect API key provided" in said.out
    assert [body["state"] for body in hook.bodies] == ["paused", "finished"]
    assert hook.bodies[0]["stop_reason"] == "provider_auth"
    assert "sk-canary" not in json.dumps(hook.bodies)
    assert hook.bodies[1]["verdict"] in ("promote", "keep")
    assert "secret-part" not in "".join(
        path.read_text(errors="replace") for path in (folder / "runs").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("hook", [True], indirect=True)
def test_a_message_is_sent_when_a_study_is_refused_on_its_way(
    hook: Hook, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that the model refuses ends the run with exit code 2; who waits for the morning is told as well."""
    monkeypatch.setenv("FRUIT_HOOK", hook.url)
    with FakeServer(lambda _: error(400, "no such parameter")) as server:
        write(folder, small(server.url, notify={"webhook_env": "FRUIT_HOOK"}))
        with pytest.raises(ConfigError, match="the first example could not be scored"):
            study(folder)
    assert [body["state"] for body in hook.bodies] == ["paused"]
    assert "the first example could not be scored" in hook.bodies[0]["text"]


def test_an_address_that_is_not_set_is_one_clear_line(folder: Path) -> None:
    """The variable that is missing is named before anything is sent, by a check as by a run."""
    with FakeServer(answer) as server:
        write(folder, small(server.url, notify={"webhook_env": "NOT_SET_ANYWHERE"}))
        for words in (["run"], ["check"], ["check", "--json"]):
            done = subprocess.run(command(*words, "study.yaml"), cwd=folder, capture_output=True, text=True)
            assert done.returncode == 2
            assert "notify.webhook_env: environment variable 'NOT_SET_ANYWHERE' is not set" in done.stderr
        assert server.calls == []


@pytest.mark.slow
def test_a_study_that_is_stopped_after_its_verdict_stays_finished(folder: Path) -> None:
    """Whoever comes too late with `Ctrl-C` does not write `paused` over a verdict."""
    with FakeServer(answer) as server:
        write(folder, small(server.url))
        job = open_job(load_config(folder / "study.yaml"), folder=folder, runs_dir=folder / "runs")

        class Impatient(Observer):
            def finished(self, view: StudyView) -> None:
                raise KeyboardInterrupt(view.name)

        with pytest.raises(KeyboardInterrupt):
            run(job, Impatient())
        job.close()
    view = open_saved(folder / "runs", "fruit").view()
    assert (view.state, view.verdict is not None) == ("finished", True)
