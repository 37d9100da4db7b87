"""Trials in memory and their rows: what stands in the database is what Optuna's own storage writes, and reads."""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from optimizer.errors import Paused
from optimizer.search import trial_storage
from optimizer.search.trial_rows import SCHEMA
from optimizer.search.trial_storage import PlainStorage, TrialStorage, open_storage, storage_of
from optimizer.storage.journal import Journal, open_engine
from tests.test_workers import database as database
from tests.test_workers import postgres as postgres
from tests.test_workers import server_process as server_process

TABLES = (
    "studies", "study_directions", "trials", "trial_params", "trial_values", "trial_intermediate_values",
    "trial_user_attributes", "trial_system_attributes", "alembic_version",
)  # fmt: skip
TIMES = ("datetime_start", "datetime_complete")
CLOSERS: list[Callable[[], None]] = []


@pytest.fixture(autouse=True)
def closing_all() -> Iterator[None]:
    yield
    for close in CLOSERS:
        close()
    CLOSERS.clear()


def study_in(url: str, name: str = "fruit") -> tuple[Journal, optuna.Study]:
    """Open a study in our storage."""
    journal, backend = Journal(open_engine(url, is_durable=False), name, owner="test"), open_storage(url)
    CLOSERS.extend([backend.remove_session, backend.engine.dispose, journal.engine.dispose])
    made = optuna.create_study(storage=backend, study_name=name, direction="maximize", load_if_exists=True)
    return journal, optuna.Study(name, storage_of(backend, journal, study_id=made._study_id))


def optunas(url: str, name: str = "fruit") -> optuna.Study:
    """Open a study as anybody does who has Optuna."""
    backend = optuna.storages.RDBStorage(url)
    CLOSERS.extend([backend.remove_session, backend.engine.dispose])
    return optuna.create_study(storage=backend, study_name=name, direction="maximize", load_if_exists=True)


def carry_out(study: optuna.Study) -> None:
    """Do all that a search does, and what a storage must bear beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(seed=1, multivariate=True, group=True, constant_liar=True)
    study.enqueue_trial({}, user_attrs={"start": "seed"})
    study.enqueue_trial({"operator": "demos"})
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"start": "person 1"}))
    for number in range(14):
        trial = study.ask()
        if number:
            trial.suggest_categorical("operator", ("demos", "rewrite", None, 0.5))
            trial.suggest_float("share", 0.0, 1.0)
            trial.suggest_int("size", 1, 8)
        trial.set_user_attr("recipe", "{}")
        for step in range(number % 4):
            trial.report((0.25, math.nan, -math.inf)[step], step=5 * step)
        trial.set_user_attr("recipe", '{"a": 1}')
        trial.set_user_attr("scored", ["x", "ü", 'y"'])
        trial.set_user_attr("difference", None)
        if number % 3 == 0:
            study.tell(trial, math.inf if number == 9 else 0.1 * number)
        elif number % 3 == 1:
            study.tell(trial, state=TrialState.PRUNED)
        elif number != 5:
            study.tell(trial.number, state=TrialState.FAIL)


def tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return everything in Optuna's tables; of times, whether they are there and how they are written."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        found = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in TABLES}
    for trial in found["trials"]:
        trial |= {name: trial[name] and (len(trial[name]), trial[name][:4]) for name in TIMES}
    return found


def without_times(trials: list[FrozenTrial]) -> list[str]:
    """Return all that trials have, without the ids of their rows, which are ours and not Optuna's."""
    names = ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values")
    return [
        repr([trial.number, trial.state, trial.values, *(sorted(getattr(trial, name).items()) for name in names)])
        for trial in trials
    ]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def test_the_rows_are_those_that_optuna_writes(tmp_path: Path) -> None:
    """After the same study every table holds the same, down to ids, types and how times are written."""
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    journal, study = study_in(f"sqlite:///{ours}")
    carry_out(study)
    journal.flush()
    carry_out(optunas(f"sqlite:///{theirs}"))
    assert tables(ours) == tables(theirs)


