"""What calls cost, and the refusal of a money cap that could not be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.config import LM
from optimizer.errors import ConfigError
from optimizer.lm.backend import Backend
from optimizer.records import Role


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
