"""Our own studies in the benchmark: opened on kept replies, run to the end, read back."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmark.replies import KeptReplies
from optimizer.config.keys import Config
from optimizer.data.loading import load_splits
from optimizer.data.report import Splits
from optimizer.lm.backend import Backend
from optimizer.lm.embedded import EmbeddedBackend, gguf_path
from optimizer.metrics import open_metric
from optimizer.propose import open_operators
from optimizer.study.job import Job, facts_of, open_program


def open_model(replies: Path) -> KeptReplies:
    """Open the embedded model on one core; several processes then share the machine without waiting for each other."""
    return KeptReplies(EmbeddedBackend(gguf_path("embedded"), n_engines=1), replies)


def open_study(
    config: Config,
    folder: Path,
    model: KeptReplies,
    *,
    name: str,
    runs_dir: Path,
    search: Mapping[str, Any],
    budget: Mapping[str, Any],
) -> Job:
    """Open a new study on a model that is open already."""
    given = config.model_dump(mode="json")
    given |= {"name": name, "search": {**given["search"], **search}, "budget": {**given["budget"], **budget}}
    config = Config.model_validate(given)
    shutil.rmtree(runs_dir / name, ignore_errors=True)
    return job_of(config, load_splits(config, folder=folder), model, folder=folder, runs_dir=runs_dir)


def job_of(config: Config, splits: Splits, model: Backend, *, folder: Path, runs_dir: Path) -> Job:
    """Return a study of one model, which is task model and proposer."""
    return Job(
        config=config,
        program=open_program(config, folder=folder),
        splits=splits,
        metric=open_metric(config, folder=folder),
        operators=open_operators(config.search.operators, folder=folder),
        task_backend=model,
        proposer_backend=model,
        runs_dir=runs_dir,
        folder=folder,
        facts=facts_of(splits),
    )
