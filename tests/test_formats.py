"""Prompt layouts and how replies are read: one contract for all layouts, then the dress that models put answers in."""
# ruff: noqa: RUF001 - models write typographic quotes, minus signs and colons

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.candidate import Demo, Fields, JsonValue
from optimizer.config.keys import FORMATS as CONFIG_FORMATS
from optimizer.config.keys import OutputKind
from optimizer.lm.grammar import gbnf, only_json, replies
from optimizer.prompts.adapter import with_reasoning
from optimizer.prompts.formats import FORMATS, UnreadableReply, json_schema, tidy
from optimizer.prompts.kinds import read_value
from optimizer.prompts.spec import Choice, Constraint, FieldSpec, Json, Line, Message, Number, PromptSpec, Text

MESSAGE = FieldSpec(name="message", label="Message")
CONTEXT = FieldSpec(name="order_no", label="Order no")
TEAM = FieldSpec(name="team", label="Team", kind="label", choices=("billing", "returns", "lost parcel"))
OUTPUTS: Mapping[OutputKind, FieldSpec] = {
    "label": TEAM,
    "text": FieldSpec(name="summary", label="Summary"),
    "number": FieldSpec(name="amount_eur", label="Amount eur", kind="number"),
    "boolean": FieldSpec(name="urgent", label="Urgent", kind="boolean", description="Whether it cannot wait."),
    "json": FieldSpec(name="facts", label="Facts", kind="json", keys=(("name", "who"), ("city", ""))),
}
VALUES: Mapping[OutputKind, tuple[JsonValue, ...]] = {
    "label": ("billing", "lost parcel"),
    "text": (
        "Wants money back: 12 EUR, *now*.",
        "Two lines.\nSecond: the parcel",
        "مرحبا، أين طردي؟",
        "名前 🎉 <b>{x}</b>",
        "__init__",
    ),
    "number": (0, -3, 12.5, 1e-07, 1234567890123456789, 1e22, -0.001),
    "boolean": (True, False),
    "json": ({"name": "Zoë 🎁", "city": "New\nYork"}, {}, {"name": "x", "n": [1, {"team": "returns"}], "b": None}),
}
LAYOUTS = list(FORMATS)
INPUTS: Fields = {"message": "Hi,\nTeam: returns\nReasoning: none\n\nwhere is it? 🙂", "order_no": "7"}


def spec_of(*kinds: OutputKind, reasons: bool = False) -> PromptSpec:
    spec = PromptSpec(inputs=(MESSAGE, CONTEXT), outputs=tuple(OUTPUTS[kind] for kind in kinds))
    return with_reasoning(spec) if reasons else spec


def label_spec(*choices: str) -> PromptSpec:
    field = FieldSpec(name="team", label="Team", kind="label", choices=choices)
    return PromptSpec(inputs=(MESSAGE,), outputs=(field,))


def shown_reply(format: str, spec: PromptSpec, demo: Demo) -> str:
    """Return the reply that a demonstration shows, cut where the layout stops a reply."""
    layout = FORMATS[format]
    head = layout.head(spec, "Sort the message.", [demo])
    if format != "plain":
        return head[-1].content
    query = layout.messages(spec, layout.head(spec, "Sort the message.", []), demo.inputs)[0].content
    assert head[0].content.startswith(query), "a demonstration begins as the question does"
    reply = head[0].content.removeprefix(query)
    return min((reply.partition(stop)[0] for stop in layout.stop(spec)), key=len)


def demo_of(outputs: Fields, reasoning: str | None = None) -> Demo:
    return Demo(example_id="a1", inputs=INPUTS, outputs=outputs, reasoning=reasoning)


def test_configuration_offers_every_layout() -> None:
    """The names that a configuration allows are the layouts that exist."""
    assert tuple(FORMATS) == CONFIG_FORMATS
    assert [layout.name for layout in FORMATS.values()] == LAYOUTS


