"""How good a candidate is that was chosen for its score: the best of many looks better than it is. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optimizer.stats import FloatArray, finite, wilson

_ROUNDING = 1e-12
_MOST = 0.25  # the largest variance that scores in [0, 1] can have
_LIKE_OTHERS = 5.0  # rows' worth of belief that a candidate's scores scatter as those of all candidates do


def shrink(means: FloatArray, standard_errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pull each mean towards the others by as much as chance alone would spread them; return these and variances [k].

    Normal errors, normal true scores; the spread of the true scores is estimated from the data and is 0 when chance
    explains everything. Deviation: the true scores may come in two groups (most prompts fail, some work), each with its
    own centre, when four or more means say so by AIC. With one group, a clearly better candidate among equal ones
    would lose a third of its lead, and a crowd of failures would hide how lucky the best of the others is.

    Mean error of the best of 20 on 100 binary examples (400 draws, NumPy seed 3): all equal: raw 9.3 points, shrunk
    1.0; true scores with a spread of 12 points: 3.2 and -0.8; half of them 30 points worse: 7.6 and 0.8. The weak spot
    is a single candidate truly 20 points ahead of equals: 0.3 and -4.7, for it may also be luck; at 30 points: -0.1
    and -0.6.

    Source: Efron and Morris (1975), Data analysis using Stein's estimator; DerSimonian and Laird (1986), Meta-analysis
    in clinical trials, for the variance between candidates; Akaike (1974), for the second group.
    """
    means, errors = finite(means), finite(standard_errors)
    k, error2 = len(means), np.maximum(errors, 1e-9) ** 2
    if k < 2:
        return means.copy(), error2
    fit = _best_fit(means, error2)
    kept = (fit.between / (fit.between + error2))[:, None]  # [k, 1]: how much of a lead is real
    offsets = means[:, None] - fit.centres
    by_group = fit.centres + kept * offsets
    shrunk = np.sum(fit.shares * by_group, axis=1)
    n_group = np.maximum(fit.shares.sum(axis=0), 1.0)
    # Morris (1983): noise that stays, plus not knowing the centre, plus not knowing the spread.
    within = kept * error2[:, None] + (1 - kept) * error2[:, None] / n_group
    spread = np.where(n_group > 1, 2 / np.maximum(n_group - 3, 1) * ((1 - kept) * offsets) ** 2, 0.0)
    variance = np.sum(fit.shares * (within + spread + (by_group - shrunk[:, None]) ** 2), axis=1)
    return shrunk, variance


