"""`trajectory`: show earlier instructions with their scores, worst first, and ask for one that scores higher.

Source: Yang et al., 2023, "Large Language Models as Optimizers" (OPRO), section 4.2: ascending order, the best last.
"""

from __future__ import annotations

from typing import NamedTuple

from optimizer.candidate import Candidate
from optimizer.propose.asking import chat, n_tokens, read_instruction
from optimizer.propose.operator import Ask, Context, Need, Rejection
from optimizer.propose.wording import goal_text, must_differ, normalise, one_line

_N_SHOWN = 6
_MAX_CHARS = 400
_STEP = 6  # points above the best that the completion pattern asks for
_HEADING = "Instructions for the same task, from the worst to the best, each with its score out of 100."
_REQUEST = (
    "Below the present instruction stand earlier instructions for the same task with their scores, from worst "
    "to best. Work out what "
    "the better ones have in common, then write one that is different from all of them and should score higher."
)


class Scored(NamedTuple):
    """An instruction and its best score in points out of 100."""

    points: int
    text: str


class Trajectory:
    """A new instruction in the direction in which scores have risen so far."""

    name: str = "trajectory"
    needs: frozenset[Need] = frozenset({"lm"})

    def request(self, context: Context) -> Ask:
        shown = _ascending(context)
        if not shown:
            raise Rejection("no instruction has a score yet")
        lines = [f"{i}. (score {scored.points}) {scored.text}" for i, scored in enumerate(shown, start=1)]
        goal = min(99, shown[-1].points + _STEP)
        prompt = "\n".join([_HEADING, f"Task: {goal_text(context.task)}", *lines, f"{len(lines) + 1}. (score {goal})"])
        return Ask(
            prompt=prompt, messages=chat(context, "\n".join([_REQUEST, *lines])), max_tokens=n_tokens(context, chat=400)
        )

    def parse(self, reply: str, context: Context) -> Candidate:
        text = must_differ(read_instruction(reply, context, asked=(_HEADING, _REQUEST)), context)
        if normalise(text) in {normalise(tried.instructions) for tried in context.history}:
            raise Rejection("the reply repeats an instruction that was tried before")
        return context.parent.with_instructions(context.predictor, text)


def _ascending(context: Context) -> list[Scored]:
    """Return the best few different instructions with their best scores, worst first."""
    best: dict[str, Scored] = {}
    pairs = [(tried.instructions, tried.score) for tried in context.history]
    for instructions, score in [*pairs, (context.instructions, context.parent_score)]:
        text = one_line(instructions)
        if not text or score is None or len(text) > _MAX_CHARS:
            continue
        scored = Scored(points=round(100 * score), text=text)
        best[normalise(text)] = max(scored, best.get(normalise(text), scored))
    return sorted(best.values())[-_N_SHOWN:]


OPERATOR = Trajectory()
