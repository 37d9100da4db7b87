"""Programs: the direct path and the DSPy path send the same bytes, and no error of a call is lost or paid twice."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import enum
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.candidate import Candidate, Demo, Fields, Part, Reasoning
from optimizer.config.keys import Config
from optimizer.errors import BudgetExhausted, CallError, Paused, ProgramError
from optimizer.lm.backend import CallRequest, Reply
from optimizer.lm.dspy_engine import as_dspy_lm, constraint_of, response_format
from optimizer.lm.quiet import quiet
from optimizer.prompts.adapter import (
    FormatAdapter,
    LaidOut,
    signature_of_spec,
    spec_of_signature,
    with_reasoning,
    worded,
)
from optimizer.prompts.formats import FORMATS, UnreadableReply, tidy
from optimizer.prompts.program import Answer, ModuleProgram, Program, Refused, TaskProgram
from optimizer.prompts.spec import Choice, FieldSpec, Json, Line, Message, Number, PromptSpec, Text
from optimizer.study.job import open_program

LAYOUTS = list(FORMATS)
REASONINGS: list[Reasoning] = ["predict", "chain_of_thought"]
SPEC = PromptSpec(
    inputs=(
        FieldSpec(name="message", label="Message", description="What the customer wrote"),
        FieldSpec(name="order_no", label="Order no"),
    ),
    outputs=(
        FieldSpec(name="team", label="Team", kind="label", choices=("billing", "returns", "lost parcel")),
        FieldSpec(name="facts", label="Facts", kind="json", keys=(("city", "where to"), ("name", ""))),
        FieldSpec(name="urgent", label="Urgent", kind="boolean", description="Whether it cannot wait."),
    ),
)
ONE_OUTPUT = replace(SPEC, outputs=SPEC.outputs[:1])
INPUTS: Fields = {"message": " Wo ist es?\n\nTeam: returns 🎁 שלום", "order_no": 17}
DEMOS = (
    Demo(
        example_id="a1",
        inputs={"message": "Paid twice\nTeam: ?", "order_no": 3},
        outputs={"team": "billing", "facts": {"city": "Zürich"}, "urgent": True},
        reasoning="  Money was taken twice.\n\nSo: billing.",
    ),
    Demo(
        example_id="b2",
        inputs={"message": "Torn box", "order_no": "4"},
        outputs={"team": "returns", "facts": {}, "urgent": False},
    ),
)
REPLIES = {
    "plain": " billing\nFacts: {}\nUrgent: yes",
    "chat": "Team: billing\nFacts: {}\nUrgent: yes",
    "json": '{"team": "billing", "facts": {}, "urgent": true}',
    "xml": "<team>billing</team><facts>{}</facts><urgent>yes</urgent>",
}


class Recorder:
    """A model that notes what it is asked and answers with one text, or with what a function makes of the request."""

    def __init__(self, reply: str | Callable[[CallRequest], str], *, finish_reason: str = "stop") -> None:
        self.requests: list[CallRequest] = []
        self._reply = reply
        self._finish_reason = finish_reason

    def __call__(self, request: CallRequest) -> Reply:
        self.requests.append(request)
        text = self._reply if isinstance(self._reply, str) else self._reply(request)
        return Reply(text=text, finish_reason=self._finish_reason, tokens_in=7, tokens_out=2)  # type: ignore[arg-type]


class Failing:
    """A model whose calls fail; counts them."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.n_calls = 0

    def __call__(self, request: CallRequest) -> Reply:
        del request
        self.n_calls += 1
        raise self.error


def candidate_of(
    format: str, reasoning: Reasoning = "predict", *, instructions: str = "Pick a team.", demos: tuple[Demo, ...] = ()
) -> Candidate:
    part = Part(predictor="answer", instructions=instructions, demos=demos)
    return Candidate(parts=(part,), format=format, reasoning=reasoning, temperature=0.3)


def asked_through_dspy(module: dspy.Module, inputs: Fields, reply: str, *, max_tokens: int = 50) -> list[CallRequest]:
    """Run a module on a recording model of ours and return what it was asked; an unreadable reply does not matter."""
    recorder = Recorder(reply)
    lm = as_dspy_lm(recorder, name="task", max_tokens=max_tokens)
    with dspy.context(lm=lm), contextlib.suppress(AdapterParseError):
        module(**inputs)
    return recorder.requests


# -- the single predictor -------------------------------------------------------------------------


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("reasoning", REASONINGS)
@pytest.mark.parametrize("spec", [SPEC, ONE_OUTPUT], ids=["three outputs", "one output"])
@pytest.mark.parametrize("demos", [(), DEMOS, DEMOS[1:]], ids=["no demos", "mixed demos", "demo without reasoning"])
@pytest.mark.parametrize("instructions", ["", "Pick a team.\n  - one only\n\n\tNo more. {x} 🎉"])
def test_direct_path_sends_what_dspy_sends(
    format: str, reasoning: Reasoning, spec: PromptSpec, demos: tuple[Demo, ...], instructions: str
) -> None:
    """Messages, stop, length, temperature and grammar agree to the byte, and DSPy adds no words of its own."""
    program = TaskProgram(spec, max_tokens=50)
    candidate = candidate_of(format, reasoning, instructions=instructions, demos=demos)
    direct = program.request(candidate, INPUTS)
    assert asked_through_dspy(program.apply(candidate), INPUTS, REPLIES[format]) == [direct]
    assert direct.messages == program.messages(candidate, "answer", INPUTS)
    text = "\n".join(message.content for message in direct.messages)
    assert "Given the fields" not in text
    assert ("No more. {x} 🎉" in text) == bool(instructions)
    assert ("Money was taken twice." in text) == (reasoning == "chain_of_thought" and demos == DEMOS)


