"""DSPy's settings while a study asks: its many calls appear neither in the user's history nor in the user's traces.

MLflow's autolog hangs a callback into DSPy. A study would fill the user's experiment with thousands of pieces of
traces, and has a view of its own; autolog itself leaves calls out while a DSPy optimizer compiles. Other
callbacks stay.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import dspy


def quiet(**settings: Any) -> AbstractContextManager[None]:
    """Return DSPy's context with these settings, for one thread."""
    kept = [each for each in dspy.settings.callbacks if not type(each).__module__.startswith("mlflow.")]
    context = dspy.context(disable_history=True, max_trace_size=0, callbacks=kept, **settings)
    return cast("AbstractContextManager[None]", context)