# -- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("reasons", [False, True], ids=["predict", "chain_of_thought"])
def test_shown_answer_reads_back(format: str, kind: OutputKind, reasons: bool) -> None:
    """A reply written the way a demonstration shows it gives the demonstration's values."""
    spec = spec_of(kind, reasons=reasons)
    name = OUTPUTS[kind].name
    thought = "It names a date: May 3.\nSo it is late." if reasons else None
    for value in VALUES[kind]:
        reply = shown_reply(format, spec, demo_of({name: value}, thought))
        assert FORMATS[format].parse(spec, reply) == ({"reasoning": thought} if reasons else {}) | {name: value}


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("kinds", list(itertools.permutations(OUTPUTS, 3)), ids="-".join)
@pytest.mark.parametrize("reasons", [False, True], ids=["predict", "chain_of_thought"])
def test_shown_answers_read_back_together(format: str, kinds: tuple[OutputKind, ...], reasons: bool) -> None:
    """Several outputs in any order keep their values apart."""
    spec = spec_of(*kinds, reasons=reasons)
    for i in range(5):
        outputs = {OUTPUTS[kind].name: VALUES[kind][i % len(VALUES[kind])] for kind in kinds}
        reply = shown_reply(format, spec, demo_of(outputs, "Short: yes" if reasons else None))
        found = FORMATS[format].parse(spec, reply)
        assert found.pop("reasoning", None) == ("Short: yes" if reasons else None)
        assert found == outputs


@pytest.mark.parametrize("format", LAYOUTS)
def test_demonstration_without_reasoning_reads_back(format: str) -> None:
    """Under chain of thought a labelled row without reasoning is shown, and read, without it."""
    spec = spec_of("label", "boolean", reasons=True)
    outputs: Fields = {"team": "returns", "urgent": False}
    demo = demo_of(outputs)
    if format == "plain":
        block = FORMATS[format].head(spec, "", [demo])[0].content
        assert block.endswith("\nTeam: returns\nUrgent: no\n\n")
        reply = block[block.rindex("Team:") :].strip()
    else:
        reply = shown_reply(format, spec, demo)
    assert "easoning" not in reply
    assert FORMATS[format].parse(spec, reply) == outputs


@pytest.mark.parametrize("format", LAYOUTS)
def test_reasoning_is_not_shown_without_chain_of_thought(format: str) -> None:
    """A demonstration's reasoning stays out of a prompt that asks for none, and is in the one that does."""
    demo = demo_of({"team": "returns"}, "SECRET THOUGHT")
    said = {
        reasons: str(FORMATS[format].head(spec_of("label", reasons=reasons), "", [demo])) for reasons in (False, True)
    }
    assert "SECRET THOUGHT" not in said[False]
    assert said[True].count("SECRET THOUGHT") == 1


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_missing_field_is_unreadable(format: str, kind: OutputKind) -> None:
    """A reply without one of the fields, or with nothing in it, is no answer, and the error names the field."""
    other: OutputKind = "boolean" if kind != "boolean" else "label"
    spec = spec_of(other, kind)
    reply = shown_reply(format, spec, demo_of({OUTPUTS[other].name: VALUES[other][0]}))
    with pytest.raises(UnreadableReply, match=OUTPUTS[kind].name):
        FORMATS[format].parse(spec, reply)
    for empty in ("", " \n", "{}", "<team></team>"):
        with pytest.raises(UnreadableReply):
            FORMATS[format].parse(spec, empty)


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "wrong"), [("label", "sales"), ("label", "billing or returns"), ("number", "many"), ("boolean", "perhaps")]
)
def test_wrong_value_is_unreadable(format: str, kind: OutputKind, wrong: str) -> None:
    """A value that is not allowed, or two at once, is no answer, and the error quotes it."""
    spec = spec_of(kind)
    reply = shown_reply(format, spec_of("text"), demo_of({"summary": wrong})).replace("summary", OUTPUTS[kind].name)
    with pytest.raises(UnreadableReply, match=wrong):
        FORMATS[format].parse(spec, reply)


