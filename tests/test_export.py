"""Exports: one contract for all formats, and a client that knows nothing of this package sends the very same bytes."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import dspy
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.candidate import Candidate, Demo, Fields, JsonValue, Part, Reasoning
from optimizer.config.keys import Config
from optimizer.errors import ConfigError, ProgramError
from optimizer.export import EXPORTERS, ExportFormat, export, export_format
from optimizer.export.dspy_state import needs
from optimizer.export.markdown import code
from optimizer.lm.backend import CallRequest, Reply
from optimizer.lm.dspy_engine import as_dspy_lm
from optimizer.prompts.adapter import FormatAdapter
from optimizer.prompts.formats import FORMATS, Plain
from optimizer.prompts.program import ModuleProgram, Program, TaskProgram
from optimizer.prompts.render import render
from optimizer.prompts.spec import FieldSpec, Message, PromptSpec
from optimizer.records import DevEstimate, Outcome, Recipe, Spend, StudyView, TrialRecord, Verdict
from tests.sample_study import PROGRAM as SAMPLE_PROGRAM
from tests.sample_study import sample_view

ROOT = Path(__file__).parent.parent
LAYOUTS = tuple(FORMATS)
PROGRAMS = ("task", "desk")
WORDS = ("demos", "no demos", "empty")
DATA_FORMATS: tuple[ExportFormat, ...] = ("chat-json", "yaml")

SPEC = PromptSpec(
    inputs=(
        FieldSpec(name="message", label="Message", description="What the customer wrote: any language"),
        FieldSpec(name="order_no", label="Order no"),
    ),
    outputs=(
        FieldSpec(name="team", label="Team", kind="label", choices=("billing", "returns", "lost parcel")),
        FieldSpec(name="urgent", label="Urgent", kind="boolean", description="Whether it cannot wait."),
    ),
)
NASTY = 'Say {team}, never {message} or {message_1}.\n```\n"quoted" \\n inputslot0000 {{x}}\n```\n小包 مرحبا 🎁'
DEMO = Demo(
    example_id="row-7",
    inputs={"message": 'Use {order_no} and "{message}" `here` 🎁', "order_no": 17},
    outputs={"team": "billing", "urgent": True},
    reasoning="Paid twice: {message}.",
)
PLAIN_DEMO = Demo(
    example_id="row-12",
    inputs={"message": "小包はどこ? مرحبا", "order_no": None},
    outputs={"team": "lost parcel", "urgent": False},
)
INPUTS: Sequence[Fields] = (
    {"message": "Where is {order_no}? {message}\n\nTeam: returns", "order_no": "{message}"},
    {"message": ' "\\" \t<b>&amp;</b> 🎁 مرحبا ', "order_no": 17},
    {"message": "", "order_no": None},
    {"message": True, "order_no": 3.0},
    {"message": ["é", {"a": None}], "order_no": -0.25},
)


class Route(dspy.Signature):
    """The user's own words."""

    message: str = dspy.InputField()
    order_no: str = dspy.InputField()
    team: Literal["billing", "returns", "lost parcel"] = dspy.OutputField()
    urgent: bool = dspy.OutputField()


class Desk(dspy.Module):
    """Two predictors with different inputs; the second reasons if it is made so."""

    def __init__(self, *, second: Any = dspy.ChainOfThought) -> None:
        super().__init__()
        self.topic = dspy.Predict(dspy.Signature("message -> topic", "Name the topic."))
        self.steps = [second(Route)]

    def forward(self, message: str, order_no: str) -> Any:
        topic = self.topic(message=message).topic
        return self.steps[0](message=topic, order_no=order_no)


def own_program(program: str, reasoning: str) -> dspy.Module:
    """What a user has who never saw this package."""
    if program == "desk":
        return Desk()
    return dspy.ChainOfThought(Route) if reasoning == "chain_of_thought" else dspy.Predict(Route)


def make_program(name: str) -> Program:
    return ModuleProgram(Desk(), max_tokens=50) if name == "desk" else TaskProgram(SPEC, max_tokens=50)


