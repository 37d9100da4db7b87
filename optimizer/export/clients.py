"""The body of the HTTP request that each provider's chat API takes, with the inputs left open."""

from __future__ import annotations

import json
from collections.abc import Mapping

from optimizer.candidate import JsonValue
from optimizer.export.facts import PredictorPrompt, Subject, facts, is_local, model_name, predictor_prompts
from optimizer.export.template import ENCODINGS, FILL
from optimizer.lm.provider import REASONING_MODELS


def openai_json(subject: Subject) -> str:
    """Return requests for OpenAI-compatible servers."""
    return _file(subject, {p.part.predictor: openai_request(subject, p) for p in predictor_prompts(subject)})


def anthropic_json(subject: Subject) -> str:
    """Return requests for Anthropic's Messages API."""
    return _file(subject, {p.part.predictor: anthropic_request(subject, p) for p in predictor_prompts(subject)})


def openai_request(subject: Subject, prompt: PredictorPrompt) -> dict[str, JsonValue]:
    """Return path and body. A local model continues a pattern as it stands, so it gets no chat wrapped around it."""
    messages = prompt.template.messages
    said: dict[str, JsonValue] = (
        {"prompt": messages[0].content}
        if prompt.is_completion
        else {"messages": [{"role": message.role, "content": message.content} for message in messages]}
    )
    body = {
        "model": bare_model(subject),
        **said,
        **limits(subject, prompt),
        **prompt.guide,
    }
    return {"path": "/completions" if prompt.is_completion else "/chat/completions", "body": body}


def limits(subject: Subject, prompt: PredictorPrompt) -> dict[str, JsonValue]:
    """Return temperature, length and stop texts; models that reason first refuse the one and the other."""
    if REASONING_MODELS.match(model_name(subject.view)):
        return {"max_completion_tokens": prompt.max_tokens}
    stop: dict[str, JsonValue] = {"stop": list(prompt.stop)} if prompt.stop else {}
    return {"temperature": prompt.temperature, "max_tokens": prompt.max_tokens, **stop}


def anthropic_request(subject: Subject, prompt: PredictorPrompt) -> dict[str, JsonValue]:
    """Return path and body. Stop texts of white space alone are left out, because the API refuses them."""
    system = "\n\n".join(m.content for m in prompt.template.messages if m.role == "system")
    turns = [{"role": m.role, "content": m.content} for m in prompt.template.messages if m.role != "system"]
    stop = [text for text in prompt.stop if text.strip()]
    body: dict[str, JsonValue] = {
        "model": bare_model(subject),
        **({"system": system} if system else {}),
        "messages": turns,
        "max_tokens": prompt.max_tokens,
        "temperature": min(1.0, prompt.temperature),
        **({"stop_sequences": stop} if stop else {}),
    }
    return {"path": "/v1/messages", "body": body}


def bare_model(subject: Subject) -> str:
    """Return the model's name without the provider that DSPy puts before it."""
    name = model_name(subject.view)
    return name if is_local(subject.view) else name.partition("/")[2] or name


def _file(subject: Subject, requests: Mapping[str, dict[str, JsonValue]]) -> str:
    prompts = {prompt.part.predictor: prompt for prompt in predictor_prompts(subject)}
    used = {slot.encoding for prompt in prompts.values() for slot in prompt.template.slots}
    filled: dict[str, JsonValue] = {
        name: {**request, "inputs": _inputs(prompts[name])} for name, request in requests.items()
    }
    head = {"study": subject.view.name, "candidate": subject.candidate.id, "scores": facts(subject)["scores"]}
    fill = {"how": FILL, "encodings": {name: text for name, text in ENCODINGS.items() if name in used}}
    only = next(iter(filled.values())) if len(filled) == 1 else {"predictors": filled}
    assert isinstance(only, Mapping)
    return json.dumps({**head, "fill": fill, **only}, indent=2, ensure_ascii=False, allow_nan=False)


def _inputs(prompt: PredictorPrompt) -> list[JsonValue]:
    return [
        {"name": slot.name, "placeholder": slot.placeholder, "encoding": slot.encoding}
        for slot in prompt.template.slots
    ]
