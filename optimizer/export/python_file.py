"""The prompt as a Python file with a ready function: the standard library and nothing else, so it runs anywhere.

What users and models wrote enters the file as literals of `repr`, never as code.
"""

from __future__ import annotations

import keyword
import re
from importlib.resources import files

from optimizer.candidate import JsonValue
from optimizer.export.clients import openai_request
from optimizer.export.facts import PredictorPrompt, Subject, goal, predictor_prompts, server_of
from optimizer.prompts.spec import FieldSpec

_TAKEN = {
    "json", "os", "re", "time", "unicodedata", "urllib", "SERVER", "PROMPTS", "GOAL", "TRIES", "NUMBER", "STEPS",
    "NEGATION", "messages_of", "ask", "read",
}  # fmt: skip


def python_file(subject: Subject) -> str:
    """Return the file's text."""
    prompts = predictor_prompts(subject)
    names = [slug(subject.view.name if len(prompts) == 1 else prompt.part.predictor) for prompt in prompts]
    code = files("optimizer.export").joinpath("client_template.txt").read_text(encoding="utf-8")
    entries = "\n".join(
        f"    {name!r}: {_literal(_entry(subject, prompt), 4)}," for name, prompt in zip(names, prompts, strict=True)
    )
    functions = "\n\n\n".join(_function(name, prompt) for name, prompt in zip(names, prompts, strict=True))
    example = ", ".join(f"{slot.name}=..." for slot in prompts[0].template.slots)
    server = server_of(subject.view)
    filled = {
        "@SERVER@": repr(server),
        "@DEFAULT@": f"default: {server}" if server else "none: name one that has the prompt's model",
        "@STUDY@": subject.view.name,
        "@FUNCTION@": names[0],
        "@EXAMPLE@": example,
        "@CANDIDATE@": subject.candidate.id,
        "@GOAL@": repr(goal(subject.view)),
        "@PROMPTS@": "{\n" + entries + "\n}",
        "@FUNCTIONS@": functions,
    }
    return re.sub("|".join(filled), lambda found: filled[found[0]], code).removesuffix("\n")


def slug(name: str) -> str:
    """Return a name that Python takes for a function."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "prompt"
    word = f"prompt_{word}" if word[0].isdigit() else word
    return f"{word}_" if keyword.iskeyword(word) or word in _TAKEN else word


def _entry(subject: Subject, prompt: PredictorPrompt) -> dict[str, JsonValue]:
    request = openai_request(subject, prompt)
    body = request["body"]
    assert isinstance(body, dict)
    settings = {key: value for key, value in body.items() if key not in ("messages", "prompt")}
    return {
        "path": request["path"],
        "settings": settings,
        "messages": [[message.role, message.content] for message in prompt.template.messages],
        "inputs": {slot.placeholder: [slot.name, slot.encoding] for slot in prompt.template.slots},
        "layout": subject.candidate.format,
        "outputs": [_output(field) for field in prompt.spec.outputs],
    }


def _output(field: FieldSpec) -> dict[str, JsonValue]:
    known: dict[str, JsonValue] = {"name": field.name, "label": field.label, "kind": field.kind}
    choices: dict[str, JsonValue] = {"choices": list(field.choices)} if field.choices else {}
    return known | choices | ({"is_optional": True} if field.is_optional else {})


def _function(name: str, prompt: PredictorPrompt) -> str:
    inputs = [slot.name for slot in prompt.template.slots]
    are_names = not any(keyword.iskeyword(each) or each == "server" for each in inputs)
    taken = ", ".join(inputs) if are_names else "**inputs"
    given = ", ".join(f"{each}={each}" for each in inputs) if are_names else "**inputs"
    star = "*, " if are_names else ""
    outputs = ", ".join(field.name for field in prompt.spec.outputs)
    return (
        f"def {name}({star}{taken}):\n"
        f'    """Ask the model and return its answer as a dict with: {outputs}."""\n'
        f"    return read({name!r}, ask({name!r}, {given}))"
    )


def _literal(value: JsonValue, indent: int) -> str:
    """Return a Python literal over several lines."""
    pad, end = " " * (indent + 4), " " * indent
    if isinstance(value, dict) and value:
        rows = [f"{pad}{key!r}: {_literal(each, indent + 4)},\n" for key, each in value.items()]
        return "{\n" + "".join(rows) + end + "}"
    if isinstance(value, list) and any(isinstance(each, list | dict) or "\n" in str(each) for each in value):
        return "[\n" + "".join(f"{pad}{_literal(each, indent + 4)},\n" for each in value) + end + "]"
    if isinstance(value, str) and "\n" in value:
        lines = value.splitlines(keepends=True)
        return "(\n" + "".join(f"{pad}{line!r}\n" for line in lines) + end + ")"
    return repr(value)
