"""What has to be set before MLflow is imported. Imports nothing of it."""

from __future__ import annotations

import logging
import os

# Read by MLflow and litellm when they are imported or used. DO_NOT_TRACK=1 would not work, it has to be a word.
FORCED_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true"}
DEFAULT_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # otherwise it prints to the terminal and hides its records from our log file
}


def prepare_environment() -> None:
    """Turn telemetry, terminal noise and long retries of MLflow off. Must come before its import."""
    os.environ.update(FORCED_ENVIRONMENT)
    for key, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).addHandler(logging.NullHandler())
