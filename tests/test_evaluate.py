"""Scoring a candidate: outcomes in order, nothing asked twice, failures that never score, pauses that lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import dspy
import numpy as np
import pytest

from optimizer.budget.caps import Caps
from optimizer.candidate import Candidate, Example, Fields, Part
from optimizer.config.keys import InputField, OutputField, Task
from optimizer.errors import BudgetExhausted, CallError, MetricError, Paused, ProgramError
from optimizer.lm.backend import AttemptError, CallRequest, Reply
from optimizer.lm.model import Model, Pricing, RetryPolicy
from optimizer.metrics import Metric, Score, from_function
from optimizer.prompts.formats import UnreadableReply
from optimizer.prompts.program import Answer, Complete, Refused
from optimizer.prompts.spec import Message, PromptSpec
from optimizer.propose import Attempt, Context
from optimizer.propose.demos import OPERATOR as DEMOS
from optimizer.records import Outcome, Recipe
from optimizer.search.evaluate import Evaluator
from optimizer.storage.journal import Journal, open_engine

PATIENCE_S = 20.0  # how long a test waits for another thread before it fails
SEED = Candidate(parts=(Part(predictor="answer", instructions="Echo."),))
OTHER = Candidate(parts=(Part(predictor="answer", instructions="Repeat."),))


def examples(n: int) -> list[Example]:
    """Row 0 is `e00` with input `0`; the right answer repeats the input."""
    return [Example(id=f"e{i:02}", inputs={"text": str(i)}, outputs={"answer": str(i)}) for i in range(n)]


class Echo:
    """A program that sends instructions and input, and reads `thought|answer` or a bare answer from the reply."""

    def __init__(self) -> None:
        self.specs: Mapping[str, PromptSpec] = {"answer": PromptSpec(inputs=(), outputs=())}
        self.fingerprint = "echo"
        self.asked: list[str] = []

    def run(self, candidate: Candidate, inputs: Fields, complete: Complete) -> Answer:
        text = str(inputs["text"])
        self.asked.append(text)
        prompt = f"{candidate.parts[0].instructions} {text}"
        reply = complete(CallRequest(messages=(Message("user", prompt),), max_tokens=8))
        if reply.finish_reason == "filtered":
            raise Refused(reply.text)
        if reply.text == "???":
            raise UnreadableReply("no answer\nin the reply", reply.text)
        if reply.text == "crash":
            raise ProgramError("task.program: ValueError: not a number")
        thought, mark, answer = reply.text.rpartition("|")
        return Answer(fields={"answer": answer}, text=reply.text, reasoning=thought if mark else None)

    def seed(self, instructions: str) -> Candidate:
        raise NotImplementedError

    def module(self, candidate: Candidate) -> dspy.Module:
        raise NotImplementedError

    def apply(self, candidate: Candidate) -> dspy.Module:
        raise NotImplementedError

    def messages(self, candidate: Candidate, predictor: str, inputs: Fields) -> tuple[Message, ...]:
        raise NotImplementedError


class Scripted:
    """A model that answers each input as told; by default it repeats it. Keeps a list of the inputs that it saw."""

    style: Literal["completion", "chat"] = "chat"
    is_local = True
    identity = "scripted"
    n_lanes = 1

    def __init__(self, answer: Callable[[str], str | Reply] | None = None) -> None:
        self.answer = answer or str
        self.seen: list[str] = []
        self._lock = threading.Lock()

    def abandon(self, after_s: float) -> None:
        """Nothing is under way for long."""

    def use_lane(self, lane: int) -> None:
        """There is one."""

    def complete(self, request: CallRequest) -> Reply:
        text = request.messages[-1].content.split()[-1]
        with self._lock:
            self.seen.append(text)
        answer = self.answer(text)
        if isinstance(answer, Reply):
            return answer
        return Reply(text=answer, finish_reason="stop", tokens_in=3, tokens_out=1)

    def close(self) -> None:
        """Nothing to free."""


def exact(example: Example, answer: Fields) -> Score:
    return Score(1.0) if answer["answer"] == example.outputs["answer"] else Score(0.0, "not the input")


EXACT = from_function(exact, name="exact")


class Bench:
    """An evaluator with everything real but the model behind it, and the program."""

    def __init__(self, journal: Journal, backend: Scripted, **caps: int) -> None:
        self.journal, self.backend, self.program = journal, backend, Echo()
        self.caps = Caps(calls={"task": caps.get("task")}, tokens=None, usd=None)
        self.retry = RetryPolicy(retry_for_s=3600.0)
        self.n_told = 0

    @contextmanager
    def evaluator(self, metric: Metric = EXACT, *, concurrency: int = 1) -> Iterator[Evaluator]:
        model = Model(
            self.backend,
            role="task",
            journal=self.journal,
            caps=self.caps,
            pricing=Pricing(per_million=(0.0, 0.0)),
            retry=self.retry,
        )

        def count() -> None:
            self.n_told += 1

        evaluator = Evaluator(self.program, model, metric, self.journal, concurrency=concurrency, on_outcome=count)
        try:
            yield evaluator
        finally:
            evaluator.close()

    def kept(self, metric: Metric = EXACT) -> list[str]:
        """Ids of the seed's outcomes in the database."""
        return sorted(self.journal.outcomes(SEED.id, metric.version))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    engine = open_engine(f"sqlite:///{tmp_path / 'study.db'}", is_durable=False)
    journal = Journal(engine, "mail", owner="test")
    journal.create_study({})
    yield journal
    engine.dispose()


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.kind for outcome in outcomes]


