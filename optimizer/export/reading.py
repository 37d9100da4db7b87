"""Reads off an exported file whose prompt it holds, and tells whether its words were changed since."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from optimizer.errors import ConfigError

if TYPE_CHECKING:
    from optimizer.export import ExportFormat

PYTHON = re.compile(r'"""The prompt of the study (?P<study>.+) \(candidate (?P<candidate>\w+)\), ready to call\.')
MARKDOWN = re.compile(r"# Prompt of the study (?P<study>.+)\n[^\0]*\n- candidate: `(?P<candidate>\w+)`\s*$")
WORDS = ("system", "prompt", "messages")  # of a request; its model and settings are not what is checked


class Exported(NamedTuple):
    """Study and candidate of a file, and the form that it has; None for `best_prompt.json`, which is no export."""

    study: str
    candidate: str
    format: ExportFormat | None


def read_exported(path: Path) -> Exported:
    """Find study and candidate in any form that names both.

    Raises:
        ConfigError: the file cannot be read, or names neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = _in_text(text) or _in_data(_loaded(text))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON or YAML: {' '.join(str(error).split())[:200]}") from error
    if found is None:
        raise ConfigError(
            f"{path}: says neither its study nor its candidate; give best_prompt.json, the name of a study, or an "
            "export of any form but `text` and `langchain`"
        )
    return found


def words_of(text: str, form: ExportFormat) -> object:
    """Return the part of an export that is the prompt: scores, versions and settings around it may differ."""
    if form == "python":
        return text[text.find("\nPROMPTS = ") : text.find("\n\n\ndef messages_of")]
    if form == "markdown":
        return text[text.find("\n## ") : text.rfind("\n## Inputs")]
    said = _loaded(text)
    if form == "dspy":
        return {name: state for name, state in said.items() if name != "metadata"}
    if form == "promptfoo":
        return said["prompts"][0].get("raw")
    parts = said.get("predictors") or (said if form == "mlflow" and "template" not in said else {"": said})
    return {name: _part(part) for name, part in parts.items()}


def _part(part: Any) -> object:
    if not isinstance(part, Mapping):
        return part
    body = part.get("body")
    held = body if isinstance(body, Mapping) else part
    return {key: held[key] for key in (*WORDS, "template") if key in held}


def _in_text(text: str) -> Exported | None:
    if found := PYTHON.match(text):
        return Exported(found["study"], found["candidate"], "python")
    if found := MARKDOWN.match(text):
        return Exported(found["study"], found["candidate"], "markdown")
    return None


def _loaded(text: str) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        said = yaml.safe_load(text)
    return said if isinstance(said, Mapping) else {}


def _in_data(said: Mapping[str, Any]) -> Exported | None:
    if "candidate_id" in said:
        return _named(said, "study", "candidate_id", None)
    if "candidate" in said:
        return _named(said, "study", "candidate", _request_form(said))
    notes = _map(_map(said.get("metadata")).get("optimizer"))
    if notes:
        return _named(notes, "study", "candidate", "dspy")
    prompts = said.get("prompts")
    if isinstance(prompts, list) and prompts:
        return _named(_map(prompts[0]), "label", "id", "promptfoo")
    entry = said if "tags" in said else _map(next(iter(said.values()), None))  # several predictors: by name
    return _named(_map(entry.get("tags")), "study", "candidate", "mlflow")


def _request_form(said: Mapping[str, Any]) -> ExportFormat:
    first = said if "path" in said else _map(next(iter(_map(said.get("predictors")).values()), None))
    if "path" not in first:
        return "chat-json"
    return "anthropic" if first["path"] == "/v1/messages" else "openai"


def _named(held: Mapping[str, Any], study: str, candidate: str, form: ExportFormat | None) -> Exported | None:
    name, candidate_id = held.get(study), held.get(candidate)
    return Exported(name, candidate_id, form) if isinstance(name, str) and isinstance(candidate_id, str) else None


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
