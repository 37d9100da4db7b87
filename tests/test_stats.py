"""Intervals, tests and shrinkage: agreement with SciPy, symmetries, and what simulation says about their promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from optimizer.proof.shrinkage import shrink, shrunken_best
from optimizer.stats import (
    FloatArray,
    IntArray,
    compare,
    interval_of_mean,
    is_significant_gain,
    mcnemar_exact,
    paired_bootstrap,
    paired_permutation,
    smallest_provable_gain,
    wilson,
)

COUNTS = st.integers(0, 60)
SCORES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=40)


def columns(pairs: list[tuple[float, float]]) -> tuple[FloatArray, FloatArray]:
    array = np.array(pairs, dtype=np.float64)
    return array[:, 0], array[:, 1]


def binary_pair(n_seed_only: int, n_winner_only: int, n_equal: int) -> tuple[FloatArray, FloatArray]:
    seed = np.r_[np.ones(n_seed_only), np.zeros(n_winner_only), np.ones(n_equal)]
    return seed, np.r_[np.zeros(n_seed_only), np.ones(n_winner_only), np.ones(n_equal)]


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_binomial_test_and_symmetric(n_seed_only: int, n_winner_only: int) -> None:
    """The p-value equals SciPy's exact binomial test, whichever of the two is called the seed."""
    p_value = mcnemar_exact(n_seed_only, n_winner_only)
    n = n_seed_only + n_winner_only
    assert p_value == pytest.approx(scipy_stats.binomtest(n_seed_only, n, 0.5).pvalue if n else 1.0)
    assert p_value == mcnemar_exact(n_winner_only, n_seed_only)


def test_mcnemar_takes_large_and_numpy_counts() -> None:
    """Thousands of rows neither overflow nor lose the p-value."""
    assert mcnemar_exact(int(np.int64(2000)), int(np.int64(2100))) == pytest.approx(
        scipy_stats.binomtest(2000, 4100, 0.5).pvalue
    )
    assert mcnemar_exact(np.int64(300), np.int64(400)) == mcnemar_exact(300, 400)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.3, 1.0]), min_size=2, max_size=10))
@settings(max_examples=40)
def test_exact_permutation_agrees_with_scipy(differences: list[float]) -> None:
    """With at most 12 unequal rows every sign pattern is counted, as SciPy does."""
    array = np.array(differences, dtype=np.float64)
    expected = 1.0
    if np.any(array):
        result = scipy_stats.permutation_test((array,), np.sum, permutation_type="samples", n_resamples=np.inf)
        expected = result.pvalue
    assert paired_permutation(array, rng=np.random.default_rng(0)) == pytest.approx(expected)


@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_permutation_ignores_order_and_direction(differences: list[float], random: object) -> None:
    """Shuffled rows and swapped candidates give the same p-value from the same generator; it is in (0, 1]."""
    shuffled = list(differences)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    p_values = {
        paired_permutation(np.array(array), rng=np.random.default_rng(3), n_resamples=200)
        for array in (differences, shuffled, [-value for value in differences])
    }
    assert len(p_values) == 1
    assert 0 < p_values.pop() <= 1


def test_sampled_permutation_is_near_the_exact_binomial() -> None:
    """For 13 wins against 4 the sampled p-value is that of the exact test on signs."""
    differences = np.r_[np.ones(13), -np.ones(4), np.zeros(30)]
    p_value = paired_permutation(differences, rng=np.random.default_rng(5))
    assert p_value == pytest.approx(mcnemar_exact(4, 13), abs=0.01)


@given(PAIRS, st.integers(0, 5))
@settings(max_examples=40)
def test_interval_holds_the_estimate_and_mirrors(pairs: list[tuple[float, float]], rng_seed: int) -> None:
    """The interval contains the observed difference, stays in [-1, 1], and swapping the candidates mirrors it."""
    seed, winner = columns(pairs)

    def interval(first: FloatArray, second: FloatArray) -> tuple[float, float]:
        rng = np.random.default_rng(rng_seed)
        return paired_bootstrap(first, second, confidence=0.9, n_resamples=300, rng=rng)

    low, high = interval(seed, winner)
    assert -1 <= low <= float(np.mean(winner - seed)) + 1e-12
    assert float(np.mean(winner - seed)) - 1e-12 <= high <= 1
    assert interval(winner, seed) == pytest.approx((-high, -low))