def shrunken_best(values: FloatArray, chosen: int, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Estimate the true mean score of a candidate that was chosen for its score: (estimate, low, high).

    Examples differ in difficulty for all candidates alike: score = level of the example + effect of the candidate +
    noise. Candidates are compared by generalised least squares with the levels as random: on examples that both have
    the level is no matter, on others it is so much more noise. What examples share moves every mean together and
    cannot make one candidate win by luck, so only the effects are shrunk, with their error. Candidates dropped early
    count with their larger error, and one that is right nearly always, whose score hardly scatters, keeps its lead. The
    interval holds the noise left after shrinking and the luck of the examples drawn.

    Not modelled: a dropped candidate stopped because its first scores were low, so its effect is a little too low.

    Args:
        values: shape [k, n]; NaN where a candidate was not scored on an example.
        chosen: row of the chosen candidate.

    Raises:
        ValueError: the chosen candidate has no scores.

    Source: Efron (2011), Tweedie's formula and selection bias; Morris (1983), Parametric empirical Bayes inference,
    for the interval.
    """
    values = np.asarray(values, dtype=np.float64)
    scored = ~np.isnan(values)
    if not scored[chosen].any():
        raise ValueError(f"candidate {chosen} has no scores")
    rows, columns = np.flatnonzero(scored.any(axis=1)), np.flatnonzero(scored.any(axis=0))
    values = values[np.ix_(rows, columns)]
    place, (k, n) = int(np.searchsorted(rows, chosen)), values.shape
    means, covariance = _means(values)
    centred = np.eye(k) - 1 / k
    errors = np.sqrt(np.maximum(np.diag(centred @ covariance @ centred), 0.0) * (k / max(1, k - 1)))
    shrunk, variances = shrink(means - means.mean(), errors * _own_noise(values))
    estimate = min(1.0, max(0.0, float(means.mean() + shrunk[place])))
    variance = float(variances[place]) + float(covariance.sum()) / k**2
    # Wilson's interval with the number of 0/1 rows that would be as uncertain: stays in [0, 1], is never of zero width.
    # Laplace's rule keeps that number from going to 0 with an estimate that is pushed against 0 or 1.
    inner = (estimate * n + 1) / (n + 2)
    n_like = inner * (1 - inner) / variance if variance > _ROUNDING else n
    return estimate, *wilson(estimate * n_like, n_like, confidence)


def _own_noise(values: FloatArray) -> FloatArray:
    """How much more or less each candidate's scores [k, n] scatter than those of all, shape [k]; 1 is as much."""
    n = (~np.isnan(values)).sum(axis=1)
    squares = n * np.nanvar(values, axis=1)
    noise2 = squares.sum() / n.sum()
    if noise2 <= _ROUNDING:
        return np.ones(len(values))
    relative: FloatArray = np.sqrt((squares / noise2 + _LIKE_OTHERS) / (n + _LIKE_OTHERS))
    return relative


class _Fit(NamedTuple):
    """True scores as a mixture of J normals of one variance: shares [k, J] of each candidate, centres [J]."""

    shares: FloatArray
    centres: FloatArray
    between: float
    loglik: float


def _best_fit(means: FloatArray, error2: FloatArray) -> _Fit:
    """One group, or two when that explains the means better by AIC (two more parameters)."""
    k, order = len(means), np.argsort(means)
    if k >= 4:
        one = _expect_maximise(means, error2, np.ones((k, 1)))
        gaps = [np.var(means[order[:i]]) * i + np.var(means[order[i:]]) * (k - i) for i in range(1, k)]
        starts = {int(np.argmin(gaps)) + 1, k - 1}  # where the gap is widest, and the best one alone
        upper = [np.isin(np.arange(k), order[i:]).astype(np.float64) for i in sorted(starts)]
        fits = [_expect_maximise(means, error2, np.column_stack([1 - group, group])) for group in upper]
        two = max(fits, key=lambda fit: fit.loglik)
        if 2 * (two.loglik - one.loglik) > 4:
            return two
    return _one_group(means, error2)


def _one_group(means: FloatArray, error2: FloatArray) -> _Fit:
    """DerSimonian and Laird's variance between candidates; maximum likelihood creeps towards 0 too slowly."""
    weights = 1 / error2
    centre = np.average(means, weights=weights)
    excess = np.sum(weights * (means - centre) ** 2) - (len(means) - 1)
    between = max(0.0, float(excess / (weights.sum() - np.sum(weights**2) / weights.sum())))
    centres = np.array([np.average(means, weights=1 / (error2 + between))])
    return _Fit(np.ones((len(means), 1)), centres, between, 0.0)


def _expect_maximise(means: FloatArray, error2: FloatArray, shares: FloatArray, *, n_rounds: int = 60) -> _Fit:
    """Maximum likelihood of the mixture by EM from the given shares [k, J]."""
    between, centres, loglik = float(np.var(means)) / 2, np.zeros(shares.shape[1]), 0.0
    for _ in range(n_rounds):
        total = error2 + between
        weights = shares / total[:, None]
        centres = weights.T @ means / np.maximum(weights.sum(axis=0), 1e-300)
        log_joint = np.log(np.maximum(shares.mean(axis=0), 1e-300)) - 0.5 * (
            (means[:, None] - centres) ** 2 / total[:, None] + np.log(2 * np.pi * total)[:, None]
        )
        log_total = np.logaddexp.reduce(log_joint, axis=1)
        shares, loglik = np.exp(log_joint - log_total[:, None]), float(log_total.sum())
        kept = (between / total)[:, None]
        noise2 = (kept * (means[:, None] - centres)) ** 2 + kept * error2[:, None]
        between = float(np.mean(np.sum(shares * noise2, axis=1)))
    return _Fit(shares, centres, between, loglik)


def _means(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return each candidate's mean over all examples that there could be, shape [k], and their covariance [k, k].

    Generalised least squares on scores [k, n] with NaN, examples as random effects: the covariance of the scores on one
    example is noise on the diagonal and the variance of the levels everywhere.

    Source: Henderson (1975), Best linear unbiased estimation and prediction under a selection model.
    """
    scored = ~np.isnan(values)
    seen, filled = scored.astype(np.float64), np.where(scored, values, 0.0)
    noise2, level2 = _variances(seen, filled)
    shared = seen * (level2 / (noise2 + level2 * seen.sum(axis=0)))
    precision = (np.diag(seen.sum(axis=1)) - shared @ seen.T) / noise2
    covariance: FloatArray = np.linalg.pinv(precision, rcond=1e-12, hermitian=True)
    means: FloatArray = covariance @ (filled.sum(axis=1) - shared @ filled.sum(axis=0)) / noise2
    return means, covariance


def _variances(seen: FloatArray, filled: FloatArray) -> tuple[float, float]:
    """Return the variance of the noise and of the examples' levels, from two-way least squares on scores [k, n]."""
    (k, n), n_column = seen.shape, seen.sum(axis=0)
    laplacian = np.diag(seen.sum(axis=1)) - (seen / n_column) @ seen.T
    inverse = np.linalg.pinv(laplacian, rcond=1e-9, hermitian=True)
    effects = inverse @ np.sum(seen * (filled - filled.sum(axis=0) / n_column), axis=1)
    levels = (filled - seen * effects[:, None]).sum(axis=0) / n_column
    if k == 1:
        return max(float(levels.var(ddof=1)) if n > 1 else _MOST, _ROUNDING), 0.0
    residuals = seen * (filled - effects[:, None] - levels)
    n_free = int(seen.sum()) - n - k + 1
    noise2 = max(float(np.sum(residuals**2)) / n_free if n_free > 0 else _MOST, _ROUNDING)
    spread = float(np.average((levels - np.average(levels, weights=n_column)) ** 2, weights=n_column))
    return noise2, max(0.0, spread - noise2 * n / float(seen.sum()))
