"""Rows that no prompt and no export may show, by columns of the file that say so. Pure.

It fails closed: a row whose value is neither a plain yes nor a plain no is held back, whichever way a column asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from optimizer.candidate import Example, JsonValue
from optimizer.config.keys import Data
from optimizer.data.fields import NO, YES, show
from optimizer.data.splits import hash64, normalise, split_key

Said = Literal["yes", "no", "nothing", "unclear"]


class HeldBack(NamedTuple):
    """How many rows are held back: by their own cell, and as near-copies of such a row.

    Those of dev and test are answered and scored; those that would have been in train are left out.
    """

    marked: int = 0
    copies: int = 0
    marked_left_out: int = 0
    copies_left_out: int = 0

    def words(self, columns: Collection[str]) -> str:
        """Say how many rows are held back, and for which reason."""
        n = self.marked + self.copies
        by = " and ".join(columns) + _reasons(self.marked, self.copies)
        said = f"{n} {'row is' if n == 1 else 'rows are'} held back by {by}"
        if not (n_out := self.marked_left_out + self.copies_left_out):
            return said
        reasons = _reasons(self.marked_left_out, self.copies_left_out)
        return f"{said}; {n_out} more {'is' if n_out == 1 else 'are'} left out of train{reasons}"


def is_withheld(example: Example, data: Data, columns: Mapping[str, str]) -> bool:
    """Tell whether a row is held back.

    Args:
        columns: field to column, for the fields of the task: one of those that say so may be among them.
    """

    def said(column: str) -> set[Said]:
        return {_says(value) for value in _values(example, column, columns)}

    is_forbidden = data.no_demos is not None and bool(said(data.no_demos) & {"yes", "unclear"})
    return is_forbidden or (data.demos_only is not None and said(data.demos_only) != {"yes"})


def unclear_words(example: Example, data: Data, columns: Mapping[str, str]) -> list[str]:
    """Return what a row says in a word that is neither a yes nor a no, as it is shown to people; empty if nowhere."""
    values = (value for column in data.withheld_by.values() for value in _values(example, column, columns)[:1])
    return [show(value) for value in values if _says(value) == "unclear"][:1]


def withheld_ids(rows: Mapping[str, Example], kinds: Collection[int], *, keep_digits: bool) -> list[str]:
    """Return the ids of rows that are held back, near-copies of them included.

    Args:
        kinds: hashes of the split keys of rows that the column holds back.
        keep_digits: see `near_key`.
    """
    keys = {row_id: split_key(row.inputs, keep_digits=keep_digits) for row_id, row in rows.items()} if kinds else {}
    return [row_id for row_id, key in keys.items() if hash64(key) in kinds]


def held_back(kept: Iterable[Example], left_out: Iterable[Example], data: Data, columns: Mapping[str, str]) -> HeldBack:
    """Count rows that are held back by why they are.

    Args:
        kept: those of dev and test.
        left_out: those that would have been in train.
    """
    of_kept = [is_withheld(row, data, columns) for row in kept]
    of_left_out = [is_withheld(row, data, columns) for row in left_out]
    n_marked, n_marked_left_out = sum(of_kept), sum(of_left_out)
    return HeldBack(n_marked, len(of_kept) - n_marked, n_marked_left_out, len(of_left_out) - n_marked_left_out)


def _reasons(n_marked: int, n_copies: int) -> str:
    parts = [f"{n_marked} by their own cell"] if n_marked else []
    parts += [f"{n_copies} as near-copies of such rows"] if n_copies else []
    return f" ({', '.join(parts)})" if parts else ""


def _values(example: Example, column: str, columns: Mapping[str, str]) -> list[JsonValue]:
    fields = {**example.inputs, **example.outputs}
    return [fields[name] for name, each in columns.items() if each == column and name in fields] or (
        [example.extras[column]] if column in example.extras else []
    )


def _says(value: JsonValue) -> Said:
    text = "" if value is None else normalise(str(value))
    if not text:
        return "nothing"
    return "yes" if text in YES else "no" if text in NO else "unclear"