@pytest.mark.parametrize("place", ["file", "server"])
def test_all_read_the_same(place: str, url: str, request: pytest.FixtureRequest) -> None:
    """Memory, a study that is opened again, and Optuna itself show the same trials, times included."""
    url = url if place == "file" else request.getfixturevalue("database")
    journal, study = study_in(url)
    carry_out(study)
    journal.flush()
    memory, again, theirs = (
        study.trials,
        study_in(url)[1].trials,
        optunas(url).trials,
    )
    assert without_times(memory) == without_times(again) == without_times(theirs)
    assert [trial.datetime_complete for trial in memory] == [trial.datetime_complete for trial in theirs]
    assert [trial.datetime_start for trial in again] == [trial.datetime_start for trial in theirs]
    assert study.best_trial.number == 10


def test_a_study_that_optuna_made_goes_on(url: str) -> None:
    """What stands in the database is known, and what comes after it is added to it."""
    carry_out(optunas(url))
    journal, study = study_in(url)
    study.tell(6, 0.75)
    trial = study.ask()
    journal.flush()
    found = optunas(url).trials
    assert (found[6].value, found[trial.number].state, len(found)) == (0.75, TrialState.RUNNING, 16)


def test_two_studies_share_a_database(url: str) -> None:
    """Rows get their ids from the database: another study may be at work in it."""
    (one, pears), (other, plums) = study_in(url, "pears"), study_in(url, "plums")
    for value in (0.1, 0.2, 0.3):
        pears.tell(pears.ask(), value)
        plums.tell(plums.ask(), 1 - value)
    other.flush()
    one.flush()
    assert [trial.value for trial in optunas(url, "pears").trials] == [0.1, 0.2, 0.3]
    assert [trial.value for trial in optunas(url, "plums").trials] == [0.9, 0.8, 0.7]


def test_nothing_is_written_before_the_next_commit_and_all_in_order(url: str) -> None:
    """A change rides along with the journal's next one, so that no trial waits for a commit of its own."""
    journal, study = study_in(url)
    trial = study.ask()
    trial.suggest_categorical("operator", ("demos", "rewrite"))
    assert optunas(url).trials == []
    journal.create_study({})
    journal.update_study(state="running")
    assert optunas(url).trials[0].params == trial.params


def test_a_trial_that_has_ended_stays_as_it_is(url: str) -> None:
    """It takes no further value, attribute or end, as with Optuna."""
    _, study = study_in(url)
    study.tell(study.ask(), 0.5)
    storage = study._storage
    for change in (
        lambda: storage.set_trial_user_attr(0, "reason", "late"),
        lambda: storage.set_trial_intermediate_value(0, 5, 0.1),
        lambda: storage.set_trial_state_values(0, TrialState.FAIL),
    ):
        with pytest.raises(UpdateFinishedTrialError):
            change()
    assert study.trials[0].value == 0.5


def test_who_holds_a_trial_holds_what_it_was(url: str) -> None:
    """Trials that were handed out do not change under the feet of who reads them."""
    _, study = study_in(url)
    trial = study.ask()
    before = study.get_trials(deepcopy=False)[0]
    trial.set_user_attr("recipe", "{}")
    study._storage.get_trial(0).user_attrs["recipe"] = "mine"
    assert (before.user_attrs, study.trials[0].user_attrs) == ({}, {"recipe": "{}"})


def test_a_parameter_keeps_its_choices(url: str) -> None:
    """A sampler cannot learn from choices that change, so they may not, also after the study was opened again."""
    journal, study = study_in(url)
    study.ask().suggest_categorical("operator", ("demos", "rewrite"))
    journal.flush()
    for each in (study, study_in(url)[1]):
        with pytest.raises(ValueError, match="dynamic value space"):
            each._storage.set_trial_param(0, "operator", 0, CategoricalDistribution(("demos", "edit")))


def test_a_trial_that_another_program_added_is_not_overwritten(url: str) -> None:
    """Numbers are given by this program alone; where another one did, the study pauses."""
    journal, study = study_in(url)
    optunas(url).enqueue_trial({})
    study.ask().set_user_attr("recipe", "{}")
    with pytest.raises(Paused, match="another program has added trial 1 to the study"):
        journal.flush()
    assert len(optunas(url).trials) == 1


