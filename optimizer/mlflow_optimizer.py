"""The same loop behind `mlflow.genai.optimize_prompts`: your predict function and scorers, our search and our proof.

    mlflow.genai.optimize_prompts(
        predict_fn=predict, train_data=rows, prompt_uris=[prompt.uri], scorers=[exact],
        optimizer=StudyPromptOptimizer(proposer="openai/gpt-4.1", search={"trials": 20}),
    )

MLflow evaluates: each row of a trial is one call of your predict function with the candidate's text as template. The
model that your function asks is its own affair: its calls are neither counted nor priced, so what limits a study is
`search.trials` and `budget.wall_clock`.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import dspy
from mlflow.genai.optimize.optimizers.base import BasePromptOptimizer
from mlflow.genai.optimize.types import EvaluationResultRecord, PromptOptimizerOutput

from optimizer.api import optimize
from optimizer.errors import ConfigError, DataError

EvalFn = Callable[[dict[str, str], list[dict[str, Any]]], list[EvaluationResultRecord]]
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
ROW, ANSWER = "row", "answer"


class StudyPromptOptimizer(BasePromptOptimizer):
    """Searches one prompt of MLflow's registry and keeps it unless a better one is proven on rows never searched on.

    Args:
        proposer: the model that writes mutations; default: the embedded model.
        options: whatever `optimizer.optimize` takes besides program, metric, rows and task model, for example
            `search`, `budget`, `name`, `runs_dir`. Without a `name` each study gets a new one, since your function and
            scorers may have changed; under one of its own a study is continued.

    Raises:
        ConfigError: a cap on calls, tokens or money, which nobody could hold here.
    """

    def __init__(self, *, proposer: Any = None, **options: Any) -> None:
        if caps := sorted(set(options.get("budget") or {}) & {"task_calls", "tokens", "usd"}):
            raise ConfigError(
                f"optimize_prompts: budget.{caps[0]} cannot be held, because your predict_fn asks its model itself; "
                "limit the study with search={'trials': N} or budget={'wall_clock': SECONDS}"
            )
        self.proposer = proposer
        self.options = options

    def optimize(
        self,
        eval_fn: EvalFn,
        train_data: list[dict[str, Any]],
        target_prompts: dict[str, str],
        enable_tracking: bool = True,
    ) -> PromptOptimizerOutput:
        """Return the winning template, or the one that was given.

        Raises:
            ConfigError: more than one prompt, or a chat prompt.
            DataError: no rows to score on.
        """
        name, template = _only(target_prompts)
        if not train_data or eval_fn is None:
            raise DataError("optimize_prompts: no train_data; a study needs rows, and scorers that rate the answers")
        given = rows_by_text(train_data)
        rows = [{ROW: text, ANSWER: _answer(row, i)} for i, (text, row) in enumerate(given.items(), 1)]
        program = _Evaluated(eval_fn, name, template, given)
        search = {"max_demos": 0, "formats": ("chat",), **self.options.get("search", {})}
        fresh = _free_name(_slug(name), Path(self.options.get("runs_dir", "runs")))
        options = {"name": fresh, "goal": "Improve this prompt.", **self.options}
        options["tracking"] = {"enabled": enable_tracking, **self.options.get("tracking", {})}
        result = optimize(
            program,
            metric=rated,
            train=rows,
            lm="embedded",
            proposer=self.proposer,
            **{**options, "search": search},
        )
        verdict = result.verdict
        is_better = verdict.decision == "promote"
        best = program.template_of(result.view.best.parts[0].instructions) if is_better else template
        return PromptOptimizerOutput(
            optimized_prompts={name: best},
            initial_eval_score=verdict.seed_score,
            final_eval_score=verdict.winner_score if is_better else verdict.seed_score,
        )


class _Evaluated(dspy.Module):
    """A program whose one prompt is the template, and whose answers come from MLflow's evaluation function."""

    def __init__(self, eval_fn: EvalFn, name: str, template: str, rows: Mapping[str, dict[str, Any]]) -> None:
        super().__init__()
        self._rows = rows  # as MLflow gave them, by the text that stands for each
        self.text = dspy.Predict(dspy.Signature(f"{ROW} -> {ANSWER}", template))
        self._evaluate, self._name = eval_fn, name
        self._variables = set(_VARIABLE.findall(template))
        self._callbacks = list(dspy.settings.callbacks)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Evaluated:
        del memo
        return self._copy()

    def deepcopy(self) -> _Evaluated:
        """Copy the words and share the evaluation function, which cannot be copied."""
        return self._copy()

    def forward(self, row: str) -> dspy.Prediction:
        """Have MLflow answer and rate one row."""
        with _ONE_AT_A_TIME, dspy.context(callbacks=self._callbacks):  # your function's traces are MLflow's affair
            template = self.template_of(self.text.signature.instructions)
            record = self._evaluate({self._name: template}, [self._rows[row]])[0]
        rated = list(record.individual_scores.values())
        score = sum(rated) / len(rated) if rated else record.score
        said = "; ".join(f"{key}: {why}" for key, why in (record.rationales or {}).items() if why)
        return dspy.Prediction(answer=_text(record.outputs), score=score, remark=said)

    def template_of(self, instructions: str) -> str:
        """Return MLflow's form of a prompt: a mutation may have lost one pair of a variable's braces."""
        for name in self._variables:
            instructions = re.sub(rf"(?<!\{{)\{{\s*{name}\s*\}}(?!\}})", "{{" + name + "}}", instructions)
        return instructions

    def _copy(self) -> _Evaluated:
        twin = _Evaluated(self._evaluate, self._name, self.text.signature.instructions, self._rows)
        twin.text = self.text.deepcopy()
        twin._variables, twin._callbacks = self._variables, self._callbacks
        return twin


