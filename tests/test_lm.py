"""Models over real sockets: what is asked, retried, paid, kept, and never shown."""

from __future__ import annotations

import base64
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dspy
import pytest
import sqlalchemy as sa
from dspy.utils import exceptions as errors

from optimizer.budget.caps import Caps
from optimizer.config.keys import LM, Budget
from optimizer.errors import BudgetExhausted, CallError, ConfigError, Paused
from optimizer.lm import open_backend
from optimizer.lm.backend import AttemptError, Backend, CallRequest, tokens_at_most
from optimizer.lm.flow import Flow
from optimizer.lm.model import PROBE, Model, Pricing, RetryPolicy, require_prices
from optimizer.lm.provider import ProviderBackend, borrow_provider
from optimizer.lm.provider_errors import attempt_error
from optimizer.lm.retry import MAX_RETRY_AFTER_S
from optimizer.privacy.redaction import redacted
from optimizer.prompts.spec import Choice, Json, Message, Text
from optimizer.records import Role
from optimizer.storage.database import ledger_table, reply_table
from optimizer.storage.journal import Journal, open_engine
from optimizer.study.models import Models
from tests.fake_server import (
    Body,
    FakeServer,
    Fault,
    drip,
    error,
    hang,
    quota_used_up,
    rate_limited,
    raw,
    reply,
    reset,
    truncated,
)

Open = Callable[[LM], Backend]
SECRET = "sk-canary+0123456789/abcdef=="
NO_CAPS = Caps(calls={}, tokens=None, usd=None)


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def wait(self, stop: threading.Event, seconds: float) -> None:
        del stop
        self.waits.append(seconds)
        self.now_s += seconds


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(lambda body: f"reply to {body['messages'][-1]['content']}") as running:
        yield running


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    engine = open_engine(f"sqlite:///{tmp_path / 'study.db'}", is_durable=False)
    yield Journal(engine, "night", owner="here:1")
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened() -> Iterator[Open]:
    """`open_backend`, with everything closed after the test."""
    with ExitStack() as stack:

        def open_and_close_later(settings: LM) -> Backend:
            backend = open_backend(settings)
            stack.callback(backend.close)
            return backend

        yield open_and_close_later


@pytest.fixture
def backend(server: FakeServer, opened: Open) -> Backend:
    return opened(settings(server))


def settings(server: FakeServer, *, timeout: float = 5.0, model: str = "openai/fake", **more: Any) -> LM:
    return LM(model=model, api_base=server.url, timeout=timeout, **more)


def model_of(
    backend: Backend,
    journal: Journal,
    clock: Clock | None = None,
    *,
    caps: Caps = NO_CAPS,
    retry_for_s: float = 600.0,
    price: tuple[float, float] = (1.0, 4.0),
    on_wait: Callable[[str], None] | None = None,
) -> Model:
    policy = RetryPolicy(retry_for_s=retry_for_s)
    if clock is not None:
        policy = replace(policy, clock=clock, wait=clock.wait)
    pricing = Pricing(per_million=price)
    return Model(backend, role="task", journal=journal, caps=caps, pricing=pricing, retry=policy, on_wait=on_wait)


def ask(prompt: str, *, max_tokens: int = 20, **more: Any) -> CallRequest:
    return CallRequest(messages=(Message("user", prompt),), max_tokens=max_tokens, **more)


def ledger_states(journal: Journal) -> list[str]:
    with journal.engine.connect() as connection:
        return list(connection.execute(sa.select(ledger_table.c.state).order_by(ledger_table.c.id)).scalars())


def n_kept(journal: Journal) -> int:
    with journal.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(reply_table)).scalar_one()


# -- the order of things -------------------------------------------------------------------------


def test_a_missing_key_is_told_in_the_words_of_the_configuration() -> None:
    """The usual variable of the provider, and the key that names another; nothing of DSPy's arguments."""
    said = "no API key found for provider 'openai-chat'. Set OPENAI_API_KEY in the environment, or pass api_key=\"...\""
    error = attempt_error(errors.LMNotConfiguredError(said), (), model="openai/gpt-4.1-mini")
    assert error.kind == "not_configured"
    assert "set the environment variable OPENAI_API_KEY" in str(error)
    assert "name another one with api_key_env" in str(error)
    assert "dspy" not in str(error)


def test_a_call_is_reserved_before_it_is_sent_and_settled_after_its_reply(journal: Journal, opened: Open) -> None:
    """While the server works the ledger shows a reservation, afterwards what the call took."""
    seen: list[list[str]] = []

    def answer(body: Body) -> str:
        del body
        seen.append(ledger_states(journal))
        return "fine"

    with FakeServer(answer) as server:
        backend = opened(settings(server))
        reply_ = model_of(backend, journal).call(ask("how"))
    assert (reply_.text, reply_.tokens_in, reply_.tokens_out) == ("fine", 11, 3)
    assert seen == [["reserved"]]
    assert ledger_states(journal) == ["settled"]
    spend = journal.spend()
    assert (spend.calls, spend.tokens_in, spend.tokens_out) == ({"task": 1}, 11, 3)
    assert spend.cost_usd == pytest.approx((11 * 1.0 + 3 * 4.0) / 1e6)


