"""Takes rows to a batch endpoint and brings their replies back; entered in the database at every step.

    planned     rows are reserved in the ledger, nothing can be running: given back
    uploaded    the file is up, its batch may have begun: looked for by its tag among the endpoint's batches
    created     it runs, and is looked at until it ends
    ended       every row is settled or given back

After a kill each state is gone on with as it says here, by whichever process comes next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from optimizer.budget.caps import Caps
from optimizer.errors import BudgetExhausted, Paused
from optimizer.lm.backend import AttemptError, CallRequest, Reply, tokens_at_most
from optimizer.lm.batch_endpoint import BatchEndpoint, BatchState, is_answer
from optimizer.lm.batch_store import BatchStore, ClosedRow, OpenBatch, PlannedRow
from optimizer.lm.pricing import Pricing
from optimizer.storage.crash_points import crash_point

logger = logging.getLogger(__name__)

MAX_BYTES = 150 * 2**20  # OpenAI takes 200 MB
MAX_DELAY_S = 900.0
AT_ONCE = 100  # rows that are entered in one transaction
NO_ROOM = "no_room"  # kind of the error of rows that came too early: nothing is wrong with them
REASONS = {"auth": "provider_auth", "billing": "provider_quota"}
T = TypeVar("T")


class Wish(NamedTuple):
    """A row that somebody waits for, and the trial that it is entered under."""

    request: CallRequest
    trial: int | None


class AskLive:
    """Found instead of a reply: these rows are too few for a batch, or it is too late for one."""


Found = Reply | AttemptError | BudgetExhausted | AskLive


class Refused(Paused):
    """The endpoint will not do this. `is_billed`: an earlier attempt may have counted."""

    def __init__(self, error: AttemptError, *, is_billed: bool) -> None:
        message = f"lm.task: the batch endpoint refused: {error}; lm.task.mode: live does without it"
        super().__init__(REASONS.get(error.kind, "provider"), message)
        self.is_billed = is_billed


class TooMuch(Exception):
    """The endpoint has as much enqueued as it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a row costs, and what all of them together may."""

    pricing: Pricing
    share: float
    caps: Caps

    def planned(self, key: str, wish: Wish) -> PlannedRow:
        request = wish.request
        tokens_in = tokens_at_most(*(message.content for message in request.messages))
        usd = self.share * self.pricing.usd(tokens_in, request.max_tokens)
        return PlannedRow(key, tokens_in, request.max_tokens, usd, wish.trial)

    def closed(self, key: str, found: Reply | AttemptError) -> ClosedRow:
        if isinstance(found, AttemptError):
            return ClosedRow(key=key, is_billed=found.is_billed)
        usd = self.share * self.pricing.usd(found.tokens_in, found.tokens_out)
        return ClosedRow(key=key, reply=found, usd=usd, is_kept=found.is_valid)


class Carrier:
    """One endpoint, for one thread.

    Args:
        patience_s: how long an endpoint that fails is asked again.
        stop: ends waiting.
        on_found: told what came of rows.
        on_wait: told in one line what is wrong.

    Raises:
        Paused: from every method, when the endpoint refuses or stays away, or the run stops.
    """

    def __init__(
        self,
        endpoint: BatchEndpoint,
        store: BatchStore,
        prices: Prices,
        *,
        poll_s: float,
        patience_s: float,
        stop: threading.Event,
        on_found: Callable[[Mapping[str, Found]], None],
        on_wait: Callable[[str], None],
    ) -> None:
        self._endpoint, self._store, self._prices = endpoint, store, prices
        self._poll_s, self._patience_s, self._stop = poll_s, patience_s, stop
        self._on_found, self._on_wait = on_found, on_wait

    def take_up(self, batches: Iterable[OpenBatch]) -> list[OpenBatch]:
        """Return those batches of processes that are gone which run; those that never began are given back."""
        return [batch for batch in batches if self._store.is_anybodys(batch) and self._runs(batch)]

    def _runs(self, batch: OpenBatch) -> bool:
        is_unknown = False
        if batch.state == "uploaded":
            try:
                found = self._patiently(lambda: self._endpoint.find(batch.tag))
            except Refused:
                found, is_unknown = None, True
                logger.warning(
                    "the endpoint does not list its batches: one of %d rows may be paid twice", len(batch.rows)
                )
            if found is not None:
                self._store.move(batch, "created", batch_id=found)
        if batch.state == "created":
            logger.info("going on with batch %s of %d rows", batch.batch_id, len(batch.rows))
            return True
        self._give_back(batch, AttemptError("unavailable", "the run was cut off", is_billed=is_unknown))
        self._end(batch, ())
        return False

    def send(self, wishes: Mapping[str, Wish]) -> OpenBatch | None:
        """Begin a batch with as many of the rows as one file holds and the caps allow; None if they allow none."""
        lines = self._fitting(wishes)
        batch, refusal = self._store.plan([self._prices.planned(key, wishes[key]) for key in lines], self._prices.caps)
        sent = batch.rows if batch is not None else {}
        if refusal is not None:
            self._on_found(dict.fromkeys([key for key in lines if key not in sent], refusal))
        if batch is None:
            return None
        crash_point("batch-plan")
        try:
            self._begin(batch, [lines[key] for key in sent])
        except Refused as error:
            self._give_back(batch, AttemptError("provider", str(error), is_billed=error.is_billed))
            self._end(batch, ())
            raise
        return batch

    def _fitting(self, wishes: Mapping[str, Wish]) -> dict[str, bytes]:
        lines: dict[str, bytes] = {}
        n_bytes = 0
        for key, wish in wishes.items():
            line = self._endpoint.line(key, wish.request)
            n_bytes += len(line)
            if lines and n_bytes > MAX_BYTES:
                break
            lines[key] = line
        return lines

    def _begin(self, batch: OpenBatch, lines: Sequence[bytes]) -> None:
        file_id = self._patiently(lambda: self._endpoint.upload(batch.tag, lines))
        self._store.move(batch, "uploaded", file_id=file_id)
        crash_point("batch-upload")
        batch_id = self._patiently(
            lambda: self._endpoint.find(batch.tag), once=lambda: self._endpoint.create(batch.tag, file_id)
        )
        crash_point("batch-create")
        self._store.move(batch, "created", batch_id=batch_id or "")
        logger.info("batch %s of %d rows has begun", batch_id, len(batch.rows))

    def look(self, batch: OpenBatch) -> BatchState:
        return self._patiently(lambda: self._endpoint.look(batch.batch_id))

    def cancel(self, batch: OpenBatch) -> None:
        """Ask for the end of a batch; what is done by then comes back as usual."""
        logger.warning("cancelling batch %s", batch.batch_id)
        try:
            self._endpoint.cancel(batch.batch_id)
        except AttemptError as error:  # perhaps it has just ended
            logger.warning("batch %s: %s", batch.batch_id, error)

    def collect(self, batch: OpenBatch, state: BatchState) -> None:
        """Enter every row of a batch that has ended; done twice it changes nothing.

        Raises:
            TooMuch: it was refused because too much is enqueued.
        """
        logger.info("batch %s has ended: %s", batch.batch_id, state.status)
        rows = self._patiently(lambda: list(self._endpoint.results(state.file_ids)))
        found: dict[str, Reply | AttemptError] = {}
        for key, row in sorted(rows, key=_is_error):  # of two rows for one key the reply counts
            if key in batch.rows and key not in found:
                found[key] = self._read(row, batch.rows[key].tokens_in)
        self._close_rows(batch, found)
        failure = self._blame(batch, state) if state.status == "failed" else None
        # Of a row that is nowhere nobody knows whether it was billed, unless the batch did not get to it.
        message, is_billed = f"batch {state.status}", state.status == "completed"
        kind = NO_ROOM if isinstance(failure, TooMuch) else "unavailable"
        self._give_back(batch, AttemptError(kind, message, is_retryable=True, is_billed=is_billed))
        self._end(batch, state.file_ids)
        if failure is not None:
            raise failure

    def _read(self, row: Mapping[str, Any], tokens_in: int) -> Reply | AttemptError:
        try:
            return self._endpoint.reply(row, tokens_in_at_most=tokens_in)
        except AttemptError as error:
            return error

    def _blame(self, batch: OpenBatch, state: BatchState) -> Exception | None:
        """Close the rows for which a batch was refused as a whole, or return what to raise if it was none of them."""
        by_line = {row.line: key for key, row in batch.rows.items()}
        blamed = {by_line[flaw.line]: flaw for flaw in state.flaws if flaw.line in by_line}
        self._close_rows(batch, {key: AttemptError("invalid_request", flaw.message) for key, flaw in blamed.items()})
        if blamed:
            return None
        if any("limit" in flaw.code for flaw in state.flaws):
            return TooMuch()
        said = "; ".join(flaw.message for flaw in state.flaws[:3]) or "no reason given"
        return Refused(AttemptError("provider", said), is_billed=False)

    def _give_back(self, batch: OpenBatch, error: AttemptError) -> None:
        self._close_rows(batch, dict.fromkeys(batch.rows, error))

    def _close_rows(self, batch: OpenBatch, found: Mapping[str, Reply | AttemptError]) -> None:
        for start in range(0, len(keys := list(found)), AT_ONCE):
            if self._stop.is_set():
                raise Paused("user", "the run was told to stop")
            part = {key: found[key] for key in keys[start : start + AT_ONCE]}
            self._store.close_rows(batch, [self._prices.closed(key, each) for key, each in part.items()])
            self._on_found(part)
            crash_point("batch-row")

    def _end(self, batch: OpenBatch, file_ids: Sequence[str]) -> None:
        self._store.move(batch, "ended")
        try:
            self._endpoint.delete([each for each in (batch.file_id, *file_ids) if each])
        except AttemptError as error:  # they go by themselves in a month
            logger.info("files of batch %s could not be deleted: %s", batch.batch_id, error)

    def _patiently(self, call: Callable[[], T], *, once: Callable[[], T] | None = None) -> T:
        """Call until it succeeds. `once` must not be done twice: after a failure `call` looks whether it was done."""
        gives_up_at, delay_s = time.monotonic() + self._patience_s, min(1.0, self._poll_s)
        attempt, n_failures = once or call, 0
        while True:
            try:
                done = attempt()
                if done is not None or once is None:
                    return done
                attempt = once
                continue
            except AttemptError as error:
                if not error.is_retryable:
                    is_billed = once is not None and n_failures > 0
                    raise Refused(error, is_billed=is_billed) from error
                self._wait(error, delay_s, gives_up_at)
            delay_s, attempt, n_failures = min(2 * delay_s, MAX_DELAY_S), call, n_failures + 1

    def _wait(self, error: AttemptError, delay_s: float, gives_up_at: float) -> None:
        if time.monotonic() > gives_up_at:
            raise Paused("provider", f"lm.task: the batch endpoint does not answer: {error}") from error
        wait_s = max(min(error.retry_after_s or 0.0, MAX_DELAY_S), delay_s)
        logger.warning("batch endpoint: %s; trying again in %.0f s", error, wait_s)
        self._on_wait(f"the batch endpoint: {error}; trying again in {wait_s:.0f} s")
        if self._stop.wait(wait_s):
            raise Paused("user", "the run was told to stop")


def _is_error(found: tuple[str, Mapping[str, Any]]) -> bool:
    return not is_answer(found[1])
