"""The table of candidates: who leads, what a partly scored candidate is believed to reach, whom Pareto picks."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.candidate import Candidate, Part
from optimizer.proof.verdict import dev_estimate
from optimizer.search.elite import SHRINK_ROWS, Elite

IDS = ("a", "b", "c", "d", "e")
SCORES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0])


def candidate(name: str) -> Candidate:
    return Candidate(parts=(Part(predictor="answer", instructions=name),))


SEED, SECOND, THIRD = candidate("seed"), candidate("second"), candidate("third")


def values(*scores: float | None) -> dict[str, float]:
    return {name: score for name, score in zip(IDS, scores, strict=False) if score is not None}


def elite_of(*rows: Mapping[str, float]) -> Elite:
    """Enter seed, second and third with these values, each as a challenger."""
    elite = Elite(IDS)
    for one, row in zip((SEED, SECOND, THIRD), rows, strict=False):
        enter(elite, one, row)
    return elite


def enter(elite: Elite, one: Candidate, row: Mapping[str, float]) -> bool:
    elite.add(one, row)
    return elite.challenge(one)


def picks(elite: Elite, n: int = 300) -> Counter[str]:
    rng = np.random.default_rng(2)
    return Counter(elite.pareto_pick(rng).parts[0].instructions for _ in range(n))


def test_the_dev_figure_counts_the_rows_that_were_scored() -> None:
    """A winner that was scored on three of five rows is not said to stand on five."""
    estimate = dev_estimate(elite_of(values(1, 0, 1)), seed=SEED, winner=SEED, confidence=0.95)
    assert (estimate.n_winner, estimate.n_seed, round(estimate.raw, 2)) == (3, 3, 0.67)


def test_a_seed_that_nothing_beat_has_one_dev_score() -> None:
    """It was not chosen for its luck, so as the winner it keeps the mean that it has as the seed."""
    estimate = dev_estimate(elite_of(values(1, 0, 1, 1), values(0, 0, 1)), seed=SEED, winner=SEED, confidence=0.95)
    assert estimate.winner == estimate.seed == estimate.raw == 0.75
    assert 0 < estimate.low < 0.75 < estimate.high < 1


def test_a_challenger_must_have_run_the_whole_race() -> None:
    """Perfect scores on three rows of the incumbent's four do not lead; the fourth decides, a fifth does not matter."""
    elite = elite_of(values(1, 0, 0, 1))
    assert (elite.incumbent, elite.n_raced) == (SEED, 4)
    assert not enter(elite, SECOND, values(1, 1, 1))
    assert not enter(elite, THIRD, values(1, 0, 0, 1, 1))
    assert elite.incumbent == SEED
    assert enter(elite, SECOND, {"d": 0.5})
    assert elite.incumbent == SECOND


def test_there_is_no_incumbent_before_the_first_challenge() -> None:
    """A baseline that was only entered has an estimate, but nobody has a difference and no race a length."""
    elite = Elite(IDS)
    elite.add(SEED, values(1, 0, 0))
    assert (elite.incumbent, elite.n_raced) == (None, 0)
    assert elite.difference(SEED) is None
    assert elite.estimate(SEED) == pytest.approx(1 / 3)
    assert THIRD not in elite
    assert elite.difference(THIRD) is None


def test_a_row_that_failed_does_not_stop_the_race() -> None:
    """Values stay paired around a hole in either row, and a challenger can still win."""
    elite = elite_of(values(0, None, 0, 1, 0))
    assert elite.n_raced == 5
    elite.add(SECOND, values(1, 1, None))
    scored, raced = elite.race_values(SECOND)
    assert (scored.tolist(), raced.tolist()) == ([1], [0, 0, 1, 0])
    assert enter(elite, SECOND, values(1, 1, None, 1, 1))
    assert elite.incumbent == SECOND


def test_races_grow_with_the_incumbent() -> None:
    """What the incumbent is scored on is what a challenger must run."""
    elite = elite_of(values(1, 0), values(1, 1))
    assert elite.n_raced == 2
    elite.add(SECOND, {"c": 0.0})
    assert elite.n_raced == 3
    assert not elite.challenge(SEED)


@given(st.lists(SCORES, min_size=5, max_size=5), st.permutations(range(5)))
def test_an_equal_mean_does_not_take_over(scores: list[float], order: list[int]) -> None:
    """The same values on other rows have the same mean, whatever the last digit of their sum: the earlier one stays."""
    elite = elite_of(values(*scores))
    assert not enter(elite, SECOND, values(*(scores[place] for place in order)))
    assert elite.incumbent == SEED
    assert elite.ranked() == [SEED, SECOND]


def test_differences_are_paired() -> None:
    """A candidate stopped on easy rows is measured on those: its higher mean is no lead."""
    elite = elite_of(values(1, 1, 0, 0, 0), values(1, 1), values(1, 0, 1))
    assert elite.difference(SECOND) == 0
    assert elite.difference(THIRD) == pytest.approx(0.0)
    assert elite.estimate(SECOND) == elite.estimate(SEED) == pytest.approx(0.4)
    assert enter(elite, THIRD, values(1, 0, 1, 1, 1))
    assert elite.difference(SEED) == pytest.approx(-0.4)
    assert elite.difference(SECOND) == pytest.approx(0.5)


@pytest.mark.parametrize("n_scored", [1, 2, 4])
def test_a_lead_on_few_rows_counts_in_part(n_scored: int) -> None:
    """On the rows seen the lead stands, on the others n of n + 20 of it is granted."""
    elite = elite_of(values(0.5, 0.5, 0.5, 0.5, 0.5), values(*[0.7] * n_scored))
    granted = n_scored / (n_scored + SHRINK_ROWS)
    assert elite.estimate(SECOND) == pytest.approx(0.5 + 0.2 * (n_scored + (5 - n_scored) * granted) / 5)