@pytest.mark.parametrize("format", LAYOUTS)
def test_input_is_sent_as_it_is(format: str) -> None:
    """Inputs reach the model unchanged, whatever script, line breaks or label words they hold."""
    spec = spec_of("label")
    content = FORMATS[format].messages(spec, FORMATS[format].head(spec, "", []), INPUTS)[-1].content
    assert (json.loads(content)["message"] if format == "json" else content).find(str(INPUTS["message"])) >= 0


@pytest.mark.parametrize("format", LAYOUTS)
def test_contract_follows_instructions(format: str) -> None:
    """Empty instructions leave no gap; others stand first, followed by what a reply must look like."""
    spec = spec_of("boolean")
    layout = FORMATS[format]
    silent, said = layout.head(spec, "", [])[0], layout.head(spec, "\n  Be brief.\n", [])[0]
    assert silent.content == silent.content.strip()
    assert said.content == ("Be brief.\n\n" + silent.content)
    if format != "plain":
        assert "yes or no (Whether it cannot wait)" in silent.content


def test_plain_prompt_word_for_word() -> None:
    """The plain layout is the pattern that base models continue."""
    spec = spec_of("label", reasons=True)
    demo = Demo(
        example_id="a1",
        inputs={"message": "Paid twice", "order_no": 7},
        outputs={"team": "billing"},
        reasoning="Money.\n\nSo billing.",
    )
    head = FORMATS["plain"].head(spec, "Pick a team.", [demo])
    messages = FORMATS["plain"].messages(spec, head, {"message": "Torn box", "order_no": 8})
    assert messages == (
        Message(
            "user",
            "Pick a team.\n\nMessage: Paid twice\nOrder no: 7\nReasoning: Money.\nSo billing.\nTeam: billing\n\n"
            "Message: Torn box\nOrder no: 8\nReasoning:",
        ),
    )


def test_chat_prompt_word_for_word() -> None:
    """The chat layout has a system message, a turn for each demonstration, and the input."""
    spec = spec_of("label", "json")
    demo = Demo(
        example_id="a1", inputs={"message": "Paid twice"}, outputs={"team": "billing", "facts": {"city": "Bern"}}
    )
    head = FORMATS["chat"].head(spec, "Pick a team.", [demo])
    assert FORMATS["chat"].messages(spec, head, {"message": "Torn box"}) == (
        Message(
            "system",
            "Pick a team.\n\nReply in this form:\nTeam: one of billing, returns, lost parcel\n"
            'Facts: a JSON object with the keys "name" (who), "city"',
        ),
        Message("user", "Message: Paid twice"),
        Message("assistant", 'Team: billing\nFacts: {"city": "Bern"}'),
        Message("user", "Message: Torn box"),
    )


def test_json_and_xml_prompts_word_for_word() -> None:
    """The json and xml layouts dress inputs and answers alike."""
    spec = spec_of("label")
    demo = Demo(example_id="a1", inputs={"message": "Payé 2×"}, outputs={"team": "billing"})
    assert FORMATS["json"].head(spec, "", [demo]) == (
        Message("system", 'Reply with one JSON object with the keys "team" (one of billing, returns, lost parcel).'),
        Message("user", '{"message": "Payé 2×"}'),
        Message("assistant", '{"team": "billing"}'),
    )
    assert FORMATS["xml"].head(spec, "", [demo]) == (
        Message("system", "Reply in this form:\n<team>one of billing, returns, lost parcel</team>"),
        Message("user", "<message>Payé 2×</message>"),
        Message("assistant", "<team>billing</team>"),
    )


@given(st.text(alphabet=st.sampled_from("ab \t\n\r-*") | st.characters(codec="utf-8"), max_size=60))
def test_tidy_is_stable(text: str) -> None:
    """Tidied instructions stay as they are."""
    assert tidy(tidy(text)) == tidy(text)


