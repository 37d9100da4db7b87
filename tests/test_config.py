"""The configuration file: what loads, what is refused, and what the one line says."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.config.docs import BEGIN, KEYS, child_names, main, markdown_table, reference_path, with_reference
from optimizer.config.file import METRICS, load_config
from optimizer.config.keys import FORMATS, OPERATORS, Config
from optimizer.config.source import MAX_BYTES
from optimizer.errors import ConfigError
from optimizer.metrics import NAMES

CONFIGS = Path(__file__).parent.parent / "configs"
Tree = dict[str, object]

GOOD: Tree = {
    "name": "colours",
    "task": {
        "goal": "Name the colour of a fruit.",
        "inputs": {"fruit": "The fruit.", "season": {"description": "When it is ripe."}},
        "outputs": {
            "colour": {"kind": "label", "choices": ["red", "green", "blue"], "description": "Its colour."},
            "facts": {"kind": "json", "fields": {"sugar": "grams", "origin": "country"}},
        },
    },
    "prompt": "Which colour?",
    "data": {
        "source": "fruit.jsonl",
        "fields": {"fruit": "Fruit name"},
        "split": {"train": 0.2, "dev": 0.3, "test": 0.5},
        "max_rows": {"train": 50},
    },
    "metric": {"name": "accuracy", "output": "colour"},
    "lm": {"task": {"model": "embedded", "max_tokens": 16}, "proposer": {"temperature": 1, "timeout": 30}},
    "search": {"trials": 12, "formats": ["plain", "json"], "operators": ["demos", "mine.ops:shout"]},
    "budget": {"usd": 2, "finish_by": "06:30"},
    "tracking": {"enabled": False},
}

# A short file to which each bad one adds its mistake.
BASE = """\
name: colours
task:
  inputs: {fruit: The fruit.}
  outputs: {colour: Its colour.}
data: {source: fruit.jsonl}
"""
FULL = BASE + "metric: accuracy\n"

SECRET = "sk-proj-4f8a7b2c9d1e6f3a5b7c"


def write(folder: Path, text: str | bytes, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def message_of(path: Path, overrides: Sequence[str] = ()) -> str:
    """The text of the ConfigError that loading must raise; checked to be one line."""
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    text = str(raised.value)
    assert "\n" not in text
    assert "\r" not in text
    return text


def places(tree: object, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key in a tree of mappings."""
    for name, child in tree.items() if isinstance(tree, dict) else ():
        yield (*at, name)
        yield from places(child, (*at, name))


def test_wrong_indentation_is_told_in_plain_words(tmp_path: Path) -> None:
    """The line is named, and nothing of the parser's inner words."""
    (tmp_path / "a.yaml").write_text("name: x\ntask:\n    goal: a\n  inputs:\n    b: c\n")
    with pytest.raises(ConfigError, match="line 4, column 3: this line is indented otherwise"):
        load_config(tmp_path / "a.yaml")


def test_good_file_loads_with_its_values(tmp_path: Path) -> None:
    """YAML lists become tuples, whole numbers become floats where floats are asked for, short forms are expanded."""
    config = load_config(write(tmp_path, yaml.safe_dump(GOOD)))
    assert config.search.formats == ("plain", "json")
    assert config.task.outputs["colour"].choices == ("red", "green", "blue")
    assert config.proposer.temperature == 1.0
    assert isinstance(config.budget.usd, float)
    assert config.task.inputs["fruit"].description == "The fruit."
    assert config.data.max_rows.train == 50


def test_short_metric_and_defaults(tmp_path: Path) -> None:
    """A metric may be given by its name alone, and every section but the required ones may be left out."""
    config = load_config(write(tmp_path, FULL))
    assert config.metric.name == "accuracy"
    assert config.lm.task.model == "embedded"


def test_models_are_asked_at_the_temperature_that_is_set(tmp_path: Path) -> None:
    """The task model's is that of the seed unless the search names some; a proposer of its own needs none to vary."""
    lm = {"task": {"model": "openai/a", "temperature": 0.7}, "proposer": {"model": "openai/b"}}
    config = load_config(write(tmp_path, yaml.safe_dump({**GOOD, "lm": lm, "search": {}})))
    assert (config.search.temperatures, config.proposer.temperature, config.judge.temperature) == ((0.7,), 0.9, 0.0)
    search = {"temperatures": [0.0, 1.0]}
    config = load_config(write(tmp_path, yaml.safe_dump({**GOOD, "lm": lm, "search": search}), "b.yaml"))
    assert config.search.temperatures == (0.0, 1.0)