def test_cut_replies_are_counted(server: FakeServer, backend: Backend, journal: Journal) -> None:
    """A study can say once how many answers ended because they had grown too long."""
    model = model_of(backend, journal)
    server.script(reply("a long", finish_reason="length"), reply("whole"))
    model.call(ask("one"))
    model.call(ask("two"))
    models = Models(task=model, proposer=model, judge=None)
    assert models.cut_note().startswith("1 reply was cut at lm.task.max_tokens")
    assert Models(task=model_of(backend, journal), proposer=model, judge=None).cut_note() == ""


def test_a_kept_reply_costs_nothing(server: FakeServer, backend: Backend, journal: Journal) -> None:
    """The same request again, even by another model object, is answered from the journal: no call, no spend."""
    first = model_of(backend, journal).call(ask("twice"))
    again = model_of(backend, journal, caps=Caps(calls={"task": 0}, tokens=0, usd=0.0)).call(ask("twice"))
    assert again == first
    assert len(server.calls) == 1
    assert journal.spend().calls == {"task": 1}


def test_requests_that_differ_in_anything_are_other_calls(backend: Backend, journal: Journal) -> None:
    """Messages, limits, temperature, stops, constraint and sample number all belong to the name of a call."""
    model, base = model_of(backend, journal), ask("a")
    others = [
        ask("b"),
        ask("a", max_tokens=21),
        ask("a", temperature=0.5),
        ask("a", stop=("\n",)),
        ask("a", constraint=(Text("a"),)),
        ask("a", constraint=(Choice(("a",)),)),
        ask("a", sample=1),
        replace(base, messages=(Message("system", "a"),)),
    ]
    assert len({model.key(request) for request in [base, *others]}) == 1 + len(others)
    assert model.key(ask("a", temperature=0)) == model.key(base)


def test_a_call_cap_holds_with_many_threads(server: FakeServer, backend: Backend, journal: Journal) -> None:
    """Eight threads with thirty requests and a cap of eleven make eleven calls, not one more."""
    model = model_of(backend, journal, caps=Caps(calls={"task": 11}, tokens=None, usd=None))

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(model.call, ask(f"q{i}")) for i in range(30)]
        errors = [error for future in futures if (error := future.exception()) is not None]
    assert len(server.calls) == 11
    assert [type(error) for error in errors] == [BudgetExhausted] * 19
    assert str(errors[0]) == "budget.task_calls: 11 is used up; raise it and run again to continue"
    assert journal.spend().calls == {"task": 11}


def test_a_money_cap_counts_calls_in_flight_at_their_worst(
    server: FakeServer, backend: Backend, journal: Journal
) -> None:
    """A call is refused when its longest possible reply would pass the cap, however cheap it might turn out."""
    request = ask("hello", max_tokens=1000)
    worst = (tokens_at_most("hello") * 1.0 + 1000 * 4.0) / 1e6
    model = model_of(backend, journal, caps=Caps(calls={}, tokens=None, usd=worst * 0.99))
    with pytest.raises(BudgetExhausted, match=r"budget\.usd"):
        model.call(request)
    assert server.calls == []
    assert ledger_states(journal) == []


def test_a_cap_waits_for_calls_that_may_cost_less_than_they_are_entered_with(
    server: FakeServer, backend: Backend, journal: Journal
) -> None:
    """Eight threads make as many calls as one would: what others have reserved and do not use comes back."""
    worst = tokens_at_most("q10") + 1000
    model = model_of(backend, journal, caps=Caps(calls={}, tokens=2 * worst, usd=None))
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(model.call, [ask(f"q{i}", max_tokens=1000) for i in range(30)]))
    assert len(replies) == 30
    assert journal.spend().tokens == 30 * 14 == 14 * len(server.calls)


def test_without_a_ledger_nothing_is_sent(server: FakeServer, backend: Backend, journal: Journal) -> None:
    """When the database is full the run pauses before the call, not after it."""
    model = model_of(backend, journal)
    with journal.engine.connect() as connection:
        n_pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def is_full(connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count={n_pages}")

    sa.event.listen(journal.engine, "checkout", is_full)
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(model.call, ask(f"{i} {'long ' * 300}")) for i in range(60)]
        paused = [error for future in futures if isinstance(error := future.exception(), Paused)]
    assert {pause.reason for pause in paused} == {"storage"}
    assert "full" in str(paused[0])
    assert len(server.calls) <= journal.spend().calls["task"] < 60


# -- faults --------------------------------------------------------------------------------------

