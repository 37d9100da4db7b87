"""Marks for inputs in a prompt: the layout brings the inputs, so `{note}` never reaches a model as it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimizer.prompts.marks import mark_notes, without_input_marks
from optimizer.prompts.program import TaskProgram
from optimizer.prompts.spec import FieldSpec, PromptSpec

SPEC = PromptSpec(
    inputs=(FieldSpec(name="note", label="Note"), FieldSpec(name="age", label="Age")),
    outputs=(FieldSpec(name="urgency", label="Urgency", kind="label", choices=("low", "high")),),
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("How urgent is it?\n\nNote: {note}\nUrgency:", "How urgent is it?"),
        ("How urgent is it?\nNote: {{ note }}\nAge: {age}\n\n**Urgency:**\n", "How urgent is it?"),
        ("How urgent is it?\n<note>{note}</note>\nAnswer with one word.", "How urgent is it?\nAnswer with one word."),
        ("How urgent is it?\n```\n{note}\n```\nUrgency:", "How urgent is it?"),
        ('Judge how urgent the following note is: "{note}"', "Judge how urgent the following note is:"),
        ("Given {note} and '{age}', how urgent?", 'Given "Note" and "Age", how urgent?'),
        ("{note}", ""),
        ("Patient note: {note}\nThe answer:", ""),
        ("Q: {note}\nA:", ""),
        ("Translate to German: {note}", "Translate to German:"),
        ("Summarize: {note}", "Summarize:"),
        ("Note: {note}\nTranslate into French:", "Translate into French:"),
        ("{note}\n\nIs it urgent? Answer:", "Is it urgent? Answer:"),
        ("Look.\n{note}\nThink step by step:", "Look.\nThink step by step:"),
    ],
)
def test_a_mark_for_an_input_is_not_sent(text: str, left: str) -> None:
    """Lines that only bring an input go, with the line that opens the answer; in a sentence the label stands, and a
    request stays, however short it is."""
    assert without_input_marks(text, SPEC) == left


@pytest.mark.parametrize(
    "text",
    [
        "You sort mail for {shop_name}. Today is {today}.\nUrgency:",
        'Reply with {"note": "..."}.\n\n  Keep   this.\n',
        "Rules:\n- be brief\nUrgency:",
    ],
)
def test_what_names_no_input_stays_as_it_is(text: str) -> None:
    """Marks of the user's own program, JSON and prompts without marks are not touched."""
    assert without_input_marks(text, SPEC) == text


@pytest.mark.parametrize("layout", ["plain", "chat", "json", "xml"])
def test_a_model_is_sent_the_value_and_never_the_mark(layout: str) -> None:
    """In every layout a prompt in the shape of a template gives one line for the input, with its value."""
    program = TaskProgram(SPEC, max_tokens=8)
    seed = replace(program.seed("How urgent is it?\nNote: {note}\nUrgency:"), format=layout)
    sent = "\n".join(message.content for message in program.request(seed, {"note": "Wants a copy", "age": 40}).messages)
    assert "{note}" not in sent
    assert sent.count("Wants a copy") == 1
    assert seed.parts[0].instructions == "How urgent is it?"


def test_marks_are_words_of_any_language() -> None:
    """A mark may name a field in any letters, vowel signs included."""
    for name in ("zuständiges_team", "質問", "ग्राहक_का_संदेश"):
        spec = replace(SPEC, inputs=(FieldSpec(name=name, label=name),))
        assert without_input_marks(f'How urgent is this: "{{{name}}}"', spec) == "How urgent is this:"


def test_check_says_what_becomes_of_marks() -> None:
    """One line for those that the layout replaces, one for those that name no input; none without marks."""
    taken, unknown = mark_notes("For {shop}: {note}", SPEC)
    assert taken.startswith("prompt: {note} is not sent as it stands")
    assert unknown.startswith("prompt: {shop} is none of your inputs ({note}, {age}): the model reads these letters")
    assert mark_notes("How urgent?", SPEC) == []
