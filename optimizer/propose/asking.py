"""How a question to the proposer is worded, in both styles, and how its reply is read.

Small, base-like models babble when asked in chat but continue a pattern of worked examples well; capable models
follow a request and put the answer between tags. Reading is forgiving about wrapping and strict about content:
whatever is left after unwrapping must be words of the model's own, not the question given back.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from optimizer.propose.flaws import flaw_of
from optimizer.propose.operator import Context, Message, Rejection
from optimizer.propose.rows import fence
from optimizer.propose.wording import goal_text, head_and_tail, label_line, one_line, placeholders, said, words_of

MAX_REPLY_CHARS = 20_000
_N_ECHO_WORDS = 8
_NEAR_ECHO = 0.85
_MIN_PATTERN_TOKENS, _MAX_PATTERN_TOKENS = 40, 200
_ROLE = "You write instructions that tell a language model what to do with each input it is given."
_TAGS = "Put {what} between <instruction> and </instruction>; only what stands there is used."

_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINK_END = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINK_START = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_TAGGED = re.compile(r"<instruction>(.*?)</instruction>", re.DOTALL | re.IGNORECASE)
_TAG_OPEN = re.compile(r"<instruction>", re.IGNORECASE)
_FENCED = re.compile(r"\A```[\w-]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_LEAD_IN = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok|absolutely)\b[^\n:]{0,120}?(?:[:!]|\.(?=\s*(?:\n|here\b)))"
    r"|here(?:'s|\u2019s| is| are)\b[^\n:]{0,120}:)"
    r"\s*(?:\n+|\Z|(?=[\"'“*A-Z]))",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\A[*_#\s]*(?:(?:reworded|rewritten|revised|new|better|improved|shorter|fixed|final|merged)\s+)?"
    r"(?:instructions?|prompt|version|reworded|rewritten|shorter|both|in short|meaning|steps)[*_]*\s*:[*_]*\s*",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "\u2018": "\u2019", "«": "»", "„": "“", "`": "`", "**": "**", "*": "*"}
_FENCE_MARK = re.compile(r"data-[0-9a-f]{12}")


class Pattern(NamedTuple):
    """A few-shot pattern: blocks of `Name: text` lines, the last block left open for the model to finish."""

    names: tuple[str, ...]
    shots: tuple[tuple[str, ...], ...]

    def prompt(self, *given: str, order: Sequence[int] | None = None) -> str:
        """Return the shots, in `order` where given, then `given` under the first names and the last name alone."""
        shots = self.shots if order is None else [self.shots[i] for i in order]
        blocks = [self._block(shot) for shot in shots]
        return "\n\n".join([*blocks, f"{self._block(given)}\n{self.names[len(given)]}:"])

    @property
    def texts(self) -> tuple[str, ...]:
        """The fixed texts, alone and under their names: none of them is an answer."""
        return tuple(text for shot in self.shots for text in (*shot, *self._block(shot).split("\n")))

    def _block(self, texts: Sequence[str]) -> str:
        return "\n".join(f"{name}: {one_line(text)}" for name, text in zip(self.names, texts, strict=False))


def chat(
    context: Context, request: str, *, what: str = "the new instruction", current: bool = True, rows: Sequence[str] = ()
) -> tuple[Message, ...]:
    """Word a chat request: goal, present instruction, rows fenced as data, the request, where the answer goes."""
    kept = ", ".join(sorted(placeholders(context.instructions)))
    paragraphs = [
        _purpose(context),
        f"The present instruction:\n\n{said(context)}" if current else "",
        fence(rows) if rows else "",
        request,
        f"Keep these marks exactly as they are: {kept}" if kept else "",
        _TAGS.format(what=what),
    ]
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return Message(role="system", content=_ROLE), Message(role="user", content=text)


def _purpose(context: Context) -> str:
    """Say what the instruction is for; that of a step must not be led to give the answer of the whole program."""
    goal = goal_text(context.task)
    if context.step:
        return (
            f"What the instruction is for: one step of a program; the program as a whole is for this: {goal} "
            f"This step alone {context.step}; a later step gives the answer."
        )
    return f"What the instruction is for: {goal} {label_line(context.task)}".rstrip()


def read_reply(reply: str, context: Context, *, asked: Iterable[str], needs_tags: bool = False) -> str:
    """Return what the model wrote, unwrapped: one line in completion style, a tagged text or paragraph in chat.

    Args:
        reply: the raw reply.
        context: what was asked about; decides the style.
        asked: the operator's fixed texts (shots, request); a reply that gives them back is no answer.
        needs_tags: refuse a chat reply without tags, where the first paragraph is something else by request.

    Raises:
        Rejection: nothing usable is left.
    """
    if len(reply) > MAX_REPLY_CHARS:
        raise Rejection(f"the reply is too long: {len(reply)} characters, at most {MAX_REPLY_CHARS} are read")
    text = _without_thinking(reply)
    text = _first_line(text) if context.style == "completion" else _answer_of(text, needs_tags=needs_tags)
    text = unwrap(text)
    if not any(character.isalpha() for character in text):
        raise Rejection("the reply is empty")
    if (flaw := flaw_of(text, parent=said(context))) is not None:
        raise Rejection(flaw)
    if _is_echo(text, asked):
        raise Rejection("the reply repeats the request")
    return text


def read_instruction(
    reply: str, context: Context, *, asked: Iterable[str], needs_tags: bool = False, opening: str = ""
) -> str:
    """Return the instruction in a reply; see `read_reply`.

    Args:
        opening: the first words of the answer, which a completion was given and goes on from.

    Raises:
        Rejection: nothing usable is left, or a single word is.
    """
    opening = opening if context.style == "completion" else ""
    text = read_reply(reply.strip().removeprefix(opening), context, asked=asked, needs_tags=needs_tags)
    if len(words_of(text)) < 2:
        raise Rejection("the reply is one word, no instruction")
    return f"{opening} {text}".strip()


def n_tokens(context: Context, *, chat: int) -> int:
    """Return the longest useful reply in tokens: a completion replaces one line, so its length follows that line."""
    if context.style == "chat":
        return chat
    return min(_MAX_PATTERN_TOKENS, _MIN_PATTERN_TOKENS + 2 * len(words_of(head_and_tail(said(context))[0])))


def unwrap(text: str) -> str:
    """Strip fences, lead-ins such as `Sure, here is ...:`, labels such as `Reworded:`, and paired quotes or stars."""
    before = None
    text = text.strip()
    while text != before:
        before = text
        fenced = _FENCED.match(text)
        text = fenced.group(1) if fenced else text
        text = _LABEL.sub("", _LEAD_IN.sub("", text)).strip()
        text = _without_pair(text)
    return text


def _without_pair(text: str) -> str:
    for opening, closing in _QUOTES.items():
        inner = text[len(opening) : -len(closing)]
        is_wrapped = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)
        if is_wrapped and opening not in inner and closing not in inner:
            return inner.strip()
    return text


def _without_thinking(reply: str) -> str:
    text = _THINK_END.sub("", _THINKING.sub("", reply))
    if _THINK_START.search(text):
        raise Rejection("the reply ends within its thinking")
    return text


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if unwrap(line)), "")


def _answer_of(text: str, *, needs_tags: bool) -> str:
    """Return the last tagged text, or the first paragraph that is more than a lead-in."""
    if tagged := _TAGGED.findall(text):
        return str(tagged[-1])
    if _TAG_OPEN.search(text) or needs_tags:
        raise Rejection("the reply has no closed <instruction> tags: it is cut off or no answer")
    if text.lstrip().startswith("```"):
        return text
    return next((paragraph for paragraph in re.split(r"\n\s*\n", text) if unwrap(paragraph)), "")


def _is_echo(text: str, asked: Iterable[str]) -> bool:
    """Tell whether `text` quotes eight words in a row of the fixed texts, or is one of them with a word exchanged."""
    if _FENCE_MARK.search(text):
        return True
    words, fixed = words_of(text), [words_of(given) for given in (*asked, _ROLE, _TAGS)]
    size = min(_N_ECHO_WORDS, len(words))
    all_fixed = f" {' / '.join(' '.join(given) for given in fixed)} "
    if any(f" {' '.join(words[i : i + size])} " in all_fixed for i in range(len(words) - size + 1)):
        return True
    return any(difflib.SequenceMatcher(None, words, given, autojunk=False).ratio() >= _NEAR_ECHO for given in fixed)
