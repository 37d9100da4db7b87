"""When to stop scoring a candidate: pure arithmetic on paired differences.

Decides keep or drop for one candidate against the incumbent; deliberately knows nothing of trials, prompts or models.
Dropping is a forecast of the final comparison, not a test of significance: looking often can drop a good candidate
early, but can never promote a bad one, because promotion is decided on other rows (`optimizer.stats.compare`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.words import points

FloatArray = NDArray[np.float64]
FIRST_BLOCKS = 4  # the length of the first races
RACES_PER_BLOCK = 4  # races grow by a block after so many of them, where calls are scarce
ROUNDING = 1e-9  # a candidate that can just reach the gain is not dropped over the last digit of a sum


class Decision(NamedTuple):
    """`drop` with the reason in words, or `go on`."""

    action: Literal["drop", "go on"]
    reason: str = ""


def race_rows(*, n_races: int, block: int, n_dev: int, progress: float) -> int:
    """Return the number of dev rows that races go over by now.

    At a fixed number of calls, many short races find more than few long ones. Where the number of trials ends the
    search and calls do not, there is nothing to save: races grow so that the last ones go over all of dev.

    Args:
        n_races: candidates raced so far.
        progress: share of the trials that are done.
    """
    n_blocks = max(FIRST_BLOCKS + n_races // RACES_PER_BLOCK, int(progress * n_dev / block))
    return min(n_dev, n_blocks * block)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceRule:
    """Drops a candidate when it will hardly end ahead of the incumbent by the gain that matters.

    The mean difference has a normal prior around zero, because most mutations change little; the spread of single
    differences has a prior too, so that a first block without any difference proves nothing.

    How eager to be is the outcome of `experiments/race_simulation.py`: at a fixed number of calls the winner's true
    gain is largest at a `min_chance` near 0.2, and falls off on both sides.

    Attributes:
        min_gain: smallest difference in mean score that matters.
        min_chance: drop when the forecast chance of ending ahead is below this.
        prior_gain: standard deviation of true differences between candidates.
        prior_spread: standard deviation of single differences, and how many rows that belief is worth.

    Source:
        Predictive probability for futility: Dmitrienko, Wang 2006, "Bayesian predictive approach to interim monitoring
        in clinical trials". Deviation: normal approximation for scores in [0, 1].
    """

    min_gain: float = 0.01
    min_chance: float = 0.2
    prior_gain: float = 0.1
    prior_spread: tuple[float, float] = (0.5, 5.0)

    def decide(self, candidate: FloatArray, incumbent: FloatArray) -> Decision:
        """Decide after some examples.

        Args:
            candidate: values[n_scored] of the candidate, in race order.
            incumbent: values[n_total] of the incumbent, in the same order; n_total >= n_scored.
        """
        n, n_total = len(candidate), len(incumbent)
        if n == 0 or n >= n_total:
            return Decision("go on")
        differences = candidate - incumbent[:n]
        best_end = (differences.sum() + (1.0 - incumbent[n:]).sum()) / n_total
        if best_end < self.min_gain - ROUNDING:
            return Decision("drop", f"cannot catch up: at best {points(best_end)} on {n_total} examples")
        chance = self.chance_of_gain(differences, n_total=n_total)
        if chance < self.min_chance:
            mean = float(differences.mean())
            return Decision("drop", f"{points(mean)} after {n} examples, {chance:.0%} chance of a gain")
        return Decision("go on")

    def chance_of_gain(self, differences: FloatArray, *, n_total: int) -> float:
        """Forecast the chance that the mean difference over all `n_total` examples reaches `min_gain`."""
        n = len(differences)
        n_left = n_total - n
        mean = float(differences.mean())
        sigma0, weight = self.prior_spread
        variance = (float(((differences - mean) ** 2).sum()) + weight * sigma0**2) / (n - 1 + weight)
        precision = 1.0 / self.prior_gain**2 + n / variance
        gain = (n / variance) * mean / precision
        end = (n * mean + n_left * gain) / n_total
        spread = (n_left / n_total) * math.sqrt(1.0 / precision + variance / n_left)
        return 0.5 * math.erfc((self.min_gain - end) / (spread * math.sqrt(2.0)))
