"""Whether a cap of tokens or money leaves room for the least that a study takes: a first race and a final test. Pure.

Deliberately low: a cap is refused only when no study at all can be finished within it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from optimizer.config.keys import Budget
from optimizer.errors import ConfigError

BYTES_A_TOKEN = 8  # prose takes four to five; a prompt of ours never takes more than this on average


class Amount(NamedTuple):
    """Of tokens and money."""

    tokens: float
    usd: float

    def times(self, factor: float) -> Amount:
        return Amount(factor * self.tokens, factor * self.usd)

    def plus(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.usd + other.usd)


class Need(NamedTuple):
    """What the least study takes. `n_race` dev rows are asked once, `n_test` test rows with two prompts each."""

    n_race: int
    n_test: int
    tokens: float
    usd: float

    @property
    def n_asked(self) -> int:
        return self.n_race + 2 * self.n_test

    def times(self, factor: float) -> Need:
        return self._replace(tokens=factor * self.tokens, usd=factor * self.usd)


def fewest_tokens(texts: Iterable[str]) -> int:
    """Return fewer tokens than these texts can take together."""
    return sum(len(text.encode("utf-8", "replace")) for text in texts) // BYTES_A_TOKEN


def lack_of_room(budget: Budget, need: Need) -> str | None:
    """Return which cap is below the need, in words, or None."""
    doing = f"your own prompt on the first {need.n_race} dev rows and the final test on {need.n_test} rows"
    if budget.usd is not None and need.usd > budget.usd:
        return f"budget.usd: {budget.usd:g} is too little: {doing} cost {_dollars(need.usd)}"
    if budget.tokens is not None and need.tokens > budget.tokens:
        return f"budget.tokens: {budget.tokens} are too few: {doing} take {need.tokens:,.0f}"
    return None


def require_room(budget: Budget, need: Need) -> None:
    """Refuse a cap that not even the least study keeps.

    Raises:
        ConfigError: the cap is below the need.
    """
    if lack := lack_of_room(budget, need):
        raise ConfigError(f"{lack} at least, and trials come on top; raise it, or take fewer rows (data.max_rows)")


def require_room_for_a_call(budget: Budget, worst: Amount, *, share: float) -> None:
    """Refuse a cap that forbids the very first call.

    Args:
        worst: what is reserved for a call before it is sent.
        share: of the cap, what the search may use.

    Raises:
        ConfigError: the reservation is more than that.
    """
    why = "a call is reserved with its longest reply (lm.task.max_tokens), and a part is kept back for the final test"
    if budget.usd is not None and worst.usd > share * budget.usd:
        raise ConfigError(
            f"budget.usd: {budget.usd:g} is too little: {why}; give {_dollars(worst.usd / share)} or more at least, or "
            "lower max_tokens"
        )
    if budget.tokens is not None and worst.tokens > share * budget.tokens:
        raise ConfigError(
            f"budget.tokens: {budget.tokens} are too few: {why}; give {worst.tokens / share:,.0f} or more at least, or "
            "lower max_tokens"
        )


def _dollars(usd: float) -> str:
    return f"${usd:.2f}" if usd >= 1 else f"${usd:.2g}"
