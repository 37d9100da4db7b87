"""Connects a study to its MLflow view: which store, which splits, which text for a candidate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sqlalchemy import Engine

from optimizer.candidate import Candidate, Example
from optimizer.config.keys import Config
from optimizer.errors import ProgramError
from optimizer.export.other_tools import registry_template
from optimizer.export.template import open_template
from optimizer.machines.crew import Alone
from optimizer.prompts.program import Program
from optimizer.records import StudyView
from optimizer.storage.journal import Journal
from optimizer.study.job import Job
from optimizer.study.saved import SavedStudy
from optimizer.study.showing import as_file, clean, texts
from optimizer.track import NoTracker, Projection, SplitInput, Tracker, default_artifact_root, default_uri, storage_id
from optimizer.track.outbox import is_settled
from optimizer.track.projection import without_rows

if TYPE_CHECKING:
    from optimizer.report import Material

Splits = dict[str, tuple[int, str]]  # split name to row count and fingerprint


def open_tracker(
    job: Job,
    journal: Journal,
    read_view: Callable[[], StudyView],
    crew: Alone | None = None,
    *,
    is_finished: bool = False,
) -> Tracker | NoTracker:
    """Begin to show a study in MLflow, or do nothing when tracking is off. Of several workers one writes.

    Of a finished study only what is missing is shown: the run ended while MLflow was away, or was killed.
    """
    if not job.config.tracking.enabled or (is_finished and is_settled(journal.engine, journal.study)):
        return NoTracker()
    projection = projection_of(job, journal)
    tracker = Tracker.start(
        engine=journal.engine,
        study=journal.study,
        projection=projection,
        read_view=read_view,
        leads=crew.leads if crew is not None and crew.is_shared else None,
    )
    if is_finished:
        tracker.study_finished()
    return tracker


def projection_of(job: Job, journal: Journal) -> Projection:
    """Return where and how a running study is shown."""
    report = job.splits.report
    splits: Splits = {name: (n, report.fingerprints[name]) for name, n in report.n.items()}
    rows = {example.id: example for examples in job.splits.by_name().values() for example in examples}
    return _projection(
        job.config,
        job.program,
        journal.engine,
        splits,
        runs_dir=job.runs_dir,
        rows=lambda: rows,
        withheld=lambda: job.splits.withheld,
    )


def saved_projection(saved: SavedStudy) -> Projection:
    """Return the same for a study that is only read."""
    facts = saved.view().facts
    n_rows, digests = cast("dict[str, int]", facts["n_rows"]), cast("dict[str, str]", facts["fingerprints"])
    splits = {name: (n, digests[name]) for name, n in n_rows.items()}
    return _projection(
        saved.config,
        saved.program(),
        saved.journal.engine,
        splits,
        runs_dir=saved.runs_dir,
        rows=cache(saved.rows),
        withheld=cache(saved.withheld),
    )


def _projection(
    config: Config,
    program: Program,
    engine: Engine,
    splits: Splits,
    *,
    runs_dir: Path,
    rows: Callable[[], Mapping[str, Example]],
    withheld: Callable[[], Collection[str]],
) -> Projection:
    """Say what is shown. Where rows are hidden, nothing is handed over that holds one: no report, no traces."""
    source, full_text = config.data.source or "files", texts(program)
    hides_rows = config.tracking.rows == "ids"

    def text(candidate: Candidate) -> str:
        return full_text(without_rows(candidate) if hides_rows else candidate)

    def extra_files(view: StudyView) -> Mapping[str, str]:
        from optimizer.report import Material  # slow to import, wanted once a study has ended

        material = Material(view=view, render=text, rows=rows(), clean=clean)
        return _extra_files(as_file(material, config, withheld()), has_report=not hides_rows)

    return Projection(
        uri=config.tracking.uri or default_uri(runs_dir),
        artifact_root=default_artifact_root(runs_dir),
        storage_id=storage_id(engine),
        render=text,
        template=lambda candidate: _template(program, candidate, text),
        rows=dict if hides_rows else rows,
        extra_files=extra_files,
        n_traces=0 if hides_rows else config.tracking.traces,
        hides_rows=hides_rows,
        redact=clean,
        experiment=config.tracking.experiment,
        register=config.tracking.register_winner and not hides_rows,  # a prompt without its rows is of no use
        splits=tuple(
            SplitInput(split=split, n_rows=n, digest=digest, source=source) for split, (n, digest) in splits.items()
        ),
    )


def _template(program: Program, candidate: Candidate, text: Callable[[Candidate], str]) -> str | list[dict[str, str]]:
    """Return the registry's form; prompts of several predictors are one text, because an entry holds one prompt."""
    if len(candidate.parts) > 1:
        return text(candidate)
    try:
        return registry_template(open_template(program, candidate, candidate.parts[0].predictor))
    except ProgramError:  # a layout whose inputs no template can take
        return text(candidate)


def _extra_files(material: Material, *, has_report: bool) -> dict[str, str]:
    from optimizer.report import figures_of, report_html
    from optimizer.report.figures import standalone

    plots = {f"figures/{name}.svg": standalone(svg) for name, svg in figures_of(material).items()}
    return {"report.html": report_html(material), **plots} if has_report else plots
