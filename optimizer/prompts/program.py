"""The program whose prompts are optimized: what it asks, and how a candidate is put into it.

`TaskProgram` is the single predictor that a configuration describes; its calls skip DSPy's machinery (a test keeps the
bytes equal). `ModuleProgram` is any `dspy.Module`. Both render through `optimizer.prompts.formats`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizer.candidate import Candidate, Fields, Part, content_hash
from optimizer.errors import OptimizerError, ProgramError
from optimizer.lm.backend import CallRequest, Reply
from optimizer.lm.dspy_engine import as_dspy_lm
from optimizer.lm.quiet import quiet
from optimizer.prompts.adapter import (
    FormatAdapter,
    LaidOut,
    demo_fields,
    signature_of_spec,
    spec_of_signature,
    with_reasoning,
    without_reasoning,
    worded,
)
from optimizer.prompts.formats import FORMATS, UnreadableReply
from optimizer.prompts.marks import without_input_marks
from optimizer.prompts.spec import REASONING, Message, PromptSpec
from optimizer.prompts.user_module import check_module, fingerprint_of
from optimizer.prompts.values import json_fields
from optimizer.user_code import place_of

Complete = Callable[[CallRequest], Reply]
TASK_PREDICTOR = "answer"
# What DSPy's classes take as an argument or keep as an attribute, so that no field can be called so.
_TAKEN = frozenset(
    "self instance signature config demos lm new_signature completions fields input_fields output_fields instructions"
    f" {REASONING}".split()
)


class Refused(Exception):
    """The model or its provider declined to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a program made of one input. `text` is the raw reply of its last call."""

    fields: Fields
    text: str
    reasoning: str | None = None


class Program(Protocol):
    """A program with named predictors, whose prompts a candidate sets."""

    specs: Mapping[str, PromptSpec]
    fingerprint: str

    def seed(self, instructions: str) -> Candidate:
        """Return the prompt that the program has before any optimization; layout and temperature are the caller's."""
        ...

    def run(self, candidate: Candidate, inputs: Fields, complete: Complete) -> Answer:
        """Answer one input. Safe to call from several threads at once.

        Raises:
            UnreadableReply: a reply holds no answer; `args` are the reason and the raw reply.
            Refused: the model declined.
            ProgramError: the user's own code raised.
            Exception: whatever `complete` raises, unchanged, even if the user's own code caught it.
        """
        ...

    def module(self, candidate: Candidate) -> dspy.Module:
        """Return a DSPy module with the candidate's words and demonstrations, for use with any DSPy adapter."""
        ...

    def apply(self, candidate: Candidate) -> dspy.Module:
        """Return the same module bound to the candidate's layout: it sends exactly the candidate's prompts."""
        ...

    def messages(self, candidate: Candidate, predictor: str, inputs: Fields) -> tuple[Message, ...]:
        """Return the exact messages of one predictor."""
        ...


