"""What Optuna's TPE is shown: the latest trials, as they were when the question was asked."""

from __future__ import annotations

import warnings

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from optimizer.search.sampler import MEMORY, LatestTPE, LatestTrials

OPERATOR = CategoricalDistribution(("rewrite", "demos"))


def told(operator: str, value: float) -> FrozenTrial:
    return create_trial(params={"operator": operator}, distributions={"operator": OPERATOR}, value=value)


def study_of(trials: list[FrozenTrial]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


def draws(study: optuna.Study, *, n: int = 40) -> list[str]:
    """Ask n times with different seeds, and learn nothing from the answers."""
    found: list[str] = []
    snapshot = study.get_trials()
    for seed in range(n):
        study.sampler = LatestTPE(LatestTrials(study, snapshot), seed=seed, constant_liar=False)
        found.append(str(study.ask().suggest_categorical("operator", ("rewrite", "demos"))))
    return found


def test_it_learns_from_the_latest_trials_and_forgets_the_others() -> None:
    """What paid in the last trials is drawn more often, although the opposite paid in many more before."""
    before = [told("rewrite", 1.0) if i % 2 else told("demos", 0.0) for i in range(2 * MEMORY)]
    lately = [told("demos", 1.0) if i % 2 else told("rewrite", 0.0) for i in range(MEMORY)]

    assert draws(study_of(before)).count("rewrite") > 25
    assert draws(study_of(before + lately)).count("demos") > 25


def test_up_to_its_memory_it_draws_as_optuna_does() -> None:
    """The same seed gives the same recipe as TPE on the whole study."""
    share = FloatDistribution(0.0, 1.0)
    trials = [
        create_trial(params={"share": i / MEMORY}, distributions={"share": share}, value=i % 7) for i in range(MEMORY)
    ]
    optunas, ours = [], []
    for seed in range(20):
        study = study_of(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        optunas.append(study.ask().suggest_float("share", share.low, share.high))
        study.sampler = LatestTPE(LatestTrials(study, study_of(trials).trials), seed=seed, constant_liar=False)
        ours.append(study.ask().suggest_float("share", share.low, share.high))

    assert len(set(ours)) == 20
    assert ours == optunas


def test_a_snapshot_is_filtered_by_state() -> None:
    """Optuna asks for trials of some states; running ones stay out unless they are asked for."""
    trials = [told("demos", 0.5), create_trial(state=TrialState.RUNNING)]
    latest = LatestTrials(study_of([]), trials)

    assert [trial.state for trial in latest.get_trials(deepcopy=False)] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert [trial.state for trial in latest.get_trials(states=(TrialState.COMPLETE,))] == [TrialState.COMPLETE]
