"""What a user's `dspy.Module` must be like to be optimized, and what its answers depend on."""

from __future__ import annotations

import inspect

import dspy

from optimizer.candidate import content_hash
from optimizer.errors import ProgramError


def check_module(module: dspy.Module) -> None:
    """Refuse a module whose prompts cannot be set, shown as text or counted.

    Raises:
        ProgramError: it has no predictor, or one has a model of its own or a field that is no text.
    """
    predictors = module.named_predictors()
    if not predictors:
        raise ProgramError("task.program: no predictor found; build the module from dspy.Predict or ChainOfThought")
    for name, predictor in predictors:
        if predictor.lm is not None:
            raise ProgramError(
                f"task.program: predictor {name!r} has a model of its own, {predictor.lm.model!r}, whose calls could "
                f"not be counted; leave the choice of the model to lm.task"
            )
        _check_fields(name, predictor.signature)


def fingerprint_of(module: dspy.Module) -> str:
    """Hash the predictors with their words, settings and demonstrations, and the source of the user's classes."""
    predictors = [
        [name, p.signature.instructions, str(p.signature.fields), str(p.config), str([dict(d) for d in p.demos])]
        for name, p in module.named_predictors()
    ]
    classes = {type(part) for _, part in module.named_sub_modules() if not type(part).__module__.startswith("dspy.")}
    return content_hash([predictors, sorted(_source(cls) for cls in classes)], n_chars=16)


def _check_fields(name: str, signature: type[dspy.Signature]) -> None:
    for field_name, field in signature.fields.items():
        special = dspy.Type.extract_custom_type_from_annotation(field.annotation)
        if special or field.annotation is dspy.History:
            raise ProgramError(
                f"task.program: field {field_name!r} of predictor {name!r} is a {field.annotation}, and prompts are "
                f"text; use text, numbers, lists, dicts or pydantic models"
            )


def _source(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):  # typed into an interpreter
        return cls.__qualname__
