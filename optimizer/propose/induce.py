"""`induce`: write the instruction from input/output pairs alone, without being led by the parent's wording.

Source: Honovich et al., 2022, "Instruction Induction: From Few Examples to Natural Language Task Descriptions".
Deviation: pairs are balanced over labels and drawn anew for each request.
"""

from __future__ import annotations

from optimizer.candidate import Candidate, Example
from optimizer.propose.asking import Pattern, chat, n_tokens, read_instruction
from optimizer.propose.operator import Ask, Context, Need, Rejection
from optimizer.propose.rows import clip, fields_text, label_field, pick_rows, show_row
from optimizer.propose.wording import labels_of, listed, must_differ

_N_PAIRS = 8
_N_PAIRS_COMPLETION = 5
_N_CHARS_COMPLETION = 100
_PATTERN = Pattern(
    ("Examples", "Instruction"),
    (
        (
            (
                '"The striker scored twice" -> sport; "Parliament votes on taxes" -> politics; "She ran a '
                'record mile" -> sport'
            ),
            "Read the headline and choose the topic: sport or politics, depending on what happens in it.",
        ),
        (
            '"My arm itches at night" -> skin; "Pain when I chew" -> teeth; "Red spots after the sun" -> skin',
            "Read the complaint and choose the doctor: skin or teeth, depending on where it hurts.",
        ),
        (
            '"We met at noon on 3 May 1999" -> 1999; "In 1871 the city burned" -> 1871',
            "Read the sentence and find the year; give only that number.",
        ),
    ),
)
_REQUEST = (
    "The rows above show inputs and the outputs that were wanted. Work out the rule behind them and write the "
    "instruction that would make a "
    "model give such outputs for new inputs. State the rule and the form of the answer in general words. Do "
    "not copy rows into it."
)


class Induce:
    """A new instruction from balanced train rows; the parent's own words are replaced as a whole."""

    name: str = "induce"
    needs: frozenset[Need] = frozenset({"lm"})

    def request(self, context: Context) -> Ask:
        if context.step:
            raise Rejection("rows do not show what this step writes, so nothing can be induced from them")
        rows = pick_rows(context.train, _N_PAIRS, task=context.task, rng=context.generator())
        if not rows:
            raise Rejection("there are no train rows to induce an instruction from")
        pairs = "; ".join(_pair_text(row) for row in rows[:_N_PAIRS_COMPLETION])
        prompt = f"{_PATTERN.prompt(pairs)} {_opening(context)}"
        shown = [show_row(row.inputs, {"output": fields_text(row.outputs)}) for row in rows]
        return Ask(
            prompt=prompt,
            messages=chat(context, _REQUEST, current=False, rows=shown),
            max_tokens=n_tokens(context, chat=400),
        )

    def parse(self, reply: str, context: Context) -> Candidate:
        text = read_instruction(reply, context, asked=(*_PATTERN.texts, _REQUEST), opening=_opening(context))
        text = must_differ(text, context)
        return context.parent.with_instructions(context.predictor, text)


def _opening(context: Context) -> str:
    """Return the words that a completion goes on from: they keep a small model on the subject."""
    opening, field = f"Read the {listed(context.task.inputs)} and", label_field(context.task)
    if field is None:
        return opening
    labels = labels_of(context.task.outputs[field])
    return f"{opening} choose the {listed([field])}: {', '.join(labels[:-1])} or {labels[-1]}, depending on"


def _pair_text(row: Example) -> str:
    shown = clip(fields_text(row.inputs), _N_CHARS_COMPLETION).replace('"', "'")
    return f'"{shown}" -> {clip(fields_text(row.outputs), _N_CHARS_COMPLETION)}'


OPERATOR = Induce()
