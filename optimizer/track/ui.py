"""MLflow's own UI on a study's store: the command that starts it lean and local, and links into it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from sqlalchemy.engine import make_url

from optimizer.errors import ConfigError
from optimizer.records import StudyView
from optimizer.track.projection import Projection, absolute_uri, is_server, shown_uri


def ui_command(
    uri: str, *, port: int, host: str = "127.0.0.1", artifact_root: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command of an MLflow server on the store `uri`, and the environment variables to add to it.

    One worker and no job queue: about 0.5 GB and two processes, where the default takes 3.5 GB and sixteen.
    `artifact_root` receives what other programs upload through the server; default: beside an SQLite store.

    Raises:
        ConfigError: `uri` is a server itself, or a database without `artifact_root`.
    """
    if is_server(uri):
        raise ConfigError(f"tracking.uri: {shown_uri(uri)!r} is an MLflow server; open it in a browser")
    store = absolute_uri(uri)
    folder = artifact_root or _folder_of(store)
    if folder is None:
        raise ConfigError(f"tracking.uri: {shown_uri(uri)!r} needs a folder for artifacts; give one in the runs folder")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--artifacts-destination", folder.resolve().as_uri()]
    command += ["--workers", "1", "--host", host, "--port", str(port)]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return command, environment


def _folder_of(store: str) -> Path | None:
    database = make_url(store).database if store.startswith("sqlite:///") else None
    return Path(database).parent / "artifacts" if database else None


def run_url(base: str, *, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def study_url(base: str, view: StudyView, projection: Projection) -> str | None:
    """Return the address of the study's page in a UI at `base`, or None when the study is not in the store."""
    from optimizer.track.mlflow_view import MlflowView  # here, so that links to servers elsewhere need no MLflow

    found = MlflowView(projection).locate(view.name)
    return None if found is None else run_url(base, experiment_id=found[0], run_id=found[1])


def free_port(host: str = "127.0.0.1", *, preferred: int = 5000) -> int:
    """Return a port that is free now: the preferred one, or any other."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError(f"--host: no free port on {host!r}; give an address of this machine")
