"""How one role's calls are entered in the ledger: at their worst case before they are sent, at their price after."""

from __future__ import annotations

import threading

from optimizer.budget.caps import Caps
from optimizer.errors import BudgetExhausted
from optimizer.lm.backend import CallRequest, Reply, tokens_at_most
from optimizer.lm.pricing import Pricing
from optimizer.records import Role
from optimizer.storage.journal import Journal


class Account:
    """What one model's calls take from the caps. Thread-safe."""

    def __init__(self, journal: Journal, role: Role, caps: Caps, pricing: Pricing) -> None:
        self._journal = journal
        self._role: Role = role
        self._caps = caps
        self._pricing = pricing

    def enter(
        self, key: str, request: CallRequest, *, looks: bool, trial: int | None, stop: threading.Event
    ) -> Reply | int:
        """Reserve a call and return its id, or the reply that the journal has of it if that should be looked for.

        Where calls under way may still come to less than they are entered with, it waits for them before it gives up.

        Raises:
            BudgetExhausted: a cap would be passed, or might be and the run stops.
        """
        tokens_in = tokens_at_most(*(message.content for message in request.messages))
        reserve = self._journal.find_or_reserve if looks else self._journal.reserve
        tokens, usd = tokens_in + request.max_tokens, self._pricing.usd(tokens_in, request.max_tokens)
        under_way = self._caps.under_way
        while True:
            n_ended = under_way.n_ended
            try:
                entered = reserve(self._role, key, tokens=tokens, usd=usd, caps=self._caps, trial=trial)
            except BudgetExhausted:
                may_come_back = self._caps.tokens is not None or self._caps.usd is not None
                if not (may_come_back and under_way.wait_for_one(n_ended, stop)):
                    raise
                continue
            if isinstance(entered, int):
                under_way.began()
            return entered

    def release(self, call_id: int, *, was_billed: bool) -> None:
        """End a call without a reply."""
        try:
            self._journal.release(call_id, was_billed=was_billed)
        finally:
            self._caps.under_way.ended()

    def settle(self, call_id: int, reply: Reply, *, keep_as: str | None) -> None:
        """Enter what a call took, and its reply under `keep_as` if given; both are durable before what follows."""
        usd = self._pricing.usd(reply.tokens_in, reply.tokens_out)
        try:
            self._journal.settle(call_id, reply, usd=usd, keep_as=keep_as)
        finally:
            self._caps.under_way.ended()