# -- the dress that replies come in ---------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "billing",
        " Billing.",
        "BILLING",
        '"billing"',
        "**billing**",
        "`billing`",
        "```\nbilling\n```",
        "Team: billing",
        "**Team:** billing",
        "**Team**: Billing",
        "team:billing",
        "- Team: billing",
        "The team is billing.",
        "“billing”",
        "[billing]",
        "billing\n\nThe message is not about returns or a lost parcel.",
        "Team：billing",
    ],
)
@pytest.mark.parametrize("format", ["plain", "chat"])
def test_label_is_recognised_in_any_dress(format: str, reply: str) -> None:
    """Case, quotes, markdown, a repeated label and a short sentence do not hide a label."""
    assert FORMATS[format].parse(spec_of("label"), reply) == {"team": "billing"}


@pytest.mark.parametrize(
    ("choices", "reply", "expected"),
    [
        (("no", "not sure", "no answer"), "I am not sure.", "not sure"),
        (("no", "not sure", "no answer"), "No answer", "no answer"),
        (("no", "yes"), "I know nothing", None),
        (("-1", "0", "1"), "-1", "-1"),
        (("-1", "0", "1"), "The score is -1.", "-1"),
        (("*", "**", "***"), " ** ", "**"),
        (("US", "us"), "us", "us"),
        (("US", "us"), "Us", None),
        (("C", "C++"), "It is C++, I think", "C++"),
        (("lost_parcel", "late-parcel"), "Lost parcel", "lost_parcel"),
        (("账单", "退货"), "这是账单。", "账单"),
        (("حساب", "إرجاع"), "الحساب", "حساب"),
        (("STRASSE", "weg"), "straße", "STRASSE"),
        (("a b", "c"), "A\tB", "a b"),
        (("toxic", "non-toxic"), "Non-toxic", "non-toxic"),
        (("yes", "no"), "I have no idea.", None),
        (("yes", "no"), "The answer is no", "no"),
        (("0", "1"), "0.97", None),
        (("0", "1"), "1.", "1"),
        (("0", "1"), "-1", None),
        (("-1", "0", "1"), "\u22121", "-1"),
        (("<30", "30-50", ">50"), ">30", None),
        (("<30", "30-50", ">50"), "> 50", ">50"),
        (("<30", "30-50", ">50"), "30\u201350", "30-50"),
        (("billing", "delivery"), "**<billing>**", "billing"),
        (("1", "2", "3", "4"), "Rating => 4", "4"),
        (("1", "2", "3", "4"), "<answer>4</answer>", "4"),
        (("1", "2", "3", "4"), "4.The text is good", "4"),
        (("<30", "30-50", ">50"), "<b>30-50</b>", "30-50"),
        (("yes", "no"), "The answer is no\nQuestion: is it blue?", "no"),
    ],
)
def test_one_label_is_told_from_another(choices: tuple[str, ...], reply: str, expected: str | None) -> None:
    """The longest label that is named wins; what names several, or none, is unreadable."""
    spec = label_spec(*choices)
    if expected is None:
        with pytest.raises(UnreadableReply, match="team"):
            FORMATS["chat"].parse(spec, reply)
    else:
        assert FORMATS["chat"].parse(spec, reply) == {"team": expected}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("This is not spam.", None),
        ("I cannot say it is spam", None),
        ("It isn't ham", None),
        ("Das ist keine ham", None),
        ("non-spam", None),
        ("This is no spam.", None),
        ("Sorry, I am unable to help with this spam question.", None),
        ("No es spam", None),
        ("The sender has no access to ham", "ham"),
        ("No doubt it is spam", "spam"),
        ("Sans aucun doute spam", "spam"),
        ("It was not read to the end\nspam", "spam"),
        ("No, it is ham", "ham"),
        ("I am not sure, but I think that it is ham", "ham"),
        ("Not only that: spam", "spam"),
        ("no-show", "no-show"),
    ],
)
def test_a_label_that_is_denied_is_no_answer(reply: str, expected: str | None) -> None:
    """A word of denial right before a label takes it back; elsewhere in the sentence it does not."""
    spec = label_spec("spam", "ham", "no-show")
    if expected is None:
        with pytest.raises(UnreadableReply, match="what the label is not"):
            FORMATS["chat"].parse(spec, reply)
    else:
        assert FORMATS["chat"].parse(spec, reply) == {"team": expected}