# name -> (fault, kind of the error, attempts made when every attempt fails like this)
FAULTS: dict[str, tuple[Fault, str, int]] = {
    "500": (error(500, is_billed=True), "server", 5),
    "reset": (reset(), "transport", 5),
    "truncated": (truncated(), "transport", 5),
    "not UTF-8": (raw(b'{"choices":[{"message":{"content":"\xff\xfe"}}]}'), "server", 5),
    "HTML behind 200": (raw(b"<html>sign in</html>"), "server", 5),
    "no body": (raw(b""), "server", 5),
    "JSON of another kind": (raw(b'{"hello": 1}'), "server", 5),
    "no choices": (raw(b'{"choices": []}'), "server", 5),
    "a JSON list": (raw(b"[1]"), "unexpected", 5),
    "error in a 200": (raw(b'{"error": {"message": "overloaded", "code": "server_error"}}'), "server", 5),
    "redirect": (Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}, is_billed=False), "server", 5),
    "408": (error(408), "timeout", 5),
    "400": (error(400, "no such parameter"), "invalid_request", 1),
    "too long": (error(400, "too long", code="context_length_exceeded"), "context_length", 1),
    "20 MB": (reply("x" * 20_000_000), "unexpected", 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failing_call_is_typed_counted_and_never_kept(
    name: str, server: FakeServer, backend: Backend, journal: Journal, clock: Clock
) -> None:
    """Each fault ends as a CallError of its kind after a known number of requests; nothing of it is used again."""
    fault, kind, n_attempts = FAULTS[name]
    server.script(*[fault] * n_attempts)
    model = model_of(backend, journal, clock)
    with pytest.raises(CallError) as caught:
        model.call(ask("q"))
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    n_probes = int(n_attempts > 2)  # is the model there? then it was the request
    assert len(server.calls) == n_attempts + n_probes == len(ledger_states(journal))  # every request is one of ours
    assert journal.spend().calls.get("task", 0) >= server.n_billed
    assert n_kept(journal) == 0
    assert model.call(ask("q")).text == "reply to q"
    assert len(server.calls) == n_attempts + n_probes + 1


USABLE_ONCE: dict[str, tuple[Fault, str, str]] = {
    "empty": (reply(""), "stop", ""),
    "null": (reply(None), "stop", ""),
    "blank": (reply(" \n "), "stop", " \n "),
    "cut": (reply("half of", finish_reason="length"), "length", "half of"),
    "filtered": (reply("", finish_reason="content_filter"), "filtered", ""),
    "refused": (
        raw(b'{"choices":[{"message":{"content":null,"refusal":"I will not"},"finish_reason":"stop"}]}'),
        "filtered",
        "I will not",
    ),
}


@pytest.mark.parametrize("name", USABLE_ONCE)
def test_an_unusable_reply_is_returned_and_paid_but_not_kept(
    name: str, server: FakeServer, backend: Backend, journal: Journal
) -> None:
    """Empty, cut and refused replies reach the caller with their reason; asked again, the server is asked again."""
    fault, finish_reason, text = USABLE_ONCE[name]
    n_asked = 1 if finish_reason == "length" else 2  # what is no answer at all is asked for once more
    server.script(*[fault] * n_asked)
    model = model_of(backend, journal)
    first = model.call(ask("q"))
    assert (first.finish_reason, first.text) == (finish_reason, text)
    assert (ledger_states(journal), n_kept(journal)) == (["settled"] * n_asked, 0)
    assert model.call(ask("q")).text == "reply to q"
    assert (len(server.calls), n_kept(journal)) == (n_asked + 1, 1)


def test_a_fault_or_two_is_overcome(server: FakeServer, backend: Backend, journal: Journal, clock: Clock) -> None:
    """Passing faults of several kinds cost attempts, not the reply; the ledger holds at least what was billed."""
    server.script(error(500, is_billed=True), rate_limited(), reset(), error(503), truncated())
    assert model_of(backend, journal, clock).call(ask("q")).text == "reply to q"
    assert ledger_states(journal) == ["unknown", "released", "unknown", "released", "unknown", "settled"]
    assert server.n_billed == 4 == journal.spend().calls["task"]
    assert clock.waits == sorted(clock.waits)


def test_a_silent_server_is_given_up_in_time(server: FakeServer, journal: Journal, clock: Clock, opened: Open) -> None:
    """An attempt without an answer ends at the configured timeout, as a timeout that may have been billed."""
    server.script(hang(), hang())
    backend = opened(settings(server, timeout=0.3))
    started = time.monotonic()
    assert model_of(backend, journal, clock).call(ask("q")).text == "reply to q"
    assert 0.6 <= time.monotonic() - started < 5
    assert ledger_states(journal) == ["unknown", "unknown", "settled"]


def test_a_dripping_reply_does_not_outlive_the_timeout(server: FakeServer, opened: Open) -> None:
    """A byte now and then keeps a socket alive, not an attempt."""
    server.script(drip())
    backend = opened(settings(server, timeout=0.5))
    started = time.monotonic()
    with pytest.raises(AttemptError, match=r"no complete reply within 0\.5 s") as caught:
        backend.complete(ask("q"))
    assert time.monotonic() - started < 3
    assert (caught.value.kind, caught.value.is_billed) == ("timeout", True)


def test_a_closed_port_bills_nothing(journal: Journal, clock: Clock, opened: Open) -> None:
    """Connections that are refused are tried again until time is up; the run pauses and the budget is whole."""
    with FakeServer() as server:
        backend = opened(settings(server))
    with pytest.raises(Paused, match=r"gave up after \d+ tries") as caught:
        model_of(backend, journal, clock, retry_for_s=300).call(ask("q"))
    assert caught.value.reason == "provider"
    assert 240 < clock.now_s <= 300
    assert set(ledger_states(journal)) == {"released"}
    assert journal.spend().tokens == 0


@pytest.mark.parametrize(
    ("retry_after", "low_s", "high_s"),
    [(3, 2.9, 3.2), ("0", 0.4, 1.0), (86_400, 0.95 * MAX_RETRY_AFTER_S, 1.05 * MAX_RETRY_AFTER_S), (-5, 0.4, 1.0)],
)
def test_retry_after_is_honoured_within_reason(
    retry_after: float | str,
    low_s: float,
    high_s: float,
    server: FakeServer,
    backend: Backend,
    journal: Journal,
    clock: Clock,
) -> None:
    """The provider's hint decides how long to wait, up to a quarter of an hour; nonsense is passed over."""
    server.script(rate_limited(retry_after=retry_after))
    model_of(backend, journal, clock, retry_for_s=3600).call(ask("q"))
    assert len(clock.waits) == 1
    assert low_s <= clock.waits[0] <= high_s


def test_a_long_rate_limit_pauses_the_run(server: FakeServer, backend: Backend, journal: Journal, clock: Clock) -> None:
    """When the limit outlasts the patience the run pauses, unbilled, instead of failing one example after another."""
    server.script(*[rate_limited()] * 200)
    with pytest.raises(Paused, match="HTTP 429") as caught:
        model_of(backend, journal, clock, retry_for_s=600).call(ask("q"))
    assert caught.value.reason == "provider"
    assert 5 < len(server.calls) < 40
    assert journal.spend().calls.get("task", 0) == 0


def test_a_request_that_always_breaks_the_server_is_given_up(journal: Journal, opened: Open) -> None:
    """Five equal failures of one request end it while the others are answered."""
    answered = threading.Event()

    def answer(body: Body) -> str | Fault:
        if "poison" in body["messages"][-1]["content"]:
            answered.wait(5)
            return error(500, is_billed=True)
        answered.set()
        return "fine"

    with FakeServer(answer) as server:
        backend = opened(settings(server))
        model = model_of(backend, journal, Clock(), retry_for_s=1e6)
        with ThreadPoolExecutor(3) as pool:
            poisoned = pool.submit(model.call, ask("poison"))
            healthy = [pool.submit(model.call, ask(f"q{i}")) for i in range(4)]
            assert [future.result().text for future in healthy] == ["fine"] * 4
            with pytest.raises(CallError, match="HTTP 500"):
                poisoned.result()
        assert sum("poison" in call.prompt for call in server.calls) == 5


def test_an_outage_is_waited_out_by_one_call(journal: Journal, opened: Open) -> None:
    """While nothing is answered one call looks after the model and the others wait; no request is given up."""
    numbers = itertools.count()

    def answer(_body: Body) -> str | Fault:
        return error(500) if next(numbers) < 40 else "back"

    with FakeServer(answer) as server:
        model = model_of(opened(settings(server)), journal, Clock(), retry_for_s=1e9)
        with ThreadPoolExecutor(4) as pool:
            texts = [reply_.text for reply_ in pool.map(model.call, [ask(f"q{i}") for i in range(4)])]
        prompts = [call.prompt for call in server.calls]
    assert texts == ["back"] * 4
    assert sum(prompt == PROBE.messages[0].content for prompt in prompts[:40]) >= 28
    assert len(prompts) <= 50


def test_an_outage_is_waited_out_longer_once_the_model_has_answered(
    server: FakeServer, backend: Backend, journal: Journal, clock: Clock
) -> None:
    """A model that worked is worth hours of waiting; one that never did is given up when retries end."""
    policy = RetryPolicy(retry_for_s=60, outage_for_s=4000, clock=clock, wait=clock.wait)
    pricing = Pricing(per_million=(1.0, 4.0))

    def fresh() -> Model:
        return Model(backend, role="task", journal=journal, caps=NO_CAPS, pricing=pricing, retry=policy)

    server.script(*[reset()] * 12)
    with pytest.raises(Paused, match=r"gave up after \d+ tries"):
        fresh().call(ask("q"))
    assert 30 < clock.now_s < 75
    server.forget_script()
    model, began_s = fresh(), clock.now_s
    model.call(ask("warm"))
    server.script(*[reset()] * 60)
    assert model.call(ask("q")).text == "reply to q"
    assert 600 < clock.now_s - began_s < 4000


def test_a_rate_limit_cuts_the_calls_in_flight_once_and_they_grow_again() -> None:
    """Eight calls that hear of one limit halve what is in flight, not more; replies bring it back one by one."""
    clock, stop = Clock(), threading.Event()
    flow = Flow(8, clock)
    limited = AttemptError("rate_limit", "slow down", is_retryable=True, retry_after_s=20.0)
    with ExitStack() as slots:
        for _ in range(8):
            slots.enter_context(flow.slot(stop))
        for _ in range(8):
            flow.failed(limited, is_suspect=False)
    assert flow.limit == 4
    flow.answered()
    assert flow.limit == 4  # the episode is not over
    clock.now_s = 21.0
    flow.failed(limited, is_suspect=False)
    assert flow.limit in (1, 2)
    clock.now_s = 60.0
    limits = []
    for _ in range(60):
        flow.answered()
        limits.append(flow.limit)
    assert limits == sorted(limits)
    assert limits[-1] == 8
    assert limits[5] < 5


def test_no_more_calls_are_in_flight_than_the_limit_allows(journal: Journal, opened: Open) -> None:
    """After a rate limit the server sees half as many calls at once, and all of them are answered in the end."""
    lock, now, peaks = threading.Lock(), [0], [0, 0]
    is_limited, numbers = threading.Barrier(8), itertools.count()

    def answer(body: Body) -> str | Fault:
        is_first = "warm" in body["messages"][-1]["content"]
        with lock:
            now[0] += 1
            peaks[0 if is_first else 1] = max(peaks[0 if is_first else 1], now[0])
        try:
            if is_first and next(numbers) < 8:
                is_limited.wait(10)
                return rate_limited()
            time.sleep(0.02)
            return "fine"
        finally:
            with lock:
                now[0] -= 1

    with FakeServer(answer) as server:
        policy = RetryPolicy(retry_for_s=1e6, clock=(clock := Clock()), wait=clock.wait)
        model = Model(
            opened(settings(server)),
            role="task",
            journal=journal,
            caps=NO_CAPS,
            pricing=Pricing(per_million=(1.0, 4.0)),
            retry=policy,
            max_in_flight=8,
        )
        with ThreadPoolExecutor(8) as pool:
            assert {reply_.text for reply_ in pool.map(model.call, [ask(f"warm {i}") for i in range(8)])} == {"fine"}
            clock.now_s = 0.0
            list(pool.map(model.call, [ask(f"q{i}") for i in range(12)]))
    assert peaks[0] == 8
    assert peaks[1] <= 5


def test_stop_ends_a_waiting_call(server: FakeServer, backend: Backend, journal: Journal) -> None:
    """A call that waits for its next attempt raises as soon as the run is told to stop, and says while it waits."""
    server.script(rate_limited(retry_after=300))
    waits, waiting = [], threading.Event()

    def on_wait(line: str) -> None:
        waits.append(line)
        waiting.set()

    model = model_of(backend, journal, on_wait=on_wait)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(model.call, ask("q"))
        assert waiting.wait(10)
        started = time.monotonic()
        model.stop()
        with pytest.raises(Paused, match="told to stop") as caught:
            future.result(10)
    assert time.monotonic() - started < 2
    assert caught.value.reason == "user"
    assert len(server.calls) == 1
    assert "HTTP 429: Rate limit reached" in waits[0]
    assert waits[-1] == ""


# -- what a person must mend -----------------------------------------------------------------------

FATAL: dict[str, tuple[Fault, str, str]] = {
    "401": (error(401, "Incorrect API key provided"), "provider_auth", "HTTP 401: Incorrect API key"),
    "403": (error(403, "not allowed"), "provider_auth", "HTTP 403: not allowed"),
    "402": (error(402, "no money"), "provider_quota", "HTTP 402: no money"),
    "quota": (quota_used_up(), "provider_quota", "HTTP 429: You exceeded your current quota"),
    "unknown model": (
        error(404, "The model `fake` does not exist", code="model_not_found"),
        "provider",
        "HTTP 404: The model `fake` does not exist",
    ),
    "wrong path": (raw(b'{"detail": "Not Found"}', status=404, is_billed=False), "provider", "HTTP 404"),
}


@pytest.mark.parametrize("name", FATAL)
def test_a_fatal_error_pauses_at_once(name: str, server: FakeServer, backend: Backend, journal: Journal) -> None:
    """One request, one line that names role, model and reason; later calls do not even try."""
    fault, reason, words = FATAL[name]
    server.script(fault)
    model = model_of(backend, journal)
    with pytest.raises(Paused) as caught:
        model.call(ask("q"))
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"lm.task: openai/fake@{server.url}: {words}")
    assert "\n" not in str(caught.value)
    with pytest.raises(Paused) as again:
        model.call(ask("another"))
    assert (again.value.reason, str(again.value)) == (reason, str(caught.value))
    assert (len(server.calls), ledger_states(journal)) == (1, ["released"])


