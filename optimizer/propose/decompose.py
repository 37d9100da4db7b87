"""`decompose`: say how to get to the answer, as a few steps, or let the model think before it answers.

Source: Kojima et al., 2022, "Large Language Models are Zero-Shot Reasoners";
    Zhou et al., 2022, "Least-to-Most Prompting".
"""

from __future__ import annotations

import re
from dataclasses import replace

from optimizer.candidate import Candidate
from optimizer.propose.asking import Pattern, chat, read_reply
from optimizer.propose.operator import Ask, Context, Need, Rejection
from optimizer.propose.wording import head_and_tail, normalise, said, words_of

_MIN_STEPS, _MAX_STEPS = 2, 5
_MAX_STEP_CHARS = 200
_HEADING = "How to decide:"
_OLD_STEPS = re.compile(rf"^{_HEADING}\n(?:\d+\. .*(?:\n|\Z))+", re.MULTILINE)
_NUMBER = re.compile(r"(?:^|(?<=[.!?;\s]))\s*(?:step\s*)?\d+[.):]\s+", re.IGNORECASE)
_PATTERN = Pattern(
    ("Instruction", "Steps"),
    (
        (
            "Find out which doctor should see the patient.",
            "1. Find what hurts. 2. Think which doctor treats it. 3. Answer with that doctor.",
        ),
        (
            "Read the headline and choose its topic: sport or politics.",
            "1. Find who acts in the headline. 2. See what they do. 3. Choose the topic that fits.",
        ),
        (
            "Tell whether the two sentences mean the same.",
            "1. Find what each sentence says. 2. Look for a difference. 3. Answer yes if there is none.",
        ),
    ),
)
_REQUEST = (
    "Write two to four short numbered steps, one on each line, that lead from an input to the right answer: "
    "what to look for first, "
    "what to tell apart, and how to settle on the answer. Write the steps only, not the instruction again."
)


class Decompose:
    """The parent's instruction with a list of steps; chain of thought as well where the recipe asks for it."""

    name: str = "decompose"
    needs: frozenset[Need] = frozenset({"lm"})

    def request(self, context: Context) -> Ask:
        prompt = f"{_PATTERN.prompt(head_and_tail(said(context))[0])} 1."
        return Ask(
            prompt=prompt,
            messages=chat(context, _REQUEST, what="the steps"),
            max_tokens=80 if context.style == "completion" else 300,
        )

    def parse(self, reply: str, context: Context) -> Candidate:
        is_pattern = context.style == "completion"
        text = read_reply(reply, context, asked=(*_PATTERN.texts, _REQUEST))
        text = f"1. {text}" if is_pattern and not _NUMBER.match(text) else text  # the pattern gave the first number
        steps = _steps_of(text, may_be_cut=is_pattern)
        listed = "\n".join(f"{i}. {step}" for i, step in enumerate(steps, start=1))
        text = f"{_OLD_STEPS.sub('', said(context)).rstrip()}\n{_HEADING}\n{listed}"
        candidate = context.parent.with_instructions(context.predictor, text)
        is_allowed = context.recipe.reasoning == "chain_of_thought"
        return replace(candidate, reasoning="chain_of_thought") if is_allowed else candidate


def _steps_of(text: str, *, may_be_cut: bool) -> list[str]:
    """Return the numbered steps, without repeats and, where the reply may be cut, without an unfinished last one.

    Raises:
        Rejection: fewer than two steps, or steps that are too short or too long to be any.
    """
    steps = {normalise(step): " ".join(step.split()) for step in _NUMBER.split(text) if step.strip()}
    kept = [step for step in list(steps.values())[:_MAX_STEPS] if len(words_of(step)) >= 2]
    if may_be_cut and len(kept) > _MIN_STEPS and kept[-1][-1] not in ".!?":
        kept.pop()
    if len(kept) < _MIN_STEPS or not _NUMBER.match(text):
        raise Rejection("the reply holds no list of steps")
    if any(len(step) > _MAX_STEP_CHARS for step in kept):
        raise Rejection("a step is too long")
    return kept


OPERATOR = Decompose()
