"""Rows that nobody has described yet: read, refused when they are too poor, looked through for personal data."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from optimizer.candidate import Fields
from optimizer.command_line import command_name
from optimizer.data.rows import SHEETS, SUFFIXES, open_table
from optimizer.data.spreadsheets import sheet_names
from optimizer.data.text_files import guess_encoding, not_found
from optimizer.errors import ConfigError, DataError
from optimizer.init.task import MAX_EMPTY_SHARE, MIN_ROWS, Column, is_empty
from optimizer.privacy.personal_data import Kind, count_findings

MAX_ROWS = 20_000  # looked at; a study reads all
MAX_CHECKED = 500  # rows in which personal data is looked for
TEXT_SUFFIXES = (".jsonl", ".csv", ".tsv")


class RowsRead(NamedTuple):
    """The rows, the encoding if it must be named, and how many rows cannot be read at all."""

    rows: list[Fields]
    encoding: str | None
    n_broken: int


def read_rows(source: str, sheet: str | None) -> RowsRead:
    """Read a source as a study would, at most `MAX_ROWS` of it.

    Raises:
        DataError: it is missing, or too many of its rows cannot be read.
    """
    path = Path(source)
    _require_file(source, path)
    is_text = path.suffix.lower() in TEXT_SUFFIXES and not source.startswith("hub:") and path.is_file()
    encoding = guess_encoding(path) if is_text else None
    table = open_table(source, folder=Path(), columns=(), key="init", encoding=encoding, sheet=sheet)
    read = list(islice(table.rows, MAX_ROWS))
    rows, broken = [row.values for row in read if not row.problem], [row for row in read if row.problem]
    if not rows:
        why = f": {table.place(broken[0].number)}: {broken[0].problem}" if broken else ""
        why += f"; {note}" if (note := sheets_note(source, sheet)) else ""
        raise DataError(f"{source}: no rows can be read{why}; the first line names the columns, then one example a row")
    if len(broken) > MAX_EMPTY_SHARE * len(read):
        first = f"{table.place(broken[0].number)}: {broken[0].problem}"
        raise DataError(f"{source}: {len(broken)} of {len(read)} rows cannot be read, the first: {first}")
    return RowsRead(rows, encoding, len(broken))


def sheets_note(source: str, sheet: str | None) -> str:
    """Say which sheet was taken where there are others; empty where there is no choice, or it was made."""
    path = Path(source)
    names = sheet_names(path) if sheet is None and path.suffix.lower() in SHEETS and path.is_file() else []
    others = ", ".join(map(repr, names[1:]))
    return f"sheet {names[0]!r} was taken; the file also has {others} (--sheet)" if others else ""


def refuse_one_column(source: str, names: Sequence[str], sheet: str | None) -> None:
    """Say what may be the matter with a table of hardly any columns.

    Raises:
        DataError: there are fewer than two.
    """
    if len(names) > 1:
        return
    named = f"the column {names[0]!r}" if names else "no column"
    title = "; if its first line is a title, delete it: the first line must name the columns"
    hint = f"; {note}" if (note := sheets_note(source, sheet)) else title if names else ""
    raise DataError(
        f"{source}: holds {named} with values; a column for what goes in and one for the answer are needed{hint}"
    )


def _require_file(source: str, path: Path) -> None:
    """Say that a file is missing in words of `init`: there is no configuration yet for paths to start at."""
    if path.suffix.lower() in (".yaml", ".yml") and os.path.isfile(source):
        raise DataError(f"{source}: is a configuration already; see: {command_name()} check {shlex.quote(source)}")
    if not source.startswith("hub:") and not os.path.exists(source):
        raise DataError(f"init: {not_found(path, SUFFIXES)}")


def refuse_both(some: Sequence[str], others: Sequence[str]) -> None:
    if both := sorted(set(some) & set(others)):
        raise ConfigError(f"init: column {both[0]!r} is both an input and an output; name it once")


def refuse_poor(source: str, rows: Sequence[Fields], outputs: Sequence[str], columns: dict[str, Column]) -> None:
    for name in outputs:
        column = columns[name]
        if column.n_empty > MAX_EMPTY_SHARE * len(rows):
            raise DataError(
                f"{source}: {column.n_empty} of {len(rows)} rows have no {name!r}; fill them in or remove these rows, "
                "or name another column with --output"
            )
        if column.n_different < 2:
            raise DataError(f"{source}: every row has the same {name!r}; nothing can be learned from it")
    n_usable = sum(not any(is_empty(row.get(name)) for name in outputs) for row in rows)
    if n_usable < MIN_ROWS:
        raise DataError(
            f"{source}: {n_usable} rows with an answer are too few; {MIN_ROWS} are the least, "
            "a few hundred can prove a gain of ten points"
        )


def personal_kinds(rows: Sequence[Fields], columns: Sequence[str]) -> dict[Kind, int]:
    return count_findings("\n".join(str(row.get(name)) for name in columns) for row in rows[:MAX_CHECKED])


def listed(personal: Mapping[Kind, int]) -> str:
    return f" ({', '.join(f'{kind} {n}' for kind, n in personal.items())})" if personal else ""