def test_outcomes_come_in_input_order_whatever_ends_first(journal: Journal) -> None:
    """Eight calls at once that end last to first, beside three kept rows, are returned in the order asked."""
    rows, ended = examples(11), {str(i): threading.Event() for i in range(12)}
    ended["11"].set()

    def last_first(text: str) -> str:
        assert ended[str(int(text) + 1)].wait(PATIENCE_S)
        ended[text].set()
        return text

    bench = Bench(journal, Scripted())
    with bench.evaluator() as evaluator:
        evaluator.outcomes(SEED, [rows[2], rows[0], rows[1]])
    bench.backend.answer = last_first
    shuffled = [*rows[5:], rows[1], *rows[2:5], rows[0]]
    with bench.evaluator(concurrency=8) as evaluator:
        outcomes = evaluator.outcomes(SEED, shuffled)
    assert [outcome.example_id for outcome in outcomes] == [row.id for row in shuffled]
    assert all(outcome.score == 1.0 for outcome in outcomes)
    assert bench.n_told == 11


@pytest.mark.parametrize("concurrency", [1, 3])
def test_kept_outcomes_are_not_asked_again(journal: Journal, concurrency: int) -> None:
    """The same candidate on the same rows costs nothing, not even a look at the program; another candidate does."""
    rows = examples(5)
    bench = Bench(journal, Scripted())
    with bench.evaluator(concurrency=concurrency) as evaluator:
        first = evaluator.outcomes(SEED, rows[:3], trial=4)
        second = evaluator.outcomes(SEED, [*rows, rows[4]], trial=5)
        assert second[:3] == first
        assert second[5] == second[4]
        assert len(bench.program.asked) == 5
        evaluator.outcomes(OTHER, rows[:2], trial=6)
    assert len(bench.program.asked) == 7
    spends = journal.spend_of_trials()
    assert {number: spend.calls["task"] for number, spend in spends.items()} == {4: 3, 5: 2, 6: 2}


def test_another_metric_scores_the_kept_replies(journal: Journal) -> None:
    """Outcomes belong to a metric; the replies behind them are not bought again for another one."""
    harsh = from_function(lambda _example, _answer: 0.25, name="harsh")
    bench = Bench(journal, Scripted())
    with bench.evaluator() as evaluator:
        evaluator.outcomes(SEED, examples(3))
    with bench.evaluator(harsh) as evaluator:
        assert [outcome.score for outcome in evaluator.outcomes(SEED, examples(3))] == [0.25] * 3
    assert len(bench.backend.seen) == 3


