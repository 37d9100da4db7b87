"""What a run tells while it goes. The base class is silent; progress displays override what they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimizer.candidate import Candidate
from optimizer.records import StudyView, TrialRecord

if TYPE_CHECKING:
    from optimizer.search.optuna_study import Ticket
    from optimizer.study.session import Session


class Observer:
    """Called from the run's threads; must be quick and must not raise."""

    def opened(self, session: Session) -> None:
        """The study is open; models are ready."""

    def trial_started(self, ticket: Ticket) -> None:
        """A trial begins."""

    def scored(self) -> None:
        """One example was scored."""

    def trial_finished(self, trial: TrialRecord, *, is_best: bool) -> None:
        """A trial has its final state."""

    def waiting(self, reason: str) -> None:
        """A call waits for `reason`; an empty reason: it goes on."""

    def silent(self, line: str) -> None:
        """Nothing has moved for long; the line says what is waited for."""

    def finalists(self, candidates: Sequence[Candidate]) -> None:
        """The search is over; these are scored on all of dev."""

    def final_started(self, winner: Candidate, n_rows: int) -> None:
        """The final test begins."""

    def finished(self, view: StudyView) -> None:
        """The verdict stands."""
