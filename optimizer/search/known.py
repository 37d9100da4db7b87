"""What a search knows by now: the trials that have ended, in the order in which they were told, and who leads. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from optimizer.candidate import Candidate
from optimizer.propose.memory import Memory
from optimizer.records import Outcome, TrialRecord
from optimizer.search.elite import Elite

RACED = ("complete", "pruned")


class Known:
    """Grows with every trial that ends. Rebuilt from the database when a study is continued.

    Attributes:
        trials: those that have ended, in the order told.
        memory: the same for the proposer, without those that failed.
        elite: the values on dev of every candidate.
    """

    def __init__(self, dev_ids: Sequence[str]) -> None:
        self.trials: list[TrialRecord] = []
        self.memory = Memory()
        self.elite = Elite(dev_ids)
        self._dev_ids = tuple(dev_ids)
        self._raced: list[TrialRecord] = []

    def learn(self, trial: TrialRecord) -> None:
        """Know of a trial that has ended."""
        self.trials.append(trial)
        self.memory = self.memory.with_trial(trial)
        if trial.state in RACED and trial.candidate is not None:
            self._raced.append(trial)
        if trial.candidate is not None and trial.outcomes:
            self.enter(trial.candidate, trial.outcomes)

    def enter(self, candidate: Candidate, outcomes: Sequence[Outcome]) -> None:
        """Enter the values of scored dev rows; rows of other splits and failures have none."""
        self.elite.add(candidate, values_of(outcomes, among=self._dev_ids))

    def scored_ids(self, candidate: Candidate) -> list[str]:
        """Return the dev rows that the candidate was scored on, in race order."""
        if candidate not in self.elite:
            return []
        row = self.elite.values(candidate)
        return [each for each, value in zip(self._dev_ids, row, strict=True) if not np.isnan(value)]

    def n_scored(self, candidate: Candidate) -> int:
        return len(self.scored_ids(candidate))

    def n_races(self) -> int:
        return len(self._raced)

    def is_perfect(self) -> bool:
        """Whether the incumbent is right on all of dev; a row that is not scored yet is NaN."""
        best = self.elite.incumbent
        return best is not None and float(self.elite.values(best).min()) == 1.0

    def n_since_best(self) -> int:
        """How many trials were told after the one that made the incumbent."""
        trials = self.memory.trials
        best = next((i for i, trial in enumerate(trials) if trial.candidate == self.elite.incumbent), 0)
        return len(trials) - 1 - best if trials else 0

    def gains(self) -> list[float]:
        """By how much each raced trial after the baseline took the lead; 0 for those that did not."""
        raced = itertools.islice(self._raced, 1, None)
        return [max(0.0, trial.difference or 0.0) if trial.state == "complete" else 0.0 for trial in raced]

    def last_reason(self) -> str | None:
        """Return why the last trial that was not completed was not."""
        return next((trial.reason for trial in reversed(self.trials) if trial.reason), None)


def values_of(outcomes: Sequence[Outcome], *, among: Sequence[str]) -> Mapping[str, float]:
    """Return the values by row id; an outcome without one failed."""
    wanted = set(among)
    return {
        outcome.example_id: value
        for outcome in outcomes
        if (value := outcome.value) is not None and outcome.example_id in wanted
    }
