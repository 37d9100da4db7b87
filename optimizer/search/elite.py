"""Who leads, and by how much: the values of all candidates on dev, as one table. Pure.

Means over different examples are never compared: everything is a paired difference to the incumbent, shrunk towards
zero where examples are still unseen, so that a lucky start does not lead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.candidate import Candidate

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
SHRINK_ROWS = 20.0  # a difference on this many rows counts half: spread 0.45 of single, 0.1 of true differences
TIE = 1e-9  # means of equal values may differ by their rounding


class _Row(NamedTuple):
    candidate: Candidate
    values: FloatArray


class Elite:
    """Values[candidate, example] on dev; NaN where not scored.

    One thread adds at a time; others may read meanwhile, because rows are replaced and never changed.

    Attributes:
        incumbent: the candidate that others race against, or None before the baseline.
    """

    def __init__(self, example_ids: Sequence[str]) -> None:
        self._columns = {example_id: i for i, example_id in enumerate(example_ids)}
        self._rows: dict[str, _Row] = {}
        self.incumbent: Candidate | None = None

    def __contains__(self, candidate: Candidate) -> bool:
        return candidate.id in self._rows

    def add(self, candidate: Candidate, values: Mapping[str, float]) -> None:
        """Enter values by example id."""
        row = self.values(candidate).copy() if candidate in self else np.full(len(self._columns), np.nan)
        for example_id, value in values.items():
            row[self._columns[example_id]] = value
        self._rows[candidate.id] = _Row(candidate, row)

    def challenge(self, candidate: Candidate) -> bool:
        """Make the candidate the incumbent if it is ahead, and return whether it is now.

        It must have run the whole race; examples that failed for either of them do not count. A tie changes nothing.
        """
        if self.incumbent is None:
            self.incumbent = candidate
            return True
        paired = self.values(candidate) - self.values(self.incumbent)
        is_comparable = _length(self.values(candidate)) >= self.n_raced and not np.isnan(paired).all()
        if is_comparable and float(np.nanmean(paired)) > TIE:
            self.incumbent = candidate
            return True
        return False

    @property
    def n_raced(self) -> int:
        """Number of leading examples that a race against the incumbent goes over."""
        return 0 if self.incumbent is None else _length(self.values(self.incumbent))

    def scores(self) -> dict[str, tuple[float, int]]:
        """Mean value and number of examples, by id, of candidates that have any; failures are left out."""
        found = {row.candidate.id: self.scored(row.candidate) for row in self._rows.values()}
        return {key: (mean, n) for key, (mean, n) in found.items() if mean is not None}

    def race_values(self, candidate: Candidate) -> tuple[FloatArray, FloatArray]:
        """Return candidate[n_scored] and incumbent[n_total] in race order, without examples that failed for either.

        The first n_scored examples of both are the same.
        """
        if self.incumbent is None:
            raise ValueError("there is no incumbent to race against")
        row, raced = self.values(candidate), self.values(self.incumbent)
        both, n = ~np.isnan(row) & ~np.isnan(raced), _length(row)
        rest = raced[n:]
        return row[both], np.concatenate([raced[both], rest[~np.isnan(rest)]])

    def values(self, candidate: Candidate) -> FloatArray:
        """Return values[n_dev] of one candidate, NaN where not scored."""
        return self._rows[candidate.id].values

    def scored(self, candidate: Candidate) -> tuple[float | None, int]:
        """Return the mean over the examples that a candidate was scored on, and their number; nothing is estimated."""
        row = self.values(candidate) if candidate in self else np.array([np.nan])
        n_scored = int((~np.isnan(row)).sum())
        return (float(np.nanmean(row)) if n_scored else None), n_scored

    def difference(self, candidate: Candidate) -> float | None:
        """Mean paired difference to the incumbent on the shared examples, or None without any."""
        if self.incumbent is None or candidate not in self:
            return None
        paired = self.values(candidate) - self.values(self.incumbent)
        return None if np.isnan(paired).all() else float(np.nanmean(paired))

    def estimate(self, candidate: Candidate) -> float:
        """Score that the candidate is believed to reach on all of dev; 0 before anything is scored.

        On examples that it has seen it keeps its lead, on the others it is granted a part of it.
        """
        row = self.values(candidate)
        n_scored = int((~np.isnan(row)).sum())
        difference = self.difference(candidate)
        if difference is None or self.incumbent is None:
            return float(np.nanmean(row)) if n_scored else 0.0
        n_left = len(row) - n_scored
        lead = difference * (n_scored + n_left * n_scored / (n_scored + SHRINK_ROWS)) / len(row)
        return min(1.0, max(0.0, float(np.nanmean(self.values(self.incumbent))) + lead))

    def gain(self, candidate: Candidate) -> float:
        """Estimated score less the incumbent's; 0 while there is none.

        This is what Optuna maximizes: scores grow in the course of a search, gains of early and late recipes compare.
        """
        if self.incumbent is None or candidate not in self:
            return 0.0
        return self.estimate(candidate) - self.estimate(self.incumbent)

    def ranked(self) -> list[Candidate]:
        """Return all candidates, best estimate first; of equals the one scored on more examples, then the earlier."""
        rows = list(self._rows.values())
        n_unscored = {row.candidate.id: int(np.isnan(row.values).sum()) for row in rows}
        return sorted(
            (row.candidate for row in rows),
            key=lambda candidate: (-round(self.estimate(candidate) / TIE), n_unscored[candidate.id]),
        )

    def pareto_pick(self, rng: np.random.Generator) -> Candidate:
        """Draw one of the candidates (at least one) by the number of examples on which it is among the best.

        Candidates that others match on all of these examples are left out, so that copies do not add up.

        Source: Agrawal et al. 2025, "GEPA: Reflective Prompt Evolution", algorithm 2. Deviations: partly scored
        candidates take part on the examples that they were scored on; examples on which all score the same do not
        count.
        """
        rows = list(self._rows.values())
        n_wins = _without_dominated(_front(np.stack([row.values for row in rows]))).sum(axis=1).astype(np.float64)
        weights = n_wins / n_wins.sum() if n_wins.any() else None
        return rows[int(rng.choice(len(rows), p=weights))].candidate


def _length(row: FloatArray) -> int:
    """Return the number of examples up to the last one that is scored."""
    scored = np.flatnonzero(~np.isnan(row))
    return int(scored[-1]) + 1 if len(scored) else 0


def _front(values: FloatArray) -> BoolArray:
    """Return whether a candidate [k] is among the best on an example [n] that tells candidates apart."""
    scored = ~np.isnan(values)
    best = np.where(scored, values, -np.inf).max(axis=0)
    is_best: BoolArray = scored & (values == best)
    tells_apart = (scored & ~is_best).any(axis=0)
    return is_best & tells_apart


def _without_dominated(front: BoolArray) -> BoolArray:
    """Clear rows whose every entry another row shares; those with fewest entries first, of equals the latest."""
    front = front.copy()
    n_wins = front.sum(axis=1)
    for i in sorted(range(len(front)), key=lambda i: (n_wins[i], -i)):
        if (front.sum(axis=0)[front[i]] > 1).all():
            front[i] = False
    return front
