"""The shape of a program that came from Python, kept with its study, so that the study can be shown and exported later.

What is kept are names, fields and examples of its predictors: enough to render every prompt and to write a state that
the user's own class loads. Its code is not kept, so what is made of it here cannot answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import dspy

from optimizer.candidate import JsonValue
from optimizer.prompts.adapter import signature_of_spec, with_reasoning, without_reasoning
from optimizer.prompts.program import ModuleProgram
from optimizer.prompts.spec import REASONING, FieldSpec, PromptSpec
from optimizer.prompts.values import json_fields

WHOLE = "self"  # DSPy's name of a predictor that is the whole program


def shape_of(program: ModuleProgram, module: dspy.Module) -> dict[str, JsonValue]:
    """Return what is kept, by name of the predictor."""
    return {
        name: cast(
            JsonValue,
            {
                "spec": asdict(program.specs[name]),
                "reasons": REASONING in predictor.signature.fields,
                "descriptions": {
                    key: str(field.json_schema_extra["desc"]) for key, field in predictor.signature.fields.items()
                },
                "instructions": predictor.signature.instructions,
                "demos": [json_fields(dict(demo)) for demo in predictor.demos],
            },
        )
        for name, predictor in module.named_predictors()
    }


def program_of(shape: Mapping[str, Any], *, max_tokens: int) -> ModuleProgram:
    """Return a program of this shape."""
    program = ModuleProgram(_module(shape), max_tokens=max_tokens)
    program.specs = {name: without_reasoning(_spec(kept["spec"])) for name, kept in shape.items()}
    return program


def _module(shape: Mapping[str, Any]) -> dspy.Module:
    if list(shape) == [WHOLE]:
        return _predictor(shape[WHOLE])
    whole = dspy.Module()
    for name, kept in shape.items():
        place, *inner = whole, *name.split(".")
        for part in inner[:-1]:
            if not hasattr(place, part):
                setattr(place, part, dspy.Module())
            place = getattr(place, part)
        setattr(place, inner[-1], _predictor(kept))
    return whole


def _predictor(kept: Mapping[str, Any]) -> dspy.Predict:
    spec = _spec(kept["spec"])
    signature = signature_of_spec(with_reasoning(spec) if kept["reasons"] else spec, str(kept["instructions"]))
    for name, description in kept["descriptions"].items():
        signature = signature.with_updated_fields(name, desc=description)
    predictor = dspy.Predict(signature)
    predictor.demos = [dspy.Example(**demo) for demo in kept["demos"]]
    return predictor


def _spec(kept: Mapping[str, Sequence[Mapping[str, Any]]]) -> PromptSpec:
    return PromptSpec(inputs=_fields(kept["inputs"]), outputs=_fields(kept["outputs"]))


def _fields(kept: Sequence[Mapping[str, Any]]) -> tuple[FieldSpec, ...]:
    return tuple(
        FieldSpec(
            **{**field, "choices": tuple(field["choices"]), "keys": tuple((key, said) for key, said in field["keys"])}
        )
        for field in kept
    )