def test_field_without_description_loads(tmp_path: Path) -> None:
    """`fruit:` with nothing behind it is a field without a description."""
    text = FULL.replace("{fruit: The fruit.}", "\n    fruit:\n    season:")
    assert list(load_config(write(tmp_path, text)).task.inputs) == ["fruit", "season"]


def test_dump_of_a_config_loads_to_an_equal_config(tmp_path: Path) -> None:
    """Writing a loaded configuration back as YAML and loading it changes no value."""
    config = load_config(write(tmp_path, yaml.safe_dump(GOOD)))
    again = load_config(write(tmp_path, yaml.safe_dump(config.model_dump(mode="json")), "again.yaml"))
    assert again == config


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """Files saved by Windows editors begin with a byte order mark and load all the same."""
    assert load_config(write(tmp_path, b"\xef\xbb\xbf" + FULL.encode())).name == "colours"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.y*ml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    """Each YAML file in configs/ is valid as it stands."""
    assert isinstance(load_config(path), Config)


def test_shipped_configs_share_one_task() -> None:
    """The endpoint example is the quickstart's task, so that the two can be compared."""
    quickstart, endpoint = (load_config(CONFIGS / name) for name in ("quickstart.yaml", "openai.yaml"))
    assert quickstart.task == endpoint.task
    assert quickstart.name != endpoint.name


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("search.trials=40", ("search", "trials"), 40),
        ("search.formats=[plain,json,xml]", ("search", "formats"), ("plain", "json", "xml")),
        ("lm.judge.model=openai/gpt-x", ("lm", "judge", "model"), "openai/gpt-x"),
        ("tracking.enabled=false", ("tracking", "enabled"), False),
        ("prompt=a = b", ("prompt",), "a = b"),
        ("budget.usd=3", ("budget", "usd"), 3.0),
        ("budget.finish_by=22:15", ("budget", "finish_by"), "22:15"),
        ('budget.finish_by="22:15"', ("budget", "finish_by"), "22:15"),
        ("metric.tolerance=0.5", ("metric", "tolerance"), 0.5),
        ("metric=exact_match", ("metric", "name"), "exact_match"),
        ("data.max_rows.dev=7", ("data", "max_rows", "dev"), 7),
        ("lm.proposer=null", ("lm", "proposer"), None),
    ],
)
def test_override_sets_one_key(tmp_path: Path, override: str, path: tuple[str, ...], value: object) -> None:
    """An override is read as YAML and makes the mappings that are missing on its way."""
    at: object = load_config(write(tmp_path, FULL), [override])
    for part in path:
        at = getattr(at, part)
    assert at == value


def test_override_below_a_short_field_keeps_its_description(tmp_path: Path) -> None:
    """Setting a key of a field that was written as one text keeps that text as the description."""
    overrides = ["task.outputs.colour.kind=label", "task.outputs.colour.choices=[red, green]"]
    colour = load_config(write(tmp_path, FULL), overrides).task.outputs["colour"]
    assert (colour.kind, colour.choices, colour.description) == ("label", ("red", "green"), "Its colour.")


def test_later_override_wins(tmp_path: Path) -> None:
    """Overrides are applied in their order."""
    assert load_config(write(tmp_path, FULL), ["search.trials=3", "search.trials=5"]).search.trials == 5


@pytest.mark.parametrize(
    ("override", "phrases"),
    [
        ("search.trails=40", ["search.trails: unknown key. Did you mean 'trials'?"]),
        ("serch.trials=40", ["serch: unknown key. Did you mean 'search'?"]),
        ("lm.proposr.model=x", ["lm.proposr: unknown key. Did you mean 'proposer'?"]),
        ("search.trials", ["override 'search.trials'", "key=value"]),
        ("=3", ["override '=3'", "key=value"]),
        ("search..trials=3", ["override", "key=value"]),
        ("name.first=x", ["name: is 'colours', which has no keys"]),
        ("search.formats=[plain", ["override search.formats", "line 1"]),
        ("search.trials=ten", ["search.trials: must be a whole number >= 1, got 'ten'"]),
        ("search.formats=plain", ["search.formats: must be a list", "['plain']"]),
        (f"lm.task.api_key={SECRET}", ["lm.task.api_key: looks like a secret"]),
        (f"{SECRET}", ["looks like a secret"]),
        (f"{SECRET}=[", ["looks like a secret"]),
        (f"name.{SECRET}=1", ["name: is 'colours'"]),
    ],
)
def test_bad_override_names_key_and_remedy(tmp_path: Path, override: str, phrases: list[str]) -> None:
    """A wrong override is told like a wrong file: one line with the key's path."""
    text = message_of(write(tmp_path, FULL), [override])
    assert text.startswith(str(tmp_path / "x.yaml"))
    assert all(phrase in text for phrase in phrases), text
    assert SECRET not in text