@settings(max_examples=60)
@given(
    instructions=st.text(st.sampled_from(" \t\n\r\x0b\u3000ab-#{}\\\"'") | st.characters(codec="utf-8"), max_size=50)
)
def test_any_instructions_survive_dspy(instructions: str) -> None:
    """However often DSPy copies a signature, what is sent stays the same."""
    program = TaskProgram(ONE_OUTPUT, max_tokens=50)
    for reasoning in REASONINGS:
        candidate = candidate_of("plain", reasoning, instructions=instructions)
        sent = asked_through_dspy(program.apply(candidate), INPUTS, "billing")
        assert sent == [program.request(candidate, INPUTS)]
    signature = dspy.ChainOfThought(signature_of_spec(SPEC, instructions)).predict.signature
    copied = worded(signature, signature.instructions).append("more", dspy.OutputField())
    if instructions.strip():
        assert tidy(copied.instructions) == tidy(instructions)


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("reasoning", REASONINGS)
def test_direct_path_answers_what_dspy_answers(format: str, reasoning: Reasoning) -> None:
    """Both paths make the same answer of a reply."""
    program, candidate = TaskProgram(SPEC, max_tokens=50), candidate_of(format, reasoning)
    reply = {"plain": "It is late.\nTeam:" + REPLIES["plain"]}.get(format, REPLIES[format])
    answer = program.run(candidate, INPUTS, Recorder(reply))
    with dspy.context(lm=as_dspy_lm(Recorder(reply), name="task", max_tokens=50)):
        prediction = program.apply(candidate)(**INPUTS)
    assert answer.fields == {"team": "billing", "facts": {}, "urgent": True}
    assert {name: prediction[name] for name in answer.fields} == answer.fields
    assert answer.text == reply
    assert answer.reasoning == (prediction.reasoning if reasoning == "chain_of_thought" else None)


def test_reasoning_is_kept_beside_the_answer() -> None:
    """Reasoning is no output field: metrics do not see it, bootstrapping does."""
    program = TaskProgram(ONE_OUTPUT, max_tokens=50)
    answer = program.run(candidate_of("plain", "chain_of_thought"), INPUTS, Recorder(" It was torn.\nTeam: returns"))
    assert answer == Answer(fields={"team": "returns"}, text=" It was torn.\nTeam: returns", reasoning="It was torn.")


def test_unreadable_reply_tells_why() -> None:
    """The reason and the raw reply come with the error, and whether max_tokens cut it."""
    program = TaskProgram(ONE_OUTPUT, max_tokens=50)
    with pytest.raises(UnreadableReply, match="is none of billing") as caught:
        program.run(candidate_of("chat"), INPUTS, Recorder("sales"))
    assert caught.value.args[1] == "sales"
    with pytest.raises(UnreadableReply, match="cut at max_tokens"):
        program.run(candidate_of("chat"), INPUTS, Recorder("the", finish_reason="length"))


def test_task_calls_once_whatever_comes_back() -> None:
    """An unreadable reply is paid once."""
    recorder = Recorder("sales")
    with pytest.raises(UnreadableReply):
        TaskProgram(SPEC, max_tokens=50).run(candidate_of("json"), INPUTS, recorder)
    assert len(recorder.requests) == 1


def test_filtered_reply_is_a_refusal() -> None:
    """What the provider filtered is refused, even where the text could be read."""
    with pytest.raises(Refused, match="billing"):
        TaskProgram(ONE_OUTPUT, max_tokens=9).run(
            candidate_of("chat"), INPUTS, Recorder("billing", finish_reason="filtered")
        )


@pytest.mark.parametrize("name", ["signature", "config", "reasoning", "instance", "fields", "_private"])
def test_names_that_dspy_needs_are_refused(name: str) -> None:
    """A field that DSPy could not take is refused at the start, with the way out."""
    spec = replace(SPEC, inputs=(FieldSpec(name=name, label=name),))
    with pytest.raises(ProgramError, match=rf"'{name}' cannot be the name of a field.*data\.fields"):
        TaskProgram(spec, max_tokens=9)


