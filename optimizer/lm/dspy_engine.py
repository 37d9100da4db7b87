"""Our models behind DSPy's engine contract, so that any `dspy.Module` runs on them, journalled and metered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dspy
from dspy import lm15

from optimizer.lm.backend import Backend, CallRequest, Reply
from optimizer.lm.embedded import open_embedded
from optimizer.prompts.spec import Choice, Constraint, Json, Line, Message, Number, Piece, Text

Complete = Callable[[CallRequest], Reply]
PIECES: dict[str, type[Any]] = {cls.__name__: cls for cls in (Text, Choice, Line, Number, Json)}


class Engine:
    """Passes DSPy's requests to a `complete` function. DSPy wraps what that raises; the original is the cause."""

    def __init__(self, complete: Complete, *, default_max_tokens: int, backend: Backend | None = None) -> None:
        self.backend = backend
        self._complete = complete
        self._default_max_tokens = default_max_tokens

    def complete(self, request: lm15.Request) -> lm15.Response:
        reply = self._complete(self._call_request(request))
        usage = lm15.Usage(input_tokens=reply.tokens_in, output_tokens=reply.tokens_out)
        reasons: dict[str, Any] = {"length": "length", "filtered": "content_filter"}
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant([lm15.TextPart(reply.text)]),
            finish_reason=reasons.get(reply.finish_reason, "stop"),
            usage=usage,
        )

    def close(self) -> None:
        """Nothing to free: the model belongs to whoever opened it."""

    def _call_request(self, request: lm15.Request) -> CallRequest:
        config = request.config
        system = [Message("system", _text(request.system))] if request.system else []
        turns = [Message("user" if m.role == "user" else "assistant", m.text or "") for m in request.messages]
        return CallRequest(
            messages=(*system, *turns),
            max_tokens=config.max_tokens or self._default_max_tokens,
            temperature=config.temperature or 0.0,
            stop=tuple(config.stop),
            constraint=constraint_of(config.response_format),
            sample=config.seed or 0,
        )


def as_dspy_lm(
    complete: Complete, *, name: str, max_tokens: int, temperature: float = 0.0, backend: Backend | None = None
) -> dspy.LM:
    """Return a `dspy.LM` without cache and retries of its own."""
    engine = Engine(complete, default_max_tokens=max_tokens, backend=backend)
    return dspy.LM(
        f"optimizer/{name}", engine=engine, cache=False, num_retries=0, max_tokens=max_tokens, temperature=temperature
    )


def embedded_lm(model: str = "embedded", *, max_tokens: int = 256, temperature: float = 0.0) -> dspy.LM:
    """Return the embedded model (or another GGUF file) as a `dspy.LM` for your own programs.

    Raises:
        ConfigError: the model file cannot be opened.
    """
    backend = open_embedded(model)
    return as_dspy_lm(
        backend.complete, name=backend.identity, max_tokens=max_tokens, temperature=temperature, backend=backend
    )


def response_format(constraint: Constraint) -> dict[str, object]:
    """Carry a constraint through DSPy as a JSON schema with our pieces beside it."""
    pieces = [[type(piece).__name__, {name: getattr(piece, name) for name in piece.__slots__}] for piece in constraint]
    return {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": {"type": "string", "x-pieces": json.dumps(pieces)}},
    }


def constraint_of(response_format: Any) -> Constraint:
    """Read back what `response_format` wrote; a plain JSON schema becomes one `Json` piece."""
    if not response_format:
        return ()
    schema = response_format.get("schema") or response_format.get("json_schema", {}).get("schema") or {}
    if "x-pieces" in schema:
        return tuple(_piece(name, fields) for name, fields in json.loads(schema["x-pieces"]))
    return (Json(json.dumps(dict(schema), default=dict)),)


def _piece(name: str, fields: dict[str, Any]) -> Piece:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    piece: Piece = PIECES[name](**values)
    return piece


def _text(system: Any) -> str:
    return system if isinstance(system, str) else "\n".join(getattr(part, "text", "") for part in system)
