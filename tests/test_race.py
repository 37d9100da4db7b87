"""The race: what is never dropped, what always is, and what simulated searches lose and save by it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.search.race import FloatArray, RaceRule, race_rows
from optimizer.study.rounds import next_size

SCORES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=40)
GAINS = st.sampled_from([0.0, 0.01, 0.05, 0.2])
BLOCK = 10


@st.composite
def races(draw: st.DrawFn) -> tuple[FloatArray, FloatArray]:
    """A candidate on the first rows of an incumbent, at least one row done and one left."""
    pairs = np.array(draw(PAIRS), dtype=np.float64)
    return pairs[: draw(st.integers(1, len(pairs) - 1)), 0], pairs[:, 1]


def completed(candidate: FloatArray, incumbent: FloatArray, rest: float) -> float:
    """Mean difference on all rows if the candidate scores `rest` on every row that is left."""
    whole = np.r_[candidate, np.full(len(incumbent) - len(candidate), rest)]
    return float(np.mean(whole - incumbent))


@given(PAIRS, st.integers(0, 5))
def test_nothing_is_decided_before_the_first_row_or_after_the_last(pairs: list[tuple[float, float]], n: int) -> None:
    """Without scored rows, and with all of them, the candidate goes on however bad it is."""
    incumbent = np.array(pairs, dtype=np.float64)[:, 1]
    rule = RaceRule(min_chance=1.0)
    assert rule.decide(np.zeros(0), incumbent).action == "go on"
    assert rule.decide(np.zeros(len(incumbent)), incumbent).action == "go on"
    assert rule.decide(np.zeros(len(incumbent) + n), incumbent).action == "go on"


@given(races(), GAINS)
@settings(max_examples=400)
def test_a_sure_winner_is_never_dropped(race: tuple[FloatArray, FloatArray], min_gain: float) -> None:
    """A candidate that ends ahead even if it fails on every row that is left goes on."""
    candidate, incumbent = race
    if completed(candidate, incumbent, 0.0) >= min_gain + 1e-9:
        assert RaceRule(min_gain=min_gain).decide(candidate, incumbent).action == "go on"


@given(races(), GAINS)
@settings(max_examples=400)
def test_the_bound_drops_exactly_who_cannot_catch_up(race: tuple[FloatArray, FloatArray], min_gain: float) -> None:
    """With the forecast off, a candidate is dropped if and only if perfect remaining scores leave it behind."""
    candidate, incumbent = race
    decision = RaceRule(min_gain=min_gain, min_chance=0.0).decide(candidate, incumbent)
    best = completed(candidate, incumbent, 1.0)
    if abs(best - min_gain) > 1e-6:
        assert (decision.action == "drop") is (best < min_gain)
    assert decision.action == "go on" or decision.reason.startswith("cannot catch up: at best")


@pytest.mark.parametrize("n_total", [100, 300, 700])
def test_a_gain_that_can_just_be_reached_is_not_rounded_away(n_total: int) -> None:
    """A candidate that a perfect last row brings to exactly 0.01 goes on: the sum's last digit does not decide."""
    incumbent = np.full(n_total, 0.3)
    candidate = incumbent[:-1] + (0.01 * n_total - 0.7) / (n_total - 1)
    assert completed(candidate, incumbent, 1.0) == pytest.approx(0.01)
    assert RaceRule(min_gain=0.01, min_chance=0.0).decide(candidate, incumbent).action == "go on"


@given(races(), st.randoms(use_true_random=False), st.sampled_from([-0.25, 0.5]))
@settings(max_examples=100)
def test_only_the_differences_enter_the_forecast(
    race: tuple[FloatArray, FloatArray], random: object, by: float
) -> None:
    """The order of the rows and a level common to both do not matter, and the chance is a probability."""
    candidate, incumbent = race
    order = list(range(len(candidate)))
    random.shuffle(order)  # type: ignore[attr-defined]
    differences = candidate - incumbent[: len(candidate)]
    moved = (candidate + by) - (incumbent[: len(candidate)] + by)
    chances = [
        RaceRule().chance_of_gain(one, n_total=len(incumbent)) for one in (differences, differences[order], moved)
    ]
    assert 0 <= chances[0] <= 1
    assert chances == pytest.approx([chances[0]] * 3)


@given(races())
@settings(max_examples=100)
def test_a_larger_gain_is_less_likely(race: tuple[FloatArray, FloatArray]) -> None:
    """Asking for a larger gain never raises the chance."""
    candidate, incumbent = race
    differences = candidate - incumbent[: len(candidate)]
    chances = [RaceRule(min_gain=gain).chance_of_gain(differences, n_total=len(incumbent)) for gain in (0, 0.02, 0.3)]
    assert chances == sorted(chances, reverse=True)


def test_a_first_block_without_differences_proves_nothing() -> None:
    """Ten equal rows have no variance and are still no proof; ninety of a hundred are."""
    incumbent = np.tile([1.0, 0.0], 50)
    assert RaceRule().decide(incumbent[:10], incumbent).action == "go on"
    decision = RaceRule().decide(incumbent[:90], incumbent)
    assert decision.action == "drop"
    assert decision.reason.startswith("+0.0 after 90 examples, ")


