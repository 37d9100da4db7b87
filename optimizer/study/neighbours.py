"""Finished studies of the same runs folder that have opened test rows of a new one: nobody has to name them.

Whoever has read their verdict knows which prompt wins on these rows, whether or not a warm start says so. Only records
are read; no data is loaded, and no server is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from optimizer.errors import Paused, UserError
from optimizer.proof.earlier import opened_by
from optimizer.records import SeenBefore
from optimizer.storage.journal import Journal, open_engine
from optimizer.study.job import Job
from optimizer.study.saved import study_names

logger = logging.getLogger(__name__)


def seen_by_any(job: Job) -> list[SeenBefore]:
    """Return which studies had test rows of a new one: those that it builds on, then others of its runs folder."""
    known = {each.study: each for each in job.seen_before}
    for each in opened_nearby(job.runs_dir, job.config.name, [example.id for example in job.splits.test]):
        if old := known.get(each.study):  # handed down by a study that asked for fewer of the rows
            each = replace(old, opened=tuple(sorted({*old.opened, *each.opened})))
        known[each.study] = each
    return list(known.values())


def opened_nearby(runs_dir: Path, name: str, test_ids: Collection[str]) -> tuple[SeenBefore, ...]:
    """Return which of the test rows other studies of the folder have opened, by study.

    Args:
        name: the new study, which is left out.
    """
    found = []
    for other in sorted(study_names(runs_dir)):
        path = runs_dir / other / "study.db"
        if other == name or not path.is_file():
            continue
        try:
            seen = opened_by(other, _test_ids_of(path, other), test_ids)
        except (UserError, Paused, KeyError, TypeError, ValueError) as error:
            logger.info("study %s was not looked at for test rows: %s", other, error)
            continue
        found += [seen] if seen.opened else []
    return tuple(found)


def _test_ids_of(path: Path, name: str) -> frozenset[str]:
    """The test rows of a study that has a verdict; none of another."""
    engine = open_engine(f"sqlite:///{path.resolve()}", is_durable=False)
    try:
        record = Journal(engine, name, owner="reader").load_study() or {}
    finally:
        engine.dispose()
    verdict = cast("Mapping[str, Any]", record.get("verdict") or {})
    return frozenset(outcome["example_id"] for outcome in verdict.get("seed_outcomes", ()))
