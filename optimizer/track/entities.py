"""Our values as MLflow's. Part of `mlflow_view`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from optimizer.track.points import Point
from optimizer.track.projection import SplitInput

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run

DIGEST_TAG = "optimizer.digest"
DIGEST_CHARS = 36  # of a data set, the store's limit


class KnownRun(NamedTuple):
    """A run that is in the store, and what it said when it was last read or written."""

    run_id: str
    start_ms: int
    digest: str
    name: str


def known_run(run: Run) -> KnownRun:
    """Return what is kept in memory of a run."""
    info, digest = run.info, run.data.tags.get(DIGEST_TAG, "")
    return KnownRun(run_id=info.run_id, start_ms=int(info.start_time), digest=digest, name=info.run_name)


def metric_of(point: Point, run: KnownRun) -> Metric:
    """Return a point as the run's metric."""
    from mlflow.entities import Metric

    return Metric(point.key, point.value, run.start_ms + point.offset_ms, point.step)


def dataset_inputs(splits: Iterable[SplitInput]) -> list[DatasetInput]:
    """Return the splits as a run's inputs."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=split.split,
                digest=split.digest[:DIGEST_CHARS],
                source_type="local",
                source=json.dumps({"uri": split.source}),
                profile=json.dumps({"num_rows": split.n_rows}),
            ),
            [InputTag("mlflow.data.context", split.split)],
        )
        for split in splits
    ]
