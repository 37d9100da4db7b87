"""The prompt as data, in JSON and in YAML: messages with open inputs, how to fill them, settings, scores."""

from __future__ import annotations

import json
import re

import yaml
from yaml.emitter import ScalarAnalysis

from optimizer.candidate import JsonValue
from optimizer.export.facts import PredictorPrompt, Subject, facts, predictor_prompts
from optimizer.export.template import ENCODINGS, FILL
from optimizer.prompts.spec import FieldSpec

LONG = 80  # characters on one line
_BLOCK = re.compile("(?!\\s)[\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010fffe]+")


def chat_json(subject: Subject) -> str:
    """Return one JSON object."""
    return json.dumps(_data(subject), indent=2, ensure_ascii=False, allow_nan=False)


def yaml_text(subject: Subject) -> str:
    """Return the same facts as YAML with long texts as blocks."""
    return dump_yaml(_data(subject))


def dump_yaml(data: JsonValue) -> str:
    """Return YAML on which readers of all versions agree, without a line end at the end."""
    text: str = yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10**9)
    return text.removesuffix("\n")


def _data(subject: Subject) -> dict[str, JsonValue]:
    """Return all facts; the prompt of a single predictor lies at the top, others under `predictors` by name."""
    prompts = predictor_prompts(subject)
    used = {slot.encoding for prompt in prompts for slot in prompt.template.slots}
    fill: JsonValue = {"how": FILL, "encodings": {name: text for name, text in ENCODINGS.items() if name in used}}
    if len(prompts) == 1:
        return {**facts(subject), "fill": fill, **_predictor(prompts[0])}
    return {
        **facts(subject),
        "fill": fill,
        "predictors": {prompt.part.predictor: _predictor(prompt) for prompt in prompts},
    }


def _predictor(prompt: PredictorPrompt) -> dict[str, JsonValue]:
    descriptions = {field.name: field.description for field in prompt.spec.inputs}
    return {
        **({"endpoint": "/completions"} if prompt.is_completion else {}),
        "messages": [{"role": message.role, "content": message.content} for message in prompt.template.messages],
        "inputs": [
            {
                "name": slot.name,
                "placeholder": slot.placeholder,
                "encoding": slot.encoding,
                "description": descriptions[slot.name],
            }
            for slot in prompt.template.slots
        ],
        "outputs": [_output(field) for field in prompt.spec.outputs],
        "temperature": prompt.temperature,
        "max_tokens": prompt.max_tokens,
        "stop": list(prompt.stop),
        "demonstrations": [demo.example_id for demo in prompt.part.demos],
        **({"guide": prompt.guide} if prompt.guide else {}),
    }


def _output(field: FieldSpec) -> dict[str, JsonValue]:
    """Return an output field; what does not apply to its kind is left out."""
    optional: dict[str, JsonValue] = {
        "choices": list(field.choices),
        "keys": dict(field.keys),
        "schema": json.loads(field.schema) if field.schema else None,
        "is_optional": field.is_optional,
    }
    return {
        "name": field.name,
        "label": field.label,
        "kind": field.kind,
        "description": field.description,
        **{name: value for name, value in optional.items() if value},
    }


class _Dumper(yaml.SafeDumper):
    """Writes texts so that YAML 1.1 and 1.2 readers agree on them; never writes aliases."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True

    def analyze_scalar(self, scalar: str) -> ScalarAnalysis:
        """Allow blocks with spaces at line ends, and tabs: readers take them, PyYAML would rather not write them."""
        analysis: ScalarAnalysis = super().analyze_scalar(scalar)
        analysis.allow_block = analysis.allow_block or bool(_BLOCK.fullmatch(scalar))
        return analysis


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if "\n" in text or "\t" in text or len(text) > LONG:
        style: str | None = "|"
    else:  # a word is no number in any version of YAML
        style = None if re.fullmatch(r"[A-Za-z][\w ./-]*", text, re.ASCII) else "'"
    if re.search("[\x85\u2028\u2029]", text):  # line ends to YAML, which would change them
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