# The corpus of bad files

BAD: Mapping[str, tuple[str, str, str]] = {  # id -> text, place, phrase
    "unknown top key": (FULL + "serach: {}", "serach", "unknown key. Did you mean 'search'?"),
    "unknown nested key": (FULL + "search: {trails: 4}", "search.trails", "Did you mean 'trials'?"),
    "key of another section": (FULL + "finalists: 4", "finalists", "Did you mean 'search.finalists'?"),
    "nothing alike": (FULL + "search: {zzz: 4}", "search.zzz", "Allowed here: trials, operators"),
    "unknown field key": (
        FULL.replace("{fruit: The fruit.}", "{fruit: {descr: x}}"),
        "task.inputs.fruit.descr",
        "Did you mean 'description'?",
    ),
    "word for a count": (FULL + "search: {trials: ten}", "search.trials", "must be a whole number >= 1, got 'ten'"),
    "quoted number": (FULL + 'search: {trials: "40"}', "search.trials", "got '40'. Write 40, without quotes"),
    "exponent": (FULL + "budget: {usd: 1e2}", "budget.usd", "got '1e2'. Write 100.0, without quotes"),
    "fraction for a count": (FULL + "search: {trials: 4.5}", "search.trials", "a whole number >= 1, got 4.5"),
    "true for a count": (FULL + "search: {trials: yes}", "search.trials", "a whole number >= 1, got True"),
    "below the range": (FULL + "search: {block: 1}", "search.block", "must be a whole number >= 2 (examples), got 1"),
    "above the range": (FULL + "lm: {task: {temperature: 3}}", "lm.task.temperature", ">= 0 and <= 2, got 3"),
    "infinite": (FULL + "lm: {task: {timeout: .inf}}", "lm.task.timeout", "must be a finite number, got inf"),
    "no number": (FULL + "search: {temperatures: [0, .nan]}", "search.temperatures[1]", "finite number, got nan"),
    "huge number": (FULL + f"search: {{trials: {'9' * 5000}}}", "line 7", "cannot be read as int"),
    "huge hexadecimal": (FULL + f"prompt: 0x{'f' * 5000}", "line 7, column 9", "cannot be read as int"),
    "text with a colon": (FULL + "prompt: {Answer: yes}", "prompt", "A text that contains ': ' needs quotes"),
    "unknown format": (
        FULL + "search: {formats: [plain, jsn]}",
        "search.formats[1]",
        "got 'jsn'. Did you mean 'json'?",
    ),
    "lines for a list": (FULL + 'search: {formats: "a\\nb"}', "search.formats", r"Write it in brackets: ['a\nb']"),
    "long quoted number": (FULL + 'budget: {tokens: "123456789"}', "budget.tokens", "Write 123456789, without quotes"),
    "text for a list": (FULL + "search: {formats: chat}", "search.formats", "Write it in brackets: ['chat']"),
    "empty list": (FULL + "search: {formats: []}", "search.formats", "at least 1 item, got []"),
    "unknown sampler": (FULL + "search: {sampler: tpr}", "search.sampler", "`tpe` or `random`, got 'tpr'"),
    "unknown operator": (FULL + "search: {operators: [rewrte]}", "search.operators[0]", "Did you mean 'rewrite'?"),
    "operator path": (FULL + "search: {operators: [demos, my.op]}", "search.operators[1]", "`package.module:operator`"),
    "unknown metric": (BASE + "metric: acuracy", "metric", "unknown metric 'acuracy'. Did you mean 'accuracy'?"),
    "unknown metric name": (BASE + "metric: {name: rouge}", "metric.name", "Did you mean 'rouge_l'?"),
    "metric number": (BASE + "metric: 3", "metric", "must be text, or a section, got 3"),
    "missing metric": (BASE, "metric", "this key is missing"),
    "metric of no output": (BASE + "metric: {name: regex, output: color}", "metric.output", "outputs: colour"),
    "column of no field": (
        FULL.replace("{source: fruit.jsonl}", "{source: a.csv, fields: {friut: F}}"),
        "data.fields",
        "'friut' is no field",
    ),
    "no data source": (FULL.replace("{source: fruit.jsonl}", "{seed: 1}"), "data", "either `source` or `files`"),
    "null data": (FULL.replace(" {source: fruit.jsonl}", ""), "data", "is empty; put keys below it. Its keys: source"),
    "incomplete files": (
        FULL.replace("{source: fruit.jsonl}", "{files: {train: a, dev: b}}"),
        "data.files.test",
        "this key is missing",
    ),
    "split": (FULL.replace("fruit.jsonl}", "f.csv, split: {train: 0.5}}"), "data.split", "add up to 1.200"),
    "share of zero": (
        FULL.replace("fruit.jsonl}", "f.csv, split: {train: 0, dev: 0.5, test: 0.5}}"),
        "data.split.train",
        "must be a number > 0 and < 1, got 0",
    ),
    "column list": (FULL.replace("fruit.jsonl}", "f.csv, fields: {fruit: [a]}}"), "data.fields.fruit", "got ['a']"),
    "one label": (
        FULL.replace("Its colour.", "{kind: label, choices: [red]}"),
        "task.outputs.colour",
        "two or more different labels",
    ),
    "yes and no": (
        FULL.replace("Its colour.", "{kind: label, choices: [yes, no]}"),
        "task.outputs.colour.choices[0]",
        "got True. YAML reads yes, no, on and off as true and false",
    ),
    "numbers as labels": (
        FULL.replace("Its colour.", "{kind: label, choices: ['1', 2]}"),
        "task.outputs.colour.choices[1]",
        "must be text, got 2. Put it in quotes",
    ),
    "unknown kind": (
        FULL.replace("Its colour.", "{kind: lable}"),
        "task.outputs.colour.kind",
        "got 'lable'. Did you mean 'label'?",
    ),
    "no inputs": (FULL.replace("{fruit: The fruit.}", "{}"), "task", "need at least one field each"),
    "inputs as a list": (FULL.replace("{fruit: The fruit.}", "[fruit]"), "task.inputs", "must be a mapping"),
    "bad field name": (FULL.replace("{fruit:", "{the fruit:"), "task", "field name 'the fruit' must be a word"),
    "program": (
        FULL.replace("task:", "task:\n  program: module.py"),
        "task.program",
        "text like `package.module:factory`",
    ),
    "name": (FULL.replace("colours", "My Study"), "name", "text of lower-case letters"),
    "number as name": (FULL.replace("colours", "2024"), "name", "got 2024. Put it in quotes"),
    "text for a section": (FULL + "budget: 5 dollars", "budget", "must be a section, got '5 dollars'"),
    "section left empty": (
        FULL + "budget:\n  # usd: 5\n",
        "budget",
        "put keys below it, or remove it. Its keys: task_calls",
    ),
    "word for true": (FULL + "tracking: {enabled: maybe}", "tracking.enabled", "must be true or false, got 'maybe'"),
    "unquoted time": (FULL + "budget: {finish_by: 6:30}", "budget.finish_by", 'write finish_by: "06:30"'),
    "late unquoted time": (FULL + "budget: {finish_by: 23:59}", "budget.finish_by", "YAML reads 23:59 without quotes"),
    "impossible time": (FULL + 'budget: {finish_by: "24:00"}', "budget.finish_by", "00:00 to 23:59, got '24:00'"),
    "value left empty": (FULL + "prompt:\n", "prompt", "must be text, got None. Give it a value or remove the key"),
    "date": (FULL + "prompt: 2024-01-31", "prompt", "must be text, got datetime.date(2024, 1, 31). Put it in quotes"),
    "impossible date": (FULL + "prompt: 2024-13-45", "line 7, column 9", "cannot be read as timestamp"),
    "multi-line key": (FULL + '"a\\nb": 1', r"'a\nb'", "unknown key"),
    "empty file": ("", "x.yaml", "the file is empty. It needs at least the keys name, task, data, metric"),
    "only comments": ("# nothing\n", "x.yaml", "the file is empty"),
    "list at the top": ("- name: a\n", "x.yaml", "must be a mapping of keys to values at the top, got [{'name': 'a'}]"),
    "text at the top": ("hello", "x.yaml", "must be a mapping of keys to values at the top, got 'hello'"),
    "two documents": (FULL + "---\n" + FULL, "line 7", "One file holds one study"),
    "tab": ("name: a\nsearch:\n\ttrials: 3\n", "line 3, column 1", "Indent with spaces"),
    "second colon": ("name: a\nprompt: Answer: yes\n", "line 2, column 15", "a second colon in one line"),
    "open quote": ("name: 'a\nprompt: b\n", "line 3", "begun in line 1"),
    "open bracket": (FULL + "search: {formats: [plain\n", "line 8", "expected ',' or ']'"),
    "repeated key": (FULL + "name: again\n", "line 7", "the key 'name' is here a second time (first in line 1)"),
    "repeated in one line": (
        FULL + "search: {block: 2, block: 3}",
        "line 7, column 20",
        "'block' is here a second time",
    ),
    "key read as true": (FULL + "search: {on: 1}", "line 7, column 10", "the key 'on' is not read as text"),
    "list as key": ("[a, b]: 1\n", "line 1", "not read as text"),
    "python tag": ("name: !!python/object/apply:os.system [ls]\n", "line 1", "tags such as !name are not allowed"),
    "own tag": ("name: !env NAME\n", "line 1", "tags such as !name are not allowed"),
    "misused tag": ("name: !!int x\n", "line 1", "cannot be read as int"),
    "anchor": ("name: &a colours\nprompt: *a\n", "line 1, column 7", "anchors and aliases"),
    "unquoted emphasis": ("name: a\nprompt: *important*\n", "line 2", "Put a text that begins so in quotes"),
    "merge": (FULL + "search: {<<: {trials: 3}}", "line 7", "the key '<<' is not read as text"),
    "deep": ("a: " + "[" * 100_000, "line 1", "nested too deeply"),
    "deep blocks": ("- " * 3000, "line 1", "nested too deeply"),
    "control character": ("name: a\nprompt: b\x07\n", "line 2", "a control character"),
}