@given(st.lists(SCORES, min_size=5, max_size=5), st.lists(SCORES, min_size=1, max_size=5))
def test_estimates_are_scores_and_exact_at_the_end(seed: list[float], other: list[float]) -> None:
    """An estimate lies in [0, 1], and on all rows it is the mean."""
    elite = elite_of(values(*seed), values(*other))
    assert 0 <= elite.estimate(SECOND) <= 1
    assert elite.estimate(SEED) == pytest.approx(np.mean(seed))
    if len(other) == 5:
        assert elite.estimate(SECOND) == pytest.approx(np.mean(other))


def test_a_lucky_start_ranks_below_a_proven_lead() -> None:
    """A candidate that ties the leader on one row ranks behind it; one without any score comes last."""
    elite = elite_of(values(0, 0, 0, 0, 1), values(1), values(1, 1, 0, 0, 1))
    unscored = candidate("unscored")
    elite.add(unscored, {})
    assert elite.ranked() == [THIRD, SECOND, SEED, unscored]
    assert elite.estimate(unscored) == 0


def test_values_of_other_rows_are_refused() -> None:
    """A row that is not on dev cannot enter the table."""
    with pytest.raises(KeyError, match="test-1"):
        Elite(IDS).add(SEED, {"test-1": 1.0})


def test_pareto_picks_by_the_rows_that_a_candidate_wins() -> None:
    """The winner on three rows is drawn about three times as often as the winner on one; the dominated one never."""
    elite = elite_of(values(1, 1, 1, 0, 0), values(0, 0, 0, 1, 0), values(0, 1, 0, 0, 0))
    counts = picks(elite)
    assert set(counts) == {"seed", "second"}
    assert counts["seed"] / counts["second"] == pytest.approx(3, rel=0.35)


def test_pareto_leaves_out_rows_on_which_all_agree() -> None:
    """Rows that nobody solves, or everybody, say nothing: the specialist on the one row left is the only pick."""
    elite = elite_of(values(1, 1, 0, 0, 0), values(1, 1, 0, 0, 1), values(1, 1, 0, 0, 0))
    assert picks(elite, 50) == {"second": 50}


def test_pareto_counts_partly_scored_candidates_where_they_were_scored() -> None:
    """A candidate stopped after two rows competes on those two, and unscored rows are no losses for it."""
    elite = elite_of(values(1, 0, 0, 1, 0), values(0, 1), values(0, 0, 1, 0, 0))
    counts = picks(elite)
    assert set(counts) == {"seed", "second", "third"}
    assert counts["second"] == pytest.approx(300 / 4, rel=0.35)


def test_pareto_draws_evenly_when_nothing_tells_candidates_apart() -> None:
    """Identical candidates, or a single one, are drawn with equal chances."""
    assert picks(elite_of(values(1, 0, 1, 1, 0)), 20) == {"seed": 20}
    counts = picks(elite_of(*[values(1, 0, 1, 1, 0)] * 3))
    assert set(counts) == {"seed", "second", "third"}
    assert min(counts.values()) > 60


def test_the_draw_depends_on_the_generator_alone() -> None:
    """Equal generators pick equal candidates."""
    elite = elite_of(values(1, 0, 0, 1, 0), values(0, 1, 0, 0, 1), values(0, 0, 1))
    draws = [
        [elite.pareto_pick(rng) for _ in range(20)] for rng in (np.random.default_rng(8), np.random.default_rng(8))
    ]
    assert draws[0] == draws[1]


def test_values_once_read_do_not_change() -> None:
    """Who holds a row while more of it is scored keeps what it saw."""
    elite = elite_of(values(0, 0, 0, 0, 1), values(1, 1))
    before = elite.values(SECOND)
    elite.add(SECOND, {"c": 0.0})
    assert np.isnan(before[2])
    assert elite.values(SECOND)[2] == 0


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
def test_others_may_read_while_one_thread_adds() -> None:
    """Rankings and picks taken while another thread enters candidates see whole rows and raise nothing."""
    elite = elite_of(values(0, 0, 0, 0, 0))
    is_done = threading.Event()

    def read() -> None:
        rng = np.random.default_rng(0)
        while not is_done.is_set():
            elite.ranked()
            elite.pareto_pick(rng)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for i in range(400):
            elite.add(candidate(f"candidate {i}"), values(*([i / 400] * (1 + i % 5))))
        is_done.set()
        for reader in readers:
            reader.result(20)
    assert len(elite.ranked()) == 401


def test_the_seed_is_reported_by_the_rows_that_it_was_scored_on_and_nothing_is_guessed() -> None:
    """Beside a winner on more rows the seed keeps its own mean and count; a difference wants the same rows."""
    elite = elite_of(values(1, 0, 0), values(1, 1, 0, 1, 1))
    found = dev_estimate(elite, seed=SEED, winner=SECOND, confidence=0.95)
    assert found.seed == pytest.approx(1 / 3)
    assert found.raw == pytest.approx(0.8)
    assert (found.n_seed, found.n_winner, found.n) == (3, 5, 5)
    assert found.difference is None
    enter(elite, SEED, values(None, None, None, 1, 0))
    found = dev_estimate(elite, seed=SEED, winner=SECOND, confidence=0.95)
    assert found.seed == pytest.approx(0.4)
    assert found.difference == pytest.approx(found.winner - 0.4)
