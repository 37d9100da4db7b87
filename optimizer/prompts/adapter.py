"""Our prompt layouts as a DSPy adapter, so that exported and optimized programs send the same bytes.

dspy.configure(lm=..., adapter=FormatAdapter("plain"))
"""

from __future__ import annotations

import copy
import enum
import json
import typing
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import UnionType
from typing import Any, Literal, Union, cast

import dspy
from dspy.adapters.utils import annotation_allows_none, parse_value
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from optimizer.candidate import Demo
from optimizer.lm.dspy_engine import Engine, response_format
from optimizer.prompts.formats import FORMATS, UnreadableReply
from optimizer.prompts.spec import REASONING, FieldSpec, PromptSpec, label_of, reasoning_field
from optimizer.prompts.values import json_fields, of_enum

_KINDS: Mapping[Any, Literal["text", "number", "boolean", "json"]] = {
    str: "text",
    Any: "text",
    bool: "boolean",
    int: "number",
    float: "number",
    dict: "json",
}


class FormatAdapter(dspy.Adapter):
    """Renders and parses with one of `optimizer.formats.FORMATS`.

    Unlike DSPy's own adapters it never asks again in another format when a reply cannot be read. Reply grammars go
    only to models that this package opened; others would not understand them.

    Args:
        format: `plain`, `chat`, `json` or `xml`.
        spec: richer field specs than a signature can hold; used when the field names agree.
    """

    def __init__(self, format: str = "plain", *, spec: PromptSpec | None = None) -> None:
        super().__init__()
        self.layout = FORMATS[format]
        self.spec = spec

    def __call__(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        settings = self._settings(lm, lm_kwargs, signature)
        return cast("list[dict[str, Any]]", super().__call__(lm, settings, signature, demos, inputs))

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        settings = self._settings(lm, lm_kwargs, signature)
        return cast("list[dict[str, Any]]", await super().acall(lm, settings, signature, demos, inputs))

    def format(
        self, signature: type[dspy.Signature], demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        spec = self._spec(signature)
        head = self.layout.head(spec, signature.instructions, [_demo(spec, demo) for demo in demos])
        messages = self.layout.messages(spec, head, json_fields(inputs))
        return [{"role": message.role, "content": message.content} for message in messages]

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        try:
            values = self.layout.parse(self._spec(signature), completion)
            return dict(values) if self._own_spec(signature) else _typed(signature, values)
        except UnreadableReply as error:
            raise AdapterParseError(
                adapter_name=type(self).__name__, signature=signature, lm_response=completion, message=str(error)
            ) from error

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: Mapping[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """Return inputs alone as text; `dspy.ReAct` shows its steps so."""
        del main_request  # answers are asked for in `format`
        layout = FORMATS["chat"] if self.layout.name == "plain" else self.layout
        content = layout.messages(spec_of_signature(signature), (), json_fields(inputs))[-1].content
        return "\n\n".join(part for part in (prefix, content, suffix) if part)

    def _settings(self, lm: dspy.BaseLM, given: dict[str, Any], signature: type[dspy.Signature]) -> dict[str, Any]:
        """Add what the layout wants of a call to the predictor's own settings, which win."""
        spec, settings = self._spec(signature), dict(given)
        if stop := self.layout.stop(spec):
            settings.setdefault("stop", list(stop))
        if not isinstance(getattr(lm, "engine", None), Engine):
            return settings
        if constraint := self.layout.constraint(spec):
            settings.setdefault("response_format", response_format(constraint))
        if rollout := settings.get("rollout_id", lm.kwargs.get("rollout_id")):  # "another draw", of which DSPy
            settings.setdefault("seed", rollout)  # tells its cache only; without it our journal would repeat itself
        return settings

    def _spec(self, signature: type[dspy.Signature]) -> PromptSpec:
        return self._own_spec(signature) or spec_of_signature(signature)

    def _own_spec(self, signature: type[dspy.Signature]) -> PromptSpec | None:
        """Return the spec that we were given, with reasoning where the signature asks for it, if it fits."""
        if self.spec is None:
            return None
        names = [*signature.input_fields, *signature.output_fields]
        fitting = (self.spec, with_reasoning(self.spec))
        return next((spec for spec in fitting if [f.name for f in (*spec.inputs, *spec.outputs)] == names), None)


class LaidOut(dspy.Module):
    """A module bound to the layout and the temperature that its prompts were optimized in; in all else it stands for
    that module.

    A predictor's own temperature stays; that of the LM, which the search did not use, gives way.

    Its attributes, predictors and state have the names that they have there: `compiled.step` is the module's own, and
    what `save` writes the module's own class loads. The layout, the temperature and whether the model reasons first are
    not part of a DSPy state: load into the `apply(...)` of a candidate that agrees in them.
    """

    def __init__(self, inner: dspy.Module, adapter: FormatAdapter, *, temperature: float | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.adapter = adapter
        self.temperature = temperature

    def forward(self, **inputs: Any) -> Any:
        with self._context():
            return self.inner(**inputs)

    async def aforward(self, **inputs: Any) -> Any:
        with self._context():
            return await self.inner.acall(**inputs)

    def _context(self) -> AbstractContextManager[None]:
        lm, settings = dspy.settings.lm, {"adapter": self.adapter}
        if self.temperature is not None and isinstance(lm, dspy.BaseLM):
            settings["lm"] = asked = copy.copy(lm)  # they share the history
            asked.kwargs = {**lm.kwargs, "temperature": self.temperature}
        return cast("AbstractContextManager[None]", dspy.context(**settings))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "inner" not in self.__dict__:  # a copy that is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    def named_parameters(self) -> list[tuple[str, Any]]:
        return cast("list[tuple[str, Any]]", self.inner.named_parameters())

    def dump_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", self.inner.dump_state(*args, **kwargs))

    def load_state(self, state: dict[str, Any], **kwargs: Any) -> None:
        self.inner.load_state(state, **kwargs)


def spec_of_signature(signature: type[dspy.Signature]) -> PromptSpec:
    """Read the field specs off a DSPy signature. A first output named `reasoning` is the model's thinking."""
    outputs = [_output_spec(name, field) for name, field in signature.output_fields.items()]
    if outputs[0].name == REASONING and outputs[0].kind == "text" and len(outputs) > 1:
        outputs[0] = replace(reasoning_field(), description=outputs[0].description or reasoning_field().description)
    return PromptSpec(
        inputs=tuple(
            FieldSpec(name=name, label=label_of(name), description=_description(name, field))
            for name, field in signature.input_fields.items()
        ),
        outputs=tuple(outputs),
    )


def signature_of_spec(spec: PromptSpec, instructions: str) -> type[dspy.Signature]:
    """Make a DSPy signature with the same fields."""
    fields: dict[str, tuple[Any, Any]] = {}
    for field in spec.inputs:
        fields[field.name] = (str, dspy.InputField(desc=field.description))
    for field in spec.outputs:
        fields[field.name] = (_annotation(field), dspy.OutputField(desc=_said_of(field)))
    return worded(dspy.Signature(fields, " "), instructions)


def worded(signature: type[dspy.Signature], instructions: str) -> type[dspy.Signature]:
    """Return a copy with these instructions. A blank keeps DSPy from replacing empty ones by a sentence of its own."""
    return cast("type[dspy.Signature]", signature.with_instructions(instructions or " "))


def with_reasoning(spec: PromptSpec) -> PromptSpec:
    """Ask for the model's reasoning before the first output, unless a field of that name is there already."""
    if any(field.name == REASONING for field in (*spec.inputs, *spec.outputs)):
        return spec
    return replace(spec, outputs=(reasoning_field(), *spec.outputs))


def without_reasoning(spec: PromptSpec) -> PromptSpec:
    outputs = tuple(field for field in spec.outputs if not (field.name == REASONING and field.is_optional))
    return replace(spec, outputs=outputs)


def demo_fields(demo: Demo) -> dict[str, Any]:
    """Return a demonstration as the flat fields that DSPy wants."""
    reasoning = {} if demo.reasoning is None else {REASONING: demo.reasoning}
    return {**reasoning, **demo.inputs, **demo.outputs}


def _demo(spec: PromptSpec, values: Mapping[str, Any]) -> Demo:
    """Read a demonstration off DSPy's flat fields; a layout shows only those that its spec names."""
    fields = json_fields(values)
    return Demo(
        example_id="",
        inputs={field.name: fields[field.name] for field in spec.inputs if field.name in fields},
        outputs={field.name: fields[field.name] for field in spec.outputs if field.name in fields},
    )


def _typed(signature: type[dspy.Signature], values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn values into what the signature's annotations promise to the module's code."""
    typed: dict[str, Any] = {}
    for name, value in values.items():
        annotation = signature.output_fields[name].annotation
        try:
            typed[name] = parse_value(of_enum(value, _without_none(annotation)), annotation)
        except (ValueError, TypeError) as error:
            raise UnreadableReply(f"{name!r} is not of its type: {' '.join(str(error).split())[:200]}") from error
    return typed


def _output_spec(name: str, field: Any) -> FieldSpec:
    spec = FieldSpec(
        name=name,
        label=label_of(name),
        description=_description(name, field),
        is_optional=not field.is_required() or annotation_allows_none(field.annotation),
    )
    annotation = _without_none(field.annotation)
    if typing.get_origin(annotation) is Literal:
        return replace(spec, kind="label", choices=tuple(str(choice) for choice in typing.get_args(annotation)))
    if isinstance(annotation, enum.EnumMeta):
        members: list[enum.Enum] = list(annotation)
        return replace(spec, kind="label", choices=tuple(str(member.value) for member in members))
    kind = _KINDS.get(typing.get_origin(annotation) or annotation)
    if kind is not None:
        return replace(spec, kind=kind)
    try:
        return replace(spec, kind="json", schema=json.dumps(TypeAdapter(annotation).json_schema()))
    except PydanticUserError:  # a type without a schema; it is made from the text
        return spec


def _without_none(annotation: Any) -> Any:
    """Return X for `X | None`."""
    if typing.get_origin(annotation) not in (Union, UnionType):
        return annotation
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else annotation


def _description(name: str, field: Any) -> str:
    described = str((field.json_schema_extra or {}).get("desc") or "")
    return "" if described == f"${{{name}}}" else described  # DSPy's placeholder for "no description"


def _said_of(field: FieldSpec) -> str:
    """Describe a field for DSPy's own adapters, which do not know the keys of an object."""
    keys = ", ".join(f'"{key}"' + (f" ({text})" if text else "") for key, text in field.keys)
    return f"{field.description} Keys: {keys}".strip() if keys else field.description


def _annotation(field: FieldSpec) -> Any:
    if field.kind == "label":
        return Literal[field.choices]
    return {"number": float, "boolean": bool, "json": dict}.get(field.kind, str)