@pytest.mark.parametrize("name", ["class", "base", "items", "history", "stop", "prediction", "model", "args", "größe"])
def test_other_names_work_on_both_paths(name: str) -> None:
    """Names that Python or DSPy use elsewhere are fine as fields."""
    for spec in (
        replace(ONE_OUTPUT, inputs=(FieldSpec(name=name, label=name),)),
        replace(SPEC, outputs=(FieldSpec(name=name, label=name), *SPEC.outputs[:1])),
    ):
        program = TaskProgram(spec, max_tokens=50)
        outputs: Fields = {field.name: "billing" for field in spec.outputs}
        inputs: Fields = {field.name: "an input" for field in spec.inputs}
        demos = (Demo(example_id="a", inputs={field.name: "shown" for field in spec.inputs}, outputs=outputs),)
        candidate = candidate_of("xml", demos=demos)
        assert asked_through_dspy(program.apply(candidate), inputs, "?") == [program.request(candidate, inputs)]


# -- saving and other DSPy users ------------------------------------------------------------------


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("reasoning", REASONINGS)
def test_saved_module_sends_the_same(format: str, reasoning: Reasoning, tmp_path: Path) -> None:
    """A state loaded into a fresh module of the same layout and reasoning sends the same messages."""
    program = TaskProgram(SPEC, max_tokens=50)
    candidate = candidate_of(format, reasoning, instructions="A\n\n   b:\n     - c\n", demos=DEMOS)
    program.apply(candidate).save(tmp_path / "best.json")
    fresh = program.apply(candidate_of(format, reasoning, instructions="other"))
    fresh.load(tmp_path / "best.json")
    sent = asked_through_dspy(fresh, INPUTS, REPLIES[format])
    assert sent == [program.request(candidate, INPUTS)]


def test_saved_state_does_not_hold_layout_and_temperature(tmp_path: Path) -> None:
    """What a DSPy state cannot hold stays as the fresh module has it; an export has to carry it."""
    program = TaskProgram(SPEC, max_tokens=50)
    program.apply(candidate_of("chat")).save(tmp_path / "best.json")
    kept = json.loads((tmp_path / "best.json").read_text())
    assert not {"layout", "format", "temperature", "inner"} & kept.keys()
    fresh = program.apply(replace(candidate_of("xml", instructions=""), temperature=1.0))
    fresh.load(tmp_path / "best.json")
    expected = program.request(replace(candidate_of("xml"), temperature=1.0), INPUTS)
    assert asked_through_dspy(fresh, INPUTS, REPLIES["xml"]) == [expected]


@pytest.mark.parametrize("reasoning", REASONINGS)
def test_plain_dspy_users_can_take_the_state(reasoning: Reasoning, tmp_path: Path) -> None:
    """`module` gives what stock DSPy loads: its own ChatAdapter shows the instructions and demonstrations."""
    program = TaskProgram(SPEC, max_tokens=50)
    candidate = candidate_of("plain", reasoning, instructions="Pick a team for it.", demos=DEMOS)
    program.module(candidate).save(tmp_path / "best.json")

    class Sort(dspy.Signature):
        """Old words."""

        message: str = dspy.InputField()
        order_no: str = dspy.InputField()
        team: Literal["billing", "returns", "lost parcel"] = dspy.OutputField()
        facts: dict[str, str] = dspy.OutputField()
        urgent: bool = dspy.OutputField()

    stock = dspy.ChainOfThought(Sort) if reasoning == "chain_of_thought" else dspy.Predict(Sort)
    stock.load(tmp_path / "best.json")
    sections = {"reasoning": "r", "team": "billing", "facts": '{"city": "Bern"}', "urgent": "true", "completed": ""}
    reply = "\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in sections.items())
    recorder = Recorder(reply)
    with dspy.context(lm=as_dspy_lm(recorder, name="task", max_tokens=50), adapter=dspy.ChatAdapter()):
        prediction = stock(**INPUTS)
    assert (prediction.team, prediction.facts, prediction.urgent) == ("billing", {"city": "Bern"}, True)
    text = "\n".join(message.content for message in recorder.requests[0].messages)
    assert "Pick a team for it." in text
    assert "Old words" not in text
    assert "Zürich" in text
    assert '"city" (where to)' in text, "keys of an object reach adapters that do not know our specs"
    assert ("Money was taken twice." in text) == (reasoning == "chain_of_thought")


def test_adapter_serves_any_program() -> None:
    """`FormatAdapter` works by itself, with the fields that a signature can hold."""
    recorder = Recorder("billing")
    signature = dspy.Signature("message -> team: Literal['billing', 'returns']", "Pick a team.")
    with dspy.context(lm=as_dspy_lm(recorder, name="x", max_tokens=5), adapter=FormatAdapter("chat")):
        assert dspy.Predict(signature)(message="Paid twice").team == "billing"
    assert recorder.requests[0] == CallRequest(
        messages=(
            Message("system", "Pick a team.\n\nReply with one of billing, returns and nothing else."),
            Message("user", "Message: Paid twice"),
        ),
        max_tokens=5,
        constraint=(Choice(("billing", "returns")),),
    )


