"""The one module that speaks to MLflow (with `registry` for prompts): writes run contents, each method safe to repeat.

Uses `MlflowClient` with explicit run ids and never the fluent API, whose active run belongs to a thread and whose
default store lies in the working folder. Runs are found again by tags. A run carries the digest of what was written
last, so writing the same content again costs nothing. Points have steps and times that come from the study; the
store drops a point that it has already.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.records import StudyView, TrialRecord
from optimizer.track import content
from optimizer.track.content import Lineage, RunContent
from optimizer.track.entities import DIGEST_TAG, KnownRun, dataset_inputs, known_run, metric_of
from optimizer.track.environment import prepare_environment
from optimizer.track.note import study_note
from optimizer.track.points import Charts, Point, elapsed_s, final_points, start_s
from optimizer.track.projection import Projection, absolute_uri, is_server
from optimizer.track.registry import all_pages, register_winner
from optimizer.track.traces import write_traces

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRACES_TAG = "optimizer.traces"
TAG_CHARS = 8000
PARAM_CHARS = 6000
MAX_SMALL = 90  # what stores take in one transaction for certain, its tags last
NAME_CHARS = 250
TRIALS_PER_BATCH = 100  # of 7 points each; a batch of up to 1000 is one transaction
EARLIEST_EPOCH_S = 1e9  # a start time below this is no date


def foreign_errors() -> tuple[type[Exception], ...]:
    """What a store that is down, slow, wrong or refusing may raise."""
    prepare_environment()
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, requests.RequestException, SQLAlchemyError, OSError)


def is_refusal(error: Exception) -> bool:
    """Whether the store understood and refused this content, so that repeating it is no use."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")