@pytest.mark.parametrize(("text", "place", "phrase"), BAD.values(), ids=list(BAD))
def test_bad_file_is_told_in_one_line(tmp_path: Path, text: str, place: str, phrase: str) -> None:
    """Each mistake gives one line that begins with the file and the place, and says what is allowed or what to do."""
    path = write(tmp_path, text)
    message = message_of(path)
    start = str(path) if place == "x.yaml" else f"{path}: {place}"
    assert message.startswith(start), message
    assert phrase in message
    assert len(message) < 700


def test_unknown_keys_come_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    """Of several mistakes the misspelt key is shown, which often explains the others, with their number."""
    text = BASE + "metrik: accuracy\nsearch: {trials: 0, block: x}\n"
    message = message_of(write(tmp_path, text))
    assert ": metrik: unknown key. Did you mean 'metric'?" in message
    assert message.endswith("(and 3 more)")


def test_a_bad_item_is_counted_once(tmp_path: Path) -> None:
    """A list with one wrong item is one mistake, not also a list that is too short."""
    message = message_of(write(tmp_path, FULL + "search: {formats: [jsn]}"))
    assert "more)" not in message


def test_long_values_are_cut(tmp_path: Path) -> None:
    """A message does not repeat a whole prompt."""
    message = message_of(write(tmp_path, FULL + f"search: {{sampler: {'long ' * 200}}}"))
    assert len(message) < len(str(tmp_path)) + 200


