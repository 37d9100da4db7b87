"""Optuna's storage as this program uses it: trials in memory, their rows in Optuna's tables by the journal's commits.

`RDBStorage` takes a commit for each parameter, attribute and value, two dozen a trial, waits for each of them behind
those of the journal, and reads trials back after each change: 40 processor milliseconds a trial, all one after the
other. Here a change is made in memory and its row is entered by the journal's next commit, in order. A trial is
therefore in the database before the first call that is made for it, and its end before anything that comes after it. A
kill can lose what no call was made for; it is then decided again, in the same way. What several processes share is
committed before another of them may decide (`Study` sees to that), and what they did is taken in by `refresh`.

While a study is open this program alone adds trials to it. The study stays one of Optuna's: it is made by `RDBStorage`,
and the rows equal those that `RDBStorage` writes. For a schema that `trial_rows` does not know, `RDBStorage` is used as
it is (`PlainStorage`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from optimizer.search import trial_rows
from optimizer.search.trial_rows import SCHEMA, SYSTEM, USER, Head, Row
from optimizer.storage.away import patient
from optimizer.storage.database import making_tables, prepare_postgresql, prepare_sqlite
from optimizer.storage.journal import Journal


class PlainStorage(_CachedStorage):
    """Optuna's storage as it is: every change is committed at once, every look reads."""

    def refresh(self) -> None:
        """Take in what other processes did; every look does."""

    def take(self, trial_id: int) -> None:
        """Carry out a trial that another process had begun."""


class TrialStorage(PlainStorage):
    """The trials of one study. Their ids are their numbers. Safe to use from all threads.

    Trials are never changed in place: who holds one holds what it was.

    Args:
        study_id: the study's number in the database.
    """

    def __init__(self, backend: RDBStorage, journal: Journal, *, study_id: int) -> None:
        super().__init__(backend)
        self._journal, self._study_id, self.is_shared = journal, study_id, journal.is_shared
        self._trials: list[FrozenTrial] = []
        self._rows: list[Row] = []
        self._own = set[int]()  # trials that this process carries out: nobody else changes them
        self._drawn = dict[str, BaseDistribution]()
        self._take_in(0)

    @patient
    def refresh(self) -> None:
        if self.is_shared:
            with self._lock:
                still_open = (trial.number for trial in self._trials if not trial.state.is_finished())
                since = next(still_open, len(self._trials))
            self._take_in(since)

    @patient
    def take(self, trial_id: int) -> None:
        if self.is_shared:
            self._journal.flush()  # this process may have had it before
            self._own.discard(trial_id)
            self._take_in(trial_id)
        self._own.add(trial_id)

    # -- what Optuna asks for -------------------------------------------------------------------

    def get_study_id_from_name(self, study_name: str) -> int:
        del study_name  # there is one
        return self._study_id

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._lock:
            number = len(self._trials)
            trial = _copied(template_trial) if template_trial else _begun()
            trial.number = trial._trial_id = number
            self._trials.append(trial)
            self._rows.append(row := Row())
            if template_trial is None:
                self._own.add(number)
            self._later(lambda connection: trial_rows.create(connection, row, study_id, trial))
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        check_distribution_compatibility(self._drawn.setdefault(param_name, distribution), distribution)
        value = distribution.to_external_repr(param_value_internal)

        def change(trial: FrozenTrial) -> None:
            trial.params[param_name], trial.distributions[param_name] = value, distribution

        self._change(trial_id, change, trial_rows.set_param, param_name, param_value_internal, distribution)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)

        def change(trial: FrozenTrial) -> None:
            trial.user_attrs[key] = json.loads(text)

        self._change(trial_id, change, trial_rows.set_attribute, USER, key, text)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)

        def change(trial: FrozenTrial) -> None:
            trial.system_attrs[key] = json.loads(text)

        self._change(trial_id, change, trial_rows.set_attribute, SYSTEM, key, text)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        def change(trial: FrozenTrial) -> None:
            trial.intermediate_values[step] = intermediate_value

        self._change(trial_id, change, trial_rows.set_step, step, intermediate_value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def change(trial: FrozenTrial) -> None:
            trial.state, trial.values = state, values
            if state == TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            elif state.is_finished():
                trial.datetime_complete = datetime.now()

        if state == TrialState.RUNNING:
            if self.get_trial(trial_id).state != TrialState.WAITING:
                return False
            self._own.add(trial_id)
        new = self._change(trial_id, change)
        row = self._rows[trial_id]
        self._later(lambda connection: trial_rows.set_state(connection, row, new))
        return True

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        del study_id
        return trial_number

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            return _copied(self._trials[trial_id])

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(self, study_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        del study_id
        with self._lock:
            trials = self._trials.copy()
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    # -- below ----------------------------------------------------------------------------------

    def _change(
        self, trial_id: int, change: Callable[[FrozenTrial], None], write: Any = None, *content: object
    ) -> FrozenTrial:
        """Change a trial in memory, and enter its new part with the next commit."""
        with self._lock:
            old, row = self._trials[trial_id], self._rows[trial_id]
            if not old.state.is_finished():
                change(new := _copied(old))
                self._trials[trial_id] = new
                if write is not None:
                    self._later(lambda connection: write(connection, row, *content))
                return new
        self.check_trial_is_updatable(trial_id, old.state)
        raise AssertionError

    def _later(self, write: Callable[[sa.Connection], None]) -> None:
        self._journal.change_later(write)

    def _take_in(self, since: int) -> None:
        """Read what others have done to the trials from a number on."""
        with self._journal.reading() as connection:
            heads = [head for head in trial_rows.heads(connection, self._study_id, since=since) if self._is_news(head)]
            trials = trial_rows.read(connection, self._study_id, heads)
        with self._lock:
            for head, trial in zip(heads, trials, strict=True):
                self._drawn |= trial.distributions
                if head.number == len(self._trials):
                    self._trials.append(trial)
                    self._rows.append(Row(head.id))
                elif self._is_news(head):
                    self._trials[head.number] = trial

    def _is_news(self, head: Head) -> bool:
        """Whether the database may know more of a trial; what this process does may not be there yet."""
        if head.number >= len(self._trials):
            return True
        if self._trials[head.number].state.is_finished():
            return False
        return head.state.is_finished() or (head.state == TrialState.RUNNING and head.number not in self._own)


def open_storage(url: str) -> RDBStorage:
    """Open Optuna's RDB storage with the journal's settings, but for this: its commits do not wait for the disk.

    What is written through it, the study itself, is written again when a power cut takes it.
    """
    if not url.startswith("sqlite"):
        return _open_postgresql(url)
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30}})
    prepare_sqlite(storage.engine, is_durable=False)
    return storage


def storage_of(backend: RDBStorage, journal: Journal, *, study_id: int) -> PlainStorage:
    """Return the storage of one study."""
    if backend.get_current_version() != SCHEMA:
        return PlainStorage(backend)
    return TrialStorage(backend, journal, study_id=study_id)


def _open_postgresql(url: str) -> RDBStorage:
    """Open the storage; Optuna makes its tables without looking whether another process does so at the same time."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with making_tables(engine):
        storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    prepare_postgresql(storage.engine, is_durable=False)
    return storage


def _begun() -> FrozenTrial:
    """Return a trial that has just begun."""
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial that can be changed without changing the other."""
    new = copy.copy(trial)
    new.params, new.distributions = dict(trial.params), dict(trial.distributions)
    new.user_attrs, new.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    new.intermediate_values = dict(trial.intermediate_values)
    return new
