"""Whether one class is so large, or so small, that the share of right answers says little. Pure."""

from __future__ import annotations

from collections.abc import Mapping

LARGE = 0.5  # share of a class from which always answering it looks like a skill
SMALL = 0.1  # share of a class below which losing it hardly shows
MAX_CLASSES = 10  # with more, every class is small


def imbalance(counts: Mapping[str, int]) -> str:
    """Return which class is too large or too small for a mean over rows, in a few words; empty where none is.

    A small class is one below `SMALL` that has less than half of an even share, too.
    """
    n, n_classes = sum(counts.values()), len(counts)
    if n_classes < 2 or not n:
        return ""
    (small, n_small), (large, n_large) = min(counts.items(), key=_rank), max(counts.items(), key=_rank)
    if n_large > LARGE * n and (n_classes > 2 or n_large > 0.7 * n):
        return f"{large!r} makes up {n_large / n:.0%} of the rows"
    if n_classes <= MAX_CLASSES and n_small < SMALL * n and n_small < n / n_classes / 2:
        return f"{small!r} makes up {n_small / n:.0%} of the rows"
    return ""


def _rank(item: tuple[str, int]) -> tuple[int, str]:
    return item[1], item[0]
