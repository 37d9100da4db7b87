"""Reads a study back from its database as one `StudyView`; what every display and export starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from optuna.trial import FrozenTrial, TrialState

from optimizer.candidate import Candidate, Fields, JsonValue
from optimizer.errors import StudyError
from optimizer.lm.pricing import unpriced_in
from optimizer.records import (
    Constant,
    DevEstimate,
    Outcome,
    Recipe,
    SeenBefore,
    SliceScore,
    Spend,
    StudyState,
    StudyView,
    Timing,
    TrialRecord,
    Verdict,
)
from optimizer.records import TrialState as OurState
from optimizer.storage.journal import Journal

ONE_LABEL = "one_label"  # in a study's record: candidates that could not win for it
TOLD = "told"  # a fact of a trial: how many had ended before it
STATES: Mapping[TrialState, OurState] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def one_label(journal: Journal) -> list[str]:
    """Return the ids of candidates that a finished study left out because they gave one label to nearly all rows."""
    return cast("list[str]", (journal.load_study() or {}).get(ONE_LABEL) or [])


def order_told(trial: FrozenTrial) -> tuple[int, int]:
    """Sort key of trials that have ended: the order in which they were told, which is not that of their numbers."""
    return cast(int, trial.user_attrs.get(TOLD, 0)), trial.number


class Records:
    """The trials of a study as records. One that has ended never changes, so it is read once. Safe to use from all
    threads.

    Args:
        metric: version of the metric whose outcomes are read.
    """

    def __init__(self, journal: Journal, metric: str) -> None:
        self._journal, self._metric = journal, metric
        self._ended: dict[int, TrialRecord] = {}

    def of(self, trials: list[FrozenTrial]) -> tuple[TrialRecord, ...]:
        """Return the records of trials that have begun, in the given order."""
        new = [trial for trial in trials if trial.number not in self._ended]
        read = {record.number: record for record in trial_records(self._journal, new, metric=self._metric)}
        self._ended |= {trial.number: read[trial.number] for trial in new if trial.state.is_finished()}
        found = (self._ended.get(trial.number) or read.get(trial.number) for trial in trials)
        return tuple(record for record in found if record is not None)


def read_view(journal: Journal, trials: list[FrozenTrial], records: Records | None = None) -> StudyView:
    """Put the study's record, its trials and its spend together.

    Raises:
        StudyError: the study does not exist.
    """
    record = journal.load_study()
    if record is None:
        raise StudyError(f"study {journal.study!r} does not exist")
    journal.unpriced = unpriced_in(cast(Fields, record["facts"]))
    seed = Candidate.from_json(cast(Fields, record["seed"]))
    best = Candidate.from_json(cast(Fields, record.get("best") or record["seed"]))
    trials_read = (records or Records(journal, str(record["metric_version"]))).of(trials)
    return StudyView(
        name=journal.study,
        state=cast(StudyState, record["state"]),
        stop_reason=str(record["stop_reason"]),
        config=cast(Fields, record["config"]),
        facts=cast(Fields, record["facts"]),
        seed=seed,
        best=best,
        trials=trials_read,
        dev=DevEstimate(**cast(Any, record["dev"])) if record.get("dev") else None,
        verdict=verdict_from_json(cast(Fields, record["verdict"])) if record.get("verdict") else None,
        spend=journal.spend(),
        wall_s=cast(float, record["wall_s"]),
        timing=Timing(**cast(Any, record["timing"])) if record.get("timing") else None,
        seen_before=seen_from_json(record),
        dev_scores={key: (mean, n) for key, (mean, n) in cast(Any, record.get("dev_scores") or {}).items()},
        dev_outcomes=_dev_outcomes(journal, record, trials_read),
        identity=cast(Fields, record.get("identity") or {}),
    )


def _dev_outcomes(
    journal: Journal, record: Mapping[str, JsonValue], trials: Sequence[TrialRecord]
) -> dict[str, tuple[Outcome, ...]]:
    """Return all dev outcomes of the candidates that were scored on further rows after their race."""
    scores = cast("dict[str, tuple[float, int]]", record.get("dev_scores") or {})
    if not scores:
        return {}
    n_raced = {trial.candidate.id: trial.n_scored for trial in trials if trial.candidate}
    later = {key for key, (_, n) in scores.items() if n > n_raced.get(key, 0)}
    known = journal.outcomes_of(later, str(record["metric_version"]))
    rows = cast("list[str]", record.get("dev_rows") or [])
    return {key: tuple(kept[row] for row in rows if row in kept) for key, kept in known.items() if rows}


def seen_from_json(record: Mapping[str, JsonValue]) -> tuple[SeenBefore, ...]:
    """Return which test rows earlier studies had, from a study's record."""
    kept = cast("list[dict[str, Any]]", record.get("seen_before") or [])
    return tuple(
        SeenBefore(study=each["study"], opened=tuple(each["opened"]), searched=tuple(each["searched"])) for each in kept
    )


