"""When further search is unlikely to pay: a forecast from how often, and by how much, trials took the lead. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

MIN_DONE = 20  # trials before there is anything to forecast from
MIN_LEFT = 20  # fewer are not worth a stop of their own
N_RECENT = 3  # leads whose size stands for the next ones
FIRST_LEAD = 0.05  # size of a lead while there was none


def expected_gain(gains: Sequence[float], *, n_left: int) -> float:
    """Forecast how much the best score will grow in the next `n_left` trials.

    Among candidates in random order the i-th is the best so far with chance 1/i: leads grow rare with the logarithm of
    the number of trials. A search that learns has more of them, so the observed number sets the pace.

    Args:
        gains: of each trial so far, the baseline left out: by how much it took the lead, 0 if it did not.

    Source: Rényi 1962, "Théorie des éléments saillants d'une suite d'observations", for the number of records.
    """
    leads = [gain for gain in gains if gain > 0]
    recent = leads[-N_RECENT:] or [FIRST_LEAD]
    n_done = len(gains) + 1
    pace = (len(leads) + 1) / _harmonic(n_done)
    return pace * (_harmonic(n_done + n_left) - _harmonic(n_done)) * sum(recent) / len(recent)


def is_unlikely_to_pay(gains: Sequence[float], *, n_left: int, min_gain: float) -> bool:
    """Whether the trials that are left are expected to gain less than matters."""
    return len(gains) >= MIN_DONE and n_left >= MIN_LEFT and expected_gain(gains, n_left=n_left) < min_gain


def _harmonic(n: int) -> float:
    return math.log(n) + 0.5772 + 1 / (2 * n)
