"""Gathers rows for a batch endpoint, and watches what is under way there, in one thread of its own.

Rows of all candidates that are in flight are gathered until none has come for a while, and go up together. How they go
up and come back is in `optimizer.lm.batch_carrier`; whether a row is asked again in `optimizer.lm.batch_model`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optimizer.errors import BudgetExhausted
from optimizer.lm.backend import Reply
from optimizer.lm.batch_carrier import AskLive, Carrier, Found, Prices, TooMuch, Wish
from optimizer.lm.batch_endpoint import BatchEndpoint, BatchState
from optimizer.lm.batch_store import BatchStore, OpenBatch
from optimizer.words import count, duration

TICK_S = 0.5
MAX_REST_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When a batch goes up, and how often it is looked at.

    Attributes:
        gather_s: a batch goes up when no further row has come for so long.
        least: fewer rows than this are not worth a batch.
        patience_s: how long an endpoint that fails is asked again.
        cancels: end what is under way when the run stops.
    """

    gather_s: float
    poll_s: float
    least: int
    max_rows: int
    patience_s: float
    cancels: bool


class Clerk:
    """`ask` may be called from any thread.

    Args:
        stop: ends the thread; what is under way at the endpoint stays there, unless the terms say otherwise.
        on_wait: told in one line what is waited for, and an empty line when nothing is.
        known: returns a reply that is here already and good enough.
        late: None while there is time for batches; else what rows that are still wanted get instead.
    """

    def __init__(
        self,
        endpoint: BatchEndpoint,
        store: BatchStore,
        prices: Prices,
        terms: Terms,
        *,
        stop: threading.Event,
        on_wait: Callable[[str], None],
        late: Callable[[], AskLive | BudgetExhausted | None],
        known: Callable[[str], Reply | None],
    ) -> None:
        self._store, self._known, self._terms, self._stop = store, known, terms, stop
        self._on_wait, self._late = on_wait, late
        self._carrier = Carrier(
            endpoint,
            store,
            prices,
            poll_s=terms.poll_s,
            patience_s=terms.patience_s,
            stop=stop,
            on_found=self._hand_out,
            on_wait=self._say,
        )
        self._changed = threading.Condition()
        self._wishes: dict[str, Wish] = {}
        self._waiting: Counter[str] = Counter()  # how many wait for a row
        self._found: dict[str, Found] = {}  # of rows that somebody waits for
        self._open: dict[int, OpenBatch] = {}
        self._states: dict[int, BatchState] = {}
        self._cancelled: set[int] = set()
        self._error: BaseException | None = None
        self._last_wish_at = self._look_at = self._rests_until = 0.0
        self._max_rows, self._told = terms.max_rows, ""
        self._thread: threading.Thread | None = None
        self.rounds_s: list[float] = []  # how long each batch took

    def ask(self, wishes: Mapping[str, Wish]) -> dict[str, Found]:
        """Wait for rows, and return what came of them; nothing for some when the run stops meanwhile.

        Raises:
            Paused: the endpoint cannot be used. What is under way is gone on with later.
        """
        with self._changed:
            self._start()
            self._waiting.update(wishes.keys())
            under_way = {key for batch in self._open.values() for key in list(batch.rows)}
            self._wishes |= {key: wish for key, wish in wishes.items() if key not in under_way | self._wishes.keys()}
            self._last_wish_at = time.monotonic()
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._is_over() or self._found.keys() >= wishes.keys())
                if self._error is not None:
                    raise self._error
                return {key: self._found[key] for key in wishes if key in self._found}
            finally:
                self._leave(wishes)

    def _is_over(self) -> bool:
        return self._error is not None or self._stop.is_set()

    def _leave(self, wishes: Mapping[str, Wish]) -> None:
        for key in wishes:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                self._found.pop(key, None)
                self._wishes.pop(key, None)

    def wake(self) -> None:
        """Let all that wait look again whether the run stops."""
        with self._changed:
            self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Wait for the thread to end, after `stop` is set."""
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout_s)

    # -- the thread -----------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            self._watch(self._carrier.take_up(self._store.open_batches()))
            while not self._stop.is_set():
                self._mind_the_time()
                self._send_wishes()
                self._look()
                self._tell()
                with self._changed:
                    self._changed.notify_all()
                    self._changed.wait(min(TICK_S, self._terms.gather_s, self._terms.poll_s))
        except BaseException as error:  # border: a thread's; raised again in those that wait
            with self._changed:
                self._error = error
                self._changed.notify_all()
        if self._terms.cancels:
            for batch in self._open.values():
                self._carrier.cancel(batch)

    def _watch(self, batches: list[OpenBatch]) -> None:
        with self._changed:
            for batch in batches:
                self._open[batch.id] = batch
                for key in batch.rows:
                    self._wishes.pop(key, None)

    def _send_wishes(self) -> None:
        now = time.monotonic()
        with self._changed:
            is_due = len(self._wishes) >= self._max_rows or now >= self._last_wish_at + self._terms.gather_s
            if not self._wishes or not is_due or now < self._rests_until:
                return
            keys = set(self._wishes)
        new = [batch for batch in self._store.open_batches(keys) if batch.id not in self._open]
        self._watch(taken := self._carrier.take_up(new))  # of workers that have died meanwhile
        others = {key for batch in new if batch not in taken and batch.state != "ended" for key in batch.rows}
        self._hand_out({key: reply for key in keys if (reply := self._known(key)) is not None})
        with self._changed:
            wishes = {key: wish for key, wish in self._wishes.items() if key not in others}
        wishes = dict(list(wishes.items())[: self._max_rows])
        late = self._late()
        if not wishes:
            return
        if late is not None or len(wishes) < self._terms.least:
            self._hand_out(dict.fromkeys(wishes, late or AskLive()))
        elif (batch := self._carrier.send(wishes)) is not None:
            self._watch([batch])
            self._look_at = time.monotonic() + self._terms.poll_s

    def _look(self) -> None:
        if time.monotonic() < self._look_at:
            return
        for batch in list(self._open.values()):
            state = self._states[batch.id] = self._carrier.look(batch)
            if state.has_ended:
                self._collect(batch, state)
        self._look_at = time.monotonic() + self._terms.poll_s

    def _collect(self, batch: OpenBatch, state: BatchState) -> None:
        n_rows = len(batch.rows)
        try:
            self._carrier.collect(batch, state)
            self.rounds_s.append(max(0.0, time.time() - batch.at))
        except TooMuch:  # less, and later
            self._max_rows = max(self._terms.least, n_rows // 2)
            self._rests_until = time.monotonic() + min(MAX_REST_S, 2 * self._terms.poll_s)
        with self._changed:
            self._open.pop(batch.id)
            self._states.pop(batch.id)

    def _hand_out(self, found: Mapping[str, Found]) -> None:
        with self._changed:
            for key, each in found.items():
                self._wishes.pop(key, None)
                if key in self._waiting:
                    self._found[key] = each

    def _mind_the_time(self) -> None:
        """End what is under way when there is no time left to wait for it."""
        if self._late() is None:
            return
        for batch in self._open.values():
            if batch.id not in self._cancelled:
                self._cancelled.add(batch.id)
                self._carrier.cancel(batch)

    # -- words ----------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Say what is waited for, again when a tenth more of it is there."""
        if not self._open:
            return self._say("")
        states = [self._states[number] for number in self._open if number in self._states]
        n_rows = sum(len(batch.rows) for batch in self._open.values())
        first = next(iter(self._open.values()))
        which = f"batch {first.batch_id}" if len(self._open) == 1 else f"{len(self._open)} batches"
        tenths = 10 * sum(state.n_done for state in states) // max(1, n_rows)
        status = ", ".join(sorted({state.status for state in states})) or "begun"
        share = f"{10 * tenths}% of {count(n_rows)} rows answered"
        self._say(f"{which}: {status}, {share}; looked at every {duration(self._terms.poll_s)}")

    def _say(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._on_wait(line)
