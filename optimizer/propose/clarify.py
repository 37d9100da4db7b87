"""`clarify`: find what the instruction leaves unsaid and state it, such as what each label means.

A capable model describes all labels at once. A small one gets one label at a time, with train rows of that label
in front of it, and the next use of the operator goes on with the next label that is not described yet.
"""

from __future__ import annotations

import re

from optimizer.candidate import Candidate, Example
from optimizer.propose.asking import Pattern, chat, read_reply
from optimizer.propose.operator import Ask, Context, Need, Rejection
from optimizer.propose.rows import clip, fields_text, label_field, label_of, pick_rows, show_row, value_text
from optimizer.propose.wording import labels_of, normalise, said, words_of

_N_ROWS = 8
_N_ROWS_COMPLETION = 3
_N_CHARS_COMPLETION = 90
_MAX_MEANING_CHARS = 160
_BEFORE = r"[\s\-*•\d.)]*[*`\"']*"  # what may stand before an item in its line
_AFTER = r"[*`\"']*\s*(?::|->|→|=>)\s*[*]*(?P<meaning>.+)$"
_PATTERN = Pattern(
    ("Label", "Examples", "In short"),
    (
        ("cooking", '"One hundred soups"; "Bread at home"', "recipes, ovens, soups and bread"),
        ("skin", '"My arm itches at night"; "Red spots after the sun"', "rashes, itching, burns and spots"),
        (
            "urgent",
            '"The whole office is offline"; "Nobody can pay at the till"',
            "faults that stop people from working",
        ),
    ),
)
_REQUEST = (
    "The present instruction leaves open what exactly is meant. For each of these, write one line `name: "
    "meaning` that says in at most "
    "twenty general words what belongs there and how to tell it from the others. Write the lines only. Do not "
    "copy rows. Names: {items}"
)


class Clarify:
    """The parent's instruction with a short list of what each label, or each output field, means."""

    name: str = "clarify"
    needs: frozenset[Need] = frozenset({"lm"})

    def request(self, context: Context) -> Ask:
        item = _next_item(context)
        rows = pick_rows(context.train, _N_ROWS, task=context.task, rng=context.generator())
        shown = [show_row(row.inputs, {"output": fields_text(row.outputs)}) for row in rows]
        prompt = _PATTERN.prompt(item, _examples_of(item, context))
        messages = chat(context, _REQUEST.format(items=", ".join(_items(context))), what="the lines", rows=shown)
        return Ask(prompt=prompt, messages=messages, max_tokens=60 if context.style == "completion" else 400)

    def parse(self, reply: str, context: Context) -> Candidate:
        reply = _without_repeats(reply) if context.style == "completion" else reply
        text = read_reply(reply, context, asked=(*_PATTERN.texts, _REQUEST))
        new = {_next_item(context): _meaning(text)} if context.style == "completion" else _meanings(text, context)
        body, old = _split(context)
        if new.items() <= old.items():
            raise Rejection("nothing changed: the reply repeats the meanings that the instruction has")
        merged = old | new
        lines = [f"{item}: {merged[item]}" for item in _items(context) if item in merged]
        return context.parent.with_instructions(context.predictor, "\n".join([body, *lines]))


def _items(context: Context) -> tuple[str, ...]:
    """Return what can be described: the labels of a one-label task, otherwise the output fields or their keys."""
    outputs = context.task.outputs
    if (field := label_field(context.task)) is not None:
        return labels_of(outputs[field])
    keys = [key for output in outputs.values() for key in output.fields]
    return tuple(keys) if len(outputs) == 1 and keys else tuple(outputs)


def _longest_first(context: Context) -> list[str]:
    """Return the items so that of two of which one begins like the other, `Billing` and `Billing: refund`, the longer
    one is looked for first."""
    return sorted(_items(context), key=len, reverse=True)


def _next_item(context: Context) -> str:
    """Return the first item that has no line yet; when all have one, any of them, to be said better."""
    items, (_, described) = _items(context), _split(context)
    missing = [item for item in items if item not in described]
    return missing[0] if missing else items[int(context.generator().integers(len(items)))]


def _split(context: Context) -> tuple[str, dict[str, str]]:
    """Split the parent's instructions into the body and the lines that already describe items."""
    body, old = [], {}
    for line in said(context).split("\n"):
        item = next((item for item in _longest_first(context) if line.startswith(f"{item}: ")), None)
        if item is None:
            body.append(line)
        elif meaning := line.removeprefix(f"{item}: "):
            old[item] = meaning
    return "\n".join(body).rstrip(), old


def _examples_of(item: str, context: Context) -> str:
    field = label_field(context.task)
    rows = [row for row in context.train if field is None or label_of(row.outputs, field) == item]
    picked = pick_rows(rows, _N_ROWS_COMPLETION, task=context.task, rng=context.generator())
    quoted = (
        clip(_shown(item, row, is_label=field is not None), _N_CHARS_COMPLETION).replace('"', "'") for row in picked
    )
    return "; ".join(f'"{text}"' for text in quoted) or "(none)"


def _shown(item: str, row: Example, *, is_label: bool) -> str:
    """Return the input for a label; for a field, the value that it should get."""
    if is_label:
        return fields_text(row.inputs)
    nested = next((value for value in row.outputs.values() if isinstance(value, dict) and item in value), row.outputs)
    return value_text(nested.get(item))


def _meanings(text: str, context: Context) -> dict[str, str]:
    patterns = {item: re.compile(_BEFORE + re.escape(item) + _AFTER, re.I) for item in _longest_first(context)}
    found = {}
    for line in text.splitlines():
        matches = ((item, pattern.match(line)) for item, pattern in patterns.items())
        if (named := next(((item, match) for item, match in matches if match), None)) is not None:
            found[named[0]] = _meaning(named[1]["meaning"])
    if not found:
        raise Rejection("the reply describes no label or field")
    if len(found) > 1 and len({normalise(meaning) for meaning in found.values()}) == 1:
        raise Rejection("the reply gives every label or field the same meaning")
    return found


def _meaning(text: str) -> str:
    """Return a meaning on one line, the parts between commas without repeats.

    Raises:
        Rejection: one word, or too long to be a short description.
    """
    meaning = _without_repeats(text.strip().strip("*`\"'"))
    if len(words_of(meaning)) < 2 or len(meaning) > _MAX_MEANING_CHARS:
        raise Rejection("the reply is no short description")
    return meaning


def _without_repeats(text: str) -> str:
    """Drop parts between commas that were there before: small models fill up short descriptions that way."""
    parts = {normalise(part): part.strip() for part in text.split(",") if part.strip()}
    return ", ".join(parts.values()) + ("," if text.rstrip().endswith(",") else "")  # a comma at the end tells of a cut


OPERATOR = Clarify()
