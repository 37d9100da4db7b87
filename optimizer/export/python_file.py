"""The prompt as a Python file with a ready function: the standard library and nothing else, so it runs anywhere.

The file carries the source of what reads replies in the search, so both read alike. What users and models wrote enters
it as literals of `repr`, never as code.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import re
from importlib.resources import files
from types import ModuleType

from optimizer.data.splits import normalise
from optimizer.export.clients import openai_request
from optimizer.export.facts import PredictorPrompt, Subject, goal, predictor_prompts, server_of
from optimizer.prompts import kinds, numbers, objects, parse, spec
from optimizer.prompts.spec import FieldSpec


def python_file(subject: Subject) -> str:
    """Return the file's text."""
    prompts = predictor_prompts(subject)
    names = [_slug(subject.view.name if len(prompts) == 1 else prompt.part.predictor) for prompt in prompts]
    code = _code()
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


def _code() -> str:
    """Return the file with places for what is particular to a prompt."""
    template = files("optimizer.export").joinpath("client_template.txt").read_text(encoding="utf-8")
    functions = [inspect.getsource(each) for each in (normalise, spec.label_of, spec.as_text, spec._is_turn)]
    reader = "\n\n".join([*functions, *map(_body, (numbers, objects, kinds, parse))])
    return template.replace("@READER@", reader.removesuffix("\n"))


def _body(module: ModuleType) -> str:
    """Return a module's source without its docstring and imports."""
    source = inspect.getsource(module)
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(source.splitlines()[imports[-1].end_lineno :]).lstrip("\n") + "\n"


def _slug(name: str) -> str:
    """Return a name that Python takes for a function, and that the file has not taken for something else."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "prompt"
    word = f"prompt_{word}" if word[0].isdigit() else word
    return f"{word}_" if keyword.iskeyword(word) or word in taken_names() else word


def taken_names() -> set[str]:
    """Return the names that the file uses for itself, and Python's own."""
    code = _code()
    imported = ",".join(re.findall(r"^ *(?:from \S+ )?import ([^#\n]+)", code, re.MULTILINE))
    return {*dir(builtins), *re.findall(r"\w+", imported), *re.findall(r"^(?:def |class )?(\w+)", code, re.MULTILINE)}


def _entry(subject: Subject, prompt: PredictorPrompt) -> dict[str, object]:
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


def _output(field: FieldSpec) -> dict[str, object]:
    """Return what reading a field needs, as hashable values."""
    known: dict[str, object] = {"name": field.name, "label": field.label, "kind": field.kind}
    rest = {name: getattr(field, name) for name in ("choices", "keys", "schema", "is_optional")}
    return known | {name: value for name, value in rest.items() if value}


def _function(name: str, prompt: PredictorPrompt) -> str:
    inputs = [slot.name for slot in prompt.template.slots]
    are_names = not any(keyword.iskeyword(each) or each in ("ask", "read") for each in inputs)
    taken = ", ".join(inputs) if are_names else "**inputs"
    given = ", ".join(f"{each}={each}" for each in inputs) if are_names else "**inputs"
    star = "*, " if are_names else ""
    outputs = ", ".join(field.name for field in prompt.spec.outputs)
    return (
        f"def {name}({star}{taken}):\n"
        f'    """Ask the model and return its answer as a dict with: {outputs}."""\n'
        f"    return read({name!r}, ask({name!r}, {given}))"
    )


def _literal(value: object, indent: int) -> str:
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