def test_the_forecast_is_calibrated() -> None:
    """Where true gains spread as the rule believes, three in ten of the forecasts of 30% come true, and so on."""
    rng, rule, n_total, n_runs = np.random.default_rng(17), RaceRule(), 80, 4000
    gains = rng.normal(0, rule.prior_gain, n_runs)
    forecasts, is_ahead = np.empty(n_runs), np.empty(n_runs, dtype=bool)
    for i, gain in enumerate(gains):
        differences = rng.choice([-1.0, 0.0, 1.0], p=[0.2 - gain / 2, 0.6, 0.2 + gain / 2], size=n_total)
        forecasts[i] = rule.chance_of_gain(differences[:30], n_total=n_total)
        is_ahead[i] = differences.mean() >= rule.min_gain
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (forecasts >= low) & (forecasts < low + 0.2)
        assert chosen.sum() > 200
        assert is_ahead[chosen].mean() == pytest.approx(forecasts[chosen].mean(), abs=0.07)


def raced(n_total: int, gain: float, *, n_runs: int = 600, n_lucky: int = 1) -> tuple[float, float]:
    """Share of candidates dropped, and share of rows scored, for a true gain over a right half of the time.

    Six rows in ten are equally hard for both. The incumbent is the luckiest of `n_lucky` equal ones.
    """
    rng, rule = np.random.default_rng(5), RaceRule()
    n_dropped = n_rows = 0
    for _ in range(n_runs):
        hard = rng.random(n_total)

        def draw(chance: float, hard: FloatArray = hard) -> FloatArray:
            luck = np.where(rng.random(n_total) < 0.6, hard, rng.random(n_total))
            return (luck < chance).astype(np.float64)

        incumbent = max((draw(0.5) for _ in range(n_lucky)), key=lambda values: float(values.mean()))
        candidate = draw(0.5 + gain)
        steps = range(BLOCK, n_total, BLOCK)
        end = next((n for n in steps if rule.decide(candidate[:n], incumbent).action == "drop"), n_total)
        n_dropped += end < n_total
        n_rows += end
    return n_dropped / n_runs, n_rows / n_runs / n_total


@pytest.mark.parametrize("n_total", [60, 75, 100])
def test_a_real_gain_is_kept(n_total: int) -> None:
    """A candidate that is truly 15 points better reaches the end in at least 85% of the races."""
    dropped, _ = raced(n_total, 0.15)
    assert dropped <= 0.15


def test_most_equal_candidates_are_dropped_early() -> None:
    """Equals of the incumbent are mostly dropped; of one that leads by luck, as in a search, at half of the rows."""
    dropped, rows = raced(100, 0.0)
    assert dropped > 0.55
    assert rows < 0.7
    dropped, rows = raced(100, 0.0, n_lucky=5)
    assert dropped > 0.8
    assert rows < 0.5


def test_worse_candidates_cost_little() -> None:
    """A candidate that is 15 points worse is dropped nearly always, after a third of the rows."""
    dropped, rows = raced(100, -0.15)
    assert dropped > 0.98
    assert rows < 0.35


@pytest.mark.parametrize(
    ("n_races", "progress", "n_rows"), [(0, 0.0, 20), (3, 0.0, 20), (4, 0.0, 25), (8, 0.9, 90), (2, 1.0, 100)]
)
def test_races_grow_with_their_number_and_with_the_search(n_races: int, progress: float, n_rows: int) -> None:
    """They begin with four blocks, gain one every four races, and keep up with the share of trials that are done."""
    assert race_rows(n_races=n_races, block=5, n_dev=100, progress=progress) == n_rows


@pytest.mark.parametrize(
    ("begun", "running", "in_flight", "sizes"),
    [
        (12, 1, 4, [5, 5, 10, 20, 32, 32, 16]),  # the last race alone: the model is not left waiting
        (12, 4, 4, [5, 5, *[8] * 13, 6]),  # four races share 32 calls
        (11, 1, 4, [5] * 20 + [5, 5, 5, 5]),  # another candidate is about to begin
        (12, 1, 1, [5] * 20 + [5, 5, 5, 5]),  # one at a time: the same study at any number of calls
    ],
)
def test_the_last_races_fill_the_places_that_others_left(
    begun: int, running: int, in_flight: int, sizes: list[int]
) -> None:
    """They look less often, but never ask for more rows at once than they have had."""
    job = SimpleNamespace(
        config=SimpleNamespace(
            lm=SimpleNamespace(task=SimpleNamespace(mode="single", concurrency=32)),
            search=SimpleNamespace(block=5, in_flight=in_flight, trials=12),
        )
    )
    study = SimpleNamespace(n_started=lambda: begun, running=lambda: [None] * running)
    session: Any = SimpleNamespace(job=job, study=study)
    found, start = [], 0
    while start < 120:
        found.append(min(120 - start, next_size(session, 5, start=start, n_rows=120)))
        start += found[-1]
    assert found == sizes