def test_an_expired_key_costs_no_more_calls_than_threads(journal: Journal, opened: Open) -> None:
    """When the key dies in mid-run each thread finds out at most once."""
    numbers = itertools.count()
    with FakeServer(lambda _body: error(401) if next(numbers) >= 10 else "fine") as server:
        backend = opened(settings(server))
        model = model_of(backend, journal)
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(model.call, ask(f"q{i}")) for i in range(60)]
            n_paused = sum(isinstance(future.exception(), Paused) for future in futures)
        assert n_paused == 50
        assert 11 <= len(server.calls) <= 16


def test_quota_in_prose_is_no_quota_error(server: FakeServer, backend: Backend, journal: Journal, clock: Clock) -> None:
    """Errors are classed by code: a rate limit that talks of quotas is still retried."""
    server.script(rate_limited(message="You have used your quota of requests per minute; check billing"))
    assert model_of(backend, journal, clock).call(ask("q")).text == "reply to q"


# -- secrets -----------------------------------------------------------------------------------------


def test_no_secret_reaches_messages_logs_or_disk(
    server: FakeServer,
    journal: Journal,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    opened: Open,
) -> None:
    """A server that repeats the key in every form leaves no trace of it in errors, tracebacks, logs or the database."""
    monkeypatch.setenv("MY_SERVICE", SECRET)
    monkeypatch.setenv("OTHER_API_KEY", "from-the-environment")
    forms = [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode(), "from-the-environment"]
    echo = "wrong key " + " ".join(forms)
    backend = opened(settings(server, api_key_env="MY_SERVICE"))
    server.script(error(500, echo), rate_limited(message=echo), error(401, echo))
    with caplog.at_level(logging.DEBUG), pytest.raises(Paused) as caught:
        model_of(backend, journal, clock).call(ask("q"))
    journal.engine.dispose()
    assert server.calls[0].headers["authorization"] == f"Bearer {SECRET}"
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + backend.identity + str(caught.value)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "wrong key *** *** *** ***" in shown
    for form in forms:
        assert form not in shown
        assert form.encode() not in stored