# Files that cannot be read


def test_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    """A misspelt name is answered with the YAML file in the same folder that is nearest."""
    write(tmp_path, FULL, "quickstart.yaml")
    write(tmp_path, FULL, "openai.yml")
    for name in ("quikstart.yaml", "quickstart"):
        message = message_of(tmp_path / name)
        assert f"{name}: no such file. Did you mean 'quickstart.yaml'?" in message
    assert "Files there: openai.yml, quickstart.yaml" in message_of(tmp_path / "zzz")


def test_missing_file_in_a_missing_folder(tmp_path: Path) -> None:
    """A path whose folder does not exist is simply no such file."""
    assert message_of(tmp_path / "no" / "x.yaml").endswith("x.yaml: no such file.")


def test_folder_is_refused_with_the_files_in_it(tmp_path: Path) -> None:
    """A folder instead of a file is told as such."""
    write(tmp_path, FULL, "quickstart.yaml")
    message = message_of(tmp_path)
    assert "is a folder, not a file. Did you mean 'quickstart.yaml'?" in message


def test_file_below_a_file_is_refused(tmp_path: Path) -> None:
    """Other reasons of the operating system are passed on in its words."""
    path = write(tmp_path, FULL)
    assert "cannot be read: Not a directory" in message_of(path / "y.yaml")