def test_grammar_goes_to_our_models_only() -> None:
    """Another model behind DSPy gets stop texts, but no grammar that it could not read."""
    seen: list[dict[str, Any]] = []

    class Foreign(dspy.BaseLM):
        def __call__(self, prompt: object = None, *, messages: object = None, **kwargs: Any) -> list[str]:
            del prompt, messages
            seen.append(kwargs)
            return [" billing\nFacts: {}\nUrgent: no"]

    module = TaskProgram(SPEC, max_tokens=50).apply(candidate_of("plain"))
    with dspy.context(lm=Foreign("other/model")):
        assert module(**INPUTS).team == "billing"
    assert seen == [{"temperature": 0.3, "stop": ["\n\n", "\nMessage:"]}]


def test_constraint_survives_the_way_through_dspy() -> None:
    """Every piece of a constraint comes back as it went in; a plain JSON schema becomes one piece."""
    constraint = (Text(' "\n'), Choice(("a", "é 🎉")), Line(), Number(), Json('{"type":"object"}'))
    sent = response_format(constraint)["json_schema"]
    assert constraint_of(sent) == constraint
    assert constraint_of(None) == ()
    schema = {"type": "object", "properties": {"thought": {}, "answer": {}}}
    (plain,) = constraint_of({"type": "json_schema", "json_schema": {"schema": schema}})
    assert isinstance(plain, Json)
    assert list(json.loads(plain.schema)["properties"]) == ["thought", "answer"]


def test_async_calls_keep_the_layout() -> None:
    """`acall` renders, stops and reads as the synchronous call does."""
    seen: list[dict[str, Any]] = []

    class Foreign(dspy.BaseLM):
        async def acall(self, prompt: object = None, *, messages: object = None, **kwargs: Any) -> list[str]:
            del prompt
            seen.append({"messages": messages, **kwargs})
            return [" returns"]

    program, candidate = TaskProgram(ONE_OUTPUT, max_tokens=50), candidate_of("plain", demos=DEMOS[1:])

    async def ask() -> Any:
        with dspy.context(lm=Foreign("other/model")):
            return await program.apply(candidate).acall(**INPUTS)

    assert asyncio.run(ask()).team == "returns"
    request = program.request(candidate, INPUTS)
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    assert seen == [{"messages": messages, "stop": list(request.stop), "temperature": 0.3}]


# -- modules --------------------------------------------------------------------------------------


class Facts(dspy.Signature):
    """Find what matters.

    Names and dates only.
    """

    message: str = dspy.InputField()
    order_no: int = dspy.InputField()
    facts: str = dspy.OutputField(desc="Short facts")


class TwoSteps(dspy.Module):
    """Finds facts, then picks a team and thinks about it."""

    def __init__(self) -> None:
        super().__init__()
        self.find = dspy.Predict(Facts)
        self.pick = dspy.ChainOfThought("facts, order_no -> team: Literal['billing', 'returns'], amount: float")

    def forward(self, message: str, order_no: int) -> dspy.Prediction:
        facts = self.find(message=message, order_no=order_no).facts
        return self.pick(facts=facts, order_no=order_no)


FIND, PICK = "find", "pick.predict"
STEP_REPLIES = {
    "plain": ("Facts: torn box", " The box is torn.\nTeam: returns\nAmount: 3"),
    "chat": ("Facts: torn box", "Reasoning: The box is torn.\nTeam: returns\nAmount: 3"),
    "json": ('{"facts": "torn box"}', '{"reasoning": "The box is torn.", "team": "returns", "amount": 3}'),
    "xml": (
        "<facts>torn box</facts>",
        "<reasoning>The box is torn.</reasoning><team>returns</team><amount>3</amount>",
    ),
}


def two_step_model(format: str) -> Recorder:
    """Answer the first predictor's question and then the second's, told apart by the fields that are asked for."""
    return Recorder(lambda request: STEP_REPLIES[format]["torn box" in request.messages[-1].content])


def two_step_candidate(format: str, *, reasoning: Reasoning = "predict") -> Candidate:
    find = Demo(example_id="a1", inputs={"message": "Paid 2 times", "order_no": 1}, outputs={"facts": "double"})
    pick = Demo(
        example_id="a1",
        inputs={"facts": "double", "order_no": 1},
        outputs={"team": "billing", "amount": 2.0},
        reasoning="Money.",
    )
    parts = (
        Part(predictor=FIND, instructions="List the facts.", demos=(find,)),
        Part(predictor=PICK, instructions="", demos=(pick, replace(pick, reasoning=None))),
    )
    return Candidate(parts=parts, format=format, reasoning=reasoning, temperature=0.5)


def test_seed_of_a_module_is_its_own_words() -> None:
    """Each predictor has a part; given instructions replace the first one's."""
    program: Program = ModuleProgram(TwoSteps(), max_tokens=50)
    seed = program.seed("")
    assert [part.predictor for part in seed.parts] == [FIND, PICK]
    assert seed.parts[0].instructions == "Find what matters.\n\nNames and dates only."
    assert seed.parts[1].instructions == "Given the fields `facts`, `order_no`, produce the fields `team`, `amount`."
    assert program.seed("My words").parts[0].instructions == "My words"
    assert program.seed("My words").parts[1] == seed.parts[1]
    assert [field.name for field in program.specs[PICK].outputs] == ["team", "amount"]
    assert [field.kind for field in program.specs[PICK].outputs] == ["label", "number"]


