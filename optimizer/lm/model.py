"""A model as the rest of the program sees it: journalled, metered, retried, within budget.

For every backend the same order: look into the journal, reserve, attempt, settle. Retries live here and nowhere else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from optimizer.candidate import content_hash
from optimizer.config import LM
from optimizer.errors import CallError, ConfigError, Paused
from optimizer.journal import Caps, Journal
from optimizer.lm.backend import AttemptError, Backend, CallRequest, Reply, tokens_at_most
from optimizer.lm.retry import CallHistory, Health, RetryPolicy
from optimizer.records import Role

__all__ = ["Model", "Pricing", "RetryPolicy", "require_prices"]

logger = logging.getLogger(__name__)

MAX_REPLY_CHARS = 1_000_000
PAUSE_REASONS = {"auth": "provider_auth", "billing": "provider_quota"}
WHOLE_MODEL = ("rate_limit", "unavailable")  # failures that say nothing about the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """USD for a million tokens, in and out; (0, 0) for local models, None when unknown."""

    per_million: tuple[float, float] | None

    @classmethod
    def of(cls, backend: Backend, settings: LM) -> Pricing:
        """Return what the configuration says, else what DSPy's price list says of a provider's own endpoint."""
        if backend.is_local:
            return cls(per_million=(0.0, 0.0))
        price_in, price_out = settings.price_in, settings.price_out
        if settings.api_base is None and (price_in is None or price_out is None):
            from optimizer.lm.provider import listed_price  # DSPy takes a second to import

            listed_in, listed_out = listed_price(settings.model)
            price_in = listed_in if price_in is None else price_in
            price_out = listed_out if price_out is None else price_out
        return cls(per_million=None if price_in is None or price_out is None else (price_in, price_out))

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """Return the price of a call; 0 when it is unknown, which `require_prices` keeps from passing for free."""
        price_in, price_out = self.per_million or (0.0, 0.0)
        return (tokens_in * price_in + tokens_out * price_out) / 1e6


def require_prices(usd_cap: float | None, prices: Mapping[Role, Pricing]) -> None:
    """Refuse a money cap that could not be kept.

    Raises:
        ConfigError: there is a cap and a price is unknown.
    """
    unknown = [role for role, pricing in prices.items() if pricing.per_million is None]
    if usd_cap is not None and unknown:
        keys = " and ".join(f"lm.{role}.price_in, lm.{role}.price_out" for role in unknown)
        raise ConfigError(f"budget.usd: {usd_cap:g} cannot be kept without prices; set {keys} (USD per million tokens)")


class Model:
    """One role's model.

    Args:
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
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.backend = backend
        self.role: Role = role
        self._journal = journal
        self._caps = caps
        self._pricing = pricing
        self._retry = retry
        self._on_wait = on_wait or (lambda _: None)
        self._health = Health()
        self._stop = threading.Event()
        self._stopped_by = ("user", "the run was told to stop")
        self._local = threading.local()

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
        return content_hash({"backend": self.backend.identity, "request": _request_json(request)})

    def call(self, request: CallRequest) -> Reply:
        """Return the reply, from the journal if it is there.

        Raises:
            CallError: this call failed for good.
            BudgetExhausted: a cap would be passed.
            Paused: the model cannot be used until a person acts or it is back, or the run is stopping.
        """
        key = self.key(request)
        kept = self._journal.find_reply(key)
        return kept if kept is not None else self._attempt_until_settled(key, request)

    def stop(self) -> None:
        """Make waiting and coming calls raise `Paused`; used when the run is told to stop."""
        self._stop.set()

    def _attempt_until_settled(self, key: str, request: CallRequest) -> Reply:
        deadline = self._retry.clock() + self._retry.retry_for_s
        with self._health.call() as history:
            while True:
                if self._stop.is_set():
                    raise Paused(*self._stopped_by)
                try:
                    reply = self._attempt(key, request)
                except AttemptError as error:
                    history.failed(f"{error.kind}: {error}")
                    self._give_up_or_wait(error, history, deadline)
                else:
                    history.answered()
                    return reply

    def _attempt(self, key: str, request: CallRequest) -> Reply:
        tokens_in = tokens_at_most(*(message.content for message in request.messages))
        call_id = self._journal.reserve(
            self.role,
            key,
            tokens=tokens_in + request.max_tokens,
            usd=self._pricing.usd(tokens_in, request.max_tokens),
            caps=self._caps,
            trial=getattr(self._local, "trial", None),
        )
        try:
            reply = self.backend.complete(request)
        except AttemptError as error:
            self._journal.release(call_id, was_billed=error.is_billed)
            raise
        usd = self._pricing.usd(reply.tokens_in, reply.tokens_out)
        self._journal.settle(call_id, reply, usd=usd, keep_as=key if _is_valid(reply) else None)
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
        delay_s = self._retry.delay_s(len(history.failures), error.retry_after_s)
        if self._retry.clock() + delay_s > deadline:
            message = f"gave up after {len(history.failures)} tries: {error}"
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
        return Paused(*self._stopped_by)


def _is_valid(reply: Reply) -> bool:
    """Whether a reply may be used again: complete and not empty."""
    return reply.finish_reason == "stop" and bool(reply.text.strip()) and len(reply.text) <= MAX_REPLY_CHARS


def _request_json(request: CallRequest) -> dict[str, object]:
    pieces = [[type(piece).__name__, asdict(piece)] for piece in request.constraint]
    return {
        "messages": [[message.role, message.content] for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": float(request.temperature),
        "stop": list(request.stop),
        "constraint": pieces,
        "sample": request.sample,
    }
