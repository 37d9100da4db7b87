"""Exports as their readers use them: each sends the very messages of the search, and scores what the search scored."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import yaml
from jinja2 import Environment

from optimizer.candidate import Candidate, Demo, Example, Fields, Part
from optimizer.config.keys import Config
from optimizer.errors import ConfigError, UserError
from optimizer.export import EXPORTERS, ExportFormat, export
from optimizer.export.personal import personal_data
from optimizer.export.python_file import taken_names
from optimizer.init.naming import field_names
from optimizer.lm.backend import Backend
from optimizer.lm.embedded import open_embedded
from optimizer.metrics import open_metric, score
from optimizer.prompts.formats import FORMATS, UnreadableReply, json_schema
from optimizer.prompts.program import ModuleProgram, TaskProgram
from optimizer.prompts.spec import spec_of_task
from optimizer.storage.files import write_into, write_new
from tests.fake_server import FakeServer, Fault, error, rate_limited
from tests.sample_study import sample_view
from tests.test_export import NASTY, Desk, filled, read

LAYOUTS = tuple(FORMATS)
Messages = list[tuple[str, str]]
Client = Callable[[str, Fields], Messages]


def config_of(kind: str, metric: Any, field: Mapping[str, Any]) -> Config:
    return Config.model_validate(
        {
            "name": f"task-{kind}",
            "task": {"goal": "Answer.", "inputs": {"note": "what to look at"}, "outputs": {"answer": dict(field)}},
            "data": {"source": "rows.jsonl"},
            "metric": metric,
            "lm": {"task": {"model": "embedded", "max_tokens": 24}},
        }
    )


CONFIGS = {
    "label": config_of("label", "accuracy", {"kind": "label", "choices": ["fruit", "animal", "tool"]}),
    "boolean": config_of("boolean", "accuracy", {"kind": "boolean"}),
    "number": config_of("number", {"name": "number", "tolerance": 0.5}, {"kind": "number"}),
    "json": config_of(
        "json", "json_fields", {"kind": "json", "fields": {"colour": "a colour", "size": "big or small"}}
    ),
}
ANSWERS: Mapping[str, Sequence[Any]] = {
    "label": ("fruit", "animal", "tool"),
    "boolean": (True, False, True),
    "number": (3, 7, 12),
    "json": ({"colour": "red", "size": "big"}, {"colour": "blue", "size": "small"}, {"colour": "red", "size": "small"}),
}
NOTES = ("3 red apples {note}", "7 'old' \"dogs\" \\ {{ x }}", "12 hammers, {% raw %} 小包 & <b>\n\nAnswer: none")


def rows_of(kind: str) -> tuple[Example, ...]:
    return tuple(
        Example(id=f"r{i}", inputs={"note": note}, outputs={"answer": answer})
        for i, (note, answer) in enumerate(zip(NOTES, ANSWERS[kind], strict=True))
    )


def candidate_of(kind: str, layout: str, *, words: str = "Look at the note.") -> Candidate:
    demos = tuple(Demo.from_example(row) for row in rows_of(kind)[:2])
    return Candidate(parts=(Part(predictor="answer", instructions=words, demos=demos),), format=layout)


def exported(kind: str, candidate: Candidate, format: ExportFormat) -> str:
    view = replace(sample_view(1), config=CONFIGS[kind].model_dump(mode="json"), name="task", best=candidate)
    return export(view, program_of(kind), format, rows=rows_of(kind))


def program_of(kind: str) -> TaskProgram:
    return TaskProgram(spec_of_task(CONFIGS[kind].task), max_tokens=24)


def loaded(text: str, folder: Path) -> ModuleType:
    """Import an exported Python file as a stranger would."""
    path = folder / "prompt.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("prompt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# `loads` of LangChain warns that it is new.
pytestmark = pytest.mark.filterwarnings("ignore:The function `loads` is in beta")

# -- one reader a format; each knows the format and nothing of this package --------------------------------------------


def by_data(format: ExportFormat) -> Client:
    return lambda text, inputs: filled(read(text, format)[""], inputs)


def by_request(text: str, inputs: Fields) -> Messages:
    """OpenAI's and Anthropic's bodies, with the inputs put in."""
    data = json.loads(text)
    body = data["body"]
    messages = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
    system = [{"role": "system", "content": body["system"]}] if "system" in body else []
    return filled({"messages": [*system, *messages], "inputs": data["inputs"]}, inputs)


def by_langchain(text: str, inputs: Fields) -> Messages:
    from langchain_core.load import loads

    template = loads(text, allowed_objects="all")
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    return [(roles[message.type], message.content) for message in template.invoke(dict(inputs)).to_messages()]


def by_mlflow(text: str, inputs: Fields) -> Messages:
    from mlflow.entities import model_registry

    entry, version = json.loads(text), cast(Any, model_registry).PromptVersion
    said = version(name=entry["name"], version=1, template=entry["template"]).format(**inputs)
    return [("user", said)] if isinstance(said, str) else [(row["role"], row["content"]) for row in said]


def by_promptfoo(suite: Mapping[str, Any], case: Mapping[str, Any]) -> Messages:
    """Its completion provider sends the text itself; the others take it for messages."""
    render = Environment(keep_trailing_newline=True).from_string
    values = {key: render(value).render() for key, value in case["vars"].items()}
    raw = suite["prompts"][0]["raw"]
    is_text = suite["providers"][0]["id"].startswith("openai:completion:")
    messages = [{"role": "user", "content": raw}] if is_text else json.loads(raw)
    return [(each["role"], render(each["content"]).render(**values)) for each in messages]


CLIENTS: Mapping[ExportFormat, Client] = {
    "chat-json": by_data("chat-json"),
    "yaml": by_data("yaml"),
    "openai": by_request,
    "anthropic": by_request,
    "langchain": by_langchain,
    "mlflow": by_mlflow,
}


@pytest.mark.parametrize(("kind", "layout"), list(product(CONFIGS, LAYOUTS)))
@pytest.mark.parametrize("format", CLIENTS)
def test_each_reader_sends_the_same_bytes(kind: str, layout: str, format: ExportFormat) -> None:
    """Over four kinds of task and every layout, each format's own reader makes the messages of the search."""
    program = program_of(kind)
    for words in ("Look at the note.", NASTY):
        candidate = candidate_of(kind, layout, words=words)
        text = exported(kind, candidate, format)
        for row in rows_of(kind):
            inputs = dict(row.inputs)
            if layout == "json" and format in ("langchain", "mlflow"):  # these take values as they are put in
                inputs = {name: json.dumps(value, ensure_ascii=False) for name, value in inputs.items()}
            assert CLIENTS[format](text, inputs) == list(program.messages(candidate, "answer", row.inputs))