def test_an_endpoint_with_credentials_is_refused_without_showing_them(server: FakeServer) -> None:
    """Users, passwords and queries do not belong into api_base; the message says where a key goes."""
    host = server.url.removeprefix("http://")
    for url in (f"http://me:{quote(SECRET, safe='')}@{host}", f"http://{host}?key={quote(SECRET, safe='')}"):
        with pytest.raises(ConfigError, match="name it in api_key_env") as caught:
            open_backend(LM(model="openai/fake", api_base=url))
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("127.0.0.1:39157/v1", "'127.0.0.1:39157/v1' is no http:// or https:// address; did you mean 'http://127.0"),
        ("localhost:8000/v1", "did you mean 'http://localhost:8000/v1'?"),
        ("https:/models.example/v1", "'https:/models.example/v1' is no"),
        ("https:/models.example/v1", "did you mean 'https://models.example/v1'?"),
        ("ftp://models.example", "'ftp://models.example' is no http:// or https:// address"),
        (f"me:{SECRET}@models.example/v1?key={SECRET}", "did you mean 'http://models.example/v1'?"),
    ],
)
def test_an_address_without_its_beginning_is_shown_as_written(written: str, says: str) -> None:
    """What was written stands in the message, without secrets, and what was probably meant beside it."""
    with pytest.raises(ConfigError) as caught:
        open_backend(LM(model="openai/fake", api_base=written))
    assert says in str(caught.value)
    assert "canary" not in str(caught.value)


