"""`rewrite`: the same instruction in other words. A small model's answers hang on wording more than on meaning."""

from __future__ import annotations

from optimizer.candidate import Candidate
from optimizer.propose.asking import Pattern, chat, n_tokens, read_instruction
from optimizer.propose.operator import Ask, Context, Need
from optimizer.propose.wording import head_and_tail, must_differ, rewritten, said

_N_SHOTS = 3
_PATTERN = Pattern(
    ("Instruction", "Reworded"),
    (
        (
            "Decide if the headline is about sport or politics.",
            "Read the headline and choose its topic: sport or politics.",
        ),
        (
            "Label the plant as tree, shrub or flower.",
            "Look at the description of the plant and say whether it is a tree, a shrub or a flower.",
        ),
        (
            "Find out which doctor should see the patient.",
            "Read what the patient says and pick the doctor who can help.",
        ),
        (
            "Tell whether the two sentences mean the same.",
            "Compare the two sentences and answer yes if they have the same meaning.",
        ),
        ("Name the language that the text is written in.", "Read the text and say which language it is written in."),
        ("Sum up the report in one sentence.", "Read the report and write its main point in one sentence."),
    ),
)
_MANNERS = (
    "Be brief and direct.",
    "Spell out what to look at before answering.",
    "Begin with who the model is and whom it helps.",
    "Say exactly what form the answer has.",
    "Put it as a question to be answered.",
    "Use the simplest words you can.",
)
_REQUEST = "Write the present instruction again in clearly different words. It must ask for the same thing."


class Rewrite:
    """Other words for the parent's instruction; three of six worked pairs, drawn anew, keep the wordings varied."""

    name: str = "rewrite"
    needs: frozenset[Need] = frozenset({"lm"})

    def request(self, context: Context) -> Ask:
        rng = context.generator()
        order = [int(i) for i in rng.permutation(len(_PATTERN.shots))[:_N_SHOTS]]
        manner = _MANNERS[int(rng.integers(len(_MANNERS)))]
        prompt = _PATTERN.prompt(head_and_tail(said(context))[0], order=order)
        return Ask(
            prompt=prompt, messages=chat(context, f"{_REQUEST} {manner}"), max_tokens=n_tokens(context, chat=400)
        )

    def parse(self, reply: str, context: Context) -> Candidate:
        text = read_instruction(reply, context, asked=(*_PATTERN.texts, _REQUEST, *_MANNERS))
        text = must_differ(rewritten(text, context), context)
        return context.parent.with_instructions(context.predictor, text)


OPERATOR = Rewrite()