@pytest.mark.parametrize(("kind", "layout"), list(product(CONFIGS, LAYOUTS)))
def test_promptfoo_sends_the_same_bytes(kind: str, layout: str) -> None:
    """Rendered as promptfoo renders it, each test of the suite asks what the search asked for that row."""
    candidate = candidate_of(kind, layout, words=NASTY)
    suite = yaml.safe_load(exported(kind, candidate, "promptfoo"))
    for row, case in zip(rows_of(kind), suite["tests"], strict=True):
        assert by_promptfoo(suite, case) == list(program_of(kind).messages(candidate, "answer", row.inputs))
        assert case["metadata"]["row"] == row.id


@pytest.mark.parametrize("model", ["embedded", "gguf:small.gguf", "openai/gpt-4.1-mini", "anthropic/claude-sonnet-4-5"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_addresses_the_same_endpoint(layout: str, model: str, tmp_path: Path) -> None:
    """A text that a local model continued is sent to `/completions` by all formats, and as a chat by none of them."""
    config = CONFIGS["label"].model_dump(mode="json")
    config["lm"]["task"]["model"] = model
    best = candidate_of("label", layout)
    view = replace(sample_view(1), config=config, name="task", best=best)
    texts = {format: export(view, program_of("label"), format) for format in EXPORTERS}
    is_completion = layout == "plain" and "/" not in model
    chat = "/chat/completions"
    assert json.loads(texts["openai"])["path"] == ("/completions" if is_completion else chat)
    assert loaded(texts["python"], tmp_path).PROMPTS["task"]["path"] == ("/completions" if is_completion else chat)
    suite = yaml.safe_load(texts["promptfoo"])
    assert suite["providers"][0]["id"].startswith("openai:completion:") == is_completion
    assert (yaml.safe_load(texts["yaml"]).get("endpoint") == "/completions") == is_completion
    assert ("with no chat around it (`/completions`)" in texts["markdown"]) == is_completion
    assert json.loads(texts["langchain"])["id"][-1] == ("PromptTemplate" if is_completion else "ChatPromptTemplate")


def reply_of(kind: str, layout: str, row: Example) -> str:
    """What a model writes that answers a row rightly in this layout."""
    head = FORMATS[layout].head(program_of(kind).specs["answer"], "x", (Demo.from_example(row),))
    return head[0].content.rpartition("Answer:")[2].rstrip("\n") if layout == "plain" else head[-1].content


@pytest.mark.parametrize(("kind", "layout"), list(product(CONFIGS, LAYOUTS)))
def test_the_python_file_reads_replies_like_the_search(kind: str, layout: str, tmp_path: Path) -> None:
    """It makes the same messages, reads the same answers from replies in their usual dress, and refuses the same."""
    program, candidate = program_of(kind), candidate_of(kind, layout, words=NASTY)
    module = loaded(exported(kind, candidate, "python"), tmp_path)
    spec = program.specs["answer"]
    for row in rows_of(kind):
        assert module.messages_of("task", **row.inputs) == list(program.messages(candidate, "answer", row.inputs))
        reply = reply_of(kind, layout, row)
        for dressed in (reply, f" {reply}\n"):
            assert module.read("task", dressed) == FORMATS[layout].parse(spec, dressed) == dict(row.outputs)
    if kind != "json":
        with pytest.raises(ValueError, match=r"answer|no JSON object"):
            module.read("task", "I would rather not say.")


ODD: Mapping[str, tuple[dict[str, Any], list[str]]] = {
    "accuracy": (
        {"kind": "label", "choices": ["A", "A*", "B", ">5 years", "<5 years", "true", "no-show"]},
        ["A*", "A", "<5 years", "> 5 years", "not B", "**<A>**", "no idea",
         "Team: B\nAnswer: A", "It is B, I think.", "no show", "NO_SHOW", "\uff34RUE", "A or B"],
    ),
    "exact_match": (
        {"kind": "number"},
        [".5", "\u22125", "5 x 3 = 15", "12345678901234567891", "1.234,56", "1,5", "1. Two: 2\n2. So 4\nIt is 4", "1e3",
         "3 + 4 = 7", "1" * 400, "none", "-3.0", "about 1,000", "2 500 EUR", "1.234.567", "1'000"],
    ),
    "contains": (
        {"kind": "boolean"},
        ["There is no doubt: yes.", "That is not true", "I have no idea", "True or False? False",
         "Yes, no doubt", "no", "TRUE.", "It is not so", "maybe", "I say: yes"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("metric", "layout"), list(product(ODD, ("chat", "json", "xml", "plain"))))
def test_the_python_file_reads_odd_replies_like_the_search(metric: str, layout: str, tmp_path: Path) -> None:
    """Exact labels before similar ones, denials, decimal commas, steps, long digits: the same answer, or none."""
    field, replies = ODD[metric]
    config = config_of("odd", metric if metric != "contains" else "accuracy", field)
    program = TaskProgram(spec_of_task(config.task), max_tokens=24)
    candidate = Candidate(parts=(Part(predictor="answer", instructions="Look."),), format=layout)
    view = replace(sample_view(1), config=config.model_dump(mode="json"), name="task", best=candidate)
    module, spec = loaded(export(view, program, "python"), tmp_path), program.specs["answer"]
    values: list[Any] = [*replies, True, False, 7, 7.0] if layout == "json" else [*replies]
    for value in values:
        reply = {"json": json.dumps({"answer": value}), "xml": f"<answer>{value}</answer>"}.get(layout, f" {value}")
        try:
            searched: Any = FORMATS[layout].parse(spec, reply)
        except UnreadableReply:
            with pytest.raises(ValueError, match=r"answer|no JSON object"):
                module.read("task", reply)
        else:
            assert (module.read("task", reply), reply) == (searched, reply)


TWO = {"team": {"kind": "label", "choices": ["billing", "delivery"]}, "amount": {"kind": "number"}}
SUMMARY = {"summary": {"kind": "text"}}
REPLIES: Sequence[tuple[Mapping[str, Any], str]] = (
    (TWO, "billing\nAmount: 5"),
    (TWO, "Team\uff1abilling\nAmount\uff1a5"),
    (TWO, "- **Team:** billing\n- **Amount:** 5"),
    (TWO, "```\nTeam: billing\nAmount: 5\n```"),
    (TWO, "Team: billing"),
    (TWO, '{"Team": "billing", "AMOUNT": 5}'),
    (TWO, '{"team": "billing", "amount": 5,}'),
    (TWO, "{'team': 'billing', 'amount': 5}"),
    (TWO, '{"team": "billing", "amount": 5'),
    (TWO, 'Here: {"team": "billing", "amount": 5} or {so}'),
    (TWO, '{"team": "billing", "amount": NaN}'),
    (TWO, '{"team": "billing"} {"team": "delivery", "amount": 6}'),
    (TWO, "<team>billing</team><amount>5"),
    (SUMMARY, "hi\nSummary: there"),
    (SUMMARY, "Summary: Summary: there"),
    (SUMMARY, '{"summary": "\\ud800 x"}'),
)


def exported_of(outputs: Mapping[str, Any], layout: str, folder: Path, **inputs: str) -> tuple[ModuleType, TaskProgram]:
    """A task with these outputs, as its exported file and as the program of the search."""
    config = config_of("label", "accuracy", {"kind": "text"}).model_dump(mode="json")
    config["task"] |= {"inputs": inputs or {"note": ""}, "outputs": outputs}
    config["metric"] = {"name": "accuracy", "output": next(iter(outputs))}
    program = TaskProgram(spec_of_task(Config.model_validate(config).task), max_tokens=24)
    best = Candidate(parts=(Part(predictor="answer", instructions="Look."),), format=layout)
    view = replace(sample_view(1), config=config, name="task", best=best)
    return loaded(export(view, program, "python"), folder), program


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_python_file_takes_replies_apart_like_the_search(layout: str, tmp_path: Path) -> None:
    """Several answers, heads in other dress, broken JSON or other text beside it: the same, or an error in each."""
    for outputs, reply in REPLIES:
        module, program = exported_of(outputs, layout, tmp_path)
        try:
            searched = FORMATS[layout].parse(program.specs["answer"], reply)
        except UnreadableReply as unreadable:
            with pytest.raises(ValueError, match=re.escape(str(unreadable))):
                module.read("task", reply)
        else:
            assert module.read("task", reply) == searched


def test_without_its_helper_broken_json_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `json-repair` is not installed, whole JSON is read and broken JSON is an error, never another answer."""
    module, _ = exported_of(TWO, "json", tmp_path)
    monkeypatch.setattr(module, "json_repair", json)
    assert module.read("task", 'So: {"team": "billing", "amount": 5}') == {"team": "billing", "amount": 5}
    with pytest.raises(ValueError, match="no JSON object"):
        module.read("task", '{"team": "billing", "amount": 5')


def test_inputs_may_be_called_like_what_the_file_uses(tmp_path: Path) -> None:
    """Fields named `name`, `ask` or `read` do not get in the way of the file's own names."""
    assert {"Sequence", "json_repair", "list", "read_value", "NUMBERS"} - taken_names() == {"NUMBERS"}
    module, _ = exported_of(SUMMARY, "chat", tmp_path, name="", ask="", read="")
    assert "Name: x" in module.messages_of("task", name="x", ask="y", read="z")[-1][1]
    with FakeServer(lambda _: "fine") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", server.url)
        assert module.task(name="x", ask="y", read="z") == {"summary": "fine"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conversation_is_one_line_a_turn_in_the_python_file(layout: str, tmp_path: Path) -> None:
    """Values that are no texts are written as the search writes them: turns, numbers, truth values, lists."""
    turns = [{"role": "customer", "content": "It is\nbroken."}, {"role": "call_agent", "content": "Since when?"}]
    module = loaded(exported("label", candidate_of("label", layout), "python"), tmp_path)
    for value in (turns, 3.0, True, [1, "ü"], {"a": None}, 12, "x"):
        expected = list(
            program_of("label").messages(candidate_of("label", layout), "answer", cast(Any, {"note": value}))
        )
        assert module.messages_of("task", note=value) == expected


@pytest.mark.parametrize(
    ("model", "sent"),
    [("openai/Qwen/Qwen3-8B", "Qwen/Qwen3-8B"), ("openai/gpt-5", "gpt-5"), ("openrouter/openai/gpt-5", "openai/gpt-5")],
)
def test_a_model_keeps_its_own_slashes(model: str, sent: str, tmp_path: Path) -> None:
    """Only the provider that DSPy puts before a name is taken off."""
    config = CONFIGS["label"].model_dump(mode="json")
    config["lm"]["task"] |= {"model": model, "api_base": "http://127.0.0.1:8377/v1"}
    view = replace(sample_view(1), config=config, name="task", best=candidate_of("label", "chat"))
    assert json.loads(export(view, program_of("label"), "openai"))["body"]["model"] == sent
    module = loaded(export(view, program_of("label"), "python"), tmp_path)
    assert module.PROMPTS["task"]["settings"]["model"] == sent


@pytest.mark.parametrize(
    ("task", "layout", "sent", "absent"),
    [
        ({"model": "openai/gpt-5-mini"}, "plain", {"max_completion_tokens": 24}, {"temperature", "stop", "max_tokens"}),
        (
            {"model": "openai/qwen", "api_base": "http://127.0.0.1:8377/v1", "guided": "vllm"},
            "chat",
            {"structured_outputs": {"choice": ["fruit", "animal", "tool"]}, "temperature": 0.0, "max_tokens": 24},
            {"response_format"},
        ),
        (
            {"model": "openai/gpt-4.1-mini"},
            "json",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": json_schema(program_of("label").specs["answer"])},
                }
            },
            {"structured_outputs", "grammar"},
        ),
        ({"model": "openai/gpt-4.1-mini"}, "chat", {"temperature": 0.0}, {"response_format", "structured_outputs"}),
    ],
)
def test_a_request_has_the_settings_that_the_search_sent(
    task: dict[str, Any], layout: str, sent: dict[str, Any], absent: set[str], tmp_path: Path
) -> None:
    """What holds a reply to its form goes along; what a model that reasons first refuses does not."""
    config = CONFIGS["label"].model_dump(mode="json")
    config["lm"]["task"] |= task
    view = replace(sample_view(1), config=config, name="task", best=candidate_of("label", layout))
    body = json.loads(export(view, program_of("label"), "openai"))["body"]
    settings = loaded(export(view, program_of("label"), "python"), tmp_path).PROMPTS["task"]["settings"]
    suite = yaml.safe_load(export(view, program_of("label"), "promptfoo"))["providers"][0]["config"]
    suite |= suite.pop("passthrough", {})
    for made in (body, settings, suite):
        assert {key: made[key] for key in sent} == sent
        assert not absent & set(made)


def test_promptfoo_compares_with_the_number_in_the_expected_text() -> None:
    """Thousands and units of the expected answer do not become JavaScript."""
    config = config_of("odd", {"name": "number", "tolerance": 0.5}, {"kind": "text"})
    rows = [
        replace(row, outputs={"answer": text})
        for row, text in zip(rows_of("label"), ("1,234", "12 km", "many"), strict=True)
    ]
    best = candidate_of("label", "chat")
    view = replace(sample_view(1), config=config.model_dump(mode="json"), name="task", best=best)
    suite = yaml.safe_load(export(view, TaskProgram(spec_of_task(config.task), max_tokens=8), "promptfoo", rows=rows))
    asserted = [case["assert"][0]["value"].partition(" - ")[2] if case["assert"] else "" for case in suite["tests"]]
    assert asserted == ["(1234.0)) <= 0.5 + 1e-9", "(12.0)) <= 0.5 + 1e-9", ""]


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    model = open_embedded("embedded")
    yield model
    model.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layout"), [("label", "plain"), ("label", "chat"), ("boolean", "plain"), ("number", "chat")]
)
def test_plain_clients_get_the_same_scores_from_the_same_model(
    kind: str, layout: str, backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP, the Python file and every data format's reader score each row as the search did."""
    program, metric = program_of(kind), open_metric(CONFIGS[kind])
    candidate = candidate_of(kind, layout)
    monkeypatch.setenv("OPENAI_BASE_URL", backend.url)
    module = loaded(exported(kind, candidate, "python"), tmp_path)
    request = json.loads(exported(kind, candidate, "openai"))
    texts: dict[ExportFormat, str] = {format: exported(kind, candidate, format) for format in CLIENTS}
    for row in rows_of(kind):
        answer = program.run(candidate, row.inputs, backend.complete).fields
        searched = score(metric, row, answer).value
        assert score(metric, row, module.task(**row.inputs)).value == searched
        replies = {}
        for format, text in texts.items():
            messages = CLIENTS[format](text, row.inputs)
            if str(messages) not in replies:
                replies[str(messages)] = post(backend.url, request, messages)
            assert score(metric, row, module.read("task", replies[str(messages)])).value == searched
        assert len(replies) == 1


def post(url: str, request: Mapping[str, Any], messages: Messages) -> str:
    """A plain client: the exported body with these messages."""
    body = dict(request["body"])
    if "prompt" in body:
        body["prompt"] = messages[0][1]
    else:
        body["messages"] = [{"role": role, "content": content} for role, content in messages]
    data = json.dumps(body).encode()
    call = urllib.request.Request(url + request["path"], data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=60) as response:
        choice = json.load(response)["choices"][0]
    return str(choice.get("text") or choice["message"]["content"])


@pytest.mark.skipif(shutil.which("node") is None, reason="promptfoo runs on node, which is not installed")
@pytest.mark.parametrize(("kind", "layout"), list(product(("label", "boolean", "number"), LAYOUTS)))
def test_promptfoo_assertions_score_like_the_metric(kind: str, layout: str) -> None:
    """The suite's own JavaScript takes right answers for right and wrong ones for wrong, in every layout."""
    candidate, program = candidate_of(kind, layout), program_of(kind)
    suite = yaml.safe_load(exported(kind, candidate, "promptfoo"))
    layout_, spec, rows = FORMATS[layout], program.specs["answer"], rows_of(kind)
    cases = []
    for case, row in zip(suite["tests"], rows, strict=True):
        for other in rows:
            reply = reply_of(kind, layout, other)
            right = float(layout_.parse(spec, reply) == dict(row.outputs))
            cases.append([reply, case["assert"][0], right])
    script = """
        const [transform, cases] = JSON.parse(require('fs').readFileSync(0));
        const scored = cases.map(([reply, check]) => {
          const output = new Function('output', 'return ' + transform)(reply);
          if (check.type === 'equals') return Number(String(output) === check.value);
          return Number(new Function('output', 'return ' + check.value)(output));
        });
        console.log(JSON.stringify(scored));
    """
    given = json.dumps([suite["defaultTest"]["options"]["transform"], cases])
    done = subprocess.run(["node", "-e", script], input=given, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == [right for _, _, right in cases], done.stderr
    assert {right for _, _, right in cases} == {0.0, 1.0}


def test_promptfoo_refuses_a_program_of_several_prompts() -> None:
    """Promptfoo runs one prompt at a time, and the message says so."""
    program = ModuleProgram(Desk(), max_tokens=5)
    seed = program.seed("")
    with pytest.raises(ConfigError, match="several predictors"):
        export(replace(sample_view(1), best=seed), program, "promptfoo")


@pytest.mark.slow
def test_a_dspy_state_loads_in_a_fresh_process(tmp_path: Path) -> None:
    """A program in another process, which never saw the study, loads the state and sends the same messages."""
    candidate = candidate_of("label", "chat")
    (tmp_path / "state.json").write_text(exported("label", candidate, "dspy"))
    code = """
        import json, sys, dspy, optimizer
        from typing import Literal
        class Sort(dspy.Signature):
            note: str = dspy.InputField()
            answer: Literal['fruit', 'animal', 'tool'] = dspy.OutputField()
        program = dspy.Predict(Sort)
        program.load('state.json')
        adapter = optimizer.FormatAdapter('chat')
        rows = adapter.format(program.signature, program.demos, {'note': sys.argv[1]})
        print(json.dumps([[row['role'], row['content']] for row in rows]))
    """
    code = "\n".join(line.removeprefix("        ") for line in code.splitlines())
    run = [sys.executable, "-c", code, NOTES[2]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    sent = [tuple(row) for row in json.loads(done.stdout)]
    assert sent == list(program_of("label").messages(candidate, "answer", {"note": NOTES[2]}))


def with_demo(text: str) -> Candidate:
    demo = Demo(example_id="row-1", inputs={"message": text, "n": 4}, outputs={"team": "billing"})
    return Candidate(parts=(Part(predictor="answer", instructions="", demos=(demo,)),))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to ann.lee@shop.example or call", ["e-mail address"]),
        ("call +44 20 7946 0958 after six", ["phone number"]),
        ("my number: (415) 555-2671", ["phone number"]),
        ("pay to DE89 3704 0044 0532 0130 00 please", ["bank account"]),
        ("card 4111 1111 1111 1111 was charged", ["payment card"]),
        ("My name is Ada Byron and Mrs. Lee knows", ["name", "name"]),
        ("order 4111 1111 1111 1112 of 2026-11-02 at 17:33", []),
        ("invoice 20261102 over 1,234.56 for 12 lamps", []),
        ("the DE89 3704 0044 0532 0130 01 box", []),
    ],
)
def test_personal_data_in_examples_is_reported(text: str, kinds: list[str]) -> None:
    """Contacts, accounts and announced names are found with row and field; look-alikes without check digits are not."""
    found = personal_data(with_demo(text))
    assert sorted(one.kind for one in found) == sorted(kinds)
    assert all((one.example_id, one.field) == ("row-1", "message") for one in found)
    assert all(one.masked not in text for one in found)


def test_nothing_is_overwritten_or_written_elsewhere(tmp_path: Path) -> None:
    """A file that exists is kept without --force; a name that leads out of the folder is refused."""
    path = tmp_path / "prompt.txt"
    write_new(path, "one", is_forced=False)
    with pytest.raises(UserError, match="--force"):
        write_new(path, "two", is_forced=False)
    assert path.read_text() == "one"
    write_new(path, "two", is_forced=True)
    assert path.read_text() == "two"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["prompt.txt"]
    with pytest.raises(UserError, match="--force"):
        write_into(tmp_path, {"new.txt": "", "prompt.txt": ""}, is_forced=False)
    with pytest.raises(UserError, match="outside"):
        write_into(tmp_path / "folder", {"new.txt": "", "../other.txt": ""}, is_forced=False)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["folder", "prompt.txt"]


HEADERS = ("Zuständiges Team", "お問い合わせ", "سؤال العميل", "פניית הלקוח", "ग्राहक का संदेश", "§ !!", "2nd try", "class")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("header", HEADERS)
def test_headings_of_any_language_keep_their_letters_in_every_export(header: str, layout: str, tmp_path: Path) -> None:
    """Fields named after any heading pass DSPy, every layout and the reader of every format."""
    asked, answered = field_names([header, f"{header} 2"]).values()
    config = Config.model_validate(
        {
            "name": "task",
            "task": {"inputs": {asked: ""}, "outputs": {answered: {"kind": "label", "choices": ["ja", "nein"]}}},
            "data": {"source": "rows.jsonl"},
            "metric": "accuracy",
            "lm": {"task": {"model": "embedded", "max_tokens": 24}},
        }
    )
    program = TaskProgram(spec_of_task(config.task), max_tokens=24)
    row = Example(id="r", inputs={asked: "Wo ist {es}?"}, outputs={answered: "ja"})
    part = Part(predictor="answer", instructions=NASTY, demos=(Demo.from_example(row),))
    candidate = Candidate(parts=(part,), format=layout)
    view = replace(sample_view(1), config=config.model_dump(mode="json"), name="task", seed=candidate, best=candidate)
    messages = list(program.messages(candidate, "answer", row.inputs))
    words = header.casefold().split()
    if header[0].isalpha() and layout != "json":
        assert all(word in str(messages).casefold() for word in words)
    for format, client in CLIENTS.items():
        inputs = dict(row.inputs)
        if layout == "json" and format in ("langchain", "mlflow"):
            inputs = {asked: json.dumps(row.inputs[asked], ensure_ascii=False)}
        assert client(export(view, program, format), inputs) == messages
    module = loaded(export(view, program, "python"), tmp_path)
    assert module.messages_of("task", **row.inputs) == messages
    head = FORMATS[layout].head(program.specs["answer"], "x", (Demo.from_example(row),))
    reply = head[0].content.splitlines()[-1].partition(":")[2] if layout == "plain" else head[-1].content
    reply = reply or "ja"
    assert module.read("task", reply) == FORMATS[layout].parse(program.specs["answer"], reply) == {answered: "ja"}
    suite = yaml.safe_load(export(view, program, "promptfoo", rows=(row,)))
    assert by_promptfoo(suite, suite["tests"][0]) == messages
    state = tmp_path / "state.json"
    state.write_text(export(view, program, "dspy"), encoding="utf-8")
    program.module(candidate).load(str(state))


def test_every_format_has_a_test_of_its_bytes() -> None:
    """A format that is added must be given a reader here."""
    assert set(EXPORTERS) == {*CLIENTS, "python", "promptfoo", "dspy", "text", "markdown"}


def test_an_export_calls_the_server_of_its_study_and_no_other() -> None:
    """A prompt made for a server on this machine is not sent to OpenAI by the file or the suite that it becomes."""
    config = CONFIGS["label"].model_dump(mode="json")
    config["lm"]["task"] |= {"model": "openai/qwen", "api_base": "http://127.0.0.1:8377/v1"}
    view = replace(sample_view(1), config=config, name="task", best=candidate_of("label", "chat"))
    file = export(view, program_of("label"), "python")
    assert "http://127.0.0.1:8377/v1" in file
    assert "api.openai.com" not in file
    suite = yaml.safe_load(export(view, program_of("label"), "promptfoo", rows=rows_of("label")))
    assert suite["providers"][0]["config"]["apiBaseUrl"] == "http://127.0.0.1:8377/v1"
    config["lm"]["task"]["api_base"] = "http://10.1.2.3:8000/v1"  # where that is, is nobody's business
    view = replace(view, config=config)
    assert "api.openai.com" not in export(view, program_of("label"), "python")
    suite = yaml.safe_load(export(view, program_of("label"), "promptfoo", rows=rows_of("label")))
    assert suite["providers"][0]["config"]["apiBaseUrl"] == "https://name-your-server.invalid/v1"
    own = yaml.safe_load(exported("label", candidate_of("label", "plain"), "promptfoo"))
    assert own["providers"][0]["config"]["apiBaseUrl"].startswith("http://127.0.0.1:")


def test_the_file_of_a_model_in_this_program_asks_for_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent to OpenAI under a name that nobody there knows; no server, or one that is away, is an error of one
    clear line that the program around it can catch."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    module = loaded(exported("label", candidate_of("label", "chat"), "python"), tmp_path)
    assert "api.openai.com" not in Path(str(module.__file__)).read_text()
    with pytest.raises(ConnectionError, match=r"no server is known .* set OPENAI_BASE_URL to one"):
        module.task(note="x")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9/v1 does not answer"):
        module.task(note="x")


def test_the_file_asks_a_busy_server_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overloaded or broken server is tried four times; what it refuses for good is refused at once."""
    module = loaded(exported("label", candidate_of("label", "chat"), "python"), tmp_path)
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    waiting: list[Fault] = []

    def answer(body: object) -> Fault | str:
        del body
        return waiting.pop(0) if waiting else "reply"

    for faults, n_calls in (([error(500), rate_limited()], 3), ([error(503)] * 4, 4), ([error(400)], 1)):
        waiting[:] = faults
        with FakeServer(answer) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            if n_calls == 3:
                assert module.ask("task", note="x") == "reply"
            else:
                with pytest.raises(ConnectionError, match=f"{faults[0].status}: .*; OPENAI_BASE_URL says which"):
                    module.ask("task", note="x")
            assert len(server.calls) == n_calls


def test_the_study_name_becomes_a_name_for_code() -> None:
    """Whatever a study is called, the Python file compiles and has a function."""
    for name in ("2nd-try", "class", "a.b-c", "json"):
        settings = CONFIGS["label"].model_dump(mode="json")
        view = replace(sample_view(1), config=settings, name=name, best=candidate_of("label", "xml"))
        compile(export(view, program_of("label"), "python"), "prompt.py", "exec")


def test_the_page_of_a_model_that_reasons_names_what_is_sent() -> None:
    """Such models refuse a temperature and stop texts: the page for people has none either."""
    config = CONFIGS["label"].model_dump(mode="json")
    config["lm"]["task"]["model"] = "openai/gpt-5-mini"
    view = replace(sample_view(1), config=config, name="task", best=candidate_of("label", "plain"))
    page = export(view, program_of("label"), "markdown")
    assert "- at most 24 tokens\n" in page
    assert "temperature" not in page