def test_a_truth_value_of_json_may_be_a_label() -> None:
    """Where true and false are labels, JSON's own mean these; elsewhere they say yes or no."""
    assert FORMATS["json"].parse(label_spec("true", "false", "unknown"), '{"team": true}') == {"team": "true"}
    assert FORMATS["json"].parse(label_spec("yes", "no"), '{"team": false}') == {"team": "no"}


@pytest.mark.parametrize(
    "reply", ['{"amount_eur": ' + "1" * 400 + "}", '{"amount_eur": ' + "[" * 700 + "]" * 700 + "}"]
)
def test_a_reply_that_runs_away_is_unreadable(reply: str) -> None:
    """Hundreds of digits or brackets are no bug of ours: the reply holds no answer."""
    with pytest.raises(UnreadableReply):
        FORMATS["json"].parse(spec_of("number"), reply)
    FORMATS["json"].parse(spec_of("text"), '{"summary": "x", "more": ' + "1" * 400 + "}")


def test_the_keys_of_an_object_may_hold_any_value() -> None:
    """A row may have a number, a list or nothing there; the schema that a model is held to allows what the row has."""
    schema: Any = json_schema(spec_of("json"))
    assert schema["properties"]["facts"]["properties"] == {"name": {}, "city": {}}
    rule = gbnf(FORMATS["json"].constraint(spec_of("json")))
    assert "value" in rule.partition("\n")[0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("12", 12),
        ("-5", -5),
        ("−5 degrees", -5),
        ("$1,234.50", 1234.5),
        ("12 apples over 3 days", 12),
        ("3 + 4 = 7", 7),
        ("There are 3 boxes of 4, so 12.", 12),
        ("3-5", 5),
        ("1e3", 1000),
        ("12\n\nBecause 5 + 7 = 12 and 30 is wrong", 12),
        ("**42**", 42),
        ("٤٢", 42),
        (".5", 0.5),
        ("007", 7),
        ("9007199254740993", 9007199254740993),
        ("1" * 5000 + " " + "1e999", None),
        ("1e999", None),
        ("none", None),
        ("1,5", 1.5),
        ("1.234,56 EUR", 1234.56),
        ("1 234,56", 1234.56),
        ("0,1234", 0.1234),
        ("1. Add 3 and 4: 7\n2. Double it: 14\n\nThe answer is 14.", 14),
        ("1. That is the only one", 1),
        ("1.234.567", 1234567),
        ("2 500 EUR", 2500),
        ("1'234.50", 1234.5),
        ("100 200 300 or so", 100),
    ],
)
def test_number_is_found(reply: str, expected: float | None) -> None:
    """A number is read with sign, thousands, fraction and exponent; sums count by their result."""
    field = OUTPUTS["number"]
    if expected is None:
        with pytest.raises(UnreadableReply, match="amount_eur"):
            read_value(field, reply)
    else:
        assert read_value(field, reply) == expected


@pytest.mark.parametrize("value", [True, math.nan, math.inf, 10**400, [1], {"a": "b"}])
def test_number_that_is_none_is_refused(value: JsonValue) -> None:
    """In JSON, a truth value, NaN and infinity are no numbers."""
    if value == [1]:
        assert read_value(OUTPUTS["number"], value) == 1
    else:
        with pytest.raises(UnreadableReply, match="amount_eur"):
            read_value(OUTPUTS["number"], value)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("That is not true.", None),
        ("It's not a yes", None),
        ("I have no information on that, sorry.", None),
        ("True or False? False", False),
        ("There is no doubt: yes.", True),
        ("There is no sign of it", False),
        ("No\n\nQuestion: Is the sky blue?\nAnswer: Yes", False),
        ("The claim is not supported\nNo", False),
        ("It is not urgent so no", False),
        ("not sure but yes", True),
        ("Yes", True),
        ("no.", False),
        ("TRUE", True),
        ("**No**", False),
        ("No, that is not true", False),
        ("The answer is yes", True),
        (1, True),
        (0, False),
        ("yesterday", None),
        ("it may be yes or no", None),
    ],
)
def test_boolean_is_recognised(reply: JsonValue, expected: bool | None) -> None:
    """A leading yes or no counts, or the only one in a sentence."""
    if expected is None:
        with pytest.raises(UnreadableReply, match="urgent"):
            read_value(OUTPUTS["boolean"], reply)
    else:
        assert read_value(OUTPUTS["boolean"], reply) is expected


