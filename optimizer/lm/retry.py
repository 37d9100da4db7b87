"""When a failed call is tried again, and how a request that breaks a model is told from a model that is down."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MAX_DELAY_S = 60.0
MAX_RETRY_AFTER_S = 900.0
MAX_SAME_FAILURES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long a call that fails for a passing reason is tried again.

    Attributes:
        outage_for_s: how long a model that has answered before is waited for while it answers nobody, if longer.
        wait: sleeps for some seconds, or until the event is set.
    """

    retry_for_s: float
    outage_for_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], object] = threading.Event.wait

    def delay_s(self, n_failures: int, retry_after_s: float | None) -> float:
        """Seconds to wait after the n-th failure (from 1): the provider's hint, else doubling; never in step."""
        jitter = random.uniform(0.5, 1.0)
        if retry_after_s is not None:
            return max(jitter, min(retry_after_s, MAX_RETRY_AFTER_S) * (0.95 + 0.1 * jitter))
        return jitter * min(MAX_DELAY_S, 2.0 ** (n_failures - 1))


class Health:
    """What the calls of one model say about each other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_answers = 0
        self.n_cut = 0
        self.failing: set[CallHistory] = set()

    @contextmanager
    def call(self) -> Iterator[CallHistory]:
        """Follow one call from its first attempt to its end."""
        history = CallHistory(self)
        try:
            yield history
        finally:
            with self.lock:
                self.failing.discard(history)


class CallHistory:
    """The failures of one call so far."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._n_answers_seen = self._n_answers_before = health.n_answers
        self._at_fault: Counter[str] = Counter()
        self.failures: list[str] = []

    def failed(self, failure: str) -> None:
        """Note a failure. It is this request's own fault if others were answered meanwhile."""
        health = self._health
        with health.lock:
            if not self.failures:
                self._n_answers_before = health.n_answers
            health.failing.add(self)
            if health.n_answers > self._n_answers_seen:
                self._at_fault[failure] += 1
            self._n_answers_seen = health.n_answers
        self.failures.append(failure)

    def forgive(self) -> None:
        """Forget the failures: the model was away."""
        self.failures.clear()
        self._at_fault.clear()

    def answered(self, *, is_cut: bool = False) -> None:
        """Note a reply; `is_cut`: it ended because it had grown too long."""
        with self._health.lock:
            self._health.n_answers += 1
            self._health.n_cut += is_cut

    @property
    def is_suspect(self) -> bool:
        """Whether this request has failed the same way so often that it may be the reason."""
        return max(Counter(self.failures).values(), default=0) >= MAX_SAME_FAILURES

    @property
    def is_model_down(self) -> bool:
        """Whether no call of this model was answered since this one began to fail."""
        return self._health.n_answers == self._n_answers_before

    @property
    def is_deterministic(self) -> bool:
        """Whether this request fails the same way again and again by its own fault; in an outage it is not."""
        return max(self._at_fault.values(), default=0) >= MAX_SAME_FAILURES
