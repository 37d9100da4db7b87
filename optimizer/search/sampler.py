"""Optuna's TPE as this program uses it: multivariate, on the latest trials, which are read once for all parameters."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

MEMORY = 250  # trials: from here on Optuna's TPE counts no more than 25 of them among the good ones


class LatestTPE(optuna.samplers.TPESampler):
    """Optuna's TPE on the latest trials: it looks at each of them for each parameter, and what paid early may not now.

    Args:
        study: read for the trials instead of the one that Optuna hands over.
    """

    def __init__(self, study: LatestTrials, *, seed: int, constant_liar: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(seed=seed, multivariate=True, group=True, constant_liar=constant_liar)
        self._latest = study

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        del study
        return super().infer_relative_search_space(Kinds(self._latest, self._latest.trials_now), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        del study
        return super().sample_relative(self._latest, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        del study
        return super().sample_independent(self._latest, trial, param_name, param_distribution)


class LatestTrials(optuna.Study):
    """A study as it is at this moment, with its last trials alone."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage)
        self.trials_now = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        del deepcopy, use_cache
        wanted = (trial for trial in reversed(self.trials_now) if states is None or trial.state in states)
        return list(itertools.islice(wanted, MEMORY))[::-1]


class Kinds(LatestTrials):
    """The same with one trial for each set of parameters: which of them are drawn together needs no more than that."""

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        kinds: dict[frozenset[str], FrozenTrial] = {}
        for trial in super()._get_trials(deepcopy, states, use_cache):
            kinds.setdefault(frozenset(trial.distributions), trial)
        return list(kinds.values())
