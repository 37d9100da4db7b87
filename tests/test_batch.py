"""Provider batch endpoints: whole blocks up at once, nothing paid twice, whatever becomes of a batch."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from optimizer.budget.caps import Caps
from optimizer.config.batch import Batch
from optimizer.config.keys import Config, TaskLM
from optimizer.errors import BudgetExhausted, CallError, Paused
from optimizer.lm import open_backend
from optimizer.lm.backend import CallRequest, Reply
from optimizer.lm.batch_endpoint import open_batch_endpoint
from optimizer.lm.batch_model import BatchModel
from optimizer.lm.batch_store import ClosedRow, PlannedRow
from optimizer.lm.pricing import Pricing
from optimizer.lm.retry import RetryPolicy
from optimizer.prompts.spec import Message
from optimizer.storage.journal import Journal, open_engine
from optimizer.study.saved import open_saved
from tests.fake_batch import BatchPlan, FakeBatchServer
from tests.fake_server import Body, Fault, error, rate_limited, reply, reset
from tests.fault_kills import zygote
from tests.faults import run_here, write_study
from tests.test_main_job import answer

FAST = {"poll": 0.05, "gather": 0.1, "least": 3}


def words(body: Body) -> str | Fault:
    """The model: says what it is asked, unless it is told to fail."""
    text = str(body["messages"][-1]["content"])
    if text.startswith("status"):
        return error(int(text.split()[1]), code="context_length_exceeded")
    return reply("") if text.startswith("nothing") else f"heard {text}"


def asked(*texts: str) -> dict[str, CallRequest]:
    return {text: CallRequest(messages=(Message("user", text),), max_tokens=20) for text in texts}


@pytest.fixture(autouse=True)
def _some_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of the endpoint wants one, whatever it is."""
    monkeypatch.setenv("OPENAI_API_KEY", "no key")


class Bench:
    """A batch model on a server, over a journal in a file."""

    def __init__(self, path: Path, server: FakeBatchServer, **changes: Any) -> None:
        self.url, self.server = f"sqlite:///{path}", server
        caps = changes.pop("caps", Caps(calls={}, tokens=None, usd=None))
        left_s = changes.pop("left_s", lambda: None)
        settings = TaskLM(model="openai/task", api_base=server.url, mode="batch", batch=Batch(**{**FAST, **changes}))
        backend = open_backend(settings)
        self.journal = Journal(open_engine(self.url), "s", owner="test")
        self.waited: list[str] = []
        self.model = BatchModel(
            backend,
            open_batch_endpoint(settings, backend),
            journal=self.journal,
            caps=caps,
            pricing=Pricing(per_million=(100.0, 1000.0)),
            retry=RetryPolicy(retry_for_s=5.0),
            max_in_flight=4,
            on_wait=self.waited.append,
            settings=settings.batch,
            left_s=left_s,
        )

    def fetch(self, *texts: str) -> dict[str, Reply | CallError | None]:
        """Fetch by text."""
        requests = asked(*texts)
        found = self.model.fetch({self.model.key(request): request for request in requests.values()})
        return {text: found.get(self.model.key(request)) for text, request in requests.items()}

    def ledger(self) -> Counter[str]:
        with self.journal.engine.connect() as connection:
            return Counter(connection.execute(sa.text("SELECT state FROM ledger")).scalars())

    def close(self) -> None:
        self.model.close()
        self.model.backend.close()
        self.journal.engine.dispose()


@pytest.fixture
def server() -> Iterator[FakeBatchServer]:
    with FakeBatchServer(words) as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, server: FakeBatchServer) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.db", server)
    yield made
    made.close()


TEXTS = ("one", "two", "three", "four", "five")


def said(found: dict[str, Reply | CallError | None]) -> list[str]:
    return [each.text if isinstance(each, Reply) else str(each) for each in found.values()]


