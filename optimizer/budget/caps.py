"""Hard limits on what a study may spend, and what of it is kept back. The journal enforces them."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.budget.under_way import UnderWay
from optimizer.records import Role


class Caps:
    """Hard limits on spend; None means no limit. Some is kept back for the finalists and for the final test.

    Attributes:
        under_way: the calls that may use less than they are entered with.
    """

    def __init__(
        self,
        *,
        calls: Mapping[Role, int | None],
        tokens: int | None,
        usd: float | None,
        kept_back_calls: int = 0,
        kept_back_share: float = 0.0,
        finalist_calls: int = 0,
    ) -> None:
        self.calls = calls
        self.tokens = tokens
        self.usd = usd
        self.kept_back_calls = kept_back_calls
        self.kept_back_share = kept_back_share
        self.finalist_calls = self._for_finalists = finalist_calls
        self.held_tokens = self.held_usd = 0.0
        self.under_way = UnderWay()

    def hold(self, *, tokens: float, usd: float) -> None:
        """Keep back so much of tokens and money at least; the share stays kept back."""
        self.held_tokens, self.held_usd = tokens, usd

    def release_finalists(self) -> None:
        """The search is over: let finalists use what was kept back for them."""
        self.finalist_calls = 0

    def hold_finalists(self) -> None:
        """The search goes on after all: keep the same back for the finalists once more."""
        self.finalist_calls = self._for_finalists

    def release_reserve(self) -> None:
        """Let the final test use what was kept back for it."""
        self.kept_back_calls, self.kept_back_share, self.finalist_calls = 0, 0.0, 0
        self.hold(tokens=0.0, usd=0.0)

    def exceeded(self, role: Role, calls: int, tokens: float, usd: float) -> str | None:
        """Return which cap the given totals pass, in words, or None."""
        cap = self.calls.get(role)
        kept_back = self.kept_back_calls + self.finalist_calls if role == "task" else 0
        if cap is not None and calls > cap - kept_back:
            return f"budget.{role}_calls: {cap}"
        if self.tokens is not None and tokens > self._search_part(self.tokens, self.held_tokens):
            return f"budget.tokens: {self.tokens}"
        if self.usd is not None and usd > self._search_part(self.usd, self.held_usd):
            return f"budget.usd: {self.usd}"
        return None

    def _search_part(self, cap: float, held: float) -> float:
        return min(cap * (1 - self.kept_back_share), cap - held)