def test_unreadable_and_refused_replies_count_as_zero_and_are_kept(journal: Journal) -> None:
    """The prompt is to blame for both: value 0, the raw reply and one line that says why, and no second call."""
    filtered = Reply(text="I cannot.", finish_reason="filtered", tokens_in=3, tokens_out=2)
    replies: Mapping[str, str | Reply] = {"0": "0", "1": "???", "2": filtered}
    bench = Bench(journal, Scripted(lambda text: replies[text]))
    with bench.evaluator() as evaluator:
        outcomes = evaluator.outcomes(SEED, examples(3))
        assert evaluator.outcomes(SEED, examples(3)) == outcomes
    assert kinds(outcomes) == ["scored", "unparsed", "refused"]
    assert [outcome.value for outcome in outcomes] == [1.0, 0.0, 0.0]
    assert [outcome.score for outcome in outcomes] == [1.0, None, None]
    assert [outcome.text for outcome in outcomes[1:]] == ["???", "I cannot."]
    assert outcomes[1].error == "no answer in the reply"
    assert len(bench.backend.seen) == 3


def test_failed_calls_have_no_value_and_are_tried_again(journal: Journal) -> None:
    """A call that the infrastructure lost is not kept; the next evaluation asks only for that row."""
    is_broken = True

    def answer(text: str) -> str:
        if is_broken and text == "1":
            raise AttemptError("invalid_request", "bad\nrequest")
        return text

    bench = Bench(journal, Scripted(answer))
    with bench.evaluator() as evaluator:
        outcomes = evaluator.outcomes(SEED, examples(3))
        assert kinds(outcomes) == ["scored", "failed", "scored"]
        assert outcomes[1].value is None
        assert outcomes[1].error == "CallError: scripted: bad request"
        assert bench.kept() == ["e00", "e02"]
        is_broken = False
        assert kinds(evaluator.outcomes(SEED, examples(3))) == ["scored"] * 3
    assert bench.backend.seen == ["0", "1", "2", "1"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda: 1 / 0, "MetricError: metric 'faulty', example 'e01': raised ZeroDivisionError: division by zero"),
        (lambda: float("nan"), "MetricError: metric 'faulty', example 'e01': returned nan"),
        (lambda: None, "MetricError: metric 'faulty', example 'e01': returned None"),
    ],
)
def test_a_broken_metric_fails_the_row_and_never_scores_it(
    journal: Journal, result: Callable[[], object], message: str
) -> None:
    """A metric that raises, or returns no score, leaves the row without a value; mended, it needs no new call."""
    is_broken = True
    metric = from_function(lambda example, _: result() if is_broken and example.id == "e01" else 0.5, name="faulty")
    bench = Bench(journal, Scripted())
    with bench.evaluator(metric) as evaluator:
        outcomes = evaluator.outcomes(SEED, examples(2))
        assert kinds(outcomes) == ["scored", "failed"]
        assert outcomes[1].value is None
        assert (outcomes[1].error or "").startswith(message)
        assert bench.kept(metric) == ["e00"]
        is_broken = False
        assert [outcome.value for outcome in evaluator.outcomes(SEED, examples(2))] == [0.5, 0.5]
    assert bench.backend.seen == ["0", "1"]


def test_a_judge_that_cannot_be_reached_fails_the_row(journal: Journal) -> None:
    """The judge's lost call is infrastructure too: no value, tried again."""

    def unreachable(example: Example, _answer: Fields) -> float:
        raise CallError("timeout", f"no answer for {example.id}")

    metric = from_function(unreachable, name="judged")
    bench = Bench(journal, Scripted())
    with bench.evaluator(metric, concurrency=2) as evaluator:
        outcomes = evaluator.outcomes(SEED, examples(3))
    assert kinds(outcomes) == ["failed"] * 3
    assert bench.kept(metric) == []


def test_a_program_that_raises_fails_the_row_only(journal: Journal) -> None:
    """The user's own code breaking on one row neither scores it nor ends the run."""
    bench = Bench(journal, Scripted(lambda text: "crash" if text == "1" else text))
    with bench.evaluator() as evaluator:
        outcomes = evaluator.outcomes(SEED, examples(3))
    assert kinds(outcomes) == ["scored", "failed", "scored"]
    assert outcomes[1].error == "ProgramError: task.program: ValueError: not a number"
    assert bench.kept() == ["e00", "e02"]