def make_candidate(program: Program, layout: str, words: str, reasoning: Reasoning = "predict") -> Candidate:
    first, *rest = program.specs
    instructions = "" if words == "empty" else NASTY
    demos = (DEMO, PLAIN_DEMO) if words == "demos" else ()
    last = Part(predictor=rest[-1] if rest else first, instructions=instructions, demos=demos)
    parts = (Part(predictor=first, instructions="Find {topic} in {message}."), last) if rest else (last,)
    return Candidate(parts=parts, format=layout, reasoning=reasoning, temperature=0.5)


def config(**lm: JsonValue) -> Fields:
    return Config.model_validate(
        {
            "name": "mail-routing",
            "task": {
                "goal": "Send each message to the team that can answer it.",
                "inputs": {"message": None, "order_no": None},
                "outputs": {"team": None, "urgent": None},
            },
            "data": {"source": "/srv/private/mail.csv"},
            "metric": "accuracy",
            "lm": {"task": {"model": "openai/gpt-4.1-mini", "max_tokens": 50, **lm}},
            "storage": "postgresql+psycopg://me:hunter2@db.example/runs",
        }
    ).model_dump(mode="json")


def make_view(best: Candidate, seed: Candidate | None = None, **changes: Any) -> StudyView:
    outcomes = tuple(Outcome(example_id=f"d{i}", kind="scored", score=float(i < 4)) for i in range(5))
    failed = Outcome(example_id="d5", kind="failed", error="no answer")
    seed = seed or best.with_instructions(best.parts[0].predictor, "Where should this go?")
    trial = TrialRecord(
        number=3, recipe=Recipe(operator="rewrite"), state="pruned", candidate=seed, outcomes=(*outcomes, failed)
    )
    view = StudyView(
        name="mail-routing",
        state="finished",
        stop_reason="trials",
        config=config(),
        facts={"platform": "Linux-9.9", "fingerprints": {"/srv/private/mail.csv": "0a1b"}},
        seed=seed,
        best=best,
        trials=(trial,),
        dev=DevEstimate(n=15, seed=0.5, winner=0.625, low=0.55, high=0.7, raw=0.65, n_seed=8, n_winner=13),
        verdict=Verdict(
            decision="promote",
            reason="The new prompt is better.",
            n=40,
            seed_score=0.55,
            winner_score=0.7,
            difference=0.15,
            low=0.03,
            high=0.27,
            p_value=0.012,
            test_name="exact McNemar",
            confidence=0.95,
        ),
        spend=Spend(),
        wall_s=61.0,
    )
    return replace(view, **changes)


def exported(program: Program, candidate: Candidate, format: ExportFormat) -> str:
    return export(make_view(candidate), program, format)


def read(text: str, format: ExportFormat) -> dict[str, Any]:
    """Read a data format with a stock parser, and return the predictors' objects by name."""
    data = json.loads(text) if format == "chat-json" else yaml.safe_load(text)
    assert isinstance(data, dict)
    return data.get("predictors") or {"": data}


def filled(prompt: Mapping[str, Any], inputs: Fields) -> list[tuple[str, str]]:
    """The whole of a plain client: what a reader of the file would write, with nothing of this package."""

    def as_said(value: Any) -> str:
        if isinstance(value, bool) or value is None:
            return {True: "yes", False: "no", None: ""}[value]
        if isinstance(value, float) and value == int(value):
            return str(int(value))
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    write: Mapping[str, Callable[[Any], str]] = {
        "text": as_said,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
    }
    values = {slot["placeholder"]: write[slot["encoding"]](inputs[slot["name"]]) for slot in prompt["inputs"]}
    pattern = "|".join(map(re.escape, values))
    return [
        (row["role"], re.sub(pattern, lambda found: values[found[0]], row["content"])) for row in prompt["messages"]
    ]


def of_predictor(program: Program, predictor: str, inputs: Fields) -> Fields:
    return {field.name: inputs[field.name] for field in program.specs[predictor].inputs}


def assert_same_bytes(program: Program, candidate: Candidate, rows: Sequence[Fields]) -> None:
    for format in DATA_FORMATS:
        prompts = read(exported(program, candidate, format), format)
        for inputs, (predictor, prompt) in product(rows, zip(program.specs, prompts.values(), strict=True)):
            asked = of_predictor(program, predictor, inputs)
            assert filled(prompt, asked) == list(program.messages(candidate, predictor, asked))


