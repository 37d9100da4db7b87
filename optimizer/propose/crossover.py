"""`crossover`: merge what two good parents say, and share out their demonstrations.

Source: Zehle et al., 2025, "CAPO: Cost-Aware Prompt Optimization", section 3 (LM-merged instructions,
    pooled demonstrations).
Deviation: half of the demonstrations comes from each parent, where CAPO draws from the pool as a whole.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.candidate import Candidate, Demo
from optimizer.propose.asking import Pattern, chat, n_tokens, read_instruction
from optimizer.propose.operator import Ask, Context, Need, Rejection
from optimizer.propose.rows import key_of
from optimizer.propose.wording import head_and_tail, must_differ, normalise, rewritten, said

_PATTERN = Pattern(
    ("First", "Second", "Both"),
    (
        (
            "Decide if the headline is about sport or politics.",
            "Read the headline with care and name its topic.",
            "Read the headline with care and decide if its topic is sport or politics.",
        ),
        (
            "Find out which doctor should see the patient.",
            "Listen to the patient. Answer with one of: heart, skin, teeth.",
            "Listen to the patient and find out which doctor should help. Answer with one of: heart, skin, teeth.",
        ),
    ),
)
_REQUEST = (
    "Merge the present instruction and the second one above it into a single instruction that keeps the best "
    "ideas of both and no repetition."
)


class Crossover:
    """A merged instruction, half of each parent's demonstrations, and the layout of the better parent.

    Parents that say the same are merged without asking, if they show different demonstrations.
    """

    name: str = "crossover"
    needs: frozenset[Need] = frozenset({"lm", "other"})

    def request(self, context: Context) -> Ask | None:
        second = _other_of(context).part(context.predictor).instructions.strip()
        if _says_nothing_new(second, context):
            if _shows_nothing_new(context):
                raise Rejection("both parents say and show the same, there is nothing to merge")
            return None
        prompt = _PATTERN.prompt(head_and_tail(said(context))[0], head_and_tail(second)[0])
        request = f"A second instruction for the same task:\n\n{second}\n\n{_REQUEST}"
        return Ask(prompt=prompt, messages=chat(context, request), max_tokens=n_tokens(context, chat=400))

    def parse(self, reply: str, context: Context) -> Candidate:
        other = _other_of(context)
        text = context.instructions
        if not _says_nothing_new(other.part(context.predictor).instructions.strip(), context):
            text = _merged(reply, context)
        better = other if _score_of(other, context) > (context.parent_score or 0.0) else context.parent
        layout = replace(
            context.parent, format=better.format, reasoning=better.reasoning, temperature=better.temperature
        )
        demos = pool_demos(context.part.demos, other.part(context.predictor).demos, rng=context.generator())
        return layout.with_instructions(context.predictor, text).with_demos(context.predictor, demos)


def _merged(reply: str, context: Context) -> str:
    asked = (*_PATTERN.texts, _REQUEST)
    text = must_differ(rewritten(read_instruction(reply, context, asked=asked), context), context)
    if normalise(text) == normalise(_other_of(context).part(context.predictor).instructions):
        raise Rejection("nothing changed: the reply repeats the second parent's instructions")
    return text


def _says_nothing_new(second: str, context: Context) -> bool:
    return not second or normalise(second) == normalise(said(context))


def _shows_nothing_new(context: Context) -> bool:
    """Whether the second parent has no demonstration that the first one lacks, or the first one has none to mix."""
    first = {key_of(demo.inputs) for demo in context.part.demos}
    second = {key_of(demo.inputs) for demo in _other_of(context).part(context.predictor).demos}
    return not first or second <= first


def pool_demos(first: tuple[Demo, ...], second: tuple[Demo, ...], *, rng: np.random.Generator) -> tuple[Demo, ...]:
    """Return as many demonstrations as the longer list has, half from each, no row twice, in random order.

    A parent without demonstrations takes no part, so the other's are kept whole. When the lists overlap, what
    one cannot give the other does.
    """
    if not first or not second:
        return first or second
    n_demos = max(len(first), len(second))
    queues = [[demos[i] for i in rng.permutation(len(demos))] for demos in (first, second)]
    pooled: dict[str, Demo] = {}
    for turn in range(2 * n_demos):
        if queue := queues[turn % 2]:
            _take_new(queue, pooled)
        if len(pooled) == n_demos:
            break
    demos = list(pooled.values())
    return tuple(demos[i] for i in rng.permutation(len(demos)))


def _take_new(queue: list[Demo], pooled: dict[str, Demo]) -> None:
    """Move the first demonstration that is not in the pool yet."""
    while queue:
        demo = queue.pop()
        if key_of(demo.inputs) not in pooled:
            pooled[key_of(demo.inputs)] = demo
            return


def _other_of(context: Context) -> Candidate:
    if context.other is None:
        raise Rejection("there is no second parent yet")
    return context.other


def _score_of(candidate: Candidate, context: Context) -> float:
    """Return the best score in the history of a prompt that reads like `candidate`; 0 when there is none."""
    part = candidate.part(context.predictor)
    looks = (normalise(part.instructions), candidate.format, len(part.demos))
    return max(
        (
            tried.score
            for tried in context.history
            if tried.score is not None and (normalise(tried.instructions), tried.format, tried.n_demos) == looks
        ),
        default=0.0,
    )


OPERATOR = Crossover()