class TaskProgram:
    """One predictor with the fields of the configuration.

    Raises:
        ProgramError: a field has a name that DSPy needs for itself.
    """

    def __init__(self, spec: PromptSpec, *, max_tokens: int) -> None:
        for field in (*spec.inputs, *spec.outputs):
            if field.name in _TAKEN or field.name.startswith("_"):
                raise ProgramError(
                    f"task: {field.name!r} cannot be the name of a field, because DSPy or chain of thought needs it; "
                    f"name the field otherwise and its column under data.fields"
                )
        self.specs: Mapping[str, PromptSpec] = {TASK_PREDICTOR: spec}
        self.fingerprint = content_hash(repr(spec), n_chars=16)
        self._max_tokens = max_tokens
        self._head = functools.lru_cache(maxsize=64)(self._render_head)

    def seed(self, instructions: str) -> Candidate:
        said = without_input_marks(instructions, self.specs[TASK_PREDICTOR])
        return Candidate(parts=(Part(predictor=TASK_PREDICTOR, instructions=said),))

    def run(self, candidate: Candidate, inputs: Fields, complete: Complete) -> Answer:
        spec, layout = self._spec(candidate), FORMATS[candidate.format]
        reply = complete(self.request(candidate, inputs))
        if reply.finish_reason == "filtered":
            raise Refused(reply.text)
        try:
            fields = layout.parse(spec, reply.text)
        except UnreadableReply as error:
            raise _unreadable(str(error), reply) from error
        reasoning = fields.pop(REASONING, None)
        return Answer(fields=fields, text=reply.text, reasoning=None if reasoning is None else str(reasoning))

    def request(self, candidate: Candidate, inputs: Fields) -> CallRequest:
        """Return the one call that answers an input."""
        spec, layout = self._spec(candidate), FORMATS[candidate.format]
        return CallRequest(
            messages=layout.messages(spec, self._head(_Key(candidate)), inputs),
            max_tokens=self._max_tokens,
            temperature=candidate.temperature,
            stop=layout.stop(spec),
            constraint=layout.constraint(spec),
        )

    def module(self, candidate: Candidate) -> dspy.Module:
        part = candidate.parts[0]
        cls = dspy.ChainOfThought if candidate.reasoning == "chain_of_thought" else dspy.Predict
        module = cls(signature_of_spec(self.specs[TASK_PREDICTOR], ""), temperature=candidate.temperature)
        for predictor in module.predictors():
            _set(predictor, part)
        return module

    def apply(self, candidate: Candidate) -> dspy.Module:
        adapter = FormatAdapter(candidate.format, spec=self.specs[TASK_PREDICTOR])
        return LaidOut(self.module(candidate), adapter, temperature=candidate.temperature)

    def messages(self, candidate: Candidate, predictor: str, inputs: Fields) -> tuple[Message, ...]:
        del predictor  # there is one
        return self.request(candidate, inputs).messages

    def _spec(self, candidate: Candidate) -> PromptSpec:
        spec = self.specs[TASK_PREDICTOR]
        return with_reasoning(spec) if candidate.reasoning == "chain_of_thought" else spec

    def _render_head(self, key: _Key) -> tuple[Message, ...]:
        part = key.candidate.parts[0]
        return FORMATS[key.candidate.format].head(self._spec(key.candidate), part.instructions, part.demos)


