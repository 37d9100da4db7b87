"""What was tried and rejected so far, as the proposer needs it: by identity, and as the best and latest few."""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.candidate import Candidate
from optimizer.propose.operator import Tried
from optimizer.records import TrialRecord

LOST = ("failed", "unfinished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Trials with a candidate, in the order in which they were tried. Rebuilt from trial records after a restart.

    A trial that failed is left out: the infrastructure broke down, so its candidate may be proposed again. So is one
    that was never carried out to its end.
    """

    trials: tuple[TrialRecord, ...] = ()
    ids: frozenset[str] = frozenset()

    def with_trial(self, trial: TrialRecord) -> Memory:
        """Return a memory that knows `trial`, too."""
        if trial.candidate is None or trial.state in LOST:
            return self
        return Memory(trials=(*self.trials, trial), ids=self.ids | {trial.candidate.id})

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(trial.candidate for trial in self.trials if trial.candidate)

    def seen(self, candidate: Candidate) -> bool:
        """Tell whether exactly this content was tried or rejected before, under whatever recipe."""
        return candidate.id in self.ids

    def history(self, k: int, *, predictor: str) -> tuple[Tried, ...]:
        """Return the `k` best complete trials and the last `k` of any kind, each once, in the order tried."""
        complete = [i for i, trial in enumerate(self.trials) if trial.state == "complete" and trial.score is not None]
        best = sorted(complete, key=lambda i: -(self.trials[i].score or 0.0))[:k]
        last = range(max(0, len(self.trials) - k), len(self.trials))
        return tuple(_tried(self.trials[i], predictor) for i in sorted({*best, *last}))


def _tried(trial: TrialRecord, predictor: str) -> Tried:
    candidate = trial.candidate
    if candidate is None:
        raise ValueError(f"trial {trial.number} has no candidate; only trials with one belong in a memory")
    part = candidate.part(predictor)
    return Tried(
        instructions=part.instructions,
        operator=trial.recipe.operator,
        score=trial.score,
        state=trial.state,
        format=candidate.format,
        n_demos=len(part.demos),
    )