@pytest.mark.parametrize("format", LAYOUTS)
def test_module_runs_step_by_step(format: str) -> None:
    """`run` answers with the last prediction, its reasoning beside it, and leaves the user's module as it was."""
    module, recorder = TwoSteps(), two_step_model(format)
    answer = ModuleProgram(module, max_tokens=50).run(
        two_step_candidate(format), {"message": "Hi", "order_no": 9}, recorder
    )
    assert answer == Answer(
        fields={"team": "returns", "amount": 3.0}, text=STEP_REPLIES[format][1], reasoning="The box is torn."
    )
    assert len(recorder.requests) == 2
    assert module.find.demos == []
    assert module.find.signature.instructions.startswith("Find what matters.")


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("reasoning", REASONINGS)
def test_module_messages_are_what_is_sent(format: str, reasoning: Reasoning) -> None:
    """`messages` foretells every predictor's prompt; `apply` sends the same requests as `run`."""
    program, candidate = ModuleProgram(TwoSteps(), max_tokens=50), two_step_candidate(format, reasoning=reasoning)
    inputs: Fields = {"message": "Hi\nFacts: none", "order_no": 9}
    recorder, again = two_step_model(format), two_step_model(format)
    program.run(candidate, inputs, recorder)
    with dspy.context(lm=as_dspy_lm(again, name="task", max_tokens=50, temperature=0.5)):
        program.apply(candidate)(**inputs)
    assert again.requests == recorder.requests
    first, second = recorder.requests
    assert first.messages == program.messages(candidate, FIND, inputs)
    assert second.messages == program.messages(candidate, PICK, {"facts": "torn box", "order_no": 9})
    assert {(r.temperature, r.max_tokens) for r in recorder.requests} == {(0.5, 50)}
    assert "Given the fields" not in str(recorder.requests)
    assert str(second.messages).count("Money.") == 1, "one of two demonstrations has reasoning"


def test_reasoning_is_added_to_predictors_that_have_none() -> None:
    """`predict` leaves a module as written; `chain_of_thought` lets every predictor think, once."""
    program = ModuleProgram(TwoSteps(), max_tokens=50)
    asked: dict[str, list[int]] = {}
    for reasoning in REASONINGS:
        candidate = two_step_candidate("json", reasoning=reasoning)
        inputs: dict[str, Fields] = {FIND: {"message": "x", "order_no": 1}, PICK: {"facts": "x", "order_no": 1}}
        contracts = [program.messages(candidate, name, inputs[name])[0].content for name in (FIND, PICK)]
        asked[reasoning] = [contract.count('"reasoning"') for contract in contracts]
    assert asked == {"predict": [0, 1], "chain_of_thought": [1, 1]}


def test_input_called_reasoning_is_an_input() -> None:
    """A later step may take the earlier step's reasoning; it is shown, and no second field of that name is added."""
    program = ModuleProgram(dspy.Predict("reasoning, order_no -> team"), max_tokens=50)
    demo = Demo(example_id="a", inputs={"reasoning": "SHOWN", "order_no": 1}, outputs={"team": "x"}, reasoning="HIDDEN")
    part = Part(predictor="self", instructions="Pick.", demos=(demo,))
    candidate = Candidate(parts=(part,), format="chat", reasoning="chain_of_thought")
    text = str(program.messages(candidate, "self", {"reasoning": "NOW", "order_no": 2}))
    assert ("SHOWN" in text, "NOW" in text, "HIDDEN" in text) == (True, True, False)


def test_module_keeps_its_own_demonstrations_and_settings() -> None:
    """A compiled module is its own seed: its demonstrations stay until a candidate brings others."""
    module = TwoSteps()
    module.find.demos = [dspy.Example(message="Lost", order_no=5, facts="OWN FACTS", augmented=True)]
    module.find.config = {"temperature": 0.9, "max_tokens": 11}
    module._compiled = True
    program = ModuleProgram(module, max_tokens=50)
    seed, recorder = program.seed(""), two_step_model("chat")
    program.run(seed, {"message": "Hi", "order_no": 9}, recorder)
    assert "OWN FACTS" in str(recorder.requests[0].messages)
    assert [(r.temperature, r.max_tokens) for r in recorder.requests] == [(0.9, 11), (0.0, 50)]
    assert "OWN FACTS" not in str(program.messages(two_step_candidate("chat"), FIND, {"message": "Hi", "order_no": 9}))
    assert len(program.apply(seed).dump_state()) == 2, "a compiled module can be saved again"


