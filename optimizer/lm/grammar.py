"""Reply constraints as GBNF, the grammar notation of llama.cpp. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.prompts.spec import Choice, Constraint, Json, Line, Number, Piece, Text

MAX_LINE_CHARS = 400
MAX_STRING_CHARS = 400
JSON_RULES = f"""
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{{" space (string space ":" space value (space "," space string space ":" space value)*)? space "}}"
array ::= "[" space (value (space "," space value)*)? space "]"
string ::= "\\"" ([^"\\\\\\x00-\\x1F] | "\\\\" ["\\\\/bfnrt]){{0,{MAX_STRING_CHARS}}} "\\""
number ::= "-"? [0-9]{{1,15}} ("." [0-9]{{1,15}})?
space ::= " "?
"""


def gbnf(constraint: Constraint, *, ends: Sequence[str] = ()) -> str:
    """Return the grammar of a whole reply.

    `ends` are the texts at which decoding stops. They are allowed after the reply, because a model that continues a
    pattern goes on with one of them: where it may only end its text or say more, it says more.

    Of a JSON schema it enforces what our own fields use: objects with all their properties in order, strings, enums,
    numbers and booleans; what else a schema says is left to any JSON value.
    """
    rules = JSON_RULES if any(isinstance(piece, Json) for piece in constraint) else ""
    end = f" {_any_of([_quoted(text) for text in ends])}?" if ends else ""
    return "root ::= " + " ".join(_rule(piece) for piece in constraint) + end + rules


def only_json(constraint: Constraint) -> str | None:
    """Return the JSON schema text when the reply is one JSON value and nothing else, else None."""
    pieces = [piece for piece in constraint if not (isinstance(piece, Text) and not piece.text.strip())]
    return pieces[0].schema if len(pieces) == 1 and isinstance(pieces[0], Json) else None


def replies(constraint: Constraint) -> tuple[str, ...]:
    """Return every allowed reply when they can be listed (fixed texts around one choice), else nothing."""
    if sum(isinstance(piece, Choice) for piece in constraint) != 1:
        return ()
    texts = [""]
    for piece in constraint:
        if isinstance(piece, Text):
            texts = [text + piece.text for text in texts]
        elif isinstance(piece, Choice):
            texts = [text + option for text in texts for option in piece.options]
        else:
            return ()
    return tuple(texts)


def structured_outputs(constraint: Constraint) -> dict[str, object]:
    """Return the field of this name that a vLLM server takes; empty without a constraint.

    Source: vLLM documentation, "Structured Outputs" (0.12): `choice`, `json` and `grammar`, the last in the notation of
    xgrammar, which is GBNF.
    """
    if not constraint:
        return {}
    if choices := replies(constraint):
        return {"choice": list(choices)}
    if schema := only_json(constraint):
        return {"json": json.loads(schema)}
    return {"grammar": gbnf(constraint)}


def _rule(piece: Piece) -> str:
    match piece:
        case Text(text):
            return _quoted(text)
        case Choice(options):
            return _any_of([_quoted(option) for option in options])
        case Line():
            return f"[^\\n]{{1,{MAX_LINE_CHARS}}}"
        case Number():
            return '"-"? [0-9]{1,12} ("." [0-9]{1,6})?'
        case Json(schema):
            return _schema_rule(json.loads(schema))


def _schema_rule(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return _any_of([_quoted(json.dumps(value, ensure_ascii=False)) for value in schema["enum"]])
    if schema.get("type") == "object" and schema.get("properties"):
        pairs = [
            f"{_quoted(json.dumps(name))} space {_quoted(':')} space {_schema_rule(inner)}"
            for name, inner in schema["properties"].items()
        ]
        inside = f" space {_quoted(',')} space ".join(pairs)
        return f"{_quoted('{')} space {inside} space {_quoted('}')}"
    return {"object": "object", "string": "string", "number": "number", "boolean": '("true" | "false")'}.get(
        str(schema.get("type")), "value"
    )


def _any_of(rules: Sequence[str]) -> str:
    return "(" + " | ".join(rules) + ")"


def _quoted(text: str) -> str:
    """Write a text as a GBNF literal; control characters have no other spelling than their number."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char >= " " else f"\\x{ord(char):02X}" for char in escaped) + '"'
