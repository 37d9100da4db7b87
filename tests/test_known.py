"""What a search knows: told order, patience, and who leads after a study was continued."""

from __future__ import annotations

import pytest

from optimizer.candidate import Candidate, Part
from optimizer.records import Outcome, Recipe, TrialRecord
from optimizer.search.known import Known


def candidate(words: str) -> Candidate:
    return Candidate(parts=(Part(predictor="main", instructions=words),), format="plain", reasoning="predict")


def told(known: Known, number: int, words: str, score: float) -> Candidate:
    made = candidate(words)
    outcomes = tuple(Outcome(example_id=f"r{i}", kind="scored", score=score) for i in range(5))
    known.learn(
        TrialRecord(number=number, recipe=Recipe(operator="edit"), state="complete", candidate=made, outcomes=outcomes)
    )
    known.elite.challenge(made)
    return made


@pytest.mark.parametrize("number_of_second", [1, 14])
def test_patience_counts_trials_and_not_their_numbers(number_of_second: int) -> None:
    """A suggestion is told second under the number after the queued starts; patience is the same as without it."""
    known = Known([f"r{i}" for i in range(5)])
    told(known, 0, "the seed", 0.5)
    assert known.n_since_best() == 0
    told(known, number_of_second, "worse", 0.2)
    assert known.n_since_best() == 1
    best = told(known, 2, "better", 0.9)
    assert known.elite.incumbent == best
    assert known.n_since_best() == 0
    told(known, 3, "worse again", 0.1)
    assert known.n_since_best() == 1
