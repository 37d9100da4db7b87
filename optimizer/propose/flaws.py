"""What is wrong with a text as an instruction: refusals, debris, code, loops, cut-off ends.

Every rule looks at form only and is cheap; whether an instruction is any good is for the scores to say. A flaw
that the parent's own text has too is taken for the user's wish and not held against a mutation.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

from optimizer.propose.wording import words_of

_MAX_PHRASE_WORDS = 24
_DEBRIS = re.compile(
    r"</?think(?:ing)?>|<\|[^|<>\n]{1,40}\|>|</?instruction>|\[/?INST\]|<</?SYS>>|</?data-[0-9a-f]{6,}", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i'm|i am|we're|we are) (?:sorry|unable|not able|afraid)\b|sorry\b[^.\n]{0,40}\bi\b|unfortunately,? i\b"
    r"|i (?:cannot|can't|can not|won't|must decline|apologi[sz]e|(?:do not|don't) (?:have|know|understand|feel))\b"
    r"|my apologies\b)|\bas an ai\b[^.\n]{0,60}\bi\b",
    re.IGNORECASE,
)
_COMMAND = re.compile(
    r"\b(?:ignore|disregard|forget)\b[^.\n]{0,30}\b(?:previous|prior|above|earlier|all)\b[^.\n]{0,20}\binstructions?\b",
    re.IGNORECASE,
)
_LINK = re.compile(r"https?://|\bwww\.\w", re.IGNORECASE)
_CODE_LINE = re.compile(
    r"^\s*(?:def \w+\(|class [A-Z]\w*(?:\(.*\))?:\s*$|import [\w.]+\s*$|from [\w.]+ import |function \w*\("
    r"|(?:const|let|var) \w+ ?=|#include|print\(|console\.log|\w+ = \S+\(.*\)|public (?:static )?\w+ \w+\("
    r"|<(?:!DOCTYPE|html|div|script)\b|SELECT .+ FROM \w+)",
    re.MULTILINE,
)
_CODE_FENCE = re.compile(r"\A\s*```")
_OPEN_END = re.compile(r"(?:[,(\[{<&/+=\u2013\u2014-]|\.\.\.|…)\s*\Z")
_DANGLING = frozenset(
    ("a", "an", "and", "as", "at", "because", "but", "by", "for", "from", "if", "in", "into", "nor", "of", "or", "than")
) | {"that", "the", "their", "to", "which", "with", "whose", "your"}
_ENDINGS = frozenset(
    ["s", "es", "d", "ed", "r", "er", "ly", "ing", "al", "ment", "n", "y", "ion", "e"]
)  # word forms, no cuts


def flaw_of(text: str, *, parent: str = "") -> str | None:
    """Return the first flaw of `text` that `parent` does not have as well, or None."""
    for flaw in _FLAWS:
        reason = flaw(text, parent)
        if reason is not None and (not parent.strip() or flaw(parent, "") is None):
            return reason
    return None


def _empty(text: str, _: str) -> str | None:
    return None if any(character.isalpha() for character in text) else "the instruction is empty"


def _debris(text: str, _: str) -> str | None:
    return "the instruction holds debris of thinking or of a chat template" if _DEBRIS.search(text) else None


def _refusal(text: str, _: str) -> str | None:
    return (
        "the proposer refused instead of writing an instruction"
        if _REFUSAL.search(text.replace("\u2019", "'"))
        else None
    )


def _command(text: str, _: str) -> str | None:
    return "the instruction says to ignore other instructions" if _COMMAND.search(text) else None


def _link(text: str, _: str) -> str | None:
    return "the instruction holds a web address that its parent did not" if _LINK.search(text) else None


def _json(text: str, _: str) -> str | None:
    body = text.strip()
    if body[:1] not in ("{", "["):
        return None
    try:
        json.loads(body)
    except ValueError:
        is_like_json = re.match(r"[{\[]\s*[\"'{\[]", body) is not None
        return "the reply is broken JSON, no instruction" if is_like_json else None
    return "the reply is JSON, no instruction"


def _code(text: str, _: str) -> str | None:
    is_code = _CODE_FENCE.match(text) or _CODE_LINE.match(text) or len(_CODE_LINE.findall(text)) >= 2
    return "the reply is code, no instruction" if is_code else None


def _loop(text: str, _: str) -> str | None:
    words = words_of(text)
    for size in range(1, min(_MAX_PHRASE_WORDS, len(words) // 3) + 1):
        n_needed = 2 if size > 1 else 3  # "very, very, very" is speech; four times is a loop
        n_equal = 0
        for i in range(len(words) - size):
            n_equal = n_equal + 1 if words[i] == words[i + size] else 0
            if n_equal >= n_needed * size:
                return "the instruction repeats a phrase over and over"
    pieces = Counter(" ".join(piece) for line in re.split(r"[\n.!?;]", text) if len(piece := words_of(line)) >= 4)
    if pieces and max(pieces.values()) >= 3:
        return "the instruction repeats a phrase over and over"
    return None


def _open_end(text: str, _: str) -> str | None:
    body = text.rstrip()
    if _OPEN_END.search(body) or any(body.count(left) > body.count(right) for left, right in ("()", "[]", "{}", "“”")):
        return "the instruction breaks off: it ends with an open bracket, comma or dash"
    last = words_of(body.rsplit(maxsplit=1)[-1]) if body else []
    if last and body[-1].isalpha() and last[-1] in _DANGLING:
        return f"the instruction breaks off after {last[-1]!r}"
    return None


def _cut_word(text: str, parent: str) -> str | None:
    """Find a last word that is the beginning of a known word: known from the parent or from earlier in the text."""
    words = words_of(text)
    if len(words) < 2 or not text.rstrip()[-1].isalpha():
        return None
    last, known = words[-1], {*words[:-1], *words_of(parent)}
    if len(last) < 2 or last in known:
        return None
    rests = {word[len(last) :] for word in known if word.startswith(last)}
    return "the instruction breaks off within a word" if rests and not rests & _ENDINGS else None


_FLAWS: tuple[Callable[[str, str], str | None], ...] = (
    _empty,
    _debris,
    _refusal,
    _command,
    _link,
    _json,
    _code,
    _loop,
    _open_end,
    _cut_word,
)
