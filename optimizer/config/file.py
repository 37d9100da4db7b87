"""Read a configuration file: YAML text -> plain mapping -> overrides -> `Config`, or one line saying what is wrong.

Decides how YAML is read safely and how mistakes are told. What is allowed is decided in `config.py`; whether the
data, models and modules that a file names exist is decided where they are opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from optimizer.config.docs import KEYS, Key, child_names, reference_path
from optimizer.config.keys import OPERATORS, Config, Metric
from optimizer.config.source import read_config
from optimizer.errors import ConfigError, did_you_mean

MAX_DEPTH = 40
METRICS = tuple(re.findall(r"`(\w+)`", Metric.model_fields["name"].description or ""))

_DOTTED = re.compile(r"[\w.]+:\w+")
_SECRET_NAME = re.compile(r"(^|[_-])(api[_-]?key|secret|password|(access|auth|bearer)[_-]?token)$|^(token|key)$", re.I)
_SECRET_VALUE = re.compile(
    r"(?<![\w-])(?:sk-(?=[\w-]*\d)[\w-]{12,}|(?:hf|gsk|ghp|r8)_\w{16,}|xai-\w{16,}|AIza[\w-]{20,}|AKIA[A-Z0-9]{12,})"
)
_YAML_WORDS = {  # how a message of the YAML library begins -> what we say instead
    "found character '\\t'": "a tab where YAML wants spaces. Indent with spaces",
    "mapping values are not": "a second colon in one line, or wrong indentation. Put a text with ': ' in it in quotes",
    "could not determine": "tags such as !name are not allowed. Put a text that begins with ! in quotes",
    "expected <block end>": "this line is indented otherwise than the lines around it. Begin it in the same column",
    "but found another": "a second document begins here. One file holds one study",
}
_NO_ALIASES = "anchors and aliases (& and *) are not allowed. Put a text that begins so in quotes"
_SHORTHAND = {"metric": "name", "task.inputs.<name>": "description", "task.outputs.<name>": "description"}
_METRIC_KEYS = ("metric", "metric.name", "metric.parts.<name>.name")
_NAMES = {"search.operators": ("operator", OPERATORS), **dict.fromkeys(_METRIC_KEYS, ("metric", METRICS))}

Loc = tuple[str | int, ...]
Section = TypeVar("Section", bound=BaseModel)


class Problem(NamedTuple):
    """One mistake. Rank 0: a secret in the file; 1: an unknown key, which often explains the rest; 2: all others."""

    rank: int
    text: str


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the YAML file at `path`, apply overrides such as `search.trials=40`, and validate the result.

    The value of an override is read as YAML; mappings on the way to its key are made when they are missing.

    Raises:
        ConfigError: the file, an override or a value is wrong; one line, and a secret is never repeated in it.
    """
    return parse_config(read_config(path), str(path), overrides)


def parse_config(text: str, where: str, overrides: Sequence[str] = ()) -> Config:
    """Return what the text of a configuration file says; `where` is what messages call it. Raises as `load_config`."""
    tree = _parse(text, where)
    if tree is None:
        required = ", ".join(name for name in child_names("") if KEYS[name].default == "required")
        raise ConfigError(f"{where}: the file is empty. It needs at least the keys {required}")
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be a mapping of keys to values at the top, got {_shown(tree)}")
    for override in overrides:
        _apply(tree, override, where)
    problems = {loc: problem for loc, value in _leaves(tree) if (problem := _check_leaf(loc, value))}
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems = _problems_of(error) | problems
    if not problems:
        return config
    raise _refusal(problems, where)


def section_of(kind: type[Section], key: str, given: Mapping[str, object] | None, where: str) -> Section:
    """Return a section of the configuration that a program gives as a dictionary.

    Raises:
        ConfigError: a key or value is wrong; `where` is what the message calls its place.
    """
    try:
        return kind.model_validate(dict(given or {}))
    except ValidationError as error:
        raise _refusal(_problems_of(error, within=(key,)), where) from None


def _problems_of(error: ValidationError, *, within: Loc = ()) -> dict[Loc, Problem]:
    details = [cast(ErrorDetails, {**each, "loc": (*within, *each["loc"])}) for each in error.errors(include_url=False)]
    return {detail["loc"]: _explain(detail) for detail in details if not _is_echo(detail, details)}


