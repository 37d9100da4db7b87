"""The prompt as a promptfoo suite: the messages or the text to continue, the provider, the test rows as assertions.

promptfoo renders Nunjucks, so the prompt's own text stands in `raw` blocks where it has marks of it. A short piece of
JavaScript reads the answer out of the reply; it takes the ordinary dress of an answer, not every one that the
optimizer's own reader forgives.
"""

from __future__ import annotations

import json
import re
from typing import cast

from optimizer.candidate import Example, Fields, JsonValue
from optimizer.errors import ConfigError
from optimizer.export.clients import bare_model, limits
from optimizer.export.facts import (
    OPENAI,
    PredictorPrompt,
    Subject,
    goal,
    is_local,
    model_name,
    predictor_prompts,
    server_of,
)
from optimizer.export.other_tools import raw
from optimizer.export.structured import dump_yaml
from optimizer.export.template import Slot, written
from optimizer.metrics.values import find_numbers
from optimizer.prompts.spec import FieldSpec, as_text

LLAMA_SERVER = "http://127.0.0.1:8080/v1"  # where llama.cpp's server listens, if it is told nothing else
NO_SERVER = "https://name-your-server.invalid/v1"  # a name that exists nowhere, RFC 2606
_MARKS = re.compile(r"\{[{%#]|[}%#]\}")
_NUMBERS = r"(output.replace(/,(?=\d{3})/g, '').match(/-?\d+(\.\d+)?/g) || ['x'])"
_EXACT = ("accuracy", "macro_f1", "exact_match")


def has_assertions(metric: str) -> bool:
    """Whether promptfoo can check what this metric checks."""
    return metric in (*_EXACT, "number", "contains", "regex", "judge")


def promptfoo_yaml(subject: Subject) -> str:
    """Return the suite; run it with `promptfoo eval -c FILE`.

    Raises:
        ConfigError: the program has several predictors, and promptfoo runs one prompt at a time.
    """
    prompts = predictor_prompts(subject)
    if len(prompts) > 1:
        raise ConfigError("export format 'promptfoo': the program has several predictors; promptfoo runs one prompt")
    prompt = prompts[0]
    field = _scored(subject, prompt)
    suite: dict[str, JsonValue] = {
        "description": f"Study {subject.view.name}. {goal(subject.view)}".strip(),
        "prompts": [{"id": subject.candidate.id, "label": subject.view.name, "raw": _raw(prompt)}],
        "providers": [_provider(subject, prompt)],
        "defaultTest": {"options": {"transform": _reader(subject, field)}},
        "tests": [_test(subject, prompt, field, row) for row in subject.rows],
    }
    return dump_yaml(suite)


def _raw(prompt: PredictorPrompt) -> str:
    messages = [{"role": m.role, "content": _content(prompt, m.content)} for m in prompt.template.messages]
    return messages[0]["content"] if prompt.is_completion else json.dumps(messages, ensure_ascii=False)


def _content(prompt: PredictorPrompt, content: str) -> str:
    pieces = prompt.template.pieces(content)
    return "".join("{{" + p.name + "}}" if isinstance(p, Slot) else _literal(p) for p in pieces)


def _literal(text: str) -> str:
    return raw(text) if _MARKS.search(text) else text


def _provider(subject: Subject, prompt: PredictorPrompt) -> dict[str, JsonValue]:
    name = model_name(subject.view)
    kind = "anthropic:messages" if name.startswith("anthropic/") else "openai:chat"
    kind = "openai:completion" if prompt.is_completion else kind
    extra: dict[str, JsonValue] = {"passthrough": dict(prompt.guide)} if prompt.guide else {}
    server = LLAMA_SERVER if is_local(subject.view) else server_of(subject.view)
    if not server and kind == "openai:chat":  # promptfoo would send the rows to OpenAI
        server = NO_SERVER
    place: dict[str, JsonValue] = {"apiBaseUrl": server} if server not in ("", OPENAI) else {}
    label = {"label": f"{name}, behind a llama.cpp server: apiBaseUrl says where"} if is_local(subject.view) else {}
    return {"id": f"{kind}:{bare_model(subject)}", **label, "config": {**place, **limits(subject, prompt), **extra}}


def _scored(subject: Subject, prompt: PredictorPrompt) -> FieldSpec:
    metric = cast(Fields, subject.view.config["metric"])
    outputs = [field for field in prompt.spec.outputs if not field.is_optional]
    return next((field for field in outputs if field.name == metric.get("output")), outputs[0])


def _reader(subject: Subject, field: FieldSpec) -> str:
    """Return the JavaScript expression that finds the answer in the reply, without dress; lower-case to be compared."""
    metric = cast(Fields, subject.view.config["metric"])
    label = f"{re.escape(field.label)}|{re.escape(field.name)}"
    braces = "output.slice(output.indexOf('{'), output.lastIndexOf('}') + 1)"
    found = {
        "json": f"String(JSON.parse({braces})[{json.dumps(field.name)}])",
        "xml": f"((output.match(/<{field.name}>([\\s\\S]*?)(<\\/{field.name}>|$)/i) || [])[1] || output)",
    }.get(subject.candidate.format, f"((output.match(/^(?:{label}):\\s*(.*)$/im) || [])[1] || output)")
    bare = r"""replace(/^["'`*_\s]+|["'`*_\s.]+$/g, '')"""
    lower = ".toLowerCase()" if metric.get("name") in _EXACT else ""
    truth = ".replace(/^true$/, 'yes').replace(/^false$/, 'no')" if field.kind == "boolean" else ""
    return f"{found}.{bare}{lower}{truth}"


def _test(subject: Subject, prompt: PredictorPrompt, field: FieldSpec, row: Example) -> dict[str, JsonValue]:
    values: dict[str, JsonValue] = {
        slot.name: _literal(written(slot, row.inputs[slot.name])) for slot in prompt.template.slots
    }
    asserted = _assertion(cast(Fields, subject.view.config["metric"]), field, row.outputs.get(field.name))
    expected = {"row": row.id, "expected": as_text(row.outputs.get(field.name))}
    return {"vars": values, "assert": [asserted] if asserted else [], "metadata": expected}


def _assertion(metric: Fields, field: FieldSpec, expected: JsonValue) -> dict[str, JsonValue] | None:
    """Return what promptfoo checks; None for metrics that it has no equal of, the expected value is in `metadata`."""
    text, name = as_text(expected).strip(), metric.get("name")
    if field.kind == "boolean" and name in _EXACT:
        return {"type": "equals", "value": text.lower()}
    if name == "number" or (field.kind == "number" and name in _EXACT):
        wanted = find_numbers(text)
        if not wanted:
            return None
        near = f"<= {metric.get('tolerance') or 0} + 1e-9"
        return {"type": "javascript", "value": f"Math.abs(Number({_NUMBERS}.at(-1)) - ({wanted[-1]!r})) {near}"}
    if name in _EXACT:
        return {"type": "equals", "value": text.lower()}
    if name == "contains":
        return {"type": "icontains", "value": text}
    if name == "regex":
        return {"type": "regex", "value": str(metric["pattern"]).replace("{expected}", re.escape(text))}
    if name == "judge":
        return {"type": "llm-rubric", "value": f"{metric.get('rubric')}\nA good answer: {text}"}
    return None
