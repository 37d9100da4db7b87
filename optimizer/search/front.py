"""The Pareto front of score against cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(scores: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Return the positions that no other one beats in score (higher) and cost (lower) at once, cheapest first.

    Of equal pairs the first one counts.
    """
    front: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (costs[i], -scores[i], i)):
        if not front or scores[i] > scores[front[-1]]:
            front.append(i)
    return front