@given(st.integers(1, 400), st.sampled_from([-1.0, -0.3, 0.0, 0.5, 1.0]))
@settings(max_examples=30)
def test_equal_differences_still_have_an_interval(n: int, difference: float) -> None:
    """Rows that all agree leave room for rows not seen: never zero width, narrower with more rows."""
    seed = np.full(n, max(0.0, -difference))
    low, high = paired_bootstrap(seed, seed + difference, confidence=0.95, n_resamples=50, rng=np.random.default_rng(1))
    unseen = 1 - 0.025 ** (1 / n)
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert high - low == pytest.approx(2 * unseen)


def test_rule_of_three_numbers() -> None:
    """No unequal row among 100 bounds the difference by 3.6 points at 95% (3/n is the one-sided rule of thumb)."""
    same = np.ones(100)
    low, high = paired_bootstrap(same, same, confidence=0.95, rng=np.random.default_rng(0))
    assert (low, high) == pytest.approx((-0.0362, 0.0362), abs=1e-4)


def test_bootstrap_agrees_with_scipy() -> None:
    """The interval of a mean is SciPy's percentile interval but for resampling noise."""
    rng = np.random.default_rng(11)
    seed, winner = rng.random(80), rng.random(80)
    expected = scipy_stats.bootstrap(
        (winner - seed,), np.mean, method="percentile", confidence_level=0.9, rng=np.random.default_rng(2)
    ).confidence_interval
    got = paired_bootstrap(seed, winner, confidence=0.9, rng=np.random.default_rng(3))
    assert got == pytest.approx((expected.low, expected.high), abs=0.005)


def test_statistic_replaces_the_mean() -> None:
    """A statistic over indices sets the difference and its interval, and the p-value comes from the bootstrap."""
    rng = np.random.default_rng(4)
    seed, winner = (rng.random(60) < 0.4).astype(float), (rng.random(60) < 0.8).astype(float)

    def halved(indices: IntArray) -> float:
        return float(np.mean(winner[indices] - seed[indices])) / 2

    whole = compare(seed, winner, is_binary=True, confidence=0.95, rng=np.random.default_rng(6))
    half = compare(seed, winner, is_binary=True, confidence=0.95, rng=np.random.default_rng(6), statistic=halved)
    assert half.difference == pytest.approx(whole.difference / 2)
    assert (half.low, half.high) == pytest.approx((whole.low / 2, whole.high / 2), abs=0.01)
    assert (whole.test_name, half.test_name) == ("exact McNemar", "paired bootstrap")
    assert half.p_value < 0.01


@pytest.mark.parametrize(
    ("seed", "winner"),
    [([1.0, 0.0], [1.0]), ([], []), ([math.nan, 1.0], [1.0, 1.0]), ([1.0, 0.0], [math.inf, 0.0]), ([[1.0]], [[0.0]])],
)
def test_unpaired_or_unscored_values_are_refused(seed: list[float], winner: list[float]) -> None:
    """Different lengths, no rows, NaN and tables are errors, never a comparison."""
    with pytest.raises(ValueError, match=r"same examples|finite"):
        compare(np.array(seed), np.array(winner), is_binary=True, confidence=0.95, rng=np.random.default_rng(0))


@given(COUNTS, COUNTS, st.integers(1, 80), st.booleans())
@settings(max_examples=25)
def test_promotion_never_shows_an_interval_with_zero(a: int, b: int, n_equal: int, is_binary: bool) -> None:
    """A promoted winner has a gain, a p-value under the error rate and an interval above 0."""
    seed, winner = binary_pair(a, b, n_equal)
    result = compare(seed, winner, is_binary=is_binary, confidence=0.95, rng=np.random.default_rng(8))
    assert result.n == a + b + n_equal
    assert result.low <= result.difference <= result.high
    if is_significant_gain(result, 0.95):
        assert 0 < result.low <= result.difference
        assert result.p_value < 0.05


def test_few_unequal_rows_are_not_enough() -> None:
    """Five wins and no loss are kept as chance (p=0.0625), six are a gain (p=0.031)."""
    for n_wins, is_gain in ((5, False), (6, True)):
        seed, winner = binary_pair(0, n_wins, 94)
        result = compare(seed, winner, is_binary=True, confidence=0.95, rng=np.random.default_rng(0))
        assert result.low > 0
        assert is_significant_gain(result, 0.95) is is_gain