def trial_records(journal: Journal, trials: list[FrozenTrial], *, metric: str) -> tuple[TrialRecord, ...]:
    """Turn Optuna's trials into ours, with candidates, outcomes and spend from the journal."""
    started = [trial for trial in trials if trial.state != TrialState.WAITING]
    ids = {str(trial.user_attrs["candidate"]) for trial in started if "candidate" in trial.user_attrs}
    if not started:
        return ()
    journal.flush()  # what a trial cost may be on its way, and one that has ended is read once
    candidates, spends = journal.candidates(ids), journal.spend_of_trials([trial.number for trial in started])
    scored = {str(trial.user_attrs["candidate"]) for trial in started if trial.user_attrs.get("scored")}
    known = journal.outcomes_of(scored & set(candidates), metric)
    return tuple(trial_record(trial, known, candidates, spends) for trial in started)


def trial_record(
    trial: FrozenTrial,
    known: Mapping[str, Mapping[str, Outcome]],
    candidates: Mapping[str, Candidate],
    spends: Mapping[int, Spend],
) -> TrialRecord:
    """Turn one trial into ours.

    Args:
        known: outcomes by candidate and example.
    """
    facts = trial.user_attrs
    candidate = candidates.get(str(facts.get("candidate", "")))
    spend = spends.get(trial.number, Spend())
    scored = cast("list[str]", facts.get("scored", []))
    outcomes = known.get(candidate.id, {}) if candidate and scored else {}
    recipe = Recipe(**json.loads(facts["recipe"])) if "recipe" in facts else Recipe(operator="start")
    return TrialRecord(
        number=trial.number,
        recipe=recipe,
        state=cast(OurState, facts.get("state", STATES[trial.state]) if trial.state.is_finished() else "running"),
        candidate=candidate,
        parents=tuple(cast("list[str]", facts.get("parents", []))),
        reason=str(facts.get("reason", "")),
        outcomes=tuple(outcomes[example_id] for example_id in scored if example_id in outcomes),
        difference=cast("float | None", facts.get("difference")),
        started_s=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
        duration_s=cast(float, facts.get("duration_s", 0.0)),
        task_calls=spend.calls.get("task", 0),
        proposer_calls=spend.calls.get("proposer", 0),
        tokens=spend.tokens,
        cost_usd=spend.usd,
    )


def verdict_from_json(data: Mapping[str, JsonValue]) -> Verdict:
    values = cast("dict[str, Any]", dict(data))
    for key in ("seed_outcomes", "winner_outcomes"):
        values[key] = tuple(Outcome(**outcome) for outcome in values[key])
    values["slices"] = tuple(_slice(each) for each in values.get("slices", ()))
    values["broken_rules"] = tuple(values.get("broken_rules", ()))
    values["classes"] = tuple(_slice(each) for each in values.get("classes", ()))
    values["constant"] = Constant(**kept) if (kept := values.get("constant")) else None
    return Verdict(**values)


def _slice(each: Mapping[str, Any]) -> SliceScore:
    return SliceScore(**{**each, "holds": tuple(each.get("holds", ()))})
