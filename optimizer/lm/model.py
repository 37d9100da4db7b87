"""A model as the rest of the program sees it: journalled, metered, retried, within budget.

For every backend the same order: look into the journal, reserve, attempt, settle. Retries live here and nowhere else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optimizer.budget.caps import Caps
from optimizer.candidate import content_hash
from optimizer.errors import BudgetExhausted, CallError, ConfigError, Paused
from optimizer.lm.account import Account
from optimizer.lm.backend import MAX_REPLY_CHARS, AttemptError, Backend, CallRequest, Reply
from optimizer.lm.flow import AWAY, Flow, ahead
from optimizer.lm.pricing import Pricing, require_prices
from optimizer.lm.retry import CallHistory, Health, RetryPolicy
from optimizer.prompts.spec import Message
from optimizer.records import Role
from optimizer.storage.crash_points import crash_point
from optimizer.storage.journal import Journal
from optimizer.words import tries

__all__ = ["Model", "Pricing", "RetryPolicy", "require_prices"]

PROBE = CallRequest(messages=(Message("user", "Answer with the word: ready"),), max_tokens=16)

logger = logging.getLogger(__name__)

PAUSE_REASONS = {"auth": "provider_auth", "billing": "provider_quota"}
GRACE_S = 15.0  # for replies that are on their way when the run stops
WHOLE_MODEL = ("rate_limit", "unavailable")  # failures that say nothing about the request


class Model:
    """One role's model.

    Args:
        max_in_flight: most calls at once; fewer are made while the provider limits the rate.
        on_wait: told in one line why a call waits, and an empty line when it goes on.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        role: Role,
        journal: Journal,
        caps: Caps,
        pricing: Pricing,
        retry: RetryPolicy,
        max_in_flight: int | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.backend = backend
        self.role: Role = role
        self._account = Account(journal, role, caps, pricing)
        self._retry = retry
        self._on_wait = on_wait or (lambda _: None)
        self.health = Health()
        self._flow = Flow(max_in_flight, retry.clock)
        self._stop = threading.Event()
        self._stopped_by = ("user", "the run was told to stop")
        self._local = threading.local()
        self._sent_at: dict[int, float] = {}

    @contextmanager
    def billed_to(self, trial: int | None) -> Iterator[None]:
        """Enter the calls of this thread under a trial in the ledger."""
        before = getattr(self._local, "trial", None)
        self._local.trial = trial
        try:
            yield
        finally:
            self._local.trial = before

    def key(self, request: CallRequest) -> str:
        """Name of this call in the journal: everything that the reply depends on."""
        return content_hash({"backend": self.backend.identity, "request": request.to_json()})

    def call(self, request: CallRequest) -> Reply:
        """Return the reply, from the journal if it is there.

        Raises:
            CallError: this call failed for good.
            BudgetExhausted: a cap would be passed.
            Paused: the model cannot be used until a person acts or it is back, or the run is stopping.
        """
        return self._attempt_until_settled(self.key(request), request)

    def n_threads(self, concurrency: int) -> int:
        """Threads that keep so many calls in flight, while others enter calls and replies in the journal."""
        return concurrency if self._flow.limit is None else concurrency + 2 * ahead(concurrency)

    def in_flight_s(self) -> list[float]:
        """Seconds for which each call has waited for its reply."""
        now = time.monotonic()
        return [now - sent_at for sent_at in list(self._sent_at.values())]

    def stop(self) -> None:
        """Make waiting and coming calls raise `Paused`; those under way get a few seconds to end."""
        self._stop.set()
        self._flow.wake()
        if self._sent_at:
            self.backend.abandon(GRACE_S)

    def _attempt_until_settled(self, key: str, request: CallRequest) -> Reply:
        deadline = self._retry.clock() + self._retry.retry_for_s
        was_odd = False
        with self.health.call() as history:
            while True:
                if self._flow.away_since is not None:
                    self._sit_out(history)
                    deadline = self._retry.clock() + self._retry.retry_for_s
                try:
                    reply = self._noted_attempt(key, request, history)
                except AttemptError as error:
                    self._give_up_or_wait(error, history, deadline)
                    continue
                if reply is None:
                    continue
                if reply.is_usable or self.backend.is_local or was_odd:
                    return self._of_fair_size(reply)
                was_odd = True  # empty, declined or endless: hosted models do that now and then, so once more

    def _noted_attempt(self, key: str, request: CallRequest, history: CallHistory) -> Reply | None:
        """Make one attempt in its turn; None when the model went away before that came."""
        try:
            with self._flow.let_in(self._stop):
                self.raise_if_stopped()
                entered = self._enter(key, request, looks=True)
                if isinstance(entered, Reply):
                    return entered
                with self._flow.slot(self._stop):
                    if self._stop.is_set() or self._flow.away_since is not None:
                        self._account.release(entered, was_billed=False)
                        self.raise_if_stopped()
                        return None
                    reply = self._send(entered, request)
        except AttemptError as error:
            history.failed(f"{error.kind}: {error}")
            self._flow.failed(error, is_suspect=history.is_suspect)
            raise
        self._flow.answered()
        history.answered(is_cut=reply.finish_reason == "length")
        return self._settled(entered, key, reply)

    def _sit_out(self, history: CallHistory) -> None:
        """Wait until the model is back. One call looks after it; the others cost the provider nothing.

        Raises:
            CallError: the model answers at once, so the request that failed five times is to blame.
            Paused: the model stays away.
        """
        if not self._flow.probing.acquire(blocking=False):
            self._flow.wait_while_away(self._stop)
            self.raise_if_stopped()
            history.forgive()
            return
        try:
            self._probe_until_back(history)
        finally:
            self._flow.probing.release()
            self._flow.wake()

    def _probe_until_back(self, history: CallHistory) -> None:
        n_probes, last = 0, history.failures[-1] if history.failures else "no reply"
        while (since := self._flow.away_since) is not None:
            self.raise_if_stopped()
            failure = self._probe()
            if failure is None:
                self._flow.answered()
                history.answered()
                if n_probes == 0 and history.is_suspect:  # a moment ago it failed, and another request does not
                    kind, _, message = last.partition(": ")
                    raise CallError(kind, f"{self.backend.identity}: {message}")
                history.forgive()
                return
            n_probes, last = n_probes + 1, failure
            patience_s = self._retry.retry_for_s
            if self.health.n_answers:
                patience_s = max(patience_s, self._retry.outage_for_s)
            delay_s = self._retry.delay_s(n_probes, None)
            if self._retry.clock() + delay_s > since + patience_s:
                raise self._paused("provider", f"gave up after {tries(n_probes)}: {last.partition(': ')[2]}")
            self._wait(delay_s, f"no call is answered ({last})")

    def _probe(self) -> str | None:
        """Ask for a word. Return None if the model is there, else what went wrong."""
        try:
            call_id = self._enter(self.key(PROBE), PROBE, looks=False)
            assert isinstance(call_id, int)
            self._settled(call_id, None, self._send(call_id, PROBE))
        except AttemptError as error:
            if error.is_fatal:
                raise self._paused(PAUSE_REASONS.get(error.kind, "provider"), str(error)) from error
            return f"{error.kind}: {error}" if error.kind in AWAY else None
        except (CallError, BudgetExhausted):
            return None  # it spoke, or nobody may ask: then the calls themselves find out
        return None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let no call of this thread wait for others: somebody looks on."""
        yield

    def hurry(self) -> None:
        """The search is over; what is asked from now on is for the verdict, which must stand in time."""

    def final_s(self) -> float | None:
        """Seconds that finalists and final test are expected to take, None where single calls tell."""
        return None

    def close(self) -> None:
        """Stop, and wait for what works in the background."""
        self.stop()

    def paused_by(self, error: AttemptError) -> Paused:
        """Let no other call of this model try either, and return what to raise."""
        return self._paused(PAUSE_REASONS.get(error.kind, "provider"), str(error))

    def raise_if_stopped(self) -> None:
        """Raise `Paused` once the run is told to stop."""
        if self._stop.is_set():
            raise Paused(*self._stopped_by)

    def _enter(self, key: str, request: CallRequest, *, looks: bool) -> Reply | int:
        trial = getattr(self._local, "trial", None)
        try:
            return self._account.enter(key, request, looks=looks, trial=trial, stop=self._stop)
        except BudgetExhausted:
            self.raise_if_stopped()
            raise

    def _send(self, call_id: int, request: CallRequest) -> Reply:
        crash_point("reserve")
        self._sent_at[call_id] = time.monotonic()
        try:
            return self.backend.complete(request)
        except AttemptError as error:
            self._account.release(call_id, was_billed=error.is_billed)
            raise
        finally:
            del self._sent_at[call_id]

    def _settled(self, call_id: int, key: str | None, reply: Reply) -> Reply:
        """Enter what a call took, and its reply under `key` if that is given."""
        crash_point("reply")
        self._account.settle(call_id, reply, keep_as=key if reply.is_valid else None)
        crash_point("commit")
        return reply

    def _of_fair_size(self, reply: Reply) -> Reply:
        if len(reply.text) > MAX_REPLY_CHARS:
            raise CallError("unexpected", f"{self.backend.identity}: a reply of {len(reply.text)} characters")
        return reply

    def _give_up_or_wait(self, error: AttemptError, history: CallHistory, deadline: float) -> None:
        if error.kind == "not_configured":
            raise ConfigError(f"lm.{self.role}: {self.backend.identity}: {error}") from error
        if error.is_fatal:
            raise self._paused(PAUSE_REASONS.get(error.kind, "provider"), str(error)) from error
        if not error.is_retryable or (error.kind not in WHOLE_MODEL and history.is_deterministic):
            raise CallError(error.kind, f"{self.backend.identity}: {error}") from error
        if self._flow.away_since is not None:
            return  # waited for with all others
        delay_s = self._retry.delay_s(len(history.failures), error.retry_after_s)
        if self._retry.clock() + delay_s > deadline:
            message = f"gave up after {tries(len(history.failures))}: {error}"
            if history.is_model_down:
                raise self._paused("provider", message) from error
            raise CallError(error.kind, f"{self.backend.identity}: {message}") from error
        self._wait(delay_s, history.failures[-1])

    def _wait(self, delay_s: float, failure: str) -> None:
        logger.warning("%s: %s; trying again in %.1f s", self.backend.identity, failure, delay_s)
        self._on_wait(f"{self.backend.identity}: {failure}; trying again in {delay_s:.0f} s")
        self._retry.wait(self._stop, delay_s)
        self._on_wait("")

    def _paused(self, reason: str, message: str) -> Paused:
        """Let no other call of this model try either: all would fail alike."""
        self._stopped_by = (reason, f"lm.{self.role}: {self.backend.identity}: {message}")
        self._stop.set()
        self._flow.wake()
        return Paused(*self._stopped_by)