def test_a_loss_is_never_a_gain() -> None:
    """A clear loss has a small p-value too and is still not promoted."""
    seed, winner = binary_pair(30, 2, 60)
    result = compare(seed, winner, is_binary=True, confidence=0.95, rng=np.random.default_rng(0))
    assert result.p_value < 0.001
    assert not is_significant_gain(result, 0.95)


@pytest.mark.parametrize("n", [50, 200, 500])
def test_false_promotions_stay_under_the_one_sided_rate(n: int) -> None:
    """Of 4,000 equally good pairs fewer than 2.5% pass the test that every promotion needs."""
    wins_losses = np.random.default_rng(21).multinomial(n, [0.15, 0.15, 0.7], size=4000)
    n_promoted = sum(b > a and mcnemar_exact(int(a), int(b)) < 0.05 for a, b, _ in wins_losses)
    assert n_promoted / 4000 < 0.025


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.5, 0.999))
def test_wilson_agrees_with_scipy(successes: int, n: int, confidence: float) -> None:
    """The interval is SciPy's, contains the share and stays in [0, 1]."""
    successes = min(successes, n)
    low, high = wilson(successes, n, confidence)
    expected = scipy_stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1


def test_a_mean_of_grades_has_no_interval_of_a_share() -> None:
    """Right and wrong answers have Wilson's interval; grades, which differ less, have a narrower one around their mean
    that depends on the generator alone, also where all are equal."""
    rng = np.random.default_rng(4)
    right, grades = rng.integers(0, 2, size=60).astype(float), rng.uniform(0.4, 0.8, size=60)
    assert interval_of_mean(right, confidence=0.95, rng=rng) == wilson(right.sum(), 60, 0.95)
    found, again = (interval_of_mean(grades, confidence=0.95, rng=np.random.default_rng(0)) for _ in range(2))
    wide = wilson(grades.sum(), 60, 0.95)
    assert wide[0] < found[0] < grades.mean() < found[1] < wide[1]
    assert found == again
    low, high = interval_of_mean(np.full(60, 0.02), confidence=0.95, rng=rng)
    assert 0 <= low < 0.02 < high < 0.1


def test_wilson_of_nothing_is_everything() -> None:
    """Without rows any share is possible."""
    assert wilson(0, 0, 0.95) == (0.0, 1.0)