def test_rows_go_up_together_and_are_paid_at_the_lower_price(bench: Bench) -> None:
    """Five rows are one batch; each is in the ledger at half of the live price, and its reply in the journal."""
    found = bench.fetch(*TEXTS)
    assert said(found) == [f"heard {text}" for text in TEXTS]
    assert [len(job.rows) for job in bench.server.jobs.values()] == [5]
    assert bench.ledger() == {"settled": 5}
    live_usd = (11 * 100 + 3 * 1000) / 1e6
    assert bench.journal.spend().cost_usd == pytest.approx(5 * live_usd / 2)
    assert bench.journal.find_reply(bench.model.key(asked("two")["two"])) == found["two"]
    assert bench.server.files == {}  # nothing of the user's is left there
    assert any("batch batch_" in line for line in bench.waited)


def test_a_row_has_the_body_of_a_live_call(bench: Bench) -> None:
    """What a batch asks is byte for byte what a live call asks, and the journal's key is the same."""
    bench.fetch(*TEXTS)
    with bench.model.at_once():
        assert bench.model.call(asked("six")["six"]).text == "heard six"
    (live,) = bench.server.calls
    row = next(iter(bench.server.jobs.values())).rows[0]
    expected = {**live.body, "messages": [{"role": "user", "content": "one"}]}
    assert (row["url"], row["body"]) == ("/v1/chat/completions", expected)
    assert bench.model.call(asked("one")["one"]).text == "heard one"
    assert len(bench.server.calls) == 1


def test_few_rows_are_asked_live(bench: Bench) -> None:
    """Two rows are no batch: they come back as to be asked one by one."""
    assert bench.fetch("one", "two") == {"one": None, "two": None}
    assert bench.server.jobs == {}


