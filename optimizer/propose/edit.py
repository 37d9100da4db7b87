"""`edit`: delete, swap or put back phrases. Needs no LM, so it also works where the proposer only babbles.

Source: Prasad et al., 2022, "GrIPS: Gradient-free, Edit-based Instruction Search", section 3 (delete, swap, add).
Deviation: phrases are split at punctuation and connecting words instead of by a parser; phrases to put back come
from all earlier instructions; paraphrasing is left to `rewrite`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from optimizer.candidate import Candidate
from optimizer.propose.flaws import flaw_of
from optimizer.propose.operator import Context, Need, Rejection
from optimizer.propose.wording import must_differ, normalise, placeholders, said, words_of

_N_DRAWS = 16
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_CLAUSE = re.compile(r"(?<=[.!?;:,])\s+|\n+")
_CONNECTOR = re.compile(
    r"\s+(?=(?:and|or|but|if|as|by|for|from|in|into|of|on|that|to|which|whether|with)\b)", re.IGNORECASE
)
_END = re.compile(r"[.!?;:,]*$")


class Phrase(NamedTuple):
    """Words, and the punctuation and white space that follow them; the latter stays in place when words move."""

    text: str
    ending: str


class Edit:
    """The parent's instruction with one phrase deleted, two swapped, or one from an earlier prompt put back."""

    name: str = "edit"
    needs: frozenset[Need] = frozenset()

    def request(self, context: Context) -> None:
        """Nothing is asked."""

    def parse(self, reply: str, context: Context) -> Candidate:  # noqa: ARG002 - the protocol's shape
        rng, phrases = context.generator(), split_phrases(said(context))
        lost = _lost_phrases(context)
        for _ in range(_N_DRAWS):
            change = _CHANGES[int(rng.integers(len(_CHANGES)))]
            text = join_phrases(change(phrases, lost, rng))
            if _is_usable(text, context):
                return context.parent.with_instructions(context.predictor, must_differ(text, context))
        raise Rejection("no edit of a phrase leaves a usable, different instruction")


def split_phrases(text: str) -> list[Phrase]:
    """Split at punctuation; a text of a single clause is split before connecting words instead."""
    boundary = _CLAUSE if len(_CLAUSE.split(text.strip())) > 1 else _CONNECTOR
    phrases, start = [], 0
    text = text.strip()
    for match in [*boundary.finditer(text), None]:
        piece = text[start : match.start() if match else len(text)]
        mark = _END.search(piece)
        cut = mark.start() if mark else len(piece)
        if piece[:cut].strip():
            phrases.append(Phrase(text=piece[:cut], ending=piece[cut:] + (match.group() if match else "")))
        start = match.end() if match else start
    return phrases


def join_phrases(phrases: list[Phrase]) -> str:
    """Join phrases to a text with a capital at the start."""
    text = "".join(phrase.text + phrase.ending for phrase in phrases).strip()
    return text[:1].upper() + text[1:]


def _delete(phrases: list[Phrase], _: list[str], rng: np.random.Generator) -> list[Phrase]:
    place = int(rng.integers(len(phrases))) if phrases else 0
    left = [*phrases[:place], *phrases[place + 1 :]]
    if left and place == len(left):  # the last phrase went: the new last one takes over its full stop
        left[-1] = left[-1]._replace(ending=phrases[-1].ending)
    return left


def _swap(phrases: list[Phrase], _: list[str], rng: np.random.Generator) -> list[Phrase]:
    if len(phrases) < 2:
        return phrases
    i, j = (int(place) for place in rng.permutation(len(phrases))[:2])
    swapped = list(phrases)
    for place, source in ((i, j), (j, i)):
        text = phrases[source].text
        swapped[place] = phrases[place]._replace(
            text=_recased(text, was_start=_starts(phrases, source), is_start=_starts(phrases, place))
        )
    return swapped


def _starts(phrases: list[Phrase], place: int) -> bool:
    """Tell whether a sentence or a line begins at `place`."""
    return place == 0 or any(mark in phrases[place - 1].ending for mark in ".!?\n")


def _recased(text: str, *, was_start: bool, is_start: bool) -> str:
    """Fit the first letter to a new place; words in capitals stay as they are."""
    if is_start:
        return text[:1].upper() + text[1:]
    return text[:1].lower() + text[1:] if was_start and not text[1:2].isupper() else text


def _put_back(phrases: list[Phrase], lost: list[str], rng: np.random.Generator) -> list[Phrase]:
    """Append a lost phrase as a sentence of its own at a sentence boundary, the end included."""
    if not lost:
        return phrases
    text = lost[int(rng.integers(len(lost)))]
    ends = [place for place, phrase in enumerate(phrases[:-1], start=1) if phrase.ending[:1] in (".", "!", "?")]
    place = [*ends, len(phrases)][int(rng.integers(len(ends) + 1))]
    before = list(phrases[:place])
    if before:
        before[-1] = before[-1]._replace(ending=(before[-1].ending.strip() or ".") + " ")
    return [*before, Phrase(text=text[:1].upper() + text[1:], ending=". "), *phrases[place:]]


def _lost_phrases(context: Context) -> list[str]:
    """Return sentences of three or more words from earlier instructions that the parent does not hold."""
    held = normalise(said(context))
    found: dict[str, str] = {}
    for tried in context.history:
        for sentence in _SENTENCE.split(tried.instructions):
            text = sentence.strip().rstrip(".!?;:,")
            if len(words_of(text)) >= 3 and normalise(text) not in held:
                found.setdefault(normalise(text), text)
    return list(found.values())


def _is_usable(text: str, context: Context) -> bool:
    before = said(context)
    return (
        len(words_of(text)) >= 2
        and normalise(text) not in (normalise(before), normalise(context.instructions))
        and placeholders(text) == placeholders(before)
        and flaw_of(text, parent=before) is None
    )


_CHANGES: tuple[Callable[[list[Phrase], list[str], np.random.Generator], list[Phrase]], ...] = (
    _delete,
    _swap,
    _put_back,
)

OPERATOR = Edit()