cases = pytest.mark.parametrize(("name", "layout", "words"), list(product(PROGRAMS, LAYOUTS, WORDS)))


@cases
@pytest.mark.parametrize("format", EXPORTERS)
def test_every_export_is_one_readable_text_without_paths_and_secrets(
    name: str, layout: str, words: str, format: ExportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every format writes each script as it is and ends its last line, and tells nothing of machine or accounts."""
    monkeypatch.setenv("MAIL_API_KEY", "sk-verysecret")
    if (name, format) == ("desk", "promptfoo"):
        pytest.skip("promptfoo runs one prompt; that it says so is tested below")
    settings = config(model="gguf:/srv/private/model.gguf", api_base="http://10.1.2.3:8000", api_key_env="MAIL_API_KEY")
    program = make_program(name)
    candidate = make_candidate(program, layout, words)
    text = export(make_view(candidate, config=settings), program, format)
    assert text.endswith("\n")
    text.encode()
    for script in ("小包", "مرحبا", "🎁") if words != "empty" else ():
        assert script in text
    for hidden in ("/srv", "private", "10.1.2.3", "sk-", "MAIL_API_KEY", "hunter2", "Linux-9.9", str(ROOT)):
        assert hidden not in text


@cases
@pytest.mark.parametrize("reasoning", get_args(Reasoning))
def test_a_plain_client_sends_the_same_bytes(name: str, layout: str, words: str, reasoning: Reasoning) -> None:
    """JSON and YAML hold all that is needed to send exactly the messages of the program."""
    program = make_program(name)
    candidate = make_candidate(program, layout, words, reasoning)
    assert_same_bytes(program, candidate, INPUTS)


@cases
def test_yaml_and_json_say_the_same(name: str, layout: str, words: str) -> None:
    """The two data formats hold equal values."""
    program = make_program(name)
    candidate = make_candidate(program, layout, words)
    assert yaml.safe_load(exported(program, candidate, "yaml")) == json.loads(exported(program, candidate, "chat-json"))


@cases
def test_the_page_shows_the_same_messages_in_fences(name: str, layout: str, words: str) -> None:
    """The fences of the Markdown page hold each message byte for byte, backticks and all."""
    program = make_program(name)
    candidate = make_candidate(program, layout, words)
    page = exported(program, candidate, "markdown")
    blocks = re.findall(r"^(`{3,})text\n(.*?)\n\1$", page, re.DOTALL | re.MULTILINE)
    prompts = read(exported(program, candidate, "chat-json"), "chat-json").values()
    messages = [row["content"] for prompt in prompts for row in prompt["messages"]]
    assert [text for _, text in blocks] == messages
    assert all(fence not in text for fence, text in blocks)
    for prompt in prompts:
        for slot in prompt["inputs"]:
            assert f"`{slot['placeholder']}`: the input `{slot['name']}`, as {slot['encoding']}" in page


@cases
def test_text_is_the_prompt_as_it_is_shown_everywhere(name: str, layout: str, words: str) -> None:
    """The text format is what displays show of a candidate, and a line end."""
    program = make_program(name)
    candidate = make_candidate(program, layout, words)
    assert exported(program, candidate, "text") == render(program, candidate) + "\n"


_BRACES = [
    "{message}",
    "{message_1}",
    "{order_no}",
    "{",
    "}",
    "{{",
    "inputslot",
    "inputslotx0000",
    "inputslot0001",
    "0",
]
_SPACES = ["\n", "\n\n", " ", "  ", "\t", "\r", "\x85", "\u2028", "\ufeff", "\x00"]
_MARKS = ["```", "`", '"', "'", "\\", "\\n", "<message>", "</message>", ": ", "# ", "- ", "| ", "---", "%", "null", "~"]
_pieces = st.sampled_from([*_BRACES, *_SPACES, *_MARKS, "🎁", "小包", "مرحبا", "1e3"])
_texts = st.lists(_pieces | st.text(max_size=4), max_size=8).map("".join)
_values = _texts | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_inputs = st.fixed_dictionaries({"message": _values | st.lists(_texts, max_size=2), "order_no": _values})


@st.composite
def _candidates(draw: st.DrawFn) -> Candidate:
    labels = st.fixed_dictionaries({"team": st.sampled_from(SPEC.outputs[0].choices), "urgent": st.booleans()})
    demo = st.builds(Demo, example_id=_texts, inputs=_inputs, outputs=labels, reasoning=st.none() | _texts)
    part = Part(predictor="answer", instructions=draw(_texts), demos=tuple(draw(st.lists(demo, max_size=2))))
    layout, reasoning = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(get_args(Reasoning)))
    return Candidate(parts=(part,), format=layout, reasoning=reasoning)


@settings(max_examples=60)
@given(candidate=_candidates(), inputs=_inputs)
def test_no_text_breaks_the_filling(candidate: Candidate, inputs: Fields) -> None:
    """Whatever instructions, demonstrations and inputs say, a plain client sends the program's messages."""
    assert_same_bytes(make_program("task"), candidate, [inputs])


@settings(max_examples=60)
@given(text=_texts)
def test_code_in_a_line_is_delimited(text: str) -> None:
    """Inline code ends where its mark stands again, and nowhere before."""
    shown = code(text)
    mark = re.match("`+", shown)
    assert mark is not None
    assert "\n" not in shown
    assert [run for run in re.findall("`+", shown) if run == mark[0]] == [mark[0], mark[0]] or not text.split()


def test_placeholders_are_the_names_where_these_are_free() -> None:
    """An input `x` is `{x}` in the file, or a numbered name that is no other input's where the prompt says `{x}`."""
    fields = tuple(FieldSpec(name=name, label=name.title()) for name in ("note", "note_1", "day"))
    program = TaskProgram(PromptSpec(inputs=fields, outputs=SPEC.outputs), max_tokens=5)
    said = Candidate(parts=(Part(predictor="answer", instructions="Copy {note} and {note_2}."),))
    for instructions, expected in (("Copy.", "note note_1 day"), (said.parts[0].instructions, "note_3 note_1 day")):
        prompt = read(exported(program, said.with_instructions("answer", instructions), "chat-json"), "chat-json")[""]
        assert [slot["placeholder"] for slot in prompt["inputs"]] == [f"{{{name}}}" for name in expected.split()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_file_says_how_to_fill(layout: str) -> None:
    """Every encoding that an input needs is explained in the file, and no other."""
    program = make_program("task")
    data = json.loads(exported(program, make_candidate(program, layout, "demos"), "chat-json"))
    assert {slot["encoding"] for slot in data["inputs"]} == {"json" if layout == "json" else "text"}
    assert set(data["fill"]["encodings"]) == {slot["encoding"] for slot in data["inputs"]}
    assert "one pass" in data["fill"]["how"]


def test_roles_and_settings_are_those_of_the_call() -> None:
    """Roles, stop texts, temperature and length are those that the program itself sends."""
    program = TaskProgram(SPEC, max_tokens=50)
    for layout, reasoning in product(LAYOUTS, get_args(Reasoning)):
        candidate = make_candidate(program, layout, "demos", reasoning)
        request = program.request(candidate, INPUTS[0])
        data = json.loads(exported(program, candidate, "chat-json"))
        assert [row["role"] for row in data["messages"]] == [message.role for message in request.messages]
        assert (data["stop"], data["temperature"]) == (list(request.stop), request.temperature)
        assert data["max_tokens"] == request.max_tokens
        reasons = ["reasoning"] if reasoning == "chain_of_thought" else []
        assert [field["name"] for field in data["outputs"]] == [*reasons, "team", "urgent"]


def test_settings_of_the_users_own_predictors_win() -> None:
    """A predictor's own temperature, length and stop texts are exported, and its own demonstrations are told of."""
    module = Desk()
    module.topic.config = {"temperature": 0.25, "max_tokens": 7, "stop": "END", "n": None}
    module.topic.demos = [dspy.Example(message="Lost!", topic="parcel")]
    program = ModuleProgram(module, max_tokens=50)
    candidate = make_candidate(program, "chat", "no demos")
    first, second = read(exported(program, candidate, "chat-json"), "chat-json").values()
    assert (first["temperature"], first["max_tokens"], first["stop"]) == (0.25, 7, ["END"])
    assert (second["temperature"], second["max_tokens"], second["stop"]) == (0.5, 50, [])
    assert "1 that came with the program" in exported(program, candidate, "markdown")


def test_outputs_tell_what_they_may_hold() -> None:
    """Choices and keys of the output fields are in the file; what does not apply to a kind is left out."""
    facts = FieldSpec(name="facts", label="Facts", kind="json", keys=(("city", "where to"),))
    program = TaskProgram(replace(SPEC, outputs=(*SPEC.outputs, facts)), max_tokens=50)
    data = json.loads(exported(program, make_candidate(program, "json", "no demos"), "chat-json"))
    team, urgent, found = data["outputs"]
    assert team["choices"] == ["billing", "returns", "lost parcel"]
    assert urgent == {"name": "urgent", "label": "Urgent", "kind": "boolean", "description": "Whether it cannot wait."}
    assert found["keys"] == {"city": "where to"}


@pytest.mark.parametrize("format", DATA_FORMATS)
def test_scores_say_which_rows_they_are_of(format: ExportFormat) -> None:
    """The best candidate has its verdict, the seed its test score, another its dev score over the rows that it has."""
    program = make_program("task")
    best = make_candidate(program, "chat", "demos")
    view = make_view(best)
    other = best.with_instructions("answer", "Another way to put it.")
    trial = replace(view.trials[0], candidate=other)
    view = replace(view, trials=(*view.trials, trial))
    ours, seeds, others = (
        read(export(view, program, format, candidate), format)[""] for candidate in (None, view.seed, other)
    )
    assert ours["verdict"]["decision"] == "promote"
    test = {"score": 0.7, "n": 40, "seed_score": 0.55, "difference": 0.15, "low": 0.03, "high": 0.27}
    assert ours["scores"]["test"].items() >= test.items()
    dev = {"score": 0.625, "n": 13, "low": 0.55, "high": 0.7, "seed_score": 0.5, "seed_n": 8}
    assert ours["scores"]["dev"] == dev
    assert seeds["verdict"] is None
    assert seeds["scores"] == {"test": {"score": 0.55, "n": 40}, "dev": {"score": 0.8, "n": 5}}
    assert others["scores"] == {"test": None, "dev": {"score": 0.8, "n": 5}}


def test_another_candidate_is_not_sold_as_the_best() -> None:
    """The page of a candidate that is not the best has no verdict, and says so."""
    program = make_program("task")
    view = make_view(make_candidate(program, "plain", "demos"))
    best, seed = (export(view, program, "markdown", candidate) for candidate in (None, view.seed))
    assert "**Verdict: promote.** The new prompt is better." in best
    assert "Where should this go?" in seed
    assert "70.0%" in best
    assert "70.0%" not in seed
    assert "- Test, 40 rows that the search never saw: 55.0%" in seed
    assert "not the one that it recommends" in seed
    assert "Verdict" not in seed


def test_the_page_has_everything_that_a_reader_needs() -> None:
    """The Markdown page has goal, scores with rows and interval, demonstrations by row, model and settings."""
    program = make_program("task")
    page = exported(program, make_candidate(program, "plain", "demos"), "markdown")
    for said in (
        "# Prompt of the study mail-routing",
        "Send each message to the team that can answer it.",
        "Test, 40 rows that the search never saw: 70.0%",
        "difference +15.0 points (95% interval +3.0 to +27.0, p = 0.012, exact McNemar)",
        "Dev, 13 rows that the search chose on: 62.5% (55.0% to 70.0%",
        "- row `row-7`\n- row `row-12`",
        "- model: `openai/gpt-4.1-mini`",
        '- temperature 0.5, at most 50 tokens, stop: `"\\n\\n"`, `"\\nMessage:"`',
        "- layout: plain, predict",
    ):
        assert said in page


@pytest.mark.parametrize("format", EXPORTERS)
def test_an_unfinished_study_can_be_exported(format: ExportFormat) -> None:
    """Without verdict, estimate and finite scores every format still works."""
    program = make_program("task")
    best = make_candidate(program, "chat", "demos")
    view = make_view(best, verdict=None, dev=None, trials=(), state="paused")
    assert export(view, program, format)
    broken = replace(make_view(best), dev=DevEstimate(n=3, seed=math.nan, winner=0.5, low=0.1, high=math.inf, raw=0.5))
    assert export(broken, program, format)
    if format in DATA_FORMATS:
        assert read(export(view, program, format), format)[""]["scores"] == {"test": None, "dev": None}
        dev = read(export(broken, program, format), format)[""]["scores"]["dev"]
        assert dev == {"score": 0.5, "n": 3, "low": 0.1, "high": None, "seed_score": None, "seed_n": None}


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("gguf:/srv/models/small.gguf", "gguf:small.gguf"),
        ("gguf:C:\\models\\small.gguf", "gguf:small.gguf"),
        ("gguf:hub:owner/repo/small.gguf", "gguf:hub:owner/repo/small.gguf"),
        ("openai/gpt-4.1-mini", "openai/gpt-4.1-mini"),
    ],
)
def test_a_local_model_is_named_without_its_folder(model: str, shown: str) -> None:
    """Of a model file the export tells the name, not the place."""
    program = make_program("task")
    view = make_view(make_candidate(program, "plain", "no demos"), config=config(model=model))
    assert json.loads(export(view, program, "chat-json"))["model"] == shown


