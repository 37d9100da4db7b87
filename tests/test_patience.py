"""When a search ends because the rest of it is unlikely to pay."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.search.patience import MIN_DONE, MIN_LEFT, expected_gain, is_unlikely_to_pay


def records(n: int, rng: np.random.Generator) -> list[float]:
    """Gains of candidates whose true scores come in random order."""
    scores = rng.normal(0.5, 0.05, size=n)
    best = np.maximum.accumulate(scores)
    return [0.0, *np.diff(best).tolist()][1:]


@pytest.mark.parametrize("n_left", [30, 200])
def test_the_forecast_errs_towards_going_on(n_left: int) -> None:
    """For candidates in random order it promises more than then comes on average, and less than twice as much."""
    forecasts, found = [], []
    for seed in range(300):
        gains = records(61 + n_left, np.random.default_rng(seed))
        forecasts.append(expected_gain(gains[:60], n_left=n_left))
        found.append(sum(gains[60:]))
    assert 1 < np.mean(forecasts) / np.mean(found) < 2


def test_more_trials_promise_more_and_later_ones_less() -> None:
    """The forecast grows with the trials that are left and shrinks with those that brought nothing."""
    few = [0.1, 0.0, 0.05] + [0.0] * 20
    assert expected_gain(few, n_left=100) > expected_gain(few, n_left=20) > 0
    assert expected_gain([*few, *[0.0] * 100], n_left=100) < expected_gain(few, n_left=100)


def test_a_search_is_not_ended_early_or_for_little() -> None:
    """Too few trials done, or too few left, are no reason to stop; a long flat stretch is."""
    flat = [0.2, 0.01] + [0.0] * 400
    assert is_unlikely_to_pay(flat, n_left=50, min_gain=0.01)
    assert not is_unlikely_to_pay(flat, n_left=MIN_LEFT - 1, min_gain=0.01)
    assert not is_unlikely_to_pay([0.0] * (MIN_DONE - 1), n_left=50, min_gain=1.0)
    assert not is_unlikely_to_pay([0.1] * 30, n_left=50, min_gain=0.01)