def _refusal(problems: Mapping[Loc, Problem], where: str) -> ConfigError:
    loc, problem = min(problems.items(), key=lambda item: item[1].rank)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ConfigError(f"{where}: {f'{_dotted(loc)}: ' if loc else ''}{problem.text}{more}")


class _Loader(yaml.SafeLoader):
    """The safe loader, less its surprises: aliases, deep nesting, repeated keys, keys that are no text."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it bare
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem=_NO_ALIASES, problem_mark=event.start_mark)
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                text = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                problem = f"the key {_shown(text)} is not read as text; put it in quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in first_lines:
                first = first_lines[key.value]
                problem = f"the key {_shown(key.value)} is here a second time (first in line {first}); keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            first_lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            value: object = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > 63:
                raise ValueError("no database or generator takes it")
            return value
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            # What int(), date() and the tag tables raise for `!!int x`, 2024-13-45 or a number of 5000 digits.
            kind = node.tag.rpartition(":")[2]
            problem = f"cannot be read as {kind}; put a text that looks like one in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def _parse(text: str, where: str) -> object:
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{where}: {_yaml_words(error)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where}: line {line}: a control character that YAML does not allow") from error


def _yaml_words(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = error.problem or "not valid YAML"
    if words := next((words for start, words in _YAML_WORDS.items() if problem.startswith(start)), ""):
        return f"{at}{words}"
    if error.context in ("while scanning an alias", "while scanning an anchor"):
        return f"{at}{_NO_ALIASES}"
    begun = f" begun in line {error.context_mark.line + 1}" if error.context_mark else ""
    return f"{at}{problem}, {error.context}{begun}" if error.context else f"{at}{problem}"


def _apply(tree: dict[str, object], override: str, where: str) -> None:
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts) or len(parts) > MAX_DEPTH:
        raise ConfigError(f"{where}: override {_shown(override)}: must be `key=value`, such as search.trials=40")
    *folders, last = parts
    at = tree
    for depth, part in enumerate(folders, start=1):
        child = at.get(part)
        if isinstance(child, str) and (key := _SHORTHAND.get(reference_path(parts[:depth]))):
            child = {key: child}
        if child is not None and not isinstance(child, dict):
            place = _dotted(tuple(parts[:depth]))
            raise ConfigError(f"{where}: {place}: is {_shown(child)}, which has no keys; set {place} as a whole")
        at[part] = at = child or {}
    # A shell takes quotes away, so a bare time of day must not become a number of minutes here.
    is_time = re.fullmatch(r"\s*\d?\d:\d\d\s*", text)
    at[last] = text.strip() if is_time else _parse(text, f"{where}: override {_dotted(tuple(parts))}")


def _leaves(tree: dict[str, object]) -> Iterator[tuple[Loc, object]]:
    """Every value below the top with its place, mappings and lists included, in no particular order."""
    todo: list[tuple[Loc, object]] = [((), tree)]
    while todo:
        loc, value = todo.pop()
        if loc:
            yield loc, value
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        todo += [((*loc, key), child) for key, child in items]


def _check_leaf(loc: Loc, value: object) -> Problem | None:
    path = reference_path(loc)
    if _is_secret(loc, value):
        advice = "Put the key in an environment variable and its name here, such as api_key_env: OPENAI_API_KEY"
        return Problem(0, f"looks like a secret, which must not stand in a file (it is not shown). {advice}")
    if isinstance(value, float) and not math.isfinite(value):
        return Problem(2, f"must be a finite number, got {value!r}")
    if not isinstance(value, str) or path not in _NAMES or _DOTTED.fullmatch(value):
        return None
    what, allowed = _NAMES[path]
    text = f"unknown {what} {_shown(value)}.{did_you_mean(value, allowed)} Allowed: {', '.join(allowed)}"
    return None if value in allowed else Problem(2, f"{text}, or your own as `package.module:{what}`")


def _is_secret(loc: Loc, value: object) -> bool:
    name = str(loc[-1])
    if name == "api_key_env" and isinstance(value, str):
        is_name = re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII) is not None
        is_random = len(value) >= 24 and any(c.isdigit() for c in value) and any(c.islower() for c in value)
        return not is_name or is_random or _SECRET_VALUE.search(value) is not None
    is_own_name = loc[0] == "task" or loc[:2] == ("data", "fields")  # a field may well be called `password`
    is_named_so = not is_own_name and reference_path(loc) not in KEYS and _SECRET_NAME.search(name) is not None
    return is_named_so or any(isinstance(text, str) and _SECRET_VALUE.search(text) for text in (name, value))


def _is_echo(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """A list whose item is wrong is also reported as too short; only the first report helps."""
    n = len(detail["loc"])
    return detail["type"] == "too_short" and any(o["loc"][:n] == detail["loc"] for o in details if o is not detail)


def _explain(detail: ErrorDetails) -> Problem:
    loc, value = detail["loc"], detail["input"]
    path = reference_path(loc)
    if detail["type"] == "extra_forbidden":
        return Problem(1, _unknown_key(reference_path(loc[:-1]), str(loc[-1])))
    if detail["type"] == "value_error":
        return Problem(2, str(detail["ctx"]["error"]))
    key = KEYS[path] if path in KEYS else KEYS[path.rpartition(".")[0]]
    is_item = path not in KEYS or (isinstance(loc[-1], int) and bool(key.item))
    if detail["type"] == "missing":
        return Problem(2, f"this key is missing ({key.allowed}). {key.meaning}".rstrip("."))
    if key.is_section:
        keys, way_out = ", ".join(child_names(path)), "" if key.default == "required" else ", or remove it"
        found = f"is empty; put keys below it{way_out}" if value is None else f"must be {key.kind}, got {_shown(value)}"
        return Problem(2, f"{found}. Its keys: {keys}")
    allowed = key.item if is_item else key.allowed
    return Problem(2, f"must be {allowed}, got {_shown(value)}.{_advice(key, allowed, value)}".rstrip("."))


def _unknown_key(parent: str, name: str) -> str:
    siblings = child_names(parent)
    elsewhere = [path for path in KEYS if path.rpartition(".")[2] == name]
    near = did_you_mean(name, siblings) or (f" Did you mean {elsewhere[0]!r}?" if elsewhere else "")
    return f"unknown key.{near} Allowed here: {', '.join(siblings)}"


def _advice(key: Key, allowed: str, value: object) -> str:
    """One more sentence for the mistakes that YAML invites."""
    if key.path == "budget.finish_by" and isinstance(value, int) and 0 <= value < 1440:
        hour, minute = divmod(value, 60)
        return f' YAML reads {hour}:{minute:02} without quotes as a number; write finish_by: "{hour:02}:{minute:02}"'
    if (
        isinstance(value, str)
        and re.fullmatch(r"[-+]?\d{0,12}\.?\d{1,12}([eE][-+]?\d)?", value)
        and "number" in allowed
    ):
        return f" Write {float(value) if 'e' in value.lower() else value}, without quotes"
    if allowed.startswith("a list") and isinstance(value, str | int | float):
        return f" Write it in brackets: [{_shown(value)}]"
    if allowed.startswith("text") and isinstance(value, bool):
        return " YAML reads yes, no, on and off as true and false; put the word in quotes"
    if value is None:
        return " Give it a value or remove the key"
    if allowed.startswith("text") and not isinstance(value, str | list):
        return " A text that contains ': ' needs quotes" if isinstance(value, dict) else " Put it in quotes"
    return did_you_mean(value, re.findall(r"`([\w.]+)`", allowed)) if isinstance(value, str) else ""


def _shown(value: object) -> str:
    """The value as it is quoted in a message: short, in one line, and never a secret."""
    text = repr(value)
    if _SECRET_VALUE.search(text):
        return "a value that looks like a secret (not shown)"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(loc: Loc) -> str:
    """`search.formats[1]`; a part that is no plain word is quoted like a value, so that the line stays one line."""
    path = ""
    for part in loc:
        is_plain = isinstance(part, str) and re.fullmatch(r"[\w-]+", part) and not _SECRET_VALUE.search(part)
        word = part if is_plain else _shown(part)
        path += f"[{part}]" if isinstance(part, int) else f".{word}" if path else f"{word}"
    return path