@pytest.mark.parametrize("word", ["1e3", "0o17", "yes", "null", "~", "1:30", "2026-11-21", "=", "0x1F", "#a", "- a"])
def test_yaml_texts_are_quoted_where_another_version_would_read_a_number(word: str) -> None:
    """A text that some YAML version takes for something else stands in quotes."""
    program = make_program("task")
    candidate = make_candidate(program, "plain", "no demos")
    view = make_view(candidate, config={**config(), "task": {"goal": word}})
    text = export(view, program, "yaml")
    assert yaml.safe_load(text)["goal"] == word
    assert re.search(r"^goal: (.*)$", text, re.MULTILINE)[1] == f"'{word}'"  # type: ignore[index]


def test_long_texts_are_blocks_in_yaml() -> None:
    """A prompt of several lines is readable in the YAML file: one line a line, nothing escaped."""
    program = make_program("task")
    text = exported(program, make_candidate(program, "chat", "no demos"), "yaml")
    assert "  content: |-\n    Say {team}, never {message} or {message_1}.\n    ```\n" in text
    assert "\n    小包 مرحبا 🎁\n" in text


@pytest.mark.parametrize(
    "odd", ["\x85", "\u2028", "\u2029", "\ufeff", "\r", "\t", "\x00", "\x7f", " \n", "\n ", "\U0010ffff"]
)
@pytest.mark.parametrize("pattern", ["{}", "x{}y", "{}\nx", "x\n{}", "x\n{}\ny" + 90 * "z"])
def test_odd_characters_survive_yaml(odd: str, pattern: str) -> None:
    """A character that YAML treats in a way of its own comes back as it was, wherever it stands."""
    program = make_program("task")
    demo = replace(DEMO, inputs={"message": pattern.format(odd), "order_no": 1})
    candidate = make_candidate(program, "chat", "no demos").with_demos("answer", [demo])
    assert_same_bytes(program, candidate, INPUTS[:1])