_ONE_AT_A_TIME = threading.Lock()  # MLflow's function patches classes while it runs


def rated(example: Any, prediction: Any) -> tuple[float, str]:
    """The metric of the study: what MLflow's scorers said of the row."""
    del example
    if prediction.get("score") is None:
        raise ValueError("the scorers gave no number; give scorers that rate from 0 to 1")
    return float(prediction["score"]), str(prediction.get("remark") or "")


def _only(prompts: Mapping[str, str]) -> tuple[str, str]:
    if len(prompts) != 1:
        raise ConfigError(f"optimize_prompts: {len(prompts)} prompts; this optimizer takes one at a time")
    name, template = next(iter(prompts.items()))
    if template.lstrip().startswith('[{"role"'):
        raise ConfigError(f"optimize_prompts: {name!r} is a chat prompt; this optimizer takes text prompts")
    return name, template


def rows_by_text(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the rows by the text that stands for each: its input, or all of it where another row has that input."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        text = _row_text(row)
        found[_text(row) if text in found and found[text] is not row else text] = row
    return found


def _row_text(row: Mapping[str, Any]) -> str:
    """Return the text that a row is known by in the study: its one input as it is, else what it is given as JSON."""
    inputs = row.get("inputs")
    values = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    return _text(values[0] if len(values) == 1 and isinstance(values[0], str) else inputs)


def _answer(row: Mapping[str, Any], number: int) -> str:
    """Return what is expected, as text; rows that only a judge rates have none, and must not look all alike."""
    expected = next((row[key] for key in ("expectations", "outputs") if not _is_missing(row.get(key))), None)
    return _text(expected) or f"(nothing is expected of row {number})"


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value == {} or (isinstance(value, float) and value != value)  # pandas' NaN


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, default=str, sort_keys=True, ensure_ascii=False)


def _free_name(slug: str, runs_dir: Path) -> str:
    names = itertools.chain([slug], (f"{slug[:59]}-{i}" for i in itertools.count(2)))
    return next(name for name in names if not (runs_dir / name).exists())


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "prompt"