def test_short_placeholders_are_not_masked() -> None:
    """Masking hides whole secrets, longest first, and leaves ordinary words alone."""
    assert redacted("key abcdefgh-12 none", ["abcdefgh-12", "abcdefgh"]) == "key *** none"


def test_a_missing_key_is_one_clear_line(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable that is not set is named before anything is sent."""
    monkeypatch.delenv("MY_SERVICE", raising=False)
    with pytest.raises(ConfigError, match="'MY_SERVICE' is not set; run: export MY_SERVICE="):
        open_backend(settings(server, api_key_env="MY_SERVICE"))


def test_a_key_comes_from_a_file_or_a_command(server: FakeServer, opened: Open, tmp_path: Path) -> None:
    """Both give the key that is sent; a file that others can read and a command that fails are one line each."""
    path = tmp_path / "key"
    path.write_text(SECRET + "\n")
    with pytest.raises(ConfigError, match=r"can be read by others; run: chmod 600"):
        open_backend(settings(server, api_key_file=str(path)))
    path.chmod(0o600)
    for source in (settings(server, api_key_file=str(path)), settings(server, api_key_command=f"cat {path}")):
        opened(source).complete(ask("q"))
        assert server.calls[-1].headers["authorization"] == f"Bearer {SECRET}"
    for command in ("false", "no-such-program-anywhere", "echo two words"):
        with pytest.raises(ConfigError, match="lm: api_key_command: "):
            open_backend(settings(server, api_key_command=command))
    with pytest.raises(ConfigError, match="api_key_env and api_key_file: give one of them"):
        open_backend(settings(server, api_key_env="X", api_key_file=str(path)))


def test_the_usual_key_does_not_go_to_another_endpoint(
    server: FakeServer, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server named by api_base gets the key named for it, or none."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    backend.complete(ask("q"))
    assert SECRET not in str(server.calls[0].headers)


def test_identity_names_model_and_endpoint(server: FakeServer, monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    """One model name at two endpoints is two models, also when the endpoint comes from the environment."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert opened(LM(model="openai/fake")).identity == "openai/fake"
    assert opened(settings(server)).identity == f"openai/fake@{server.url}"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:hidden@gateway.example/v1/?key=hidden")
    assert opened(LM(model="openai/fake")).identity == "openai/fake@https://gateway.example/v1"


# -- what is sent and read ---------------------------------------------------------------------------


def test_the_request_on_the_wire(server: FakeServer, backend: Backend) -> None:
    """System, turns, temperature, limit and at most four stops are sent; constraints are not."""
    turns = [Message("system", "be brief"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    stops = ("1", "2", "3", "4", "5")
    request = CallRequest(
        messages=tuple(turns), max_tokens=7, temperature=0.5, stop=stops, constraint=(Json('{"type":"object"}'),)
    )
    assert backend.complete(request).text == "reply to c"
    body = dict(server.calls[0].body)
    sent = body.pop("messages")
    assert [(message["role"].replace("developer", "system"), message["content"]) for message in sent] == turns
    limit = body.pop("max_completion_tokens", None) or body.pop("max_tokens")
    assert (limit, body) == (7, {"model": "fake", "temperature": 0.5, "stop": ["1", "2", "3", "4"]})


@pytest.mark.parametrize("model", ["openai/gpt-5-mini", "openai/o3"])
def test_reasoning_models_are_not_sent_what_they_refuse(model: str, server: FakeServer, opened: Open) -> None:
    """Reasoning models of OpenAI answer `temperature` and `stop` with an error, so neither is sent."""
    backend = opened(settings(server, model=model))
    backend.complete(ask("q", stop=("\n",), temperature=0.0))
    assert not {"temperature", "stop"} & set(server.calls[0].body)


def test_a_schema_goes_to_endpoints_that_know_it(server: FakeServer) -> None:
    """A JSON constraint becomes a response format where the backend is told that it is understood."""
    lm = dspy.LM("openai/fake", api_base=server.url, api_key="none", cache=False, num_retries=0)
    backend = ProviderBackend(lm, identity="x", sends_schema=True)
    backend.complete(ask("q", constraint=(Text(" "), Json('{"type":"object"}'))))
    backend.close()
    sent = server.calls[0].body["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]) == ("json_schema", {"type": "object"})


def test_half_a_character_becomes_text(server: FakeServer, backend: Backend, journal: Journal) -> None:
    """A lone surrogate, which JSON allows and no encoder takes, is replaced before anything is stored."""
    server.script(reply("a\ud835b"))
    text = model_of(backend, journal).call(ask("q")).text
    assert text == "a?b"
    assert text.encode()


def test_a_prompt_that_cannot_be_encoded_is_not_sent(server: FakeServer, backend: Backend, journal: Journal) -> None:
    """A row with half a character fails by itself, unbilled."""
    with pytest.raises(CallError, match="surrogate") as caught:
        model_of(backend, journal).call(ask("a\ud835b"))
    assert (caught.value.kind, server.calls, ledger_states(journal)) == ("invalid_request", [], ["released"])


def test_unreported_usage_is_counted_high(server: FakeServer, backend: Backend) -> None:
    """Without usage in the reply the ledger gets an upper estimate, never nothing."""
    server.script(reply("some words here", tokens=None))
    found = backend.complete(ask("a question of several words"))
    assert found.tokens_in >= 7
    assert found.tokens_out >= 4


def test_thinking_that_only_the_total_shows_is_paid(server: FakeServer, backend: Backend) -> None:
    """Some providers leave thinking tokens out of the output count; what exceeds input in the total is output."""
    payload = reply("x").payload.replace(b'"total_tokens": 14', b'"total_tokens": 111')
    server.script(raw(payload))
    found = backend.complete(ask("q"))
    assert (found.tokens_in, found.tokens_out) == (11, 100)


@pytest.mark.parametrize("text", ["word " * 50, "汉字" * 50, "0123456789" * 20])
def test_token_estimates_are_generous(text: str) -> None:
    """Estimates stay above a token for four bytes of English and three of Chinese."""
    assert tokens_at_most(text) > len(text.encode()) / 3


def test_a_borrowed_model_keeps_its_connections_cache_and_retries(server: FakeServer) -> None:
    """A caller's `dspy.LM` is used without cache and retries, and still works when we are done with it."""
    lm = dspy.LM("openai/fake", api_base=server.url, api_key=SECRET, num_retries=3, timeout=5)
    backend = borrow_provider(lm)
    server.script(error(500))
    with pytest.raises(AttemptError, match="HTTP 500"):
        backend.complete(ask("q"))
    assert [backend.complete(ask("q")).text for _ in range(2)] == ["reply to q"] * 2
    backend.close()
    assert len(server.calls) == 3
    assert (lm.num_retries, lm.cache, backend.identity) == (3, True, f"openai/fake@{server.url}")
    lm.close()


@pytest.mark.slow
def test_the_other_route_to_a_provider_does_not_retry_either(server: FakeServer) -> None:
    """Where DSPy goes through LiteLLM each attempt is one request too, and errors keep their kinds.

    LiteLLM is imported outside the time that a call has.
    """
    server.script(error(500), rate_limited(retry_after=2), reset(), error(401, "wrong"), reply("fine"))
    script = """
import sys, threading
from optimizer.config.keys import LM
from optimizer.lm import open_backend
from dspy.utils import exceptions as errors
from optimizer.lm.provider_errors import attempt_error
from optimizer.lm.backend import AttemptError, CallRequest
from optimizer.prompts.spec import Message

class Importers:
    names = []
    def find_spec(self, name, path=None, target=None):
        if name == "litellm":
            self.names.append(threading.current_thread().name)

sys.meta_path.insert(0, Importers())
backend = open_backend(LM(model="openai/fake", api_base=sys.argv[1], timeout=20.0))
for _ in range(5):
    try:
        print(backend.complete(CallRequest(messages=(Message("user", "q"),), max_tokens=9)).text)
    except AttemptError as error:
        print(error.kind)
print("litellm" in sys.modules, Importers.names[0])
"""
    environment = {**os.environ, "OPENAI_BASE_URL": server.url}  # sends DSPy that way
    found = subprocess.run(
        [sys.executable, "-c", script, server.url], env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["server", "rate_limit", "server", "auth", "fine", "True MainThread"]
    assert len(server.calls) == 5


# -- prices --------------------------------------------------------------------------------------------


def price_of(backend: Backend, **given: Any) -> tuple[float, float] | None:
    return Pricing.of(backend, LM(**given)).per_million


def test_prices_come_from_the_configuration_then_the_list(backend: Backend) -> None:
    """Configured prices win one by one; the list knows public endpoints only; half a price is no price."""
    listed = price_of(backend, model="openai/gpt-4.1-mini")
    assert listed is not None
    assert 0 < listed[0] < listed[1] < 100
    assert price_of(backend, model="openai/gpt-4.1-mini", price_in=9.0) == (9.0, listed[1])
    assert price_of(backend, model="openai/gpt-4.1-mini", api_base="http://localhost/v1") is None
    assert price_of(backend, model="x/unheard-of") is None
    assert price_of(backend, model="x/unheard-of", price_in=1.0) is None
    assert price_of(backend, model="x/unheard-of", price_in=1.0, price_out=0.0) == (1.0, 0.0)
    assert price_of(backend, model="no-provider") is None


def test_a_money_cap_needs_prices() -> None:
    """Without a price a cap in dollars would pass everything, so it is refused, naming the keys to set."""
    prices: dict[Role, Pricing] = {
        "task": Pricing(per_million=(1.0, 2.0)),
        "proposer": Pricing(per_million=None),
    }
    with pytest.raises(ConfigError, match=r"budget\.usd: 2\.5 .*lm\.proposer\.price_in, lm\.proposer\.price_out"):
        require_prices(Budget(usd=2.5), prices, elsewhere={})
    require_prices(Budget(), prices, elsewhere={"task": "x/y"})
    require_prices(Budget(usd=2.5), {"task": Pricing(per_million=(0.0, 0.0))}, elsewhere={"task": "x/y"})


def test_unknown_prices_need_a_limit_unless_the_model_is_here() -> None:
    """Nobody's night costs more than they said: a number of calls or tokens, or prices, or a model on this machine."""
    prices: dict[Role, Pricing] = {"task": Pricing(per_million=None)}
    with pytest.raises(ConfigError, match=r"'x/y' costs .*set budget\.task_calls, or lm\.task\.price_in"):
        require_prices(Budget(wall_clock=60), prices, elsewhere={"task": "x/y"})
    require_prices(Budget(task_calls=100), prices, elsewhere={"task": "x/y"})
    require_prices(Budget(tokens=100), prices, elsewhere={"task": "x/y"})
    require_prices(Budget(), prices, elsewhere={})


def test_the_price_list_is_the_packaged_one() -> None:
    """DSPy is told not to fetch a newer list from the network."""
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
