"""A study that is stopped anywhere goes on with what it knew, and what stops it is told as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optimizer.candidate import Candidate
from optimizer.cli.reading import show_status
from optimizer.config.file import load_config
from optimizer.errors import Paused, StudyError
from optimizer.lm.backend import CallRequest, Reply
from optimizer.records import Outcome, TrialRecord
from optimizer.run import run
from optimizer.storage.files import claim, make_private_folder
from optimizer.study.baseline import Failures
from optimizer.study.job import Job, open_job
from optimizer.study.observe import Observer
from optimizer.study.session import Session
from tests.fake_server import Body, FakeServer, Fault, reply
from tests.faults import answer, write_study


def counted(body: Body) -> Fault:
    """Answers as the careful model does, with as many tokens as it was sent."""
    return reply(answer(body), tokens=(sum(len(str(each["content"])) for each in body["messages"]) // 4, 40))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(counted) as running:
        yield running


class Acting:
    """A job's own model that does something at one of its calls."""

    def __init__(self, job: Job, act: Callable[[int], None]) -> None:
        self._backend, self._act, self._n = job.task_backend, act, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def complete(self, request: CallRequest) -> Reply:
        self._n += 1
        self._act(self._n)
        return self._backend.complete(request)


class Watching(Observer):
    """Keeps the session, and knows when the final test has begun."""

    session: Session
    is_final = False

    def __init__(self, stop_after: int = 0) -> None:
        self._left = stop_after

    def opened(self, session: Session) -> None:
        self.session = session

    def final_started(self, winner: Candidate, n_rows: int) -> None:
        del winner, n_rows
        self.is_final = True

    def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
        del trial, is_best
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


def opened(path: Path) -> Job:
    return open_job(load_config(path), folder=path.parent, runs_dir=path.parent / "runs")


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(("in_flight", "trials"), [(1, 30), (4, 30), (8, 30), (1, 16)])
def test_the_leader_of_a_stopped_search_leads_when_it_goes_on(
    tmp_path: Path, server: FakeServer, in_flight: int, trials: int
) -> None:
    """Whoever led when it was stopped does, with several candidates in the race and with another number of trials."""
    search = {"in_flight": in_flight, "formats": ["chat", "plain", "json"], "patience": 0}
    for seed in range(3):
        folder = tmp_path / str(seed)
        path = write_study(folder, server.url, trials=30, rows=60, concurrency=4, search={**search, "seed": seed})
        watching = Watching(stop_after=14)
        with pytest.raises(KeyboardInterrupt):
            run(opened(path), watching)
        led = watching.session.elite.incumbent
        assert led is not None
        saved = (folder / "runs/fruit/best_prompt.json").read_bytes()
        settings = json.loads(path.read_text())
        settings["search"]["trials"] = trials
        path.write_text(json.dumps(settings))
        session = Session(opened(path), Observer())
        try:
            session.restore()
            session.mend_best()
            assert session.elite.incumbent == led
        finally:
            session.close()
        assert (folder / "runs/fruit/best_prompt.json").read_bytes() == saved


@pytest.mark.slow
def test_a_final_test_that_was_broken_off_goes_on_with_its_winner(tmp_path: Path, server: FakeServer) -> None:
    """Rows that are paid need not be paid again: a cap that is nearly used up by them names no other winner."""
    views = []
    for name in ("whole", "broken"):
        path = write_study(tmp_path / name, server.url, trials=5, rows=40, budget={"tokens": 9000})
        watching = Watching()
        n_final = iter(range(1, 1000))

        def act(_: int, watching: Watching = watching, n_final: Iterator[int] = n_final, name: str = name) -> None:
            if name == "broken" and watching.is_final and next(n_final) == 24:
                stop()

        job = opened(path)
        job = replace(job, task_backend=Acting(job, act))
        if name == "broken":
            with pytest.raises(KeyboardInterrupt):
                run(job, watching)
            job = opened(path)
        views.append(run(job))
    whole, broken = views
    assert whole.verdict is not None
    assert broken.verdict is not None
    assert whole.best != whole.seed
    assert broken.best == whole.best
    assert broken.verdict.n >= whole.verdict.n - 3  # the call under way counts as spent


def test_an_error_is_told_though_others_were_stopped_by_it(tmp_path: Path, server: FakeServer) -> None:
    """With several candidates in the race a bug ends the run as that bug, and not as a pause by the user."""
    path = write_study(tmp_path, server.url, trials=12, concurrency=4, search={"in_flight": 6})

    def act(n: int) -> None:
        if n == 60:
            raise RuntimeError("a bug in a client library")

    job = opened(path)
    with pytest.raises(RuntimeError, match="a bug in a client library"):
        run(replace(job, task_backend=Acting(job, act)))


def test_one_file_of_studies_is_one_claim(tmp_path: Path, server: FakeServer) -> None:
    """A study in a database file of its own is run by one process, from whatever folder."""
    database = tmp_path / "all.db"
    path = write_study(tmp_path, server.url, storage=f"sqlite:///{database}")
    make_private_folder(tmp_path / "elsewhere/fruit")
    held = claim(tmp_path / "elsewhere/fruit", database)
    with pytest.raises(StudyError, match="being run by another process"):
        run(opened(path))
    held.release()
    assert not server.calls


def test_a_damaged_database_hides_no_other_study(
    tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` shows the studies that it can open, and a line for the one that it cannot."""
    path = write_study(tmp_path, server.url, trials=2)
    run(opened(path))
    broken = tmp_path / "runs/broken"
    make_private_folder(broken)
    (broken / "study.json").write_text(json.dumps({"storage": None, "folder": str(tmp_path)}))
    (broken / "study.db").write_bytes(b"no database at all " * 100)
    assert show_status(None, tmp_path / "runs") == 0
    said = capsys.readouterr()
    assert "fruit" in said.out
    assert "not a database" in said.err


def test_rows_that_no_prompt_can_be_scored_on_end_a_study_early(tmp_path: Path, server: FakeServer) -> None:
    """With one such row in five there would be no verdict: it ends after a few trials, and says what can be done."""
    (tmp_path / "mine.py").write_text(
        "def score(example, answer):\n"
        "    if int(example.inputs['note'].split()[1]) % 5 == 2:\n"
        "        raise ValueError('no such box')\n"
        "    return float(answer['team'] == example.outputs['team'])\n"
    )
    path = write_study(tmp_path, server.url, trials=30, rows=40, metric="mine:score", search={"patience": 0})
    with pytest.raises(Paused, match=r"dev rows cannot be scored with any prompt, .*no such box.* add --fork NAME"):
        run(opened(path))
    assert len(server.calls) < 200


def test_an_odd_row_or_two_end_no_study() -> None:
    """Among twenty rows two that fail may be an accident: the search goes on, and the final test decides."""
    rows = Failures()
    for _ in range(4):
        rows.add([Outcome(example_id=str(i), kind="failed" if i < 2 else "scored", score=1.0) for i in range(20)])
    rows.require_few()
    for _ in range(4):
        rows.add([Outcome(example_id=f"b{i}", kind="failed", error="too long") for i in range(4)])
    with pytest.raises(Paused, match=r"6 of 24 dev rows cannot be scored with any prompt, one because of too long"):
        rows.require_few()
