"""Connects a study to its MLflow view: which store, which splits, which text for a candidate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from sqlalchemy import Engine

from optimizer.candidate import Candidate
from optimizer.config import Config
from optimizer.job import Job
from optimizer.journal import Journal
from optimizer.program import Program
from optimizer.records import StudyView
from optimizer.redaction import redact
from optimizer.render import render
from optimizer.saved import SavedStudy
from optimizer.track import NoTracker, Projection, SplitInput, Tracker, default_artifact_root, default_uri, storage_id
from optimizer.track.projection import shown_uri, without_rows

Splits = dict[str, tuple[int, str]]  # split name to row count and fingerprint


def open_tracker(job: Job, journal: Journal, read_view: Callable[[], StudyView]) -> Tracker | NoTracker:
    """Begin to show a study in MLflow, or do nothing when tracking is off."""
    if not job.config.tracking.enabled:
        return NoTracker()
    projection = projection_of(job, journal)
    return Tracker.start(engine=journal.engine, study=journal.study, projection=projection, read_view=read_view)


def projection_of(job: Job, journal: Journal) -> Projection:
    """Return where and how a running study is shown."""
    report = job.splits.report
    splits: Splits = {name: (n, report.fingerprints[name]) for name, n in report.n.items()}
    return _projection(job.config, job.program, journal.engine, splits, runs_dir=job.runs_dir)


def saved_projection(saved: SavedStudy) -> Projection:
    """Return the same for a study that is only read."""
    facts = saved.view().facts
    n_rows, digests = cast("dict[str, int]", facts["n_rows"]), cast("dict[str, str]", facts["fingerprints"])
    splits = {name: (n, digests[name]) for name, n in n_rows.items()}
    return _projection(saved.config, saved.program(), saved.journal.engine, splits, runs_dir=saved.runs_dir)


def _projection(config: Config, program: Program, engine: Engine, splits: Splits, *, runs_dir: Path) -> Projection:
    source = config.data.source or "files"
    hides_rows = config.tracking.rows == "ids"

    def shown(candidate: Candidate) -> str:
        return render(program, without_rows(candidate) if hides_rows else candidate)

    return Projection(
        uri=config.tracking.uri or default_uri(runs_dir),
        artifact_root=default_artifact_root(runs_dir),
        storage_id=storage_id(engine),
        render=shown,
        hides_rows=hides_rows,
        redact=lambda text: redact(shown_uri(text)),  # a storage or tracking URI may hold a password
        experiment=config.tracking.experiment,
        register=config.tracking.register_winner and not hides_rows,  # a prompt without its rows is of no use
        splits=tuple(
            SplitInput(split=split, n_rows=n, digest=digest, source=source) for split, (n, digest) in splits.items()
        ),
    )
