"""When to leave the proposer alone: a model that babbles, refuses or is away should not cost the night. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from optimizer.records import TrialRecord
from optimizer.words import number_of

MAX_REJECTED = 5
REST_TRIALS = 10


def is_resting(trials: Sequence[TrialRecord], *, asking: Collection[str]) -> bool:
    """Decide whether the next trial should do without the proposer.

    It rests for `REST_TRIALS` after `MAX_REJECTED` of its trials in a row were rejected, then it is tried again; one
    more rejection, and it rests again.

    Args:
        trials: finished ones, in the order in which they ended.
        asking: names of the operators that need the proposer.
    """
    if not asking:
        return False
    latest = (i for i in range(len(trials) - 1, -1, -1) if trials[i].recipe.operator in asking)
    asked = list(itertools.islice(latest, MAX_REJECTED))
    is_failing = len(asked) == MAX_REJECTED and all(trials[i].state == "rejected" for i in asked)
    return is_failing and len(trials) - asked[0] <= REST_TRIALS


def rest_note(n_trials: int) -> str:
    """Say how many trials the proposer was left out of, in one line; nothing when none was."""
    if not n_trials:
        return ""
    said = f"{number_of(n_trials, 'trial')} did without the proposer, whose replies before were of no use"
    return f"{said}; `show` says why each was rejected, a larger lm.proposer may help"