def test_a_transaction_whose_end_nobody_saw_can_be_repeated(url: str) -> None:
    """A commit that counted although the connection broke adds nothing when it is made again."""
    journal, study = study_in(url)
    carry_out(study)
    entries = list(journal._commits._queue)
    journal.flush()
    before = without_times(optunas(url).trials)
    journal._commits._transact(entries)
    assert without_times(optunas(url).trials) == before


def test_another_schema_is_left_to_optuna(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written here for the one schema that is known here; it is the one of the installed Optuna."""
    assert open_storage(url).get_head_version() == SCHEMA
    assert isinstance(study_in(url)[1]._storage, TrialStorage)
    monkeypatch.setattr(trial_storage, "SCHEMA", "v9")
    _, study = study_in(url)
    assert type(study._storage) is PlainStorage
    carry_out(study)
    assert len(study.trials) == 15


@pytest.mark.slow
class TestShared:
    """Two processes on one study, each with a storage of its own."""

    @pytest.fixture
    def two(self, database: str) -> list[tuple[Journal, optuna.Study]]:
        return [study_in(database), study_in(database)]

    def test_each_takes_in_what_the_other_did(self, two: list[tuple[Journal, optuna.Study]]) -> None:
        """New trials, those that were taken from the queue, values on the way, and ends."""
        (mine, study), (_, other) = two
        study.enqueue_trial({"operator": "demos"})
        study.enqueue_trial({})
        mine.flush()
        storage: Any = other._storage
        storage.refresh()
        assert [trial.state for trial in other.trials] == [TrialState.WAITING] * 2
        trial = study.ask()
        trial.suggest_categorical("operator", ("demos", "rewrite"))
        trial.report(0.1, step=5)
        mine.flush()
        storage.refresh()
        assert (other.trials[0].params, other.trials[0].intermediate_values) == ({"operator": "demos"}, {5: 0.1})
        trial.report(0.2, step=10)
        study.tell(trial, 0.3)
        mine.flush()
        storage.refresh()
        assert without_times(other.trials) == without_times(study.trials)
        assert other.ask().number == 1

    def test_a_look_at_the_database_does_not_undo_what_is_on_its_way(
        self, two: list[tuple[Journal, optuna.Study]]
    ) -> None:
        """What this process did and has not committed yet is newer than what stands there."""
        (journal, study), _ = two
        study.enqueue_trial({})
        journal.flush()
        trial, storage = study.ask(), study._storage
        trial.set_user_attr("recipe", "{}")
        assert isinstance(storage, TrialStorage)
        storage.refresh()
        assert (study.trials[0].state, study.trials[0].user_attrs) == (TrialState.RUNNING, {"recipe": "{}"})
        study.tell(trial, 0.5)
        storage.refresh()
        assert study.trials[0].value == 0.5

    def test_a_trial_is_taken_over_with_all_that_was_entered(self, two: list[tuple[Journal, optuna.Study]]) -> None:
        """Also by a process that had it before."""
        (mine, study), (yours, other) = two
        study.ask().report(0.1, step=5)
        mine.flush()
        for journal, place, step in ((yours, other, 10), (mine, study, 15)):
            storage = place._storage
            assert isinstance(storage, TrialStorage)
            storage.refresh()
            storage.take(0)
            trial = Trial(place, 0)
            assert max(storage.get_trial(0).intermediate_values) == step - 5
            trial.report(0.2, step=step)
            journal.flush()
        assert list(optunas(_url(mine)).trials[0].intermediate_values) == [
            5,
            10,
            15,
        ]


def _url(journal: Journal) -> str:
    url: sa.engine.URL = journal.engine.url
    return url.render_as_string(hide_password=False)


def test_the_storage_is_one_of_optunas(url: str) -> None:
    """It is used as it is: Optuna would put a cache of its own around an `RDBStorage`."""
    storage = study_in(url)[1]._storage
    assert isinstance(storage, BaseStorage)
    assert optuna.storages.get_storage(storage) is storage