def test_reasoning_is_kept_for_demonstrations_and_hidden_from_metrics(journal: Journal) -> None:
    """The model's own thoughts survive the database and stand in bootstrapped demonstrations."""
    graded: list[Fields] = []

    def metric_of(example: Example, answer: Fields) -> Score:
        graded.append(answer)
        return exact(example, answer)

    metric = from_function(metric_of, name="exact")
    replies = {"0": "It says 0.|0", "1": "Perhaps two.|2", "2": "2"}
    rows = examples(3)
    with Bench(journal, Scripted(replies.__getitem__)).evaluator(metric) as evaluator:
        evaluator.outcomes(SEED, rows)
        outcomes = evaluator.outcomes(SEED, rows)
    assert [dict(outcome.answer) for outcome in outcomes] == [
        {"reasoning": "It says 0.", "answer": "0"},
        {"reasoning": "Perhaps two.", "answer": "2"},
        {"answer": "2"},
    ]
    assert graded == [{"answer": "0"}, {"answer": "2"}, {"answer": "2"}]
    values = np.array([outcome.value for outcome in outcomes], dtype=np.float64)
    assert metric.aggregate(rows, [outcome.answer for outcome in outcomes], values) == pytest.approx(2 / 3)
    candidate = DEMOS.parse("", context_of(rows, outcomes))
    thoughts = {demo.example_id: demo.reasoning for demo in candidate.parts[0].demos}
    assert thoughts == {"e00": "It says 0.", "e02": None}


def context_of(rows: Sequence[Example], outcomes: Sequence[Outcome]) -> Context:
    """What `demos` sees when it is to bootstrap three demonstrations."""
    return Context(
        task=Task(inputs={"text": InputField()}, outputs={"answer": OutputField(kind="text")}),
        recipe=Recipe(operator="demos", demo_pick="bootstrap", n_demos=3, predictor="answer"),
        predictor="answer",
        parent=SEED,
        train=rows,
        attempts=[Attempt(example=row, outcome=outcome) for row, outcome in zip(rows, outcomes, strict=True)],
        rng=np.random.default_rng(0),
    )


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_spent_budget_passes_through_and_what_was_paid_is_kept(journal: Journal, concurrency: int) -> None:
    """With five calls left for twelve rows, five outcomes are kept; with a higher cap the other seven follow."""
    bench = Bench(journal, Scripted(), task=5)
    with bench.evaluator(concurrency=concurrency) as evaluator:
        with pytest.raises(BudgetExhausted, match=r"budget\.task_calls: 5 is used up"):
            evaluator.outcomes(SEED, examples(12))
        assert len(bench.backend.seen) == len(bench.kept()) == bench.n_told == 5
        bench.caps.calls = {"task": 12}
        assert kinds(evaluator.outcomes(SEED, examples(12))) == ["scored"] * 12
    assert sorted(bench.backend.seen, key=int) == [str(i) for i in range(12)]


def test_a_fatal_error_in_one_of_eight_threads_ends_all_and_keeps_the_rest(journal: Journal) -> None:
    """A refused key pauses the run: calls under way end and are kept, one that waits for a retry gives up at once,
    and of twenty rows none beyond the first eight is asked.
    """
    together, is_stopped = threading.Barrier(8, timeout=PATIENCE_S), threading.Event()

    def answer(text: str) -> str:
        together.wait()
        if text == "2":
            raise AttemptError("auth", "wrong key", is_fatal=True)
        if text == "5":
            raise AttemptError("unavailable", "come back later", is_retryable=True, retry_after_s=900)
        assert is_stopped.wait(PATIENCE_S)
        return text

    bench = Bench(journal, Scripted(answer))
    bench.retry = RetryPolicy(retry_for_s=3600.0, wait=until_stopped(is_stopped))
    with bench.evaluator(concurrency=8) as evaluator, pytest.raises(Paused, match="wrong key") as caught:
        evaluator.outcomes(SEED, examples(20))
    assert caught.value.reason == "provider_auth"
    assert sorted(bench.backend.seen) == [str(i) for i in range(8)]
    assert bench.kept() == ["e00", "e01", "e03", "e04", "e06", "e07"]


