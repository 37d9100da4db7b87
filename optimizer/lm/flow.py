"""How many calls a model gets at once: fewer while it limits the rate, none but a probe while it is away.

To enter a call and its reply in the ledger takes milliseconds of disk. A few more calls than may be in flight are let
in, so that the next one is entered when a place becomes free: the model does not wait for the disk.

Additive increase, multiplicative decrease, as in congestion control; one cut for each episode of rate limits, because
all calls in flight hear of the same one. Source: Chiu and Jain (1989), doi:10.1016/0169-7552(89)90019-6.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from optimizer.lm.backend import AttemptError

CUT = 0.5  # of the calls in flight are left after a rate limit
EPISODE_S = 15.0  # rate limits that arrive within this time are the same one
OPEN_AFTER = 5  # failures without any reply between them: the model is away
LIMITED = "rate_limit"
AWAY = ("server", "transport", "timeout", "unavailable", "unexpected")


def ahead(limit: float) -> int:
    """How many calls are entered ahead of those that may be in flight."""
    return int(limit) // 4


class Room:
    """A place for so many calls at once; the others wait. Shares its lock with what decides how many that are."""

    def __init__(self, lock: threading.RLock, has_room: Callable[[int], bool]) -> None:
        self.changed = threading.Condition(lock)
        self._has_room = has_room
        self.n_inside = 0

    @contextmanager
    def one_more(self, stop: threading.Event) -> Iterator[None]:
        """Wait until there is room, or until the run stops; it is taken until the end of the block."""
        with self.changed:
            self.changed.wait_for(lambda: stop.is_set() or self._has_room(self.n_inside))
            self.n_inside += 1
        try:
            yield
        finally:
            with self.changed:
                self.n_inside -= 1
                self.changed.notify()


class Flow:
    """The calls of one model. Safe to use from all threads.

    Args:
        max_in_flight: most calls at once; None for models in this process.
    """

    def __init__(self, max_in_flight: int | None, clock: Callable[[], float]) -> None:
        self._max = max_in_flight
        self._clock = clock
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._door, self._slots = Room(lock, self._may_enter), Room(lock, self._may_be_sent)
        self._limit = float(max_in_flight or 0)
        self._episode_ends_at = float("-inf")
        self._n_failed_in_row = 0
        self._failing_since = 0.0  # when the first of that row failed
        self._away_since: float | None = None
        self.probing = threading.Lock()  # held by the one call that looks whether the model is back

    @property
    def limit(self) -> int | None:
        """Calls that may be in flight now; None without a limit."""
        return None if self._max is None else max(1, int(self._limit))

    @property
    def away_since(self) -> float | None:
        """When the first call failed that found the model away; None while it answers."""
        return self._away_since

    def let_in(self, stop: threading.Event) -> AbstractContextManager[None]:
        """Wait until one more call may be entered, or until the run stops; it is in until its reply is there."""
        return self._door.one_more(stop)

    def slot(self, stop: threading.Event) -> AbstractContextManager[None]:
        """Wait until one more call may be in flight, or until the run stops."""
        return self._slots.one_more(stop)

    def answered(self) -> None:
        """Note a reply: the model is there, and may take a little more."""
        with self._changed:
            self._n_failed_in_row = 0
            if self._away_since is not None:
                self._away_since = None
                self.wake()
            if self._max is not None and self._limit < self._max and self._clock() >= self._episode_ends_at:
                self._limit = min(self._max, self._limit + 1 / max(1.0, self._limit))
                self._door.changed.notify()
                self._slots.changed.notify()

    def failed(self, error: AttemptError, *, is_suspect: bool) -> None:
        """Note a failure: a rate limit cuts, once an episode; a row of others means that the model may be away.

        Args:
            is_suspect: this request alone has failed so often that it is time to look.
        """
        with self._changed:
            if error.kind == LIMITED:
                self._n_failed_in_row = 0  # it answers
                self._cut(error.retry_after_s or 0.0)
            elif error.kind in AWAY:
                if not self._n_failed_in_row:
                    self._failing_since = self._clock()
                self._n_failed_in_row += 1
                if (is_suspect or self._n_failed_in_row >= OPEN_AFTER) and self._away_since is None:
                    self._away_since = self._failing_since

    def wait_while_away(self, stop: threading.Event) -> None:
        """Wait until another call's probe was answered, or nobody probes, or the run stops."""
        with self._changed:
            self._changed.wait_for(lambda: stop.is_set() or self._away_since is None or not self.probing.locked())

    def wake(self) -> None:
        """Let all that wait here look again."""
        with self._changed:
            for condition in (self._changed, self._door.changed, self._slots.changed):
                condition.notify_all()

    def _may_enter(self, n_inside: int) -> bool:
        return self.limit is None or n_inside < self.limit + ahead(self._limit)

    def _may_be_sent(self, n_inside: int) -> bool:
        return self.limit is None or n_inside < self.limit

    def _cut(self, retry_after_s: float) -> None:
        now = self._clock()
        if now >= self._episode_ends_at:
            self._limit = max(1.0, CUT * min(self._limit, max(1, self._slots.n_inside)))
        self._episode_ends_at = max(self._episode_ends_at, now + max(EPISODE_S, min(retry_after_s, 900.0)))
