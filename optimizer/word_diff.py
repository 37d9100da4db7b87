"""What changed between two texts, word by word. Pure; the terminal and the report colour what it returns."""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

Kind = Literal["same", "removed", "added"]
_TOKENS = re.compile(r"\w+|\s+|[^\w\s]")


class Piece(NamedTuple):
    """A run of text. The pieces that are not `added` make up the old text, those not `removed` the new one."""

    kind: Kind
    text: str


def word_diff(old: str, new: str) -> tuple[Piece, ...]:
    """Return the texts as pieces in reading order, neighbours of one kind joined."""
    before, after = _TOKENS.findall(old), _TOKENS.findall(new)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    pieces: list[Piece] = []
    for _, i1, i2, j1, j2 in matcher.get_opcodes():
        left, right = "".join(before[i1:i2]), "".join(after[j1:j2])
        if left == right:
            pieces.append(Piece("same", left))
        else:
            pieces += [Piece("removed", left)] * bool(left) + [Piece("added", right)] * bool(right)
    return tuple(pieces)