def test_rows_of_several_threads_share_a_batch(bench: Bench) -> None:
    """What two candidates ask within the gathering time goes up once, a row that both ask included."""
    threads = [threading.Thread(target=bench.fetch, args=texts) for texts in (("one", "two"), ("two", "three"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(job.rows) for job in bench.server.jobs.values()] == [3]
    assert set(bench.server.paid.values()) == {1}


@pytest.mark.parametrize(
    "plan",
    [
        BatchPlan(status="expired", n_done=2),
        BatchPlan(status="cancelled", n_done=2),
        BatchPlan(n_done=2),
        BatchPlan(is_doubled=True),
    ],
    ids=["expired", "cancelled", "partly", "doubled"],
)
def test_what_came_back_is_kept_and_the_rest_asked_again(bench: Bench, plan: BatchPlan) -> None:
    """Rows in any order, rows that come twice, and batches that end early: every row is answered and paid once."""
    bench.server.next_batches.append(plan)
    texts = ("one", "two", "three", "four", "five")
    assert said(bench.fetch(*texts)) == [f"heard {text}" for text in texts]
    assert set(bench.server.paid.values()) == {1}
    assert bench.journal.spend().calls == {"task": 5}


def test_a_row_that_is_lost_counts_as_paid(bench: Bench) -> None:
    """Of an answer in no file nobody knows whether it was billed: the ledger keeps it, the row is asked live."""
    bench.server.next_batches.append(BatchPlan(n_lost=1))
    assert said(bench.fetch(*TEXTS)).count("None") == 1
    assert bench.ledger() == {"settled": 4, "unknown": 1}
    assert bench.journal.spend().calls["task"] == sum(bench.server.paid.values()) == 5


def test_a_row_with_an_error_fails_alone(bench: Bench) -> None:
    """A request that is too long is no answer and not billed; the others are."""
    found = bench.fetch("one", "two", "three", "status 400")
    assert isinstance(found["status 400"], CallError)
    assert found["status 400"].kind == "context_length"
    assert bench.ledger() == {"settled": 3, "released": 1}


def test_an_odd_reply_is_asked_once_more(bench: Bench) -> None:
    """An empty reply is asked a second time; what comes then counts, and is not asked a third time by the next run."""
    found = bench.fetch("nothing 1", "nothing 2", "nothing 3", "one")
    assert said(found) == ["", "", "", "heard one"]
    assert sorted(bench.server.paid.values()) == [1, 2, 2, 2]
    again = bench.model.known(bench.model.key(asked("nothing 1")["nothing 1"]))
    assert again == found["nothing 1"]


def test_polls_that_fail_are_made_again(bench: Bench) -> None:
    """Rate limits, server errors and broken connections while a batch runs change nothing but the time."""
    bench.server.faults["GET /v1/batches/"] = deque_of(rate_limited(retry_after=0), error(503), reset())
    bench.server.faults["GET /v1/files/"] = deque_of(error(500))
    assert said(bench.fetch(*TEXTS)) == [f"heard {text}" for text in TEXTS]
    assert set(bench.server.paid.values()) == {1}


def test_a_batch_that_began_unseen_is_found_again(bench: Bench) -> None:
    """When the answer to its creation is lost, the batch is looked for by its tag and not begun twice."""
    bench.server.faults["POST /v1/batches"] = deque_of(error(502, is_billed=True))
    assert said(bench.fetch(*TEXTS)) == [f"heard {text}" for text in TEXTS]
    assert len(bench.server.jobs) == 1


def test_a_batch_that_did_not_begin_is_begun_again(bench: Bench) -> None:
    """A creation that failed for sure is repeated with the file that is up."""
    bench.server.faults["POST /v1/batches"] = deque_of(error(503))
    assert said(bench.fetch(*TEXTS)) == [f"heard {text}" for text in TEXTS]
    assert [line for line in bench.server.requests if line == "POST /v1/files"] == ["POST /v1/files"]


def test_a_batch_that_is_refused_pauses_with_one_line(bench: Bench) -> None:
    """A model that has no batches: nothing is spent, and the line says what to do."""
    bench.server.next_batches.append(BatchPlan(status="failed", errors=({"code": "model_not_found", "message": "no"},)))
    with pytest.raises(Paused, match=r"refused: no; lm\.task\.mode: live") as caught:
        bench.fetch(*TEXTS)
    assert caught.value.reason == "provider"
    assert bench.ledger() == {"released": 5}


def test_a_line_that_is_refused_is_blamed_and_the_others_go_up_again(bench: Bench) -> None:
    """A batch that fails for its second line costs nothing; that row fails, the others are answered."""
    flaw = {"code": "invalid", "message": "bad line", "line": 2}
    bench.server.next_batches.append(BatchPlan(status="failed", errors=(flaw,)))
    found = bench.fetch(*TEXTS)
    assert isinstance(found["two"], CallError)
    assert said(found)[2:] == ["heard three", "heard four", "heard five"]


def test_rows_keep_their_lines_when_a_batch_is_taken_up_again(bench: Bench) -> None:
    """A complaint about line 4 is about the fourth row of the file, also when rows before it are closed already."""
    store, requests = bench.model._store, asked(*TEXTS)
    planned = [PlannedRow(bench.model.key(each), 10, 20, 0.0, None) for each in requests.values()]
    batch, _ = store.plan(planned, Caps(calls={}, tokens=None, usd=None))
    assert batch is not None
    store.close_rows(batch, [ClosedRow(key=planned[0].key), ClosedRow(key=planned[2].key)])
    (again,) = store.open_batches()
    assert {key: row.line for key, row in again.rows.items()} == {planned[i].key: i + 1 for i in (1, 3, 4)}


def test_too_much_at_once_goes_up_in_parts(bench: Bench) -> None:
    """When the endpoint has no room for so many rows, smaller batches follow."""
    flaw = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
    bench.server.next_batches.append(BatchPlan(status="failed", errors=(flaw,)))
    texts = [f"row {i}" for i in range(8)]
    assert said(bench.fetch(*texts)) == [f"heard {text}" for text in texts]
    assert [len(job.rows) for job in bench.server.jobs.values()] == [8, 4, 4]


def test_a_rejected_key_pauses(bench: Bench) -> None:
    """A key that is not accepted ends the run with exit code 3 and the reason of all such errors."""
    bench.server.faults["POST /v1/files"] = deque_of(error(401, "Incorrect API key"))
    with pytest.raises(Paused, match="Incorrect API key") as caught:
        bench.fetch(*TEXTS)
    assert caught.value.reason == "provider_auth"


def test_a_cap_holds_for_batches(tmp_path: Path, server: FakeBatchServer) -> None:
    """Rows that fit under the cap go up, the others end the search; the server is not paid for one more."""
    bench = Bench(tmp_path / "journal.db", server, caps=Caps(calls={"task": 4}, tokens=None, usd=None))
    assert said(bench.fetch(*TEXTS)) == [*(f"heard {text}" for text in TEXTS[:4]), "None"]
    with pytest.raises(BudgetExhausted):
        bench.model.call(asked("five")["five"])
    with pytest.raises(BudgetExhausted):
        bench.fetch("six", "seven", "eight")
    assert (sum(server.paid.values()), len(server.calls)) == (4, 0)
    bench.close()


def test_a_deadline_ends_what_is_under_way_and_keeps_what_came_back(tmp_path: Path, server: FakeBatchServer) -> None:
    """In the search the rest is out of time; for the verdict it is asked live."""
    left = [3600.0]
    bench = Bench(tmp_path / "journal.db", server, left_s=lambda: left[0])
    server.next_batches.extend([BatchPlan(n_done=2, n_looks=10**6)] * 2)
    threading.Timer(0.5, lambda: left.__setitem__(0, 60.0)).start()
    with pytest.raises(BudgetExhausted, match="final test"):
        bench.fetch(*TEXTS)
    assert sum(each is not None for each in bench_known(bench, *TEXTS)) == 2
    bench.model.hurry()
    assert set(bench.fetch(*TEXTS[2:]).values()) == {None}
    assert bench.model.call(asked("five")["five"]).text == "heard five"
    bench.close()


@pytest.mark.parametrize("on_stop", ["leave", "cancel"])
def test_the_next_run_goes_on_with_the_same_batch(on_stop: str, tmp_path: Path, server: FakeBatchServer) -> None:
    """A run that stops leaves its batch, or ends it; either way the next one collects what was done, paid once."""
    server.next_batches.append(BatchPlan(n_done=None if on_stop == "leave" else 3, is_held=True))
    first = Bench(tmp_path / "journal.db", server, on_stop=on_stop)
    threading.Timer(1.0, first.model.stop).start()
    with pytest.raises(Paused, match="told to stop"):
        first.fetch(*TEXTS)
    first.close()
    assert len(server.jobs) == 1
    server.release()
    second = Bench(tmp_path / "journal.db", server)
    second.journal.adopt_orphans()
    found = second.fetch(*TEXTS)
    assert len(server.jobs) == 1
    assert said(found)[:3] == ["heard one", "heard two", "heard three"]
    assert set(server.paid.values()) == {1}
    n_back = 5 if on_stop == "leave" else 3
    assert second.journal.spend().calls == {"task": n_back}
    second.close()


def deque_of(*faults: Fault) -> Any:
    from collections import deque

    return deque(faults)


def bench_known(bench: Bench, *texts: str) -> list[Reply | None]:
    return [bench.model.known(bench.model.key(request)) for request in asked(*texts).values()]


# -- whole studies ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that starts others fast."""
    with zygote() as running:
        yield running


def write_batched(folder: Path, url: str, *, trials: int = 8, **changes: Any) -> Path:
    path = write_study(folder, url, concurrency=4, trials=trials, rows=30, **changes)
    settings = json.loads(path.read_text())
    settings["lm"]["task"] |= {"mode": "batch", "batch": {**FAST, "least": 4}}
    settings["search"] |= {"in_flight": 4}
    path.write_text(json.dumps(settings))
    return path


def test_defaults_fit_rounds_that_take_an_hour() -> None:
    """Batches bring more candidates in flight and larger blocks, unless they are set; proposals stay live."""
    base: dict[str, Any] = {
        "name": "x",
        "task": {"inputs": {"a": ""}, "outputs": {"b": {}}},
        "data": {"source": "x.csv"},
        "metric": "accuracy",
        "lm": {"task": {"model": "openai/m", "mode": "batch"}, "proposer": {"temperature": 0.5}},
    }
    config = Config.model_validate(base)
    assert (config.search.in_flight, config.search.block) == (16, 10)
    assert not hasattr(config.proposer, "mode")
    assert not hasattr(Config.model_validate({**base, "lm": {"task": base["lm"]["task"]}}).proposer, "mode")
    assert Config.model_validate({**base, "search": {"in_flight": 3}}).search.in_flight == 3
    assert Config.model_validate({**base, "lm": {}}).search.in_flight == 1


@pytest.mark.slow
def test_a_study_in_batches_comes_to_its_verdict_in_few_rounds(tmp_path: Path) -> None:
    """Trials share batches, finalists and final test take a round each, and the ledger is the server's count."""
    with FakeBatchServer(answer) as server:
        view = run_here(write_batched(tmp_path, server.url), tmp_path / "runs")
        assert view.verdict is not None
        n_paid = sum(server.paid.values()) + server.n_live
        assert view.spend.calls["task"] == n_paid
        assert set(server.paid.values()) == {1}
        assert server.n_live < 0.2 * n_paid
        assert len(server.jobs) <= 12


@pytest.mark.slow
@pytest.mark.parametrize("point", ["batch-plan", "batch-upload", "batch-create", "batch-row"])
def test_a_kill_at_any_point_of_a_batch_pays_no_row_twice(
    point: str, tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    """Killed as by `kill -9` in the second batch: the same batch is gone on with, and no row is paid a second time."""
    with FakeBatchServer(answer) as server:
        path = write_batched(tmp_path, server.url)
        number = 2
        assert carried_out(child, path, [point, number]) == -signal.SIGKILL
        n_jobs = len(server.jobs)
        assert carried_out(child, path, None) == 0
        assert set(server.paid.values()) == {1}, f"{n_jobs} batches before the kill"
        view = open_saved(tmp_path / "runs", "fruit").view()
        assert view.verdict is not None
        n_paid = sum(server.paid.values()) + server.n_live
        assert n_paid <= view.spend.calls["task"] <= n_paid + 8  # live calls under way at the kill may count twice


@pytest.mark.slow
def test_a_kill_while_a_batch_runs_resumes_it(tmp_path: Path, child: subprocess.Popen[str]) -> None:
    """The batch goes on at the provider while nobody waits; the next run collects it and pays no row again."""
    with FakeBatchServer(answer) as server:
        server.next_batches.append(BatchPlan(is_held=True))
        path = write_batched(tmp_path, server.url)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"config": str(path), "runs_dir": str(tmp_path / "runs")}) + "\n")
        child.stdin.flush()
        pid = int(child.stdout.readline())
        ends_at = time.monotonic() + 60
        while not server.jobs:
            assert time.monotonic() < ends_at
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        assert int(child.stdout.readline()) == -signal.SIGKILL
        with closing(sqlite3.connect(tmp_path / "runs/fruit/study.db")) as connection:
            assert connection.execute("SELECT state FROM batch").fetchall() in ([("created",)], [("uploaded",)])
        server.release()
        assert carried_out(child, path, None) == 0
        assert set(server.paid.values()) == {1}


def carried_out(child: subprocess.Popen[str], path: Path, crash: list[Any] | None) -> int:
    assert child.stdin is not None
    assert child.stdout is not None
    request = {"config": str(path), "runs_dir": str(path.parent / "runs"), "crash": crash}
    child.stdin.write(json.dumps(request) + "\n")
    child.stdin.flush()
    child.stdout.readline()
    return int(child.stdout.readline())
