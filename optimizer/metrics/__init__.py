"""Scoring of one answer against one example: the built-in metrics, the user's own, and the one border around both.

`open_metric` is the door. Decides what an answer is worth, in [0, 1], and says what was wrong with it. Deliberately
does not parse model replies, call models (a judge is a function that is passed in) or treat missing answers: an answer
that could not be read never reaches a metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from optimizer.candidate import JsonValue, content_hash
from optimizer.config.keys import Config, Measure, OutputKind
from optimizer.errors import ConfigError, did_you_mean
from optimizer.metrics.built_in import BuiltIn, MacroF1
from optimizer.metrics.combined import Limited, Weighted
from optimizer.metrics.judge import Judge, judge_prompt, read_grade
from optimizer.metrics.metric import Metric, Score, score
from optimizer.metrics.scorers import scorer_of
from optimizer.metrics.supported import Supported
from optimizer.metrics.user_metric import from_function
from optimizer.metrics.values import find_numbers, normalise
from optimizer.user_code import load_function
from optimizer.words import visible

__all__ = [
    "NAMES",
    "Metric",
    "Score",
    "find_numbers",
    "from_function",
    "judge_prompt",
    "normalise",
    "open_metric",
    "read_grade",
    "score",
]

NAMES = (
    "accuracy",
    "exact_match",
    "macro_f1",
    "contains",
    "regex",
    "number",
    "json_fields",
    "token_f1",
    "rouge_l",
    "supported",
    "judge",
    "weighted",
)
_BINARY = ("accuracy", "exact_match", "macro_f1", "contains", "regex", "number")
_KINDS: Mapping[str, tuple[OutputKind, ...]] = {
    "macro_f1": ("label", "boolean"),
    "number": ("number", "text", "label"),
    "json_fields": ("json", "text"),
}
_SETTINGS = {"tolerance": "number", "pattern": "regex", "rubric": "judge", "context": "supported"}
_NOT_SCORING = {"output", "parts", "slices", "weight"}  # settings that do not change what one answer scores
_SCORING = 2  # part of every built-in's version: raise it when a score would change, so that old scores are not reused


def open_metric(config: Config, *, judge: Callable[[str], str] | None = None, folder: Path | None = None) -> Metric:
    """Make the metric that the configuration names.

    Args:
        judge: sends one prompt to the judge LM and returns its reply; needed for `name: judge` only.
        folder: where the user's own modules are looked for first, usually the folder of the configuration file.

    Raises:
        ConfigError: an unknown name, or settings that do not fit the name or the kind of the output.
        ProgramError: the user's function cannot be loaded, or does not take an example and an answer.
    """
    opened = [_open_measure(config, measure, judge, folder) for measure in config.metric.measures]
    metric: Metric = opened[0]
    if config.metric.parts:
        weights = [part.weight for part in config.metric.parts.values()]
        metric = Weighted.of(dict(zip(config.metric.parts, zip(weights, opened, strict=True), strict=True)))
    if config.constraints.limits_answers:
        output = config.metric.output or next(iter(config.task.outputs))
        metric = Limited.of(metric, config.constraints, output=output)
    return metric


def _open_measure(config: Config, settings: Measure, judge: Callable[[str], str] | None, folder: Path | None) -> Metric:
    where = "metric.name"
    if ":" in settings.name:
        return from_function(load_function(settings.name, folder=folder, where=where), name=settings.name)
    if settings.name not in NAMES:
        hint = did_you_mean(settings.name, NAMES) or f" Allowed: {', '.join(NAMES)}, or `package.module:function`."
        raise ConfigError(f"{where}: {settings.name!r} is no metric.{hint}")
    output = settings.output or next(iter(config.task.outputs))
    kind = config.task.outputs[output].kind
    _check_settings(settings, output, kind)
    facts: dict[str, JsonValue] = {"scoring": _SCORING, "output": output, "kind": kind}
    unset = {"context"} if settings.context is None else set()
    facts |= settings.model_dump(mode="json", exclude=_NOT_SCORING | unset)
    version = content_hash(facts, n_chars=16)
    if settings.name == "judge":
        return _open_judge(config, settings, judge, facts, output)
    if settings.name == "supported":
        return Supported(version=version, output=output, context=settings.context or "")
    metric_class = MacroF1 if settings.name == "macro_f1" else BuiltIn
    return metric_class(
        name=settings.name,
        version=version,
        is_binary=settings.name in _BINARY,
        output=output,
        kind=kind,
        scorer=scorer_of(settings, kind),
    )


def _open_judge(
    config: Config,
    settings: Measure,
    ask: Callable[[str], str] | None,
    facts: Mapping[str, JsonValue],
    output: str,
) -> Judge:
    if ask is None:
        raise ConfigError("metric.name: 'judge' needs a judge model; set lm.judge or choose another metric")
    model = config.judge.model_dump(mode="json", include={"model", "api_base", "temperature", "max_tokens"})
    version = content_hash({**facts, **model}, n_chars=16)
    return Judge(version=version, output=output, rubric=settings.rubric or "", ask=ask)


def _check_settings(settings: Measure, output: str, kind: OutputKind) -> None:
    for key, owner in _SETTINGS.items():
        value, is_owner = getattr(settings, key), settings.name == owner
        if value and not is_owner:
            raise ConfigError(f"metric.{key}: {value!r} goes with `name: {owner}`, not with `name: {settings.name}`")
        if is_owner and key != "tolerance" and not (value or "").strip():
            raise ConfigError(f"metric.{key}: `name: {owner}` needs it, it is {value!r}; add metric.{key}")
    if kind not in (allowed := _KINDS.get(settings.name, (kind,))):
        raise ConfigError(
            f"metric.name: {settings.name!r} scores outputs of kind {' or '.join(allowed)}, but {output!r} is {kind!r}"
        )
    if settings.pattern is not None:
        try:
            re.compile(settings.pattern.replace("{expected}", "expected"))
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"metric.pattern: '{visible(' '.join(settings.pattern.split()))}' is no regular expression: {error}"
            ) from error