# -- dspy


def recorded(program: dspy.Module, layout: str, inputs: Mapping[str, Fields]) -> list[list[Message]]:
    """Return what a program's predictors send under the layout's adapter."""
    sent: list[list[Message]] = []

    def complete(request: CallRequest) -> Reply:
        sent.append(list(request.messages))
        raise ConnectionError("only asked for its request")

    lm = as_dspy_lm(complete, name="recorder", max_tokens=50)
    for name, predictor in program.named_predictors():
        with dspy.context(lm=lm, adapter=FormatAdapter(layout)), pytest.raises(Exception, match="only asked"):
            predictor(**inputs[name])
    return sent


def load_and_record(jobs_file: str) -> None:
    """The other process: load each state into a program of the user's own and print what it sends."""
    sent = []
    for job in json.loads(Path(jobs_file).read_text(encoding="utf-8")):
        program = own_program(job["program"], job["reasoning"])
        program.load(job["path"])
        sent.append(recorded(program, job["layout"], job["inputs"]))
    print(json.dumps(sent))


def test_dspy_state_loads_into_a_fresh_process(tmp_path: Path) -> None:
    """The user's own program sends the candidate's messages after `load`, for every layout, in another process."""
    jobs: list[dict[str, Any]] = []
    expected: list[list[list[list[str]]]] = []
    for name, layout, words, reasoning in product(PROGRAMS, LAYOUTS, WORDS, get_args(Reasoning)):
        if reasoning == "chain_of_thought" and name == "desk":
            continue  # not the program that the user has; see the next test
        program = make_program(name)
        candidate = make_candidate(program, layout, words, reasoning)
        path = tmp_path / f"{len(jobs)}.json"
        path.write_text(exported(program, candidate, "dspy"), encoding="utf-8")
        own = [predictor for predictor, _ in own_program(name, reasoning).named_predictors()]
        asked = {predictor: of_predictor(program, predictor, INPUTS[0]) for predictor in program.specs}
        inputs = dict(zip(own, asked.values(), strict=True))
        job = {"program": name, "reasoning": reasoning, "layout": layout, "path": str(path), "inputs": inputs}
        jobs.append(job)
        messages = [program.messages(candidate, predictor, fields) for predictor, fields in asked.items()]
        expected.append([[list(message) for message in sent] for sent in messages])
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    script = "import sys; from tests.test_export import load_and_record; load_and_record(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "jobs.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    assert "mismatch" not in done.stderr