class MlflowView:
    """One study in one MLflow store.

    Keeps run ids and digests in memory; make a new one after any error. Meant for one writer at a time.
    """

    def __init__(self, projection: Projection) -> None:
        prepare_environment()
        from mlflow import MlflowClient

        uri = absolute_uri(projection.uri)
        self._projection = projection
        self._client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._experiment_id: str | None = None
        self._parent: KnownRun | None = None
        self._trials: dict[int, KnownRun] = {}
        self._charts = Charts()
        self._charted: set[int] = set()

    def ensure_study(self, view: StudyView) -> str:
        """Return the id of the study's parent run, created or brought up to date with settings and splits."""
        if self._parent is not None:
            return self._parent.run_id
        self._parent = self._find_parent(view.name) or self._create(
            name=view.name, tags={"optimizer.study_id": self._projection.study_id(view.name)}, start_s=start_s(view)
        )
        run_id = self._parent.run_id
        self._trials = self._find_trials(run_id)
        self._charted = {point.step for point in self._client.get_metric_history(run_id, "calls")}
        wanted = content.study_content(view, self._projection)
        if wanted.digest != self._parent.digest:
            present = set(self._client.get_run(run_id).data.params)  # params cannot change: the first value stays
            new_params = {key: value for key, value in wanted.params.items() if key not in present}
            self._write(self._parent, wanted, params=new_params)
            if self._projection.splits:
                self._client.log_inputs(run_id, datasets=dataset_inputs(self._projection.splits))
        self._describe(view)
        return run_id

    def log_trials(self, view: StudyView, trials: Iterable[TrialRecord]) -> str:
        """Write finished trials as nested runs, and their points on the parent's charts; return the parent's id.

        What is there already is left alone.
        """
        parent_id = self.ensure_study(view)
        lineage = Lineage(view)
        for trial in trials:
            if trial.state != "running":
                self._write_trial(view, trial, lineage)
        self._chart(view)
        return parent_id

    def log_all(self, view: StudyView) -> str:
        """Write the study and each finished trial. Returns the parent's id."""
        return self.log_trials(view, view.trials)

    def finish(self, view: StudyView) -> str:
        """Write how the study stands: paused, or finished with verdict, tables and the registered winner."""
        parent_id = self.ensure_study(view)
        self._describe(view)
        parent = self._parent_run()
        files = self._result_files(view)
        self._put(parent_id, files)
        present = set(self._client.get_run(parent_id).data.metrics)
        points = [point for point in final_points(view) if point.key not in present]
        tables = [{"path": path, "type": "table"} for path in files if path.endswith("_flips.json")]
        tags = {"mlflow.loggedArtifacts": json.dumps(tables)} if tables else {}
        self._batch(parent, points=points, tags=tags)
        if view.verdict is not None and self._projection.register:
            self._batch(parent, tags=self._register(view))
        if view.state == "finished":
            self._client.set_terminated(parent_id, "FINISHED", parent.start_ms + round(elapsed_s(view) * 1000))
            self._add_extras(view, parent_id)
        return parent_id

    def _add_extras(self, view: StudyView, parent_id: str) -> None:
        """Add report, plots and traces: last, because they take longest and nothing waits for them."""
        self._put(parent_id, self._projection.extra_files(view))
        if self._projection.n_traces and TRACES_TAG not in self._client.get_run(parent_id).data.tags:
            uri, experiment = absolute_uri(self._projection.uri), self._experiment_id or "0"
            n = write_traces(view, self._projection, uri=uri, experiment_id=experiment, run_id=parent_id)
            self._client.set_tag(parent_id, TRACES_TAG, str(n))

    def locate(self, name: str) -> tuple[str, str] | None:
        """Return (experiment id, parent run id) of a study, or None when it is not in the store."""
        found = self._find_parent(name)
        return None if found is None or self._experiment_id is None else (self._experiment_id, found.run_id)

    # -- finding and creating -------------------------------------------------------------------------------------

    def _find_parent(self, name: str) -> KnownRun | None:
        experiment = self._client.get_experiment_by_name(self._projection.experiment)
        if experiment is None:
            return None
        self._experiment_id = experiment.experiment_id
        runs = self._search(f"tags.`optimizer.study_id` = '{self._projection.study_id(name)}'")
        return min(map(known_run, runs), key=lambda run: run.start_ms, default=None)

    def _find_trials(self, parent_id: str) -> dict[int, KnownRun]:
        runs = self._search(f"tags.`mlflow.parentRunId` = '{parent_id}'")
        numbered = ((run.data.tags.get("optimizer.trial", ""), run) for run in runs)
        return {int(number) - 1: known_run(run) for number, run in numbered if number.isdecimal()}

    def _search(self, filter_string: str) -> list[Run]:
        experiments = [self._experiment_id] if self._experiment_id else []
        return all_pages(
            lambda token: self._client.search_runs(experiments, filter_string, max_results=1000, page_token=token)
        )

    def _create(self, *, name: str, tags: Mapping[str, str], start_s: float) -> KnownRun:
        if self._experiment_id is None:
            location = None
            if not is_server(self._projection.uri):
                location = (self._projection.artifact_root.resolve() / self._projection.experiment).as_uri()
            self._experiment_id = self._client.create_experiment(self._projection.experiment, location)
        start_ms = round((start_s if start_s > EARLIEST_EPOCH_S else time.time()) * 1000)
        name = name[:NAME_CHARS]
        run = self._client.create_run(self._experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)
        return KnownRun(run_id=run.info.run_id, start_ms=start_ms, digest="", name=name)

    def _parent_run(self) -> KnownRun:
        if self._parent is None:
            raise RuntimeError("MlflowView: ensure_study has to come first")
        return self._parent

    # -- writing --------------------------------------------------------------------------------------------------

    def _write(self, run: KnownRun, wanted: RunContent, *, params: Mapping[str, str]) -> None:
        """Write a run's content. The digest goes last: a run without it is written again."""
        self._put(run.run_id, wanted.files)
        tags, digest = dict(wanted.tags), {DIGEST_TAG: wanted.digest}
        is_small = len(wanted.points) + len(params) + len(tags) < MAX_SMALL
        if run.name != wanted.name[:NAME_CHARS]:  # a costly tag: it is a column of the run as well
            tags["mlflow.runName"] = wanted.name[:NAME_CHARS]
        self._batch(run, points=wanted.points, params=params, tags=tags | (digest if is_small else {}))
        if not is_small:
            self._batch(run, tags=digest)

    def _put(self, run_id: str, files: Mapping[str, str]) -> None:
        """Write texts as artifacts, in one go."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._projection.clean(text).encode())
            if files:
                self._client.log_artifacts(run_id, folder)

    def _batch(
        self,
        run: KnownRun,
        *,
        points: Iterable[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        clean = self._projection.clean
        metrics = [metric_of(point, run) for point in points]
        param_list = [Param(key, clean(value)[:PARAM_CHARS]) for key, value in (params or {}).items()]
        tag_list = [RunTag(key, clean(value)[:TAG_CHARS]) for key, value in (tags or {}).items()]
        if metrics or param_list or tag_list:
            self._client.log_batch(run.run_id, metrics=metrics, params=param_list, tags=tag_list)

    def _write_trial(self, view: StudyView, trial: TrialRecord, lineage: Lineage) -> str:
        wanted = content.trial_content(view, trial, self._projection, lineage)
        known = self._trials.get(trial.number)
        if known is None:
            tags = {"mlflow.parentRunId": self._parent_run().run_id, "optimizer.trial": str(trial.number + 1)}
            known = self._create(name=wanted.name, tags=tags, start_s=trial.started_s)
        if known.digest != wanted.digest:
            end_ms = known.start_ms + round(trial.duration_s * 1000)
            self._client.set_terminated(known.run_id, wanted.status, end_ms)
            self._write(known, wanted, params=wanted.params)
        self._trials[trial.number] = known._replace(digest=wanted.digest, name=wanted.name[:NAME_CHARS])
        return known.run_id

    def _chart(self, view: StudyView) -> None:
        """Add the points of trials that the parent's charts lack. A point once shown is not changed.

        Trials are written whole, so that one of their points tells that all are there.
        """
        parent = self._parent_run()
        new = [(number, points) for number, points in self._charts.points(view) if number not in self._charted]
        for start in range(0, len(new), TRIALS_PER_BATCH):
            batch = new[start : start + TRIALS_PER_BATCH]
            self._batch(parent, points=[point for _, points in batch for point in points])
        if new:
            self._batch(parent, tags={"mlflow.note.content": study_note(view, self._projection)})

    def _describe(self, view: StudyView) -> None:
        """Bring description, state tags and status of the parent run up to date."""
        parent = self._parent_run()
        tags = {
            "mlflow.note.content": study_note(view, self._projection),
            "optimizer.state": view.state,
            "optimizer.stop_reason": view.stop_reason,
            "optimizer.verdict": view.verdict.decision if view.verdict else "",
            "optimizer.best_candidate": view.best.id,
        }
        self._batch(parent, tags=tags)
        if view.state != "finished":
            self._client.update_run(parent.run_id, status=content.STUDY_STATUS[view.state])

    def _result_files(self, view: StudyView) -> dict[str, str]:
        files, rows = {"winner_prompt.txt": self._projection.render(view.best)}, self._projection.rows()
        if (test := view.verdict) is not None:
            files["test_flips.json"] = content.flips_table(test.seed_outcomes, test.winner_outcomes, rows)
        seed, best = view.trial_of(view.seed), view.trial_of(view.best)
        if seed is not None and best is not None:
            files["dev_flips.json"] = content.flips_table(view.dev_rows(seed), view.dev_rows(best), rows)
        return files

    def _register(self, view: StudyView) -> dict[str, str]:
        run_id = self._parent_run().run_id
        return register_winner(
            self._client, view, self._projection, run_id=run_id, experiment_id=self._experiment_id or "0"
        )