class ModuleProgram:
    """Any `dspy.Module`, several predictors included. Its own instructions are the seed prompt.

    What a candidate means here: a part without demonstrations keeps those that the module came with. `predict` leaves
    the module as it was written, `chain_of_thought` makes every predictor reason first that does not do so already.
    The temperature is the model's default, which a predictor's own setting overrides.

    Raises:
        ProgramError: the module cannot be optimized; see `optimizer.prompts.user_module`.
    """

    def __init__(self, module: dspy.Module, *, max_tokens: int) -> None:
        self._module = module
        self._max_tokens = max_tokens
        self._applied = functools.lru_cache(maxsize=64)(lambda key: self._laid_out(key.candidate))
        check_module(module)
        self.specs: Mapping[str, PromptSpec] = {
            name: without_reasoning(spec_of_signature(predictor.signature))
            for name, predictor in module.named_predictors()
        }
        self.fingerprint = fingerprint_of(module)

    def seed(self, instructions: str) -> Candidate:
        """The module's own instructions; `instructions`, when given, replace the first predictor's."""
        predictors = list(self._module.named_predictors())
        parts = [Part(predictor=name, instructions=predictor.signature.instructions) for name, predictor in predictors]
        if instructions:
            said = without_input_marks(instructions, self.specs[parts[0].predictor])
            parts[0] = replace(parts[0], instructions=said)
        return Candidate(parts=tuple(parts), format="chat")

    def run(self, candidate: Candidate, inputs: Fields, complete: Complete) -> Answer:
        calls = _Calls(complete)
        lm = as_dspy_lm(calls, name="task", max_tokens=self._max_tokens, temperature=candidate.temperature)
        with quiet(lm=lm):
            try:
                result, error = self._applied(_Key(candidate))(**inputs), None
            except Exception as raised:  # the one border to the user's own code
                result, error = None, raised
        if calls.failure is not None:
            raise calls.failure
        if error is not None:
            raise _translated(error, calls) from error
        return _answer(result, calls)

    def module(self, candidate: Candidate) -> dspy.Module:
        module = self._module.deepcopy()
        module._compiled = False  # DSPy hides the predictors of a compiled module that is part of another
        for name, predictor in module.named_predictors():
            if candidate.reasoning == "chain_of_thought" and REASONING not in predictor.signature.fields:
                reasoning = dspy.OutputField(desc=f"${{{REASONING}}}")
                predictor.signature = predictor.signature.prepend(REASONING, reasoning, str)
            _set(predictor, candidate.part(name))
        return cast(dspy.Module, module)

    def apply(self, candidate: Candidate) -> dspy.Module:
        return self._laid_out(candidate, temperature=candidate.temperature)

    def _laid_out(self, candidate: Candidate, *, temperature: float | None = None) -> LaidOut:
        return LaidOut(self.module(candidate), FormatAdapter(candidate.format), temperature=temperature)

    def messages(self, candidate: Candidate, predictor: str, inputs: Fields) -> tuple[Message, ...]:
        applied = self._applied(_Key(candidate))
        asked = dict(applied.inner.named_predictors())[predictor]
        with quiet():
            rows = applied.adapter.format(asked.signature, asked.demos, inputs)
        return tuple(Message(row["role"], row["content"]) for row in rows)


class _Calls:
    """The `complete` of one run. Notes replies, and the first failure, which a module could swallow."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self.replies: list[Reply] = []
        self.failure: Exception | None = None

    def __call__(self, request: CallRequest) -> Reply:
        try:
            reply = self._complete(request)
            if reply.finish_reason == "filtered":
                raise Refused(reply.text)
        except Exception as error:
            self.failure = self.failure or error
            raise
        self.replies.append(reply)
        return reply


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """A candidate as a cache key: its fields are dicts, which have no hash, and its id costs a hash of all its text."""

    candidate: Candidate

    def __hash__(self) -> int:
        return hash(self.candidate.parts[0].instructions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.candidate == other.candidate


def _set(predictor: dspy.Predict, part: Part) -> None:
    """Give a predictor what a part says; without demonstrations it keeps its own."""
    predictor.signature = worded(predictor.signature, part.instructions)
    if part.demos:
        predictor.demos = [dspy.Example(demo_fields(demo)) for demo in part.demos]


def _translated(error: Exception, calls: _Calls) -> Exception:
    if isinstance(error, AdapterParseError):
        reply = calls.replies[-1] if calls.replies else None
        return _unreadable(str(error).partition("\n")[0], reply)
    if isinstance(error, OptimizerError):
        return error
    return ProgramError(f"task.program: {type(error).__name__}: {error}{place_of(error)}")


def _unreadable(reason: str, reply: Reply | None) -> UnreadableReply:
    cut = "; the reply was cut at max_tokens" if reply is not None and reply.finish_reason == "length" else ""
    return UnreadableReply(reason + cut, "" if reply is None else reply.text)


def _answer(result: object, calls: _Calls) -> Answer:
    if not isinstance(result, Mapping | dspy.Example):
        raise ProgramError(f"task.program: forward returned {type(result).__name__!r}, a dspy.Prediction is needed")
    fields = dict(json_fields(cast("Mapping[str, Any]", result)))
    reasoning = fields.pop(REASONING, None)
    text = calls.replies[-1].text if calls.replies else ""
    return Answer(fields=fields, text=text, reasoning=None if reasoning is None else str(reasoning))
