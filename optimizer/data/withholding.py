"""Rows that no prompt and no export may show, by a column of the file that says so. Pure.

It fails closed: a value that is neither a plain yes nor a plain no is a bad row, never a row that may be shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from optimizer.candidate import Example, JsonValue
from optimizer.config.keys import Data
from optimizer.data.fields import NO, YES, BadRow, show
from optimizer.data.splits import hash64, normalise, split_key

ALLOWED = "yes, true, 1 or x; no, false or 0; or nothing"


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
