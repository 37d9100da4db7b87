"""Automatic prompt optimization: Optuna decides how to mutate, a model writes what, races decide what stays."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Set before any dependency is imported. Nothing is contacted that the configuration does not name; and the threads of
# the embedded model sleep while they wait: spinning, they slow each other down when a core is wanted elsewhere.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "OMP_WAIT_POLICY": "passive",
}.items():
    os.environ.setdefault(_name, _value)

if TYPE_CHECKING:
    from optimizer.api import PromptOptimizer, Result, optimize
    from optimizer.lm.dspy_engine import embedded_lm
    from optimizer.prompts.adapter import FormatAdapter

_LAZY = {
    "FormatAdapter": "optimizer.prompts.adapter",
    "PromptOptimizer": "optimizer.api",
    "Result": "optimizer.api",
    "embedded_lm": "optimizer.lm.dspy_engine",
    "optimize": "optimizer.api",
}
__all__ = ["FormatAdapter", "PromptOptimizer", "Result", "embedded_lm", "optimize"]  # found on first use


def __getattr__(name: str) -> object:
    """Import the public names on first use: DSPy takes seconds, and `optimizer --help` must not wait for it."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
