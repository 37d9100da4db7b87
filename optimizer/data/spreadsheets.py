"""Rows of a spreadsheet (XLSX, XLS, ODS), with the numbers that the rows have in it. The edge to calamine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from optimizer.errors import DataError, did_you_mean


def sheet_rows(path: Path, name: str, sheet: str | None) -> Iterator[tuple[int, list[object]]]:
    """Yield row number and cells of each row that holds anything; empty cells are None, whole numbers are integers.

    Args:
        name: what messages call the file.
        sheet: name of the sheet; None for the first one.

    Raises:
        DataError: the file is none of these kinds, has a password, or has no such sheet.
    """
    import python_calamine as calamine

    try:
        book = calamine.CalamineWorkbook.from_path(path)
        names = book.sheet_names
        if sheet is not None and sheet not in names:
            known = ", ".join(names)
            raise DataError(f"data.sheet: {name} has no sheet {sheet!r}; sheets: {known}.{did_you_mean(sheet, names)}")
        found = book.get_sheet_by_name(sheet) if sheet is not None else book.get_sheet_by_index(0)
        first = 1 + (found.start[0] if found.start else 0)
        for number, cells in enumerate(found.iter_rows(), first):
            values = [_cell(cell) for cell in cells]
            if any(value is not None for value in values):
                yield number, values
    except calamine.PasswordError as error:
        raise DataError(f"{name}: is protected by a password; save it without one") from error
    except (calamine.CalamineError, OSError) as error:
        raise DataError(f"{name}: is no readable spreadsheet: {error}; save it again, or as CSV") from error


def sheet_names(path: Path) -> list[str]:
    """Return the names of a spreadsheet's sheets; none where it cannot be read."""
    import python_calamine as calamine

    try:
        return list(calamine.CalamineWorkbook.from_path(path).sheet_names)
    except (calamine.CalamineError, OSError):
        return []


def _cell(value: object) -> object:
    if value == "" or (isinstance(value, str) and not value.strip()):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