def test_saved_two_step_module_sends_the_same(tmp_path: Path) -> None:
    """States of modules with several predictors survive saving, bound to a layout or not; what is bound is asked at the
    temperature that was searched with, whatever the LM's own is."""
    program, candidate = ModuleProgram(TwoSteps(), max_tokens=50), two_step_candidate("chat")
    program.apply(candidate).save(tmp_path / "bound.json")
    program.module(candidate).save(tmp_path / "plain.json")
    agrees = replace(program.seed(""), temperature=candidate.temperature)
    bound, plain = program.apply(agrees), TwoSteps()
    bound.load(tmp_path / "bound.json")
    plain.load(tmp_path / "plain.json")
    recorders = [two_step_model("chat") for _ in range(3)]
    program.run(candidate, {"message": "Hi", "order_no": 9}, recorders[0])
    laid_out = LaidOut(plain, FormatAdapter("chat"))
    for module, recorder, temperature in ((bound, recorders[1], 0.9), (laid_out, recorders[2], candidate.temperature)):
        with dspy.context(lm=as_dspy_lm(recorder, name="task", max_tokens=50, temperature=temperature)):
            module(message="Hi", order_no=9)
    assert recorders[1].requests == recorders[0].requests
    assert recorders[2].requests == recorders[0].requests


@pytest.mark.parametrize("format", LAYOUTS)
def test_agents_run_in_every_layout(format: str) -> None:
    """`dspy.ReAct`, which shows its steps through the adapter, calls its tool and answers."""

    def weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"sunny in {city}"

    steps: list[dict[str, object]] = [
        {"next_thought": "look it up", "next_tool_name": "weather", "next_tool_args": {"city": "Bern"}},
        {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "the tool said so", "answer": "sunny"},
    ]
    replies = iter(written(format, step) for step in steps)
    recorder = Recorder(lambda _: next(replies))
    program = ModuleProgram(dspy.ReAct("question -> answer", tools=[weather]), max_tokens=50)
    answer = program.run(replace(program.seed(""), format=format), {"question": "Is it sunny in Bern?"}, recorder)
    assert (answer.fields["answer"], answer.reasoning) == ("sunny", "the tool said so")
    shown = {
        "json": '\\"observation_0\\": \\"sunny in Bern\\"',
        "xml": "<observation_0>sunny in Bern</observation_0>",
    }
    assert shown.get(format, "Observation 0: sunny in Bern") in recorder.requests[1].messages[-1].content


def written(format: str, values: Mapping[str, object]) -> str:
    """Write a reply in the form of a layout."""
    if format == "json":
        return json.dumps(values)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    if format == "xml":
        return "".join(f"<{name}>{text}</{name}>" for name, text in texts.items())
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def test_further_draws_are_further_calls() -> None:
    """`dspy.BestOfN` draws anew: its requests differ in their sample, so a journalled reply does not stand for all."""
    recorder = Recorder("billing")
    best = dspy.BestOfN(dspy.Predict("message -> team"), N=3, reward_fn=lambda *_: 0.0, threshold=1.0)
    program = ModuleProgram(best, max_tokens=50)
    assert program.run(program.seed(""), {"message": "x"}, recorder).fields == {"team": "billing"}
    assert [(request.sample, request.temperature) for request in recorder.requests] == [(0, 1.0), (1, 1.0), (2, 1.0)]


class Mood(enum.Enum):
    CALM = "calm"
    ANGRY = "angry"


class Item(pydantic.BaseModel):
    name: str
    count: int = 1


class Typed(dspy.Signature):
    """Read the order."""

    notes: list[str] = dspy.InputField()
    item: Item = dspy.InputField()
    items: list[Item] = dspy.OutputField()
    mood: Mood = dspy.OutputField()
    stars: Literal[1, 2, 3] = dspy.OutputField()
    due: datetime.date | None = dspy.OutputField()
    total: int = dspy.OutputField()


TYPED_REPLIES = {
    "chat": 'Items: [{"name": "cup", "count": 2}]\nMood: Angry\nStars: 3\nTotal: 12',
    "plain": ' [{"name": "cup", "count": 2}]\nMood: Angry\nStars: 3\nDue: "2026-02-03"\nTotal: 12',
    "json": '{"items": [{"name": "cup", "count": 2}], "mood": "angry", "stars": 3, "total": 12}',
    "xml": '<items>[{"name": "cup", "count": 2}]</items><mood>angry</mood><stars>3</stars><total>12</total>',
}