@pytest.mark.parametrize(
    "reply",
    [
        '{"team": "billing", "urgent": true}',
        '```json\n{\n  "team": "BILLING",\n  "urgent": "yes"\n}\n```',
        'Sure! I used {} here:\n{"team": "billing", "urgent": true}\nAnything else?',
        '{"Team": "billing", "URGENT": true}',
        "{'team': 'billing', 'urgent': True}",
        '{"team": "billing", "urgent": true',
        '{"urgent": true, "team": "billing", "note": {"team": "returns"}}',
        '{"team": "billing", "urgent": true}\n{"team": "returns", "urgent": false}',
    ],
)
def test_json_is_read_in_any_dress(reply: str) -> None:
    """Fences, prose around it, other keys, other case and small faults do not hide an object."""
    assert FORMATS["json"].parse(spec_of("label", "boolean"), reply) == {"team": "billing", "urgent": True}


@pytest.mark.parametrize("reply", ["", "billing", "[]", "{", '{"team": NaN}', "{" * 9_000, '{"a":' * 50_000])
def test_json_without_an_answer_is_unreadable(reply: str) -> None:
    """Text without the object, and hostile nesting, are unreadable and nothing worse."""
    with pytest.raises(UnreadableReply):
        FORMATS["json"].parse(spec_of("label"), reply)


def test_json_answer_can_be_stored() -> None:
    """NUL, half surrogate pairs and infinities that JSON escapes hide are left out of an answer."""
    reply = r'{"facts": {"name": "a\u0000\ud83db", "city": NaN, "n": 1e999, "ok": "\ud83d\ude42"}}'
    facts = FORMATS["json"].parse(spec_of("json"), reply)["facts"]
    assert facts == {"name": "ab", "city": None, "n": None, "ok": "🙂"}
    json.dumps(facts, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "reply",
    [
        "<team>billing</team><urgent>yes</urgent>",
        "<Team> Billing </Team>\n<URGENT>Yes</URGENT>",
        "```xml\n<team>billing</team>\n<urgent>yes</urgent>\n```",
        "<answer><team>billing</team>\n<urgent>yes",
        "<urgent>yes</urgent>\n<team>billing</team>",
    ],
)
def test_tags_are_read_in_any_dress(reply: str) -> None:
    """Case, order, fences and a last tag that is not closed do not matter."""
    assert FORMATS["xml"].parse(spec_of("label", "boolean"), reply) == {"team": "billing", "urgent": True}


def test_tags_inside_the_reasoning_are_not_the_answer() -> None:
    """Reasoning may speak of the answer's tag."""
    reply = "<reasoning>The <team> tag wants returns? No.</reasoning>\n<team>billing</team>"
    assert FORMATS["xml"].parse(spec_of("label", reasons=True), reply)["team"] == "billing"


