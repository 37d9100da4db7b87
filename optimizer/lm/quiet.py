"""DSPy's settings while a study asks: its many calls appear neither in the user's history nor in the user's traces.

MLflow's autolog hangs a callback into DSPy. A study would fill the user's experiment with thousands of pieces of
traces, and has a view of its own; autolog itself leaves calls out while a DSPy optimizer compiles. Other
callbacks stay. DSPy's warning of each reply that was cut off is left out, too: the study says once how many there were.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dspy

_IS_QUIET = ContextVar("is_quiet", default=False)


@contextmanager
def quiet(**settings: Any) -> Iterator[None]:
    """Enter DSPy's context with these settings, for one thread."""
    kept = [each for each in dspy.settings.callbacks if not type(each).__module__.startswith("mlflow.")]
    before = _IS_QUIET.set(True)
    try:
        with dspy.context(disable_history=True, max_trace_size=0, callbacks=kept, **settings):
            yield
    finally:
        _IS_QUIET.reset(before)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not (_IS_QUIET.get() and "response was truncated" in str(record.msg))


logging.getLogger("dspy.clients.lm").addFilter(_is_wanted)