@pytest.mark.parametrize("format", LAYOUTS)
def test_types_of_a_signature_hold(format: str) -> None:
    """A module's code gets the types that it declared; the answer is plain JSON; optional fields may be missing."""
    got: list[dspy.Prediction] = []

    class Reader(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = dspy.Predict(Typed)

        def forward(self, **inputs: Any) -> dspy.Prediction:
            got.append(self.read(item=Item(name="pot"), **inputs))
            return got[0]

    recorder = Recorder(TYPED_REPLIES[format])
    program = ModuleProgram(Reader(), max_tokens=50)
    answer = program.run(replace(program.seed(""), format=format), {"notes": ["a", "b"]}, recorder)
    assert got[0]["items"] == [Item(name="cup", count=2)]
    assert (got[0].mood, got[0].stars, got[0].total) == (Mood.ANGRY, 3, 12)
    due = "2026-02-03" if format == "plain" else None
    assert answer.fields == {
        "items": [{"name": "cup", "count": 2}],
        "mood": "angry",
        "stars": 3,
        "due": due,
        "total": 12,
    }
    assert '"count": 1' in recorder.requests[0].messages[-1].content.replace('\\"', '"')


def test_value_of_another_type_is_unreadable() -> None:
    """A reply that does not fit a declared type is an unreadable reply, not a fault of the user's code."""
    program = ModuleProgram(dspy.Predict("message -> tags: list[int]"), max_tokens=50)
    with pytest.raises(UnreadableReply, match="'tags' is not of its type") as caught:
        program.run(program.seed(""), {"message": "x"}, Recorder('["a"]'))
    assert caught.value.args[1] == '["a"]'


@pytest.mark.parametrize("format", LAYOUTS)
def test_unreadable_step_is_paid_once(format: str) -> None:
    """DSPy asks no second time in another format when a reply cannot be read."""
    recorder = Recorder("", finish_reason="length") if format == "plain" else Recorder("sales")
    program = ModuleProgram(dspy.Predict("message -> team: Literal['billing', 'returns']"), max_tokens=50)
    with pytest.raises(UnreadableReply) as caught:
        program.run(replace(program.seed(""), format=format), {"message": "x"}, recorder)
    assert len(recorder.requests) == 1
    assert "\n" not in caught.value.args[0]
    assert caught.value.args[1] == ("" if format == "plain" else "sales")
    assert ("cut at max_tokens" in caught.value.args[0]) == (format == "plain")


class Careless(dspy.Module):
    """User code that catches everything and goes on with a guess."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("message -> team")

    def forward(self, message: str) -> dspy.Prediction:
        try:
            return self.ask(message=message)
        except Exception:
            return dspy.Prediction(team="guess")


@pytest.mark.parametrize("module", [TwoSteps, Careless], ids=["open", "swallowing"])
@pytest.mark.parametrize(
    "error",
    [
        CallError("server", "all tries failed"),
        Paused("user", "told to stop"),
        BudgetExhausted("no calls left"),
        OSError("disk full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failed_call_comes_through_unchanged(module: Callable[[], dspy.Module], error: Exception) -> None:
    """The very error that a call raised arrives, even if the user's code caught it, and nothing is tried again."""
    program, model = ModuleProgram(module(), max_tokens=50), Failing(error)
    inputs: Fields = {"message": "x", "order_no": 1} if module is TwoSteps else {"message": "x"}
    with pytest.raises(type(error)) as caught:
        program.run(program.seed(""), inputs, model)
    assert caught.value is error
    assert model.n_calls == 1
    with pytest.raises(type(error)) as caught:
        TaskProgram(SPEC, max_tokens=50).run(candidate_of("chat"), INPUTS, model)
    assert caught.value is error


@pytest.mark.parametrize("module", [TwoSteps, Careless], ids=["open", "swallowing"])
def test_filtered_step_is_a_refusal(module: Callable[[], dspy.Module]) -> None:
    """A filtered reply in any step refuses the whole answer."""
    program = ModuleProgram(module(), max_tokens=50)
    inputs: Fields = {"message": "x", "order_no": 1} if module is TwoSteps else {"message": "x"}
    recorder = Recorder("I will not", finish_reason="filtered")
    with pytest.raises(Refused, match="I will not"):
        program.run(program.seed(""), inputs, recorder)
    assert len(recorder.requests) == 1


def test_faults_of_the_users_code_are_named() -> None:
    """An exception in `forward`, wrong inputs and a wrong result are the user's to mend: type and message are shown."""

    class Broken(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("message -> team")

        def forward(self, message: str) -> object:
            if message == "raise":
                raise KeyError("no such column")
            return {"text": "team", "nothing": None}[message]

    program = ModuleProgram(Broken(), max_tokens=50)
    for inputs, match in (
        ({"message": "raise"}, r"task\.program: KeyError: 'no such column'"),
        ({"wrong": "x"}, "task.program: TypeError: .*wrong"),
        ({"message": "text"}, "forward returned 'str'"),
        ({"message": "nothing"}, "forward returned 'NoneType'"),
    ):
        with pytest.raises(ProgramError, match=match):
            program.run(program.seed(""), inputs, Recorder("x"))


def test_modules_that_cannot_be_optimized_are_refused() -> None:
    """No predictor, a predictor with a model of its own, and fields that are no text are refused at the start."""
    with pytest.raises(ProgramError, match="no predictor"):
        ModuleProgram(dspy.Module(), max_tokens=9)
    own = dspy.Predict("message -> team")
    own.lm = as_dspy_lm(Recorder("x"), name="elsewhere", max_tokens=9)
    with pytest.raises(ProgramError, match="'self' has a model of its own, 'optimizer/elsewhere'"):
        ModuleProgram(own, max_tokens=9)
    seeing = dspy.Signature({"photo": (list[dspy.Image], dspy.InputField()), "team": (str, dspy.OutputField())}, "See.")
    with pytest.raises(ProgramError, match="'photo' of predictor 'self'"):
        ModuleProgram(dspy.Predict(seeing), max_tokens=9)


def test_fingerprint_changes_with_what_answers_depend_on() -> None:
    """Other words, settings, demonstrations or code make another program; an equal one does not."""

    class Other(TwoSteps):
        def forward(self, message: str, order_no: int) -> dspy.Prediction:
            return super().forward(message=message, order_no=order_no + 1)

    def changed(*changes: Callable[[TwoSteps], object]) -> str:
        module = TwoSteps()
        for change in changes:
            change(module)
        return ModuleProgram(module, max_tokens=9).fingerprint

    prints = [
        changed(),
        changed(lambda module: module.find.demos.append(dspy.Example(message="a", facts="b"))),
        changed(lambda module: module.find.update_config(temperature=1.0)),
        changed(lambda module: setattr(module.find, "signature", worded(module.find.signature, "New words"))),
        ModuleProgram(Other(), max_tokens=9).fingerprint,
    ]
    assert len(set(prints)) == 5
    assert prints[0] == changed()


def test_threads_do_not_mix_candidates() -> None:
    """Eight threads with eight candidates at once each send their own prompt and read their own reply."""
    n_threads = 8
    together = threading.Barrier(n_threads, timeout=20)
    task, module = TaskProgram(ONE_OUTPUT, max_tokens=50), ModuleProgram(TwoSteps(), max_tokens=50)

    def run(i: int) -> list[tuple[Fields, str]]:
        format = LAYOUTS[i % len(LAYOUTS)]
        candidate = two_step_candidate(format).with_instructions(FIND, f"Words of thread {i}.")
        model = two_step_model(format)

        def waiting(request: CallRequest) -> Reply:
            together.wait()
            return model(request)

        answer = module.run(candidate, {"message": f"m{i}", "order_no": i}, waiting)
        single = Recorder({"json": '{"team": "billing"}', "xml": "<team>billing</team>"}.get(format, "billing"))
        direct = task.run(candidate_of(format, instructions=f"Direct {i}."), INPUTS, single)
        return [
            (answer.fields, model.requests[0].messages[0].content),
            (direct.fields, single.requests[0].messages[0].content),
        ]

    with ThreadPoolExecutor(n_threads) as pool:
        results = list(pool.map(run, range(n_threads)))
    for i, ((fields, prompt), (direct_fields, direct_prompt)) in enumerate(results):
        assert fields == {"team": "returns", "amount": 3.0}
        assert prompt.startswith(f"Words of thread {i}.")
        assert direct_fields == {"team": "billing"}
        assert direct_prompt.startswith(f"Direct {i}.")


def test_signature_and_spec_agree() -> None:
    """Field specs survive the way into a signature and back, but for what a signature cannot hold."""
    spec = with_reasoning(ONE_OUTPUT)
    assert spec_of_signature(dspy.ChainOfThought(signature_of_spec(ONE_OUTPUT, "x")).predict.signature) == spec
    found: Mapping[str, FieldSpec] = {
        field.name: field for field in spec_of_signature(signature_of_spec(SPEC, "x")).outputs
    }
    assert found["facts"].keys == ()
    assert found["urgent"] == SPEC.outputs[2]


def test_replies_that_were_cut_are_no_flood_of_warnings() -> None:
    """DSPy warns of each reply that was cut off; the calls of a study do not, a user's own still do."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    cut = Reply(text="[[ ## b ## ]]\nx\n\n[[ ## completed ## ]]", finish_reason="length", tokens_in=3, tokens_out=4)
    lm = as_dspy_lm(lambda _: cut, name="cut", max_tokens=4)
    (logger := logging.getLogger("dspy.clients.lm")).addHandler(handler)
    try:
        with quiet(lm=lm):
            dspy.Predict("a -> b")(a="1")
        assert told == []
        with dspy.context(lm=lm):
            dspy.Predict("a -> b")(a="2")
        assert any("truncated" in line for line in told)
    finally:
        logger.removeHandler(handler)


BROKEN = """
import dspy

class Step(dspy.Module):
    def __init__(self):
        super().__init__()
        self.say = dspy.Predict("note -> team")

    def forward(self, note):
        return {"red": 1}[note]

class Pack(dspy.Signature):
    note: str = dspy.InputField()
    team: str = dspy.OutputField()
"""


def test_a_mistake_in_a_users_program_is_named_with_its_line(tmp_path: Path) -> None:
    """What `forward` raises has file and line; a signature is no module, and one line says how to make it one."""
    (tmp_path / "broken_steps.py").write_text(BROKEN)
    base = {"name": "steps", "data": {"source": "rows.jsonl"}, "metric": "accuracy"}
    task: dict[str, object] = {"inputs": {"note": ""}, "outputs": {"team": ""}}
    config = Config.model_validate({**base, "task": task | {"program": "broken_steps:Step"}})
    program = open_program(config, folder=tmp_path)
    with pytest.raises(ProgramError, match=r"task.program: KeyError: 'x' \(broken_steps.py line 10\)"):
        program.run(program.seed(""), {"note": "x"}, lambda _: pytest.fail("nothing is asked"))
    config = Config.model_validate({**base, "task": task | {"program": "broken_steps:Pack"}})
    with pytest.raises(ProgramError, match=r"'broken_steps:Pack' is a signature, .*program = dspy.Predict\(Pack\)"):
        open_program(config, folder=tmp_path)
