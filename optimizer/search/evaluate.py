"""One candidate on some examples: bounded concurrency, typed outcomes in input order, nothing done twice."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from optimizer.candidate import Candidate, Example, Fields
from optimizer.errors import BudgetExhausted, CallError, MetricError, Paused, ProgramError
from optimizer.lm.model import Model
from optimizer.machines.crew import LOOK_S, Alone
from optimizer.metrics import Metric, score
from optimizer.privacy.redaction import known_secrets, redact, redacted
from optimizer.prompts.formats import UnreadableReply
from optimizer.prompts.program import Answer, Complete, Program, Refused
from optimizer.records import Outcome
from optimizer.search.ahead import Ahead, Gathering
from optimizer.storage.journal import Journal

MAX_ERROR_CHARS = 500


MEMORY = 0.98  # share of a row's weight that is left after the next one


@dataclass(slots=True)
class Busy:
    """How long scoring takes of late; slow moments are forgotten after about fifty rows.

    Time in which several evaluations run side by side counts once.
    """

    seconds: float = 0.0
    n_rows: float = 0.0
    n_running: int = 0
    new_s: float = 0.0  # busy since the last evaluation ended
    at_s: float = 0.0

    def begin(self, now_s: float) -> None:
        self._advance(now_s)
        self.n_running += 1

    def end(self, now_s: float, *, n_rows: int) -> None:
        """An evaluation has scored some rows, none where it broke."""
        self._advance(now_s)
        self.n_running -= 1
        if n_rows:
            kept = MEMORY**n_rows
            self.seconds, self.n_rows = kept * self.seconds + self.new_s, kept * self.n_rows + n_rows
        if n_rows or not self.n_running:
            self.new_s = 0.0

    def _advance(self, now_s: float) -> None:
        self.new_s += (now_s - self.at_s) if self.n_running else 0.0
        self.at_s = now_s


class Evaluator:
    """Scores candidates with one program, model and metric. Several threads may use it at once.

    Args:
        on_outcome: told after each new outcome, for progress displays.
    """

    def __init__(
        self,
        program: Program,
        model: Model,
        metric: Metric,
        journal: Journal,
        *,
        concurrency: int,
        crew: Alone | None = None,
        on_outcome: Callable[[], None] | None = None,
    ) -> None:
        self._program = program
        self._model = model
        self._metric = metric
        self._journal = journal
        self._crew = crew or Alone()
        self._on_outcome = on_outcome or (lambda: None)
        self._n_threads = model.n_threads(concurrency) if concurrency > 1 else 1
        self._lanes = _lanes(model, self._n_threads)
        self._pause: Paused | None = None
        self._lock = threading.Lock()
        self._busy = Busy()

    @property
    def seconds_per_row(self) -> float | None:
        """Mean wall-clock seconds for one example, several in flight as configured; None before the first."""
        return self._busy.seconds / self._busy.n_rows if self._busy.n_rows else None

    def outcomes(self, candidate: Candidate, examples: Sequence[Example], *, trial: int | None = None) -> list[Outcome]:
        """Return one outcome for each example, in order; those in the journal cost nothing.

        Raises:
            BudgetExhausted: a cap is reached. Calls that were under way have ended, finished outcomes are kept.
            Paused: the model cannot be used. Likewise, and no later call is made: all threads get this same error.
        """
        candidate_id, metric, secrets = candidate.id, self._metric.version, known_secrets()
        kept = self._journal.outcomes(candidate_id, metric)
        missing = {example.id: example for example in examples if example.id not in kept}

        def evaluate(example: Example, complete: Complete) -> Outcome:
            with self._model.billed_to(trial):
                outcome = self._evaluate(candidate, example, complete, secrets)
            self._journal.put_outcome(candidate_id, metric, outcome)
            self._on_outcome()
            return outcome

        def evaluate_all(rows: Sequence[Example]) -> dict[str, Outcome]:
            with self._model.billed_to(trial):
                complete = self._complete(candidate, rows)
            return self._mapped(lambda example: evaluate(example, complete), rows)

        with self._one_pause(), self._timed(len(missing)):
            if self._crew.is_shared:
                kept |= self._shared_out(candidate, missing, evaluate_all)
            else:
                kept |= evaluate_all(list(missing.values()))
        return [kept[example.id] for example in examples]

    @contextmanager
    def _timed(self, n_rows: int) -> Iterator[None]:
        """Enter how long the rows take."""
        n_scored = 0
        with self._lock:
            self._busy.begin(time.monotonic())
        try:
            yield
            n_scored = n_rows
        finally:
            with self._lock:
                self._busy.end(time.monotonic(), n_rows=n_scored)

    def _complete(self, candidate: Candidate, rows: Sequence[Example]) -> Complete:
        """Return what answers the calls of some rows; where replies come in batches, it has them all."""
        if not isinstance(self._model, Gathering) or not rows:
            return self._model.call
        ahead = Ahead(self._model)
        ahead.fetch(self._program, candidate, rows)
        return ahead.complete

    def _shared_out(
        self,
        candidate: Candidate,
        missing: dict[str, Example],
        evaluate: Callable[[Sequence[Example]], dict[str, Outcome]],
    ) -> dict[str, Outcome]:
        """Evaluate what no other worker or thread has in hand, and wait for what they make of the rest."""
        found: dict[str, Outcome] = {}
        while missing:
            mine = self._crew.lease(candidate.id, missing)
            try:
                known = self._journal.outcomes(candidate.id, self._metric.version)
                found |= {example_id: known[example_id] for example_id in missing if example_id in known}
                todo = [example for example in missing.values() if example.id in mine and example.id not in found]
                found |= evaluate(todo)
            finally:
                self._crew.end_lease(candidate.id, mine)
            missing = {example_id: example for example_id, example in missing.items() if example_id not in found}
            if missing:
                self._model.raise_if_stopped()
                time.sleep(LOOK_S)
        return found

    def close(self) -> None:
        """Wait for calls under way and begin no other."""
        for lane in self._lanes:
            lane.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _one_pause(self) -> Iterator[None]:
        """Let the first thread that finds the model unusable stop all others, and all raise what it found."""
        try:
            yield
        except BudgetExhausted:
            raise  # the final test may still use what is kept back for it
        except Paused as pause:
            with self._lock:
                self._pause = self._pause or pause
            self._model.stop()
            raise self._pause from None

    def _mapped(self, evaluate: Callable[[Example], Outcome], examples: Sequence[Example]) -> dict[str, Outcome]:
        """Evaluate in parallel and return outcomes by example id; they are durable, also when an error is raised."""
        try:
            return {outcome.example_id: outcome for outcome in self._map(evaluate, examples)}
        finally:
            self._journal.flush()

    def _map(self, evaluate: Callable[[Example], Outcome], examples: Sequence[Example]) -> list[Outcome]:
        """Evaluate in parallel. After an error nothing new begins; the first one is raised once the rest has ended."""
        if not self._lanes:
            return [evaluate(example) for example in examples]
        errors: list[BaseException] = []

        def work(share: Iterator[Example]) -> list[Outcome]:
            outcomes = []
            for example in share:
                if errors:
                    break
                try:
                    outcomes.append(evaluate(example))
                except BaseException as error:
                    errors.append(error)
                    raise
            return outcomes

        futures = [lane.submit(work, share) for lane, share in self._shares(examples)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException as error:  # the user's Ctrl-C reaches this thread only
            errors.append(error)
            raise
        if errors:
            if not isinstance(errors[0], BudgetExhausted):
                self._model.stop()  # calls that wait to be tried again end at once
            wait(futures)
            raise errors[0]
        return [outcome for future in futures for outcome in future.result()]

    def _shares(self, examples: Sequence[Example]) -> Iterator[tuple[ThreadPoolExecutor, Iterator[Example]]]:
        """Yield who evaluates what: each lane its own examples, or the threads of one pool whatever comes next."""
        if len(self._lanes) > 1:
            for i, lane in enumerate(self._lanes):
                yield lane, iter(examples[i :: len(self._lanes)])
            return
        queue: SimpleQueue[Example] = SimpleQueue()
        for example in examples:
            queue.put(example)
        for _ in range(min(self._n_threads, len(examples))):
            yield self._lanes[0], _drained(queue)

    def _evaluate(self, candidate: Candidate, example: Example, complete: Complete, secrets: Sequence[str]) -> Outcome:
        try:
            answer = self._program.run(candidate, example.inputs, complete)
            return self._scored(example, answer, secrets)
        except UnreadableReply as error:
            reason, text = (*map(str, error.args), "", "")[:2]
            return Outcome(example_id=example.id, kind="unparsed", text=text, error=_one_line(reason))
        except Refused as error:
            return Outcome(example_id=example.id, kind="refused", text=str(error), error="the model declined")
        except (CallError, MetricError, ProgramError) as error:
            return Outcome(example_id=example.id, kind="failed", error=_one_line(f"{type(error).__name__}: {error}"))

    def _scored(self, example: Example, answer: Answer, secrets: Sequence[str]) -> Outcome:
        result = score(self._metric, example, answer.fields)
        return Outcome(
            example_id=example.id,
            kind="scored",
            score=result.value,
            answer=_with_reasoning(answer),
            text=answer.text,
            feedback=None if result.feedback is None else redacted(result.feedback, secrets),
        )


def _with_reasoning(answer: Answer) -> Fields:
    """Return the answer as it is kept: bootstrapped demonstrations need the reasoning, metrics never see it."""
    return answer.fields if answer.reasoning is None else {"reasoning": answer.reasoning, **answer.fields}


def _one_line(text: str) -> str:
    return redact(" ".join(text.split()))[:MAX_ERROR_CHARS]


def _drained(queue: SimpleQueue[Example]) -> Iterator[Example]:
    """Yield what is left of a queue that several threads share."""
    with contextlib.suppress(Empty):
        while True:
            yield queue.get_nowait()


def _lanes(model: Model, n_threads: int) -> list[ThreadPoolExecutor]:
    """Return a thread for each engine of a local model, else one pool; nothing when calls are made one at a time.

    Examples are dealt to lanes in turn, so each engine sees the same calls in the same order in every run. What it has
    in its cache moves the last digits of its probabilities, and with them, rarely, an answer.
    """
    backend = model.backend
    if backend.n_lanes > 1:
        return [
            ThreadPoolExecutor(1, thread_name_prefix=f"evaluate-{i}", initializer=backend.use_lane, initargs=(i,))
            for i in range(backend.n_lanes)
        ]
    return [ThreadPoolExecutor(n_threads, thread_name_prefix="evaluate")] if n_threads > 1 else []
