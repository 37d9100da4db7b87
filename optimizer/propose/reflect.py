"""`reflect`: look at what went wrong, name the flaw of the instruction, fix it.

Source: Agrawal et al., 2025, "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", section 3.2.
Deviation: mistakes are balanced over the expected labels, so that one noisy label cannot fill the request.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.candidate import Candidate
from optimizer.propose.asking import Pattern, chat, n_tokens, read_instruction
from optimizer.propose.operator import Ask, Attempt, Context, Need, Rejection
from optimizer.propose.rows import clip, fields_text, label_field, label_of, pick_rows, show_row
from optimizer.propose.wording import head_and_tail, must_differ, rewritten, said

_N_MISTAKES = 5
_N_CHARS_COMPLETION = 140  # a pattern for a small model must stay short
_PATTERN = Pattern(
    ("Instruction", "Mistake", "Better instruction"),
    (
        (
            "Say if the request is urgent.",
            'For "The whole office is offline" the answer was no, but yes is right.',
            "Say if the request is urgent. Answer yes when people cannot do their work.",
        ),
        (
            "Read the headline and choose its topic: sport or politics.",
            'For "Mayor opens the new stadium" the answer was sport, but politics is right.',
            "Read the headline and choose its topic: sport or politics. Answer politics when an elected person acts.",
        ),
    ),
)
_REQUEST = (
    "The rows above are inputs on which the present instruction led to a wrong answer. First say in one "
    "sentence what the instruction "
    "leaves out or gets wrong that explains them. Then write a fixed instruction that states the missing rule "
    "in general words. "
    "Do not copy rows into it."
)


class Reflect:
    """An instruction that mends the flaw behind some of the parent's mistakes on train rows.

    In completion style the parent's own words are given and the model adds the missing rule.
    """

    name: str = "reflect"
    needs: frozenset[Need] = frozenset({"lm", "attempts"})

    def request(self, context: Context) -> Ask:
        mistakes = _pick_mistakes(context)
        head, opening = head_and_tail(said(context))[0], _opening(mistakes[0], context)
        prompt = f"{_PATTERN.prompt(head, _mistake_text(mistakes[0]))} {opening}"
        rows = [show_row(mistake.example.inputs, _notes(mistake)) for mistake in mistakes]
        return Ask(prompt=prompt, messages=chat(context, _REQUEST, rows=rows), max_tokens=n_tokens(context, chat=600))

    def parse(self, reply: str, context: Context) -> Candidate:
        opening = _opening(_pick_mistakes(context)[0], context)
        asked = (*_PATTERN.texts, _REQUEST)
        text = read_instruction(reply, context, asked=asked, needs_tags=True, opening=opening)
        text = must_differ(rewritten(text, context), context)
        return context.parent.with_instructions(context.predictor, text)


def _pick_mistakes(context: Context) -> Sequence[Attempt]:
    wrong = {attempt.example.id: attempt for attempt in context.attempts if attempt.is_wrong}
    if not wrong:
        raise Rejection("the parent made no mistake on the train rows that it was tried on")
    examples = [attempt.example for attempt in wrong.values()]
    picked = pick_rows(examples, _N_MISTAKES, task=context.task, rng=context.generator())
    return [wrong[example.id] for example in picked]


def _opening(mistake: Attempt, context: Context) -> str:
    """Return the words that a completion goes on from: the parent's own and, for labels, the start of a rule."""
    head, field = head_and_tail(said(context))[0], label_field(context.task)
    return f"{head} Answer {label_of(mistake.example.outputs, field)} when" if field else head


def _answer_text(attempt: Attempt) -> str:
    outcome = attempt.outcome
    answer = {name: value for name, value in outcome.answer.items() if name in attempt.example.outputs}
    return fields_text(answer) if answer else (outcome.text or "(nothing)")


def _notes(attempt: Attempt) -> dict[str, str]:
    notes = {"answer": _answer_text(attempt), "expected": fields_text(attempt.example.outputs)}
    return notes | ({"remark": attempt.outcome.feedback} if attempt.outcome.feedback else {})


def _mistake_text(attempt: Attempt) -> str:
    shown = clip(fields_text(attempt.example.inputs), _N_CHARS_COMPLETION).replace('"', "'")
    answer, expected = clip(_answer_text(attempt), 40), clip(fields_text(attempt.example.outputs), 40)
    return f'For "{shown}" the answer was {answer}, but {expected} is right.'


OPERATOR = Reflect()
