"""The prompt as other tools keep it: a LangChain hub prompt and an entry of MLflow's prompt registry."""

from __future__ import annotations

import json
import re

from optimizer.candidate import JsonValue
from optimizer.export.facts import PredictorPrompt, Subject, model_name, predictor_prompts
from optimizer.export.template import Slot, Template
from optimizer.words import percent, points

_CLASSES = {"system": "System", "user": "Human", "assistant": "AI"}
_JINJA = re.compile(r"\{[{%#]|[}%#]\}")


def langchain_json(subject: Subject) -> str:
    """Return what `langchain_core.load.loads` reads as a `ChatPromptTemplate`; several predictors by name.

    A text to continue is a `PromptTemplate`: LangChain writes `Human:` before a message that a completion model gets.
    """
    prompts = {prompt.part.predictor: _langchain(prompt) for prompt in predictor_prompts(subject)}
    return _dumps(next(iter(prompts.values())) if len(prompts) == 1 else prompts)


def mlflow_json(subject: Subject) -> str:
    """Return the keyword arguments of `mlflow.genai.register_prompt`; several predictors by name."""
    prompts = predictor_prompts(subject)
    entries = {prompt.part.predictor: _mlflow(subject, prompt, is_one=len(prompts) == 1) for prompt in prompts}
    return _dumps(next(iter(entries.values())) if len(entries) == 1 else entries)


def registry_template(template: Template) -> str | list[dict[str, str]]:
    """Return a template with `{{name}}` for inputs: one text, or chat messages.

    Where the prompt itself holds marks of Jinja, or an input's name letters that MLflow's own marks do not take, the
    text is wrapped in `raw`, which makes MLflow read it as Jinja.
    """
    needs_raw = any(not slot.name.isascii() for slot in template.slots) or any(
        _JINJA.search(piece)
        for m in template.messages
        for piece in template.pieces(m.content)
        if isinstance(piece, str)
    )
    filled = [
        {"role": m.role, "content": "".join(_mlflow_piece(piece, needs_raw) for piece in template.pieces(m.content))}
        for m in template.messages
    ]
    return filled[0]["content"] if [row["role"] for row in filled] == ["user"] else filled


def raw(text: str) -> str:
    """Return text that a Jinja or Nunjucks template repeats as it is."""
    return "{% raw %}" + text.replace("{% endraw %}", "{% endraw %}{{ '{% endraw %}' }}{% raw %}") + "{% endraw %}"


def _mlflow_piece(piece: str | Slot, needs_raw: bool) -> str:
    if isinstance(piece, Slot):
        return "{{ " + piece.name + " }}"
    return raw(piece) if needs_raw else piece


def _mlflow(subject: Subject, prompt: PredictorPrompt, *, is_one: bool) -> dict[str, JsonValue]:
    view = subject.view
    verdict = view.verdict if subject.is_best else None
    said = (
        f": {verdict.decision}, test {percent(verdict.winner_score)} (seed {percent(verdict.seed_score)})"
        if verdict
        else ""
    )
    tags = {"study": view.name, "candidate": subject.candidate.id, "model": model_name(view)}
    if verdict:
        tags |= {
            "verdict": verdict.decision,
            "score": f"{verdict.winner_score:.4f}",
            "interval": f"{points(verdict.low)} to {points(verdict.high)} points",
        }
    if encoded := [slot.name for slot in prompt.template.slots if slot.encoding == "json"]:
        tags |= {"inputs_as_json": ", ".join(encoded)}
    name = view.name if is_one else f"{view.name}-{prompt.part.predictor}"
    return {
        "name": re.sub(r"[^a-zA-Z0-9_.-]", "-", name),
        "template": registry_template(prompt.template),
        "commit_message": f"study {view.name}{said}",
        "tags": tags,
    }


def _langchain(prompt: PredictorPrompt) -> dict[str, JsonValue]:
    template = prompt.template
    if prompt.is_completion:
        return _langchain_text(template, template.messages[0].content)
    messages = [
        _object(
            ["langchain", "prompts", "chat", f"{_CLASSES[message.role]}MessagePromptTemplate"],
            prompt=_langchain_text(template, message.content),
        )
        for message in template.messages
    ]
    names: list[JsonValue] = [slot.name for slot in template.slots]
    return _object(["langchain", "prompts", "chat", "ChatPromptTemplate"], input_variables=names, messages=messages)


def _langchain_text(template: Template, content: str) -> dict[str, JsonValue]:
    pieces = template.pieces(content)
    text = "".join(
        f"{{{piece.name}}}" if isinstance(piece, Slot) else piece.replace("{", "{{").replace("}", "}}")
        for piece in pieces
    )
    names: list[JsonValue] = [piece.name for piece in pieces if isinstance(piece, Slot)]
    class_path = ["langchain", "prompts", "prompt", "PromptTemplate"]
    return _object(class_path, input_variables=names, template=text, template_format="f-string")


def _object(class_path: list[str], **kwargs: JsonValue) -> dict[str, JsonValue]:
    """An object in LangChain's notation for constructor calls."""
    return {"lc": 1, "type": "constructor", "id": list(class_path), "kwargs": kwargs}


def _dumps(value: JsonValue) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