def test_smallest_provable_gain_has_the_asked_power() -> None:
    """Drawn at the reported gain, four out of five comparisons are significant; more rows prove smaller gains."""
    gain = smallest_provable_gain(120)
    share = max(0.3, gain)
    draws = np.random.default_rng(9).multinomial(120, [(share - gain) / 2, (share + gain) / 2, 1 - share], size=2000)
    power = np.mean([b > a and mcnemar_exact(int(a), int(b)) < 0.05 for a, b, _ in draws])
    assert power == pytest.approx(0.8, abs=0.03)
    gains = [smallest_provable_gain(n) for n in (3, 20, 50, 200, 1000)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == 1.0


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.005, 0.3)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_shrunken_means_stay_between_and_ignore_order(pairs: list[tuple[float, float]], random: object) -> None:
    """Shrinking never leaves the range of the means, and relabelled candidates keep their own estimates."""
    means, errors = columns(pairs)
    shrunk, _ = shrink(means, errors)
    assert np.all(shrunk >= means.min() - 1e-9)
    assert np.all(shrunk <= means.max() + 1e-9)
    order = list(range(len(pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    if len(set(means.tolist())) == len(pairs):
        assert shrink(means[order], errors[order])[0] == pytest.approx(shrunk[order], abs=1e-6)


def test_means_that_differ_by_chance_become_one() -> None:
    """Three means closer than their errors explain are all moved to the centre."""
    shrunk, _ = shrink(np.array([0.50, 0.52, 0.54]), np.array([0.1, 0.1, 0.1]))
    assert shrunk == pytest.approx([0.52, 0.52, 0.52])


def errors_of_best(truths: FloatArray, *, shared: float, n_draws: int = 200) -> tuple[float, float, float]:
    """Mean error of the raw and the corrected best score, and how often the interval holds the truth."""
    rng, raw, corrected, n_covered = np.random.default_rng(12), [], [], 0
    for _ in range(n_draws):
        common = rng.random(100) * np.ones((len(truths), 1))
        luck = np.where(rng.random((len(truths), 100)) < shared, common, rng.random((len(truths), 100)))
        values = (luck < truths[:, None]).astype(np.float64)
        chosen = int(np.argmax(values.mean(axis=1)))
        estimate, low, high = shrunken_best(values, chosen)
        raw.append(values[chosen].mean() - truths[chosen])
        corrected.append(estimate - truths[chosen])
        n_covered += low <= truths[chosen] <= high
    return float(np.mean(raw)), float(np.mean(corrected)), n_covered / n_draws


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_best_of_twenty_equals_is_corrected(shared: float) -> None:
    """Among 20 equal candidates on 100 examples the best looks 7 to 9 points too good; corrected, under 1.5."""
    raw, corrected, covered = errors_of_best(np.full(20, 0.5), shared=shared)
    assert raw > 0.06
    assert abs(corrected) < 0.015
    assert covered > 0.95


@pytest.mark.parametrize(
    "truths",
    [np.linspace(0.2, 0.8, 20), np.r_[np.full(10, 0.2), np.full(10, 0.5)], np.r_[np.full(19, 0.5), 0.8]],
    ids=["spread", "half fail", "one stands out"],
)
def test_truly_different_candidates_keep_their_lead(truths: FloatArray) -> None:
    """Where the best is really better the correction is small: at most 2 points off on average."""
    _, corrected, covered = errors_of_best(truths, shared=0.3)
    assert abs(corrected) < 0.02
    assert covered > 0.85


def test_a_candidate_that_is_right_nearly_always_keeps_its_lead() -> None:
    """At 98% a score hardly scatters: far ahead of a scattered field it is no luck, and is off by under a point."""
    _, corrected, covered = errors_of_best(np.r_[np.linspace(0.3, 0.8, 12), 0.98], shared=0.3)
    assert abs(corrected) < 0.01
    assert covered > 0.85


def test_unscored_examples_are_left_out_in_pairs() -> None:
    """A candidate stopped on easy examples is compared on those only, so it cannot beat one scored on hard ones too."""
    full, weak = np.r_[np.ones(10), np.zeros(10)], np.r_[np.ones(10), np.zeros(10)]
    early = np.r_[np.ones(10), np.full(10, np.nan)]
    estimate, low, high = shrunken_best(np.stack([full, early, weak]), 0)
    assert estimate == pytest.approx(0.5, abs=0.001)
    assert low < 0.5 < high
    assert shrunken_best(np.stack([full, early, weak]), 1)[0] == pytest.approx(0.5, abs=0.001)


def test_single_candidate_keeps_its_mean_and_rows_without_scores_do_not_count() -> None:
    """With nothing to compare there is nothing to shrink; unscored candidates and examples change nothing."""
    values = np.r_[np.ones(15), np.zeros(5)]
    alone = shrunken_best(values[None, :], 0)
    assert alone[0] == pytest.approx(0.75)
    padded = np.full((3, 22), np.nan)
    padded[1, :20] = values
    assert shrunken_best(padded, 1) == pytest.approx(alone)
    with pytest.raises(ValueError, match="candidate 2 has no scores"):
        shrunken_best(padded, 2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_perfect_scores_still_have_an_interval(value: float) -> None:
    """Two candidates that are always right (or wrong) are not certain to stay so."""
    estimate, low, high = shrunken_best(np.full((2, 30), value), 0)
    assert estimate == value
    assert high - low > 0.05


def test_the_interval_of_a_winner_that_is_always_right_holds_its_estimate() -> None:
    """Where the estimate is pushed against 100%, what is in doubt lies below it and not at the other end."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = (rng.random((12, 100)) < rng.uniform(0.85, 0.99, size=(12, 1))).astype(np.float64)
        values[0] = 1.0
        estimate, low, high = shrunken_best(values, 0)
        assert 0.5 < low <= estimate <= high <= 1.0
        assert high > low


def test_rows_that_only_the_winner_saw_speak_for_it() -> None:
    """Others were dropped after a few rows; the many rows that the winner has besides tell that its lead is no luck."""
    rng = np.random.default_rng(3)
    off = []
    for _ in range(100):
        values = np.full((25, 100), np.nan)
        values[1:, :15] = rng.random((24, 15)) < 0.3
        values[0] = rng.random(100) < 0.55
        off.append(shrunken_best(values, 0)[0] - 0.55)
    assert -0.08 < float(np.mean(off)) < 0.01