def test_large_file_is_not_parsed(tmp_path: Path) -> None:
    """A file above the cap is refused before YAML sees it."""
    path = write(tmp_path, b"#" * (MAX_BYTES + 1))
    assert "larger than 1 MB. Is this the data file?" in message_of(path)


def test_other_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are told with the line in which they stand."""
    path = write(tmp_path, b"name: a\nprompt: caf\xe9\n")
    assert "line 2: not UTF-8 text" in message_of(path)
    utf16 = write(tmp_path, FULL.encode("utf-16"))
    assert "line 1: not UTF-8 text" in message_of(utf16)


def test_many_aliases_are_refused_at_once(tmp_path: Path) -> None:
    """A file whose aliases would multiply to a billion items is refused at the first anchor."""
    lines = ["a: &a [x, x, x]"] + [
        f"{new}: &{new} [*{old}, *{old}, *{old}]" for old, new in zip("abcdef", "bcdefg", strict=True)
    ]
    assert "line 1, column 4: anchors" in message_of(write(tmp_path, "\n".join(lines)))


# Secrets


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"lm: {{task: {{api_key: {SECRET}}}}}", "lm.task.api_key"),
        ("lm: {task: {api_key: short}}", "lm.task.api_key"),
        ("lm: {proposer: {openai_api_key: short}}", "lm.proposer.openai_api_key"),
        ("api-key: short", "api-key"),
        ("tracking: {password: short}", "tracking.password"),
        (f"lm: {{task: {{api_key_env: {SECRET}}}}}", "lm.task.api_key_env"),
        ("lm: {judge: {api_key_env: $OPENAI_API_KEY}}", "lm.judge.api_key_env"),
        ("lm: {task: {api_key_env: 9a8b7c6d5e4f3a2b1c0d}}", "lm.task.api_key_env"),
        ("lm: {task: {api_key_env: a8b7c6d5e4f3a2b1c0d9e8f7}}", "lm.task.api_key_env"),
        (f"lm: {{task: {{model: {SECRET}}}}}", "lm.task.model"),
        (f"prompt: Use {SECRET} to call.", "prompt"),
        (f"search: {{operators: [{SECRET}]}}", "search.operators[0]"),
        (f"{SECRET}: short", "a value that looks like a secret (not shown)"),
    ],
)
def test_secret_is_refused_and_not_repeated(tmp_path: Path, text: str, place: str) -> None:
    """A key in the file is refused with advice, and never appears in the message."""
    message = message_of(write(tmp_path, FULL + text + "\n"))
    assert f": {place}: looks like a secret" in message
    assert "environment variable" in message
    assert text.rstrip("}]").split(": ")[-1].split()[-1].strip("[") not in message.replace(
        "api_key_env: OPENAI_API_KEY", ""
    )
    assert SECRET not in message


def test_secret_comes_before_other_mistakes(tmp_path: Path) -> None:
    """With several mistakes the secret is shown, and no other message can quote it."""
    text = FULL.replace("{source: fruit.jsonl}", f"[{SECRET}]") + "serach: {}\n"
    message = message_of(write(tmp_path, text))
    assert ": data[0]: looks like a secret" in message
    assert SECRET not in message


def test_secret_in_broken_yaml_is_not_repeated(tmp_path: Path) -> None:
    """A syntax error near a key does not quote the line."""
    for text in (f"api_key: '{SECRET}\n", f"{SECRET}: 1\n{SECRET}: 2\n", f"a: !{SECRET} b\n", f"a: *{SECRET}\n"):
        assert SECRET not in message_of(write(tmp_path, text))


def test_honest_names_are_no_secrets(tmp_path: Path) -> None:
    """Fields that are called like secrets, and words that begin like keys, are allowed."""
    text = FULL.replace("{fruit: The fruit.}", "{password: What was typed., token: One word.}")
    text += "prompt: Ask-desk-risk task-sk-learn-classification.\nlm: {task: {api_key_env: my_key}}\n"
    config = load_config(write(tmp_path, text))
    assert list(config.task.inputs) == ["password", "token"]
    assert config.lm.task.api_key_env == "my_key"


# Properties

# Keys that the models name, as against fields and columns that the user names.
SCHEMA_PLACES = [
    place for place in places(GOOD) if reference_path(place) in KEYS and reference_path(place).endswith(f".{place[-1]}")
] + [(name,) for name in GOOD]


@settings(max_examples=150)
@given(
    place=st.sampled_from(SCHEMA_PLACES),
    new=st.one_of(
        st.text(min_size=1, max_size=12),
        st.sampled_from(SCHEMA_PLACES).map(lambda place: place[-1]),
        st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
    ),
)
def test_renaming_any_key_is_noticed_at_its_place(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], new: str
) -> None:
    """Whatever key of a valid file is renamed to something unknown there, the line names the new key's path."""
    *folders, old = place
    if new in child_names(reference_path(folders)):
        return
    tree = copy.deepcopy(GOOD)
    at = tree
    for part in folders:
        at = at[part]  # type: ignore[assignment]
    at[new] = at.pop(old)
    path = write(tmp_path_factory.getbasetemp(), yaml.safe_dump(tree, allow_unicode=True))
    message = message_of(path)
    shown = new if new.isidentifier() else ""
    assert message.startswith(f"{path}: {'.'.join([*folders, shown])}"), message


