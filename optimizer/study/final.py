"""Asks test rows with seed and winner: as many as the caps and the time pay for, in an order that was fixed before.

How many there are may depend on what is left, never on a score. Where tokens or money are capped nobody knows before
how many rows they pay for, so both prompts get the same few rows in turn, and those that both have count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from optimizer.budget.limits import MIN_TEST_ROWS
from optimizer.candidate import Candidate, Example
from optimizer.errors import BudgetExhausted
from optimizer.records import Outcome, Spend
from optimizer.study.rounds import together
from optimizer.study.stops import has_time_for

if TYPE_CHECKING:
    from optimizer.study.session import Session

logger = logging.getLogger(__name__)

LEAST_ROWS = 5  # with fewer it is better to wait for a higher cap


class Tested(NamedTuple):
    """What came of the test rows: those that both prompts have an outcome of.

    Attributes:
        usd_per_row: mean price of a row of the winner, asked live; None when every reply was known already.
        shortfall: why these are fewer than there are, in words; empty when they are all.
    """

    rows: list[Example]
    seed: list[Outcome]
    winner: list[Outcome]
    usd_per_row: float | None
    shortfall: str


def tested(session: Session, winner: Candidate) -> Tested:
    """Score seed and winner on test rows.

    Raises:
        BudgetExhausted: the caps pay for too few rows, because calls that broke count as spent.
    """
    return _Test(session, winner).run()


class _Test:
    """One final test under way."""

    def __init__(self, session: Session, winner: Candidate) -> None:
        self._session, self._winner, self._all = session, winner, session.splits.test
        self._seed_outcomes: dict[str, Outcome] = {}
        self._winner_outcomes: dict[str, Outcome] = {}
        self._n_calls, self._usd = 0, 0.0
        self._end: BudgetExhausted | None = None

    def run(self) -> Tested:
        rows: list[Example] = []
        why = ""
        while not why and len(paid := self._paid_by_calls()) > len(rows):  # known replies leave calls for further rows
            self._session.observer.final_started(self._winner, len(paid))
            why, rows = self._ask(paid[len(rows) :]), paid
        why, both = why or "the cap paid for no more", self._both
        if len(both) < min(LEAST_ROWS, len(self._all)) and (self._end or len(rows) < len(self._all)):
            cap = self._session.job.config.budget.task_calls
            raise self._end or BudgetExhausted(f"budget.task_calls: {cap} is used up; raise it and run again")
        shortfall = f"{len(both)} of {len(self._all)} test rows; {why}" if len(both) < len(self._all) else ""
        if shortfall:
            logger.warning("the final test ends with %s", shortfall)
        return Tested(
            rows=both,
            seed=[self._seed_outcomes[row.id] for row in both],
            winner=[self._winner_outcomes[row.id] for row in both],
            usd_per_row=self._usd_per_row(),
            shortfall=shortfall,
        )

    def _ask(self, rows: Sequence[Example]) -> str:
        """Ask both prompts as long as time and caps allow; return why it ended before the last row, or nothing."""
        for block in self._blocks(rows):
            if not has_time_for(self._session, n_rows=2 * len(block)) and len(self._both) >= self._session.n_test:
                return "there was no time for more"
            if not self._has_all(block):
                return "the cap paid for no more"
        return ""

    @property
    def _both(self) -> list[Example]:
        return [row for row in self._all if row.id in self._seed_outcomes and row.id in self._winner_outcomes]

    def _paid_by_calls(self) -> list[Example]:
        """Return the leading test rows that the calls left pay for; what is known already costs nothing."""
        session, cap = self._session, self._session.caps.calls.get("task")
        if cap is None:
            return list(self._all)
        left = cap - session.journal.spend().calls.get("task", 0)
        ids = {session.seed.id, self._winner.id}
        known = session.journal.outcomes_of(ids, session.job.metric.version)
        rows: list[Example] = []
        for row in self._all:
            left -= len(session.seed.parts) * sum(row.id not in known.get(each, {}) for each in ids)
            if left < 0:
                break
            rows.append(row)
        return rows or list(self._all[:1])

    def _blocks(self, rows: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """Yield the rows in portions: at once as far as it is known that caps and time will do."""
        session, budget, lm = self._session, self._session.job.config.budget, self._session.job.config.lm.task
        is_sure = budget.tokens is None and budget.usd is None
        n_first = len(rows) if is_sure and session.deadline.left_s() is None else session.n_test
        n_first = n_first if is_sure or lm.mode == "batch" else MIN_TEST_ROWS
        size = len(rows) if lm.mode == "batch" else max(MIN_TEST_ROWS, 2 * lm.concurrency)
        yield rows[:n_first]
        yield from (rows[start : start + size] for start in range(n_first, len(rows), size))

    def _has_all(self, block: Sequence[Example]) -> bool:
        """Ask both prompts; False when a cap ends it before each row has both outcomes."""
        session = self._session
        if session.job.config.constraints.usd_per_row is None:  # which is measured, of the winner alone
            together(session, [(session.seed, block), (self._winner, block)])
        self._seed_outcomes |= self._outcomes(session.seed, block)
        before = session.journal.spend()
        self._winner_outcomes |= self._outcomes(self._winner, block)
        self._add_price(before, session.journal.spend())
        return self._end is None

    def _outcomes(self, candidate: Candidate, block: Sequence[Example]) -> dict[str, Outcome]:
        """Return outcomes by row. A cap that calls under way reach with their worst case is tried again after them."""
        session, n_before = self._session, -1
        while True:
            try:
                return {outcome.example_id: outcome for outcome in session.evaluate(candidate, block)}
            except BudgetExhausted as error:
                if (n_calls := sum(session.journal.spend().calls.values())) == n_before:
                    self._end = error
                    kept = session.journal.outcomes(candidate.id, session.job.metric.version)
                    return {row.id: kept[row.id] for row in block if row.id in kept}
                n_before = n_calls

    def _add_price(self, before: Spend, after: Spend) -> None:
        self._n_calls += after.calls.get("task", 0) - before.calls.get("task", 0)
        self._usd += after.cost_usd - before.cost_usd

    def _usd_per_row(self) -> float | None:
        task = self._session.job.config.lm.task
        live = (task.batch.price or 1.0) if task.mode == "batch" else 1.0
        return self._usd / live / self._n_calls * len(self._winner.parts) if self._n_calls else None