def test_added_reasoning_never_gets_lost_on_loading(tmp_path: Path) -> None:
    """A state of predictors that were made to reason loads where they do so, and is refused where they do not."""
    program = make_program("desk")
    candidate = make_candidate(program, "xml", "demos", "chain_of_thought")
    path = tmp_path / "state.json"
    path.write_text(exported(program, candidate, "dspy"), encoding="utf-8")
    with pytest.raises(KeyError, match="topic"):
        Desk().load(path)
    reasoning = Desk()
    reasoning.topic = dspy.ChainOfThought("message -> topic")
    reasoning.load(path)
    names = [name for name, _ in reasoning.named_predictors()]
    inputs = {name: of_predictor(program, old, INPUTS[1]) for name, old in zip(names, program.specs, strict=True)}
    asked = zip(program.specs, inputs.values(), strict=True)
    expected = [list(program.messages(candidate, predictor, given)) for predictor, given in asked]
    assert recorded(reasoning, "xml", inputs) == expected
    notes = json.loads(path.read_text(encoding="utf-8"))["metadata"]["optimizer"]
    assert notes["chain_of_thought"] == ["topic"]


@settings(max_examples=40)
@given(candidate=_candidates(), inputs=_inputs)
def test_no_text_breaks_the_dspy_state(
    candidate: Candidate, inputs: Fields, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever instructions and demonstrations say, a loaded program sends the program's messages."""
    path = tmp_path_factory.getbasetemp() / "state.json"
    program = make_program("task")
    path.write_text(exported(program, candidate, "dspy"), encoding="utf-8")
    own = own_program("task", candidate.reasoning)
    own.load(path)
    asked = own.predictors()[0]
    rows = FormatAdapter(candidate.format).format(asked.signature, asked.demos, inputs)
    assert [(row["role"], row["content"]) for row in rows] == list(program.messages(candidate, "answer", inputs))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("reasoning", get_args(Reasoning))
def test_dspy_state_is_what_dspy_saves_itself(name: str, reasoning: Reasoning, tmp_path: Path) -> None:
    """The state has the predictors and versions that `save` writes, and neither model nor traces."""
    program = make_program(name)
    candidate = make_candidate(program, "chat", "demos", reasoning)
    state = json.loads(exported(program, candidate, "dspy"))
    program.module(candidate).save(tmp_path / "own.json")
    own = json.loads((tmp_path / "own.json").read_text(encoding="utf-8"))
    del state["metadata"]["optimizer"]
    if name == "desk" and reasoning == "chain_of_thought":
        own["topic.predict"] = own.pop("topic")
    assert state == own


def test_dspy_state_holds_no_leftovers_of_the_module() -> None:
    """Rows and traces that an earlier compilation left in the user's module are not exported."""
    module = Desk()
    module.topic.train = [{"message": "a private row"}]
    module.topic.traces = [{"message": "a private trace"}]
    program = ModuleProgram(module, max_tokens=50)
    text = exported(program, make_candidate(program, "chat", "demos"), "dspy")
    assert "private" not in text
    assert json.loads(text)["topic"]["lm"] is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dspy_state_says_when_the_adapter_needs_the_fields(layout: str) -> None:
    """Where the configuration says more than a signature can hold, the notes tell to give the adapter the fields."""
    facts = FieldSpec(name="facts", label="Facts", kind="json", keys=(("city", "where to"),))
    for spec, needs_spec in ((SPEC, False), (replace(SPEC, outputs=(facts,)), layout != "plain")):
        program = TaskProgram(spec, max_tokens=50)
        candidate = make_candidate(program, layout, "no demos")
        notes = json.loads(exported(program, candidate, "dspy"))["metadata"]["optimizer"]
        assert ("spec=" in notes["how"]) == needs_spec
        assert (notes["layout"], notes["temperature"]) == (layout, 0.5)


# -- the table


def test_the_formats_are_one_table() -> None:
    """Every named format has its function, and `export_format` knows each of them."""
    assert get_args(ExportFormat) == tuple(EXPORTERS)
    assert [export_format(name) for name in EXPORTERS] == list(EXPORTERS)


def test_an_unknown_format_is_one_line_with_the_known_ones() -> None:
    """A misspelt format is a configuration error that names the nearest one and all of them."""
    with pytest.raises(
        ConfigError, match=r"'markdwon'.* Did you mean 'markdown'\?.*text, markdown, chat-json"
    ) as error:
        export_format("markdwon")
    assert "\n" not in str(error.value)


def test_a_layout_that_no_client_could_repeat_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that is written in an unknown way stops the export instead of giving other bytes."""

    class Shouting(Plain):
        def messages(self, spec: PromptSpec, head: tuple[Message, ...], inputs: Fields) -> tuple[Message, ...]:
            return super().messages(spec, head, {**inputs, "message": str(inputs["message"]).upper()})

    program = make_program("task")
    candidate = make_candidate(program, "plain", "demos")
    monkeypatch.setitem(FORMATS, "plain", Shouting())
    with pytest.raises(ProgramError, match="'message'"):
        exported(program, candidate, "chat-json")


def test_a_page_says_why_it_holds_rows_that_mlflow_does_not_show() -> None:
    """`tracking.rows: ids` hides rows in views; a prompt works with its examples, and the page says so."""
    view = sample_view()
    shown = next(trial.candidate for trial in view.trials if trial.candidate and trial.candidate.n_demos)
    hidden = replace(view, config={**view.config, "tracking": {"rows": "ids"}})
    assert "The prompt holds the text of these rows" in export(hidden, SAMPLE_PROGRAM, "markdown", shown)
    assert "The prompt holds the text" not in export(view, SAMPLE_PROGRAM, "markdown", shown)
    assert "The prompt holds the text" not in export(hidden, SAMPLE_PROGRAM, "markdown", view.seed)


def test_what_a_program_needs_besides_the_state_is_said() -> None:
    """Reasoning that the search added keeps the state from loading: predictor and layout to change are named."""
    program = make_program("task")
    (layout,) = needs(program, make_candidate(program, "plain", "demos"))
    assert layout.startswith("a state holds no layout; set it with dspy.configure(adapter=optimizer.FormatAdapter(")
    reasoned = needs(program, make_candidate(program, "plain", "demos", "chain_of_thought"))
    assert "make your predictor a dspy.ChainOfThought" in reasoned[0]