@settings(max_examples=100)
@given(text=st.text(alphabet="ab:-[]{}&*!|>'\"#%@?, \n\t0", max_size=60))
def test_no_text_escapes_as_another_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a file holds, the answer is one line, never a traceback of the YAML library."""
    path = write(tmp_path_factory.getbasetemp(), text)
    message_of(path)


@settings(max_examples=100)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), st.lists, max_leaves=4
    )
)
def test_no_value_escapes_as_another_error(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """Any value at any of several places either loads or is a ConfigError."""
    path = write(tmp_path_factory.getbasetemp(), FULL)
    for key in ("search.trials", "search.formats", "lm.task.timeout", "budget.finish_by", "metric", "data", "prompt"):
        with contextlib.suppress(ConfigError):
            load_config(path, [f"{key}={yaml.safe_dump(value)}"])


# The reference


def test_committed_reference_is_what_the_generator_makes(tmp_path: Path) -> None:
    """README.md and schema.json in configs/ are up to date: `python -m optimizer.config.docs` changes nothing."""
    shutil.copy(CONFIGS / "README.md", tmp_path)
    main(tmp_path)
    for name in ("README.md", "schema.json"):
        assert (tmp_path / name).read_bytes() == (CONFIGS / name).read_bytes(), (
            f"run python -m optimizer.config.docs: {name}"
        )


def test_reference_lists_every_key_of_the_models() -> None:
    """Every key of a fully written configuration, and each of the schema's properties, has a row with a meaning."""
    table = markdown_table()
    for place in [*SCHEMA_PLACES, ("task", "inputs", "fruit")]:
        assert f"`{reference_path(place)}`" in table
    schema = json.loads((CONFIGS / "schema.json").read_text())
    names = {name for model in (schema, *schema["$defs"].values()) for name in model["properties"]}
    assert names == {path.rpartition(".")[2] for path in KEYS} - {"<name>"}
    assert all(key.meaning and key.kind and key.default for key in KEYS.values())


def test_reference_says_type_range_unit_and_default() -> None:
    """A row holds the type in plain words, the range, the unit, the default and the meaning."""
    table = markdown_table()
    assert "| `search.trials` | whole number | >= 1 | `40` |" in table
    assert "| `lm.task.timeout` | number | > 0, seconds | `120.0` |" in table
    assert "| `name` | text of lower-case letters" in table
    assert "| `metric` | text, or a section |  | required |" in table


def test_reference_needs_its_markers() -> None:
    """A README without the two marker comments is refused instead of being overwritten."""
    for text in ("# Configurations\n", f"# Configurations\n{BEGIN}\n"):
        with pytest.raises(ConfigError, match="a marker line is missing"):
            with_reference(text)


def test_names_offered_are_the_names_allowed() -> None:
    """The words that messages offer are those of the models."""
    assert tuple(METRICS) == NAMES
    assert METRICS[0] == "accuracy"
    assert all(f"`{name}`" in KEYS["search.operators"].item for name in OPERATORS)
    assert all(f"`{name}`" in KEYS["search.formats"].item for name in FORMATS)
