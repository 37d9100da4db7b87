"""The task model in batches: what a block will ask goes up together, at a lower price, and is back within a day.

Rows that are not worth a batch (`least`), that a person waits for (`at_once`) or that there is no time left for go
live, at the full price.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from optimizer.budget.caps import Caps
from optimizer.config.batch import Batch
from optimizer.errors import BudgetExhausted, CallError, OutOfTime
from optimizer.lm.backend import AttemptError, Backend, CallRequest, Reply
from optimizer.lm.batch import Clerk, Terms
from optimizer.lm.batch_carrier import NO_ROOM, AskLive, Found, Prices, Wish
from optimizer.lm.batch_endpoint import BatchEndpoint
from optimizer.lm.batch_store import BatchStore
from optimizer.lm.model import Model
from optimizer.lm.pricing import Pricing
from optimizer.lm.retry import RetryPolicy
from optimizer.storage.journal import Journal

MAX_TRIES = 3  # of a row that comes back with a passing error
LIVE_S = 900.0  # before a deadline, kept for a cancelled batch to come back and what is missing to be asked live
CLOSE_S = 20.0


class BatchModel(Model):
    """Like `Model`, and `fetch` gets many replies at once; `call` finds them, and asks live what was not fetched.

    Args:
        left_s: seconds until the verdict must stand, None without such a time.
    """

    def __init__(
        self,
        backend: Backend,
        endpoint: BatchEndpoint,
        *,
        journal: Journal,
        caps: Caps,
        pricing: Pricing,
        retry: RetryPolicy,
        max_in_flight: int | None,
        on_wait: Callable[[str], None],
        settings: Batch,
        left_s: Callable[[], float | None],
    ) -> None:
        super().__init__(
            backend,
            role="task",
            journal=journal,
            caps=caps,
            pricing=pricing,
            retry=retry,
            max_in_flight=max_in_flight,
            on_wait=on_wait,
        )
        self._journal = journal
        self._endpoint, self._left_s, self._is_final = endpoint, left_s, False
        at_first_s = left_s()
        self._most_kept_s = float("inf") if at_first_s is None else at_first_s / 2
        self._store = store = BatchStore(journal)
        self._clerk = Clerk(
            endpoint,
            store,
            Prices(pricing=pricing, share=settings.price, caps=caps),
            Terms(
                gather_s=settings.gather,
                poll_s=settings.poll,
                least=settings.least,
                max_rows=settings.max_rows,
                patience_s=max(retry.retry_for_s, retry.outage_for_s),
                cancels=settings.on_stop == "cancel",
            ),
            stop=self._stop,
            on_wait=on_wait,
            late=self._late,
            known=self._good,
        )

    @contextmanager
    def at_once(self) -> Iterator[None]:
        before = getattr(self._local, "is_live", False)
        self._local.is_live = True
        try:
            yield
        finally:
            self._local.is_live = before

    def known(self, key: str) -> Reply | None:
        """Return a reply that is here, however good it is."""
        return self._journal.find_reply(key) or self._store.reply(key)

    def _good(self, key: str) -> Reply | None:
        found = self.known(key)
        return found if found is not None and found.is_usable else None

    def fetch(self, requests: Mapping[str, CallRequest]) -> dict[str, Reply | CallError | None]:
        """Return what came of requests by key; None for those that are to be asked one by one.

        Raises:
            BudgetExhausted: not one more of them fits under the caps. The others are kept.
            Paused: as `call`.
        """
        if getattr(self._local, "is_live", False):
            return dict.fromkeys(requests)
        trial, left = getattr(self._local, "trial", None), dict(requests)
        done: dict[str, Reply | CallError | None] = {}
        n_tries: Counter[str] = Counter()
        while left:
            self.raise_if_stopped()
            found = self._clerk.ask({key: Wish(request, trial) for key, request in left.items()})
            refused = [each for each in found.values() if isinstance(each, BudgetExhausted)]
            if refused and len(refused) == len(found):
                raise refused[0]
            n_tries.update(key for key, each in found.items() if getattr(each, "kind", "") != NO_ROOM)
            done |= {key: self._final(each) for key, each in found.items() if self._is_final_word(each, n_tries[key])}
            left = {key: request for key, request in left.items() if key not in done}
        return done

    def _is_final_word(self, found: Found, n_tries: int) -> bool:
        """Return whether a row is left at what came of it."""
        if isinstance(found, AttemptError):
            if found.is_fatal:
                raise self.paused_by(found)
            return not found.is_retryable or n_tries >= MAX_TRIES
        if isinstance(found, Reply):
            return found.is_usable or n_tries > 1  # hosted models are odd now and then, so once more
        return isinstance(found, AskLive)

    def _final(self, found: Found) -> Reply | CallError | None:
        if isinstance(found, AttemptError):
            return CallError(found.kind, f"{self.backend.identity}: {found}")
        return found if isinstance(found, Reply) else None

    def hurry(self) -> None:
        self._is_final = True

    def final_s(self) -> float | None:
        """Seconds that finalists and final test are expected to take: a round each."""
        rounds = self._clerk.rounds_s
        return 2 * sum(rounds) / len(rounds) if rounds else 0.0

    def _late(self) -> AskLive | BudgetExhausted | None:
        left_s = self._left_s()
        if left_s is None:
            return None
        if self._is_final:
            return AskLive() if left_s < min(LIVE_S, self._most_kept_s / 2) else None
        if left_s < min(self._most_kept_s, (self.final_s() or 0.0) + LIVE_S):
            return OutOfTime("budget: what is left of the time is kept for the final test")
        return None

    def stop(self) -> None:
        super().stop()
        self._clerk.wake()

    def close(self) -> None:
        self.stop()
        self._clerk.close(CLOSE_S)
        self._endpoint.close()
