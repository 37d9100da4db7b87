"""Rows that no prompt and no export may show, by a column of the file that says so. Pure.

It fails closed: a value that is neither a plain yes nor a plain no is a bad row, never a row that may be shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from optimizer.candidate import Example, JsonValue
from optimizer.config.keys import Data
from optimizer.data.fields import NO, YES, BadRow, show
from optimizer.data.splits import hash64, normalise, split_key

ALLOWED = "yes, true, 1 or x; no, false or 0; or nothing"


class HeldBack(NamedTuple):
    """How many rows are held back: by their own cell, and as near-copies of such a row.

    Those of dev and test are answered and scored; those that would have been in train are left out.
    """

    marked: int = 0
    copies: int = 0
    marked_left_out: int = 0
    copies_left_out: int = 0

    def words(self, column: str) -> str:
        """Say how many rows are held back, and for which reason."""
        n = self.marked + self.copies
        said = f"{n} {'row is' if n == 1 else 'rows are'} held back by {column}{_reasons(self.marked, self.copies)}"
        if not (n_out := self.marked_left_out + self.copies_left_out):
            return said
        reasons = _reasons(self.marked_left_out, self.copies_left_out)
        return f"{said}; {n_out} more {'is' if n_out == 1 else 'are'} left out of train{reasons}"


def is_withheld(example: Example, data: Data, columns: Mapping[str, str]) -> bool:
    """Tell whether a row is held back.

    Args:
        columns: field to column, for the fields of the task: the column may be one of them.

    Raises:
        BadRow: the column holds something else than a yes, a no or nothing.
    """
    column = data.withheld_by
    if column is None:
        return False
    says = [_says(value, data.withheld_key, column) for value in _values(example, column, columns)]
    return any(each is True for each in says) if data.no_demos else not says or any(each is not True for each in says)


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


def _values(example: Example, column: str, columns: Mapping[str, str]) -> Collection[JsonValue]:
    fields = {**example.inputs, **example.outputs}
    return [fields[name] for name, each in columns.items() if each == column and name in fields] or (
        [example.extras[column]] if column in example.extras else []
    )


def _says(value: JsonValue, key: str, column: str) -> bool | None:
    """A yes, a no, or None for an empty cell."""
    text = "" if value is None else normalise(str(value))
    if text in YES:
        return True
    if text in NO:
        return False
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    raise BadRow(f"{key}: column {column!r} holds {show(value)}; allowed: {ALLOWED}")
