"""Metrics that users write: `f(example, answer)`, or in DSPy's style `f(example, pred, trace=None)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextvars import copy_context
from dataclasses import dataclass
from threading import Thread

from optimizer.candidate import Example, Fields, content_hash
from optimizer.errors import MetricError, ProgramError
from optimizer.metrics.metric import Metric, Score, checked, mean_value
from optimizer.metrics.source import source_of
from optimizer.stats import FloatArray

LIMIT_S = 300.0  # for one answer; a metric may ask a model of its own


def from_function(function: Callable[..., object], *, name: str | None = None) -> Metric:
    """Make a metric of a user's function: `f(example, answer)`, or DSPy's `f(example, pred, trace=None)`.

    DSPy style is recognised by a second parameter `pred` or `prediction`, or a third `trace`; then both arguments allow
    attribute access and parameters without a default get None. It may return a number, a bool, a `Score`, a
    (score, feedback) tuple, or an object with `score` and perhaps `feedback`, such as `dspy.Prediction`.

    Raises:
        ProgramError: the function cannot take an example and an answer, or is async.
    """
    name = name or str(getattr(function, "__qualname__", type(function).__name__))
    call = _calling(function, f"metric {name!r}")
    return UserMetric(name=name, version=content_hash([name, source_of(function)], n_chars=16), call=call)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMetric:
    """A user's function as a metric; the candidate's score is the mean."""

    name: str
    version: str
    call: Callable[[Example, Fields], object]
    is_binary: bool = False  # unknown; the permutation test is right for 0/1 values too
    is_mean: bool = True

    def __call__(self, example: Example, answer: Fields, /) -> Score:
        return checked(_in_time(lambda: self.call(example, answer)))

    def aggregate(self, examples: Sequence[Example], answers: Sequence[Fields | None], values: FloatArray) -> float:
        return mean_value(examples, answers, values)


def _in_time(call: Callable[[], object]) -> object:
    """Call in a thread of its own, because nothing can end a function that hangs; it is left behind.

    Raises:
        MetricError: it has not returned in time.
    """
    future: Future[object] = Future()
    context = copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(call))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, name="metric", daemon=True).start()
    try:
        return future.result(LIMIT_S)
    except FutureTimeout:
        if future.done():
            raise  # the function's own
        raise MetricError(f"has not returned within {LIMIT_S:g} s") from None


def _calling(function: Callable[..., object], where: str) -> Callable[[Example, Fields], object]:
    """Decide once how the function wants its arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some compiled functions tell nothing
        return function
    if inspect.iscoroutinefunction(function):
        raise ProgramError(f"{where}: is an async function; a metric must return its score at once")
    parameters = signature.parameters.values()
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    names = [one.name for one in places]
    is_dspy = names[1:2] in (["pred"], ["prediction"]) or names[2:3] == ["trace"]
    blanks = [None for one in places[2:] if one.default is one.empty] if is_dspy else []
    try:
        signature.bind(None, None, *blanks)
    except TypeError as error:
        raise ProgramError(
            f"{where}: takes {signature}, must take (example, answer) or (example, pred, trace=None): {error}"
        ) from error
    if not is_dspy:
        return function
    return lambda example, answer: function(_dspy_example(example), _dspy_prediction(answer), *blanks)


def _dspy_example(example: Example) -> object:
    import dspy  # slow to import, needed only for metrics in DSPy's style

    return dspy.Example(**{**example.extras, **example.inputs, **example.outputs}).with_inputs(*example.inputs)


def _dspy_prediction(answer: Fields) -> object:
    import dspy

    return dspy.Prediction(**answer)
