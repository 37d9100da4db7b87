"""`trim`: a shorter instruction of equal meaning. Fewer tokens cost less, and small models lose long threads."""

from __future__ import annotations

from optimizer.candidate import Candidate
from optimizer.propose.asking import Pattern, chat, n_tokens, read_instruction
from optimizer.propose.operator import Ask, Context, Need, Rejection
from optimizer.propose.wording import head_and_tail, rewritten, said

_PATTERN = Pattern(
    ("Instruction", "Shorter"),
    (
        (
            "Please read the following headline and then decide whether its topic is mainly sport or mainly politics.",
            "Say if the topic of the headline is sport or politics.",
        ),
        (
            "Listen to what the patient says and then find out which of our doctors should be the one to help.",
            "Say which doctor should help the patient.",
        ),
        (
            "You will be given the description of a plant. Your task is to label this plant as tree, shrub or flower.",
            "Label the plant as tree, shrub or flower.",
        ),
    ),
)
_REQUEST = (
    "Make the present instruction much shorter. Drop words that change nothing; keep every rule, label and "
    "format that matters."
)


MIN_CHARS = 60  # below that, shorter words cost more in meaning than they save


class Trim:
    """A shorter instruction. Whether it still scores as well is for the race to find out."""

    name: str = "trim"
    needs: frozenset[Need] = frozenset({"lm"})

    def request(self, context: Context) -> Ask:
        if len(said(context)) < MIN_CHARS:
            raise Rejection(f"short enough: {len(said(context))} characters")
        order = [int(i) for i in context.generator().permutation(len(_PATTERN.shots))]
        prompt = _PATTERN.prompt(head_and_tail(said(context))[0], order=order)
        return Ask(prompt=prompt, messages=chat(context, _REQUEST), max_tokens=n_tokens(context, chat=400))

    def parse(self, reply: str, context: Context) -> Candidate:
        text = rewritten(read_instruction(reply, context, asked=(*_PATTERN.texts, _REQUEST)), context)
        n_old, n_new = len(said(context)), len(text)
        if n_new >= n_old:
            raise Rejection(f"not shorter: {n_new} characters, the parent has {n_old}")
        return context.parent.with_instructions(context.predictor, text)


OPERATOR = Trim()