def test_a_pause_from_elsewhere_stops_the_task_model_too(journal: Journal) -> None:
    """When the judge's key is refused, task calls that wait for a retry end at once and no other begins; every later
    evaluation raises the same pause, although the task model itself is well.
    """
    together, is_stopped = threading.Barrier(8, timeout=PATIENCE_S), threading.Event()

    def answer(text: str) -> str:
        together.wait()
        if text == "5":
            raise AttemptError("unavailable", "come back later", is_retryable=True, retry_after_s=900)
        if text != "2":
            assert is_stopped.wait(PATIENCE_S)
        return text

    def judged(example: Example, answer: Fields) -> Score:
        if example.id == "e02":
            raise Paused("provider_auth", "lm.judge: wrong key")
        return exact(example, answer)

    metric = from_function(judged, name="judged")
    bench = Bench(journal, Scripted(answer))
    bench.retry = RetryPolicy(retry_for_s=3600.0, wait=until_stopped(is_stopped))
    with bench.evaluator(metric, concurrency=8) as evaluator:
        with pytest.raises(Paused, match=r"lm\.judge: wrong key") as first:
            evaluator.outcomes(SEED, examples(20))
        with pytest.raises(Paused, match=r"lm\.judge: wrong key") as second:
            evaluator.outcomes(OTHER, examples(3))
    assert first.value.reason == second.value.reason == "provider_auth"
    assert sorted(bench.backend.seen) == [str(i) for i in range(8)]
    assert bench.kept(metric) == ["e00", "e01", "e03", "e04", "e06", "e07"]


def until_stopped(is_stopped: threading.Event) -> Callable[[threading.Event, float], object]:
    """A wait between two attempts that tells when it was cut short."""

    def wait(stop: threading.Event, delay_s: float) -> None:
        assert delay_s > PATIENCE_S
        assert stop.wait(PATIENCE_S), "nobody told the waiting call to stop"
        is_stopped.set()

    return wait


def test_two_candidates_at_once_pause_for_the_same_reason(journal: Journal) -> None:
    """Threads that race different candidates all report what the first one found, not that they were told to stop."""
    has_begun, is_paused, pauses = threading.Event(), threading.Event(), []

    def answer(text: str) -> str:
        if text == "0":
            has_begun.set()
            assert is_paused.wait(PATIENCE_S)
        return text

    def judged(example: Example, _answer: Fields) -> float:
        if example.id == "e01":
            raise Paused("provider_quota", "lm.judge: no credit")
        return 1.0

    rows, bench = examples(4), Bench(journal, Scripted(answer))
    with bench.evaluator(from_function(judged, name="judged")) as evaluator:

        def slower() -> None:
            with pytest.raises(Paused) as caught:
                evaluator.outcomes(OTHER, [rows[0], rows[2]])
            pauses.append(caught.value.reason)

        thread = threading.Thread(target=slower)
        thread.start()
        assert has_begun.wait(PATIENCE_S)
        with pytest.raises(Paused, match="no credit"):
            evaluator.outcomes(SEED, rows[1:])
        is_paused.set()
        thread.join(PATIENCE_S)
    assert pauses == ["provider_quota"]
    assert sorted(bench.backend.seen) == ["0", "1"]


def test_an_unexpected_error_is_not_swallowed(journal: Journal) -> None:
    """A defect of our own in one of the threads surfaces as it is, and finished outcomes are kept."""
    bench = Bench(journal, Scripted())

    def broken(candidate: Candidate, inputs: Fields, complete: Complete) -> Answer:
        if inputs["text"] == "3":
            raise LookupError("a defect")
        return Echo.run(bench.program, candidate, inputs, complete)

    bench.program.run = broken  # type: ignore[method-assign]
    with bench.evaluator(concurrency=2) as evaluator, pytest.raises(LookupError, match="a defect"):
        evaluator.outcomes(SEED, examples(9))
    assert {"e00", "e01"} <= set(bench.kept())
    assert "e03" not in bench.kept()


def test_metric_errors_are_not_exceptions_of_the_evaluator(journal: Journal) -> None:
    """A `MetricError` that a metric raises itself keeps its words and becomes a failed row."""

    def refuses(_example: Example, _answer: Fields) -> float:
        raise MetricError("the expected value is empty")

    with Bench(journal, Scripted()).evaluator(from_function(refuses, name="strict"), concurrency=2) as evaluator:
        (outcome,) = evaluator.outcomes(SEED, examples(1))
    assert outcome.error == "MetricError: metric 'strict', example 'e00': the expected value is empty"
