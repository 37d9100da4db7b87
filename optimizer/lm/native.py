"""DSPy's own HTTP engine, called directly: what `dspy.LM` adds to every call costs four times what the call does.

The same engine sends the same bytes; left out are DSPy's history, callbacks, price estimates and the choice of the
engine, which is made once. Where DSPy would go another way (LiteLLM, an engine or a subclass of the caller's) there is
no short cut, and `dspy.LM` is called as it is.
"""

from __future__ import annotations

import contextlib
import functools
import importlib

import dspy
from dspy import lm15
from dspy.clients.backend_selection import BackendSelection, select_backend
from dspy.clients.engines.lm15_engine import LM15Engine, timeouts_for
from dspy.utils import exceptions as errors

MAX_CONNECTIONS = 4096  # how many calls are in flight is decided elsewhere; DSPy's own limit is 100


def native_engine(lm: dspy.LM) -> LM15Engine | None:
    """Return the engine that DSPy would send this model's calls with, None where that is not its own."""
    told = [each for each in dspy.settings.callbacks if not type(each).__module__.startswith("mlflow.")]
    if told or type(lm) is not dspy.LM or lm.callbacks or not isinstance(lm.engine, str):
        return None
    selection = _selection(lm)
    if selection is None or not selection.native or selection.resolution.declared:
        return None
    clients, provider = selection.clients, selection.resolution.provider
    url = clients.get("api_base") or clients.get("base_url")
    config = lm15.RouterConfig(
        api_keys={provider: clients["api_key"]} if "api_key" in clients else None,
        base_urls={provider: url} if url else None,
        timeouts=timeouts_for(clients.get("timeout")),
        max_connections=MAX_CONNECTIONS,
    )
    return LM15Engine(config, model_type=lm.model_type)


def needs_litellm(lm: dspy.LM) -> bool:
    """Whether DSPy sends this model's calls with LiteLLM."""
    selection = _selection(lm) if isinstance(lm.engine, str) else None
    return selection is not None and not selection.native


@functools.cache
def load_litellm() -> None:
    """Import LiteLLM. On a busy machine that takes up to half a minute, which no call's time limit should hold."""
    with contextlib.suppress(ImportError):  # the call itself says it better
        importlib.import_module("litellm")


def _selection(lm: dspy.LM) -> BackendSelection | None:
    try:
        return select_backend(lm)
    except (lm15.LM15Error, errors.LMError):
        return None  # the call itself says it better
