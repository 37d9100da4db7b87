"""The Pareto front of score against cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optimizer.search.front import pareto_front

POINTS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5]), st.integers(1, 5)), min_size=1, max_size=9)


def test_cheaper_or_better_stays() -> None:
    """Dear and weak points are dropped, the rest is ordered by cost."""
    assert pareto_front([0.5, 0.9, 0.4, 0.7], [10, 300, 20, 50]) == [0, 3, 1]


def test_of_equal_points_the_first_counts() -> None:
    """A copy of a point on the front adds nothing."""
    assert pareto_front([0.5, 0.5, 0.6], [7, 7, 9]) == [0, 2]


@given(POINTS)
def test_the_front_beats_everything_else(points: list[tuple[float, int]]) -> None:
    """Each point has one on the front that is at least as good and as cheap; no two points of the front do that."""
    scores, costs = [score for score, _ in points], [cost for _, cost in points]
    front = pareto_front(scores, costs)

    def covers(i: int, j: int) -> bool:
        return scores[i] >= scores[j] and costs[i] <= costs[j]

    assert all(any(covers(i, j) for i in front) for j in range(len(points)))
    assert not any(covers(i, j) for i in front for j in front if i != j)