@pytest.mark.parametrize(
    "reply",
    [
        "Team: billing\nUrgent: yes",
        "billing\nUrgent: yes",
        "**Team:** Billing\n**Urgent:** Yes",
        "- team: billing\n- urgent: yes",
        "```\nTeam: billing\nUrgent: yes\n```",
        "Sure, here it is:\n\nTeam: billing\n\nUrgent: yes",
        "Urgent: yes\nTeam: billing",
        "Team: Team: billing\nUrgent: yes",
    ],
)
@pytest.mark.parametrize("format", ["plain", "chat"])
def test_labelled_fields_are_read_in_any_dress(format: str, reply: str) -> None:
    """Markdown, bullets, fences, order, a preface and a missing first label do not matter."""
    assert FORMATS[format].parse(spec_of("label", "boolean"), reply) == {"team": "billing", "urgent": True}


def test_fence_is_no_part_of_the_last_field() -> None:
    """A fence around all sections goes; one inside a text stays."""
    spec = spec_of("label", "text")
    fenced = "```text\nTeam: billing\nSummary: paid twice\n```"
    assert FORMATS["chat"].parse(spec, fenced) == {"team": "billing", "summary": "paid twice"}
    inside = "Team: billing\nSummary: ```\nx = 1\n```"
    assert FORMATS["chat"].parse(spec, inside)["summary"] == "```\nx = 1\n```"


def test_reasoning_may_mention_a_label() -> None:
    """Of two sections with one label the last counts, because reasoning comes first."""
    reply = "Reasoning: at first sight\nTeam: returns\nbut money is named\nTeam: billing"
    assert FORMATS["chat"].parse(spec_of("label", reasons=True), reply)["team"] == "billing"


def test_plain_reply_begins_inside_the_first_field() -> None:
    """What follows the prompt's last label belongs to it, even if it looks like another label."""
    spec = spec_of("text", "label")
    assert FORMATS["plain"].parse(spec, " Team: of two\nTeam: returns") == {
        "summary": "Team: of two",
        "team": "returns",
    }


def test_typed_json_is_any_value() -> None:
    """A field with a schema of its own may hold a list; text that is no JSON is left to whoever set the schema."""
    field = FieldSpec(name="tags", label="Tags", kind="json", schema='{"type":"array"}')
    spec = PromptSpec(inputs=(MESSAGE,), outputs=(field, TEAM))
    for format in LAYOUTS:
        reply = shown_reply(format, spec, demo_of({"tags": ["a", "b\n\nc"], "team": "returns"}))
        assert FORMATS[format].parse(spec, reply) == {"tags": ["a", "b\n\nc"], "team": "returns"}
    assert read_value(field, "a, b") == "a, b"
    assert read_value(field, "Here: ['x'") == "Here: ['x'"
    assert FORMATS["chat"].constraint(spec) == ()


# -- grammars -------------------------------------------------------------------------------------


def allowed(constraint: Constraint) -> st.SearchStrategy[tuple[str, ...]]:
    """The texts that a constraint allows, piece by piece."""
    return st.tuples(*(_piece_texts(piece) for piece in constraint))


def _piece_texts(piece: object) -> st.SearchStrategy[str]:
    match piece:
        case Text(text):
            return st.just(text)
        case Choice(options):
            return st.sampled_from(options)
        case Number():
            return st.from_regex(r"\A-?[0-9]{1,12}(\.[0-9]{1,6})?\Z", alphabet=st.sampled_from("-0123456789."))
        case Line():
            words = ["Team:", "Urgent: no", "<team>", "billing", "{", "```", "**", "\r", "é", " ", "- "]
            return st.lists(st.sampled_from(words) | st.characters(codec="utf-8"), max_size=8).map(_line)
        case Json(schema):
            return _json_texts(json.loads(schema))
    raise AssertionError(piece)


def _line(words: list[str]) -> str:
    return ("x" + "".join(words)).replace("\n", " ")


def _json_texts(schema: dict[str, object]) -> st.SearchStrategy[str]:
    indents = st.sampled_from([None, 2])
    return st.tuples(_json_values(schema), indents).map(lambda pair: json.dumps(pair[0], indent=pair[1]))


