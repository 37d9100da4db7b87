"""What calls cost, and the refusal of spending that nothing could limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from optimizer.candidate import JsonValue
from optimizer.config.keys import LM, Budget
from optimizer.errors import ConfigError
from optimizer.lm.backend import Backend, no_provider
from optimizer.records import Role

UNPRICED = "unpriced"  # key of a study's facts


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


def unpriced(prices: Mapping[Role, Pricing]) -> frozenset[Role]:
    """Return the roles whose calls cost nobody knows what."""
    return frozenset(role for role, pricing in prices.items() if pricing.per_million is None)


def unpriced_in(facts: Mapping[str, JsonValue]) -> frozenset[Role]:
    """Return the roles that had no known price in any run of a study, as its facts keep them."""
    return frozenset(cast("list[Role]", facts.get(UNPRICED) or []))


def require_prices(budget: Budget, prices: Mapping[Role, Pricing], *, elsewhere: Mapping[str, str]) -> None:
    """Refuse a money cap that could not be kept, and spending without any limit.

    Args:
        elsewhere: models that are not on this machine, by role; one that is here costs nobody's money.

    Raises:
        ConfigError: a price is unknown, and there is a cap in dollars, or none of calls or tokens either.
    """
    unknown = [role for role in prices if role in unpriced(prices)]
    keys = " and ".join(f"lm.{role}.price_in, lm.{role}.price_out" for role in unknown)
    if budget.usd is not None and unknown:
        raise ConfigError(
            f"budget.usd: {budget.usd:g} cannot be kept without prices; set {keys} (USD per million tokens)"
        )
    paid = [elsewhere[role] for role in unknown if role in elsewhere]
    if paid and budget.task_calls is None and budget.tokens is None:
        if "/" not in paid[0]:
            raise ConfigError(f"lm: {no_provider(paid[0])}")
        raise ConfigError(
            f"budget: what a call of {paid[0]!r} costs is unknown, and nothing limits the calls; check the name, or "
            f"set budget.task_calls, or {keys} (USD per million tokens; 0 for a server of your own)"
        )