def _json_values(schema: Mapping[str, object]) -> st.SearchStrategy[object]:
    if "enum" in schema:
        return st.sampled_from(list(schema["enum"]))  # type: ignore[call-overload]
    kinds: dict[object, st.SearchStrategy[object]] = {
        "string": st.text(min_size=1).filter(str.strip),
        "number": st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
    }
    if schema["type"] != "object":
        return kinds[schema["type"]]
    properties: Mapping[str, Mapping[str, object]] = schema.get("properties", {})  # type: ignore[assignment]
    return st.fixed_dictionaries({key: _json_values(value) for key, value in properties.items()})


FINITE: list[tuple[OutputKind, ...]] = [
    ("label",),
    ("boolean",),
    ("number",),
    ("label", "number"),
    ("number", "boolean", "label"),
]


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("kinds", FINITE, ids="-".join)
@pytest.mark.parametrize("reasons", [False, True], ids=["predict", "chain_of_thought"])
@settings(max_examples=25)
@given(data=st.data())
def test_whatever_the_grammar_allows_can_be_read(
    format: str, kinds: tuple[OutputKind, ...], reasons: bool, data: st.DataObject
) -> None:
    """Any text that a constraint allows is an answer, and labels come back as they were chosen."""
    spec = spec_of(*kinds, reasons=reasons)
    constraint = FORMATS[format].constraint(spec)
    assert constraint, "finite outputs are always constrained"
    texts = data.draw(allowed(constraint))
    found = FORMATS[format].parse(spec, "".join(texts))
    assert {OUTPUTS[kind].name for kind in kinds} == set(found) - {"reasoning"}
    chosen = [text for text, piece in zip(texts, constraint, strict=True) if isinstance(piece, Choice)]
    read = [found[OUTPUTS[kind].name] for kind in kinds if kind in ("label", "boolean")]
    if format != "json":
        assert chosen == [{True: "yes", False: "no"}.get(value, value) for value in read]  # type: ignore[call-overload]


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("kind", ["label", "boolean"])
def test_shown_answer_is_allowed_by_the_grammar(format: str, kind: OutputKind) -> None:
    """The grammar and the demonstrations agree on how an answer is written."""
    spec = spec_of(kind)
    constraint = FORMATS[format].constraint(spec)
    for value in VALUES[kind]:
        reply = shown_reply(format, spec, demo_of({OUTPUTS[kind].name: value}))
        if format == "json":
            assert set(json.loads(reply)) == set(json.loads(str(only_json(constraint)))["required"])
        else:
            assert reply in replies(constraint)


@pytest.mark.parametrize("format", ["plain", "chat", "xml"])
def test_open_answers_have_no_grammar(format: str) -> None:
    """Free text at the end is not constrained, since no grammar knows where it ends."""
    assert FORMATS[format].constraint(spec_of("label", "text")) == ()
    assert FORMATS[format].constraint(spec_of("text", "label")) != ()


@pytest.mark.parametrize("format", ["chat", "json"])
def test_single_object_is_constrained_by_its_schema(format: str) -> None:
    """A reply that is one JSON object carries its schema to providers that take one."""
    schema = json.loads(str(only_json(FORMATS[format].constraint(spec_of("json")))))
    wanted = schema if format == "chat" else schema["properties"]["facts"]
    assert wanted["required"] == ["name", "city"]
    assert json_schema(spec_of("number", "json"))["required"] == ["amount_eur", "facts"]


def test_schema_asks_for_reasoning_first() -> None:
    """Grammars follow the order of the schema, so reasoning must stand before the answer that it is to improve."""
    for kinds in FINITE:
        spec = spec_of(*kinds, reasons=True)
        schema = json.loads(str(only_json(FORMATS["json"].constraint(spec))))
        assert list(schema["properties"]) == ["reasoning", *(OUTPUTS[kind].name for kind in kinds)]


def test_constraints_become_grammars() -> None:
    """Every constraint of a finite output can be spelled as a llama.cpp grammar."""
    for format, kinds in itertools.product(("plain", "chat", "xml"), FINITE):
        assert gbnf(FORMATS[format].constraint(spec_of(*kinds, reasons=True))).startswith("root ::= ")
