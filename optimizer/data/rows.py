"""Rows as they lie in a file or on the hub, one at a time, with the place that each came from.

Decides what can be read at all: encodings, delimiters, JSON, cells. Deliberately knows nothing of fields, labels and
splits. A row that cannot be read is handed on with its problem: only the caller knows whether it may be left out.

Files are streamed and never held whole. A memory-mapped copy was measured and is worse: the pages that were read stay
resident, column types are guessed, and line numbers are lost.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast

from optimizer.candidate import Fields, JsonValue
from optimizer.data.hub import is_reachable, silent
from optimizer.data.spreadsheets import sheet_rows
from optimizer.data.text_files import read_lines
from optimizer.errors import DataError, did_you_mean

MAX_CELL_CHARS = 1_000_000
SHEETS = (".xlsx", ".xls", ".ods")
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet", *SHEETS)
_DELIMITERS = ",;\t|"
_HUB = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[^:]*)(?::(?P<split>.+))?)?")


class Row(NamedTuple):
    """One row. `number` counts lines in text files and rows elsewhere, from 1; a row with a `problem` has no values."""

    number: int
    values: Fields
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under the name that messages call them by. `rows` can be read once."""

    name: str
    unit: Literal["line", "row"]
    rows: Iterator[Row]

    def place(self, number: int) -> str:
        return f"{self.name}:{number}" if self.unit == "line" else f"{self.name} row {number}"


class RowLike(Protocol):
    """A dict, a `dspy.Example`, or anything else with keys and values."""

    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, key: str, /) -> object: ...


def open_table(
    source: str,
    *,
    folder: Path,
    columns: Collection[str],
    key: str,
    encoding: str | None = None,
    sheet: str | None = None,
) -> Table:
    """Open a file or a hub data set; rows are read as the table is walked.

    `columns` only serve to tell CSV delimiters apart; `key` is the configuration key, for messages; `encoding` is that
    of text files, `sheet` names one of a spreadsheet.

    Raises:
        DataError: the source does not exist or is of no known kind; while walking: it is no text, no CSV, no parquet.
    """
    if source.startswith("hub:"):
        return Table(name=source, unit="row", rows=_hub_rows(source, key))
    path = _find(source, folder, key)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return Table(name=source, unit="line", rows=_json_rows(read_lines(path, source, encoding)))
    if suffix in (".csv", ".tsv"):
        fixed = "\t" if suffix == ".tsv" else None
        lines = read_lines(path, source, encoding)
        return Table(name=source, unit="line", rows=_csv_rows(lines, source, columns, delimiter=fixed))
    if suffix in SHEETS:
        return Table(name=source, unit="row", rows=_sheet_rows(path, source, sheet))
    if suffix == ".parquet":
        return Table(name=source, unit="row", rows=_parquet_rows(path, source))
    raise DataError(
        f"{key}: {source!r} ends in {suffix!r}; files end in {', '.join(SUFFIXES)}, hub data sets start with 'hub:'; "
        f"convert or rename the file.{did_you_mean(suffix, SUFFIXES)}"
    )


def table_of(rows: Iterable[RowLike], *, name: str) -> Table:
    """Wrap rows that the caller already holds."""
    return Table(name=name, unit="row", rows=(_plain_row(number, row) for number, row in enumerate(rows, 1)))


def parse_json(text: str) -> JsonValue:
    """Parse strict JSON: NaN, Infinity and numbers too large for a float are refused.

    Raises:
        ValueError: with a reason that fits in a sentence.
    """
    try:
        return cast(JsonValue, _DECODER.decode(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _finite(digits: str) -> float:
    if math.isfinite(number := float(digits)):
        return number
    raise ValueError(f"holds {digits}, and JSON numbers must be finite")


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)


def _find(source: str, folder: Path, key: str) -> Path:
    path = folder / source
    try:
        if path.is_dir():
            raise DataError(f"{key}: {source!r} is a folder; give one file that ends in {', '.join(SUFFIXES)}")
        if not path.is_file():
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DataError(
                f"{key}: no file {source!r}, looked for {str(path)!r}; relative paths start at the configuration's "
                f"folder.{did_you_mean(path.name, names)}"
            )
    except OSError as error:
        raise DataError(f"{key}: {source!r} cannot be opened: {error.strerror}; check path and permissions") from None
    return path


def _json_rows(lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: str) -> Row:
    try:
        value = parse_json(line)
    except ValueError as error:
        is_array = line.lstrip().startswith("[")
        return Row(number, {}, "starts a JSON array, expected one JSON object a line" if is_array else str(error))
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, {}, f'is a JSON {type(value).__name__}, expected an object such as {{"field": "text"}}')


_SEP_LINE = re.compile(r"\"?sep=(.)\"?", re.IGNORECASE)


def _csv_rows(lines: Iterator[str], name: str, columns: Collection[str], delimiter: str | None) -> Iterator[Row]:
    # The limit belongs to the process. It is only ever raised, so no other reader can trip over it.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARS))
    sample = list(islice(lines, 20))
    named = _SEP_LINE.fullmatch(sample[0].strip("\r\n ")) if sample else None  # for Excel, which hides it
    if named:
        delimiter, sample = named[1], sample[1:]
    chosen = delimiter or _delimiter(sample, columns)
    reader = csv.reader(chain(sample, lines), delimiter=chosen, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1 + (named is not None)
        cells = _next_cells(reader)
        if cells is None:
            return
        if isinstance(cells, str):
            yield Row(number, {}, cells)
        elif cells and not header:
            header = _header(cells, f"{name}:{number}")
        elif cells and len(cells) != len(header):
            yield Row(number, {}, f"has {len(cells)} cells, the header has {len(header)}; quote cells with delimiters")
        elif cells:
            yield Row(number, dict(zip(header, cells, strict=True)))


def _next_cells(reader: Iterator[list[str]]) -> list[str] | str | None:
    """Return the next cells, what is wrong with them, or None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        if "field larger" in str(error):
            return f"holds a cell of more than {MAX_CELL_CHARS:,} characters; is a closing quote missing?"
        return f"is not valid CSV: {error}; quote cells that hold quotes, and double the quotes inside"


def _header(cells: list[str], place: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    for name in header:
        if name and header.count(name) > 1:
            raise DataError(f"{place}: column {name!r} occurs twice; rename one of them")
    return header


def _delimiter(sample: list[str], columns: Collection[str]) -> str:
    """Pick the delimiter under which the header names most of the needed columns, then the one with most cells."""

    def fit(delimiter: str) -> tuple[int, int]:
        first = _next_cells(csv.reader(sample, delimiter=delimiter))
        header = [cell.strip() for cell in first] if isinstance(first, list) else []
        return len(set(header) & set(columns)), len(header)

    return max(_DELIMITERS, key=fit)


def _sheet_rows(path: Path, name: str, sheet: str | None) -> Iterator[Row]:
    header: list[str] = []
    for number, cells in sheet_rows(path, name, sheet):
        if not header:
            header = _header(["" if cell is None else str(cell) for cell in cells], f"{name} row {number}")
        else:
            named = zip(header, cells, strict=False)  # a row may be wider than its header, with nothing in the rest
            yield _plain_row(number, {column: cell for column, cell in named if column})


def _parquet_rows(path: Path, name: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        batches = ParquetFile(path).iter_batches(batch_size=1000)
        for number, row in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1):
            yield _plain_row(number, row)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name}: is no readable parquet file: {_one_line(error)}; write it again") from None


def _hub_rows(source: str, key: str) -> Iterator[Row]:
    if (match := _HUB.fullmatch(source)) is None:
        raise DataError(f"{key}: {source!r} is no hub name; expected hub:owner/name[:config[:split]]")
    import datasets
    import huggingface_hub.constants

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # nothing is reported that the configuration does not ask for
    try:
        with silent():
            if not huggingface_hub.constants.HF_HUB_OFFLINE and not is_reachable(match["repo"]):
                datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True  # a copy may be here
            data = datasets.load_dataset(match["repo"], match["config"] or None, split=match["split"] or "train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{key}: {source!r} cannot be loaded from the Hugging Face hub: {_one_line(error)}; "
            "check the name, the network (is HF_HUB_OFFLINE set?), and run `hf auth login` if it is private"
        ) from None
    names = {column: kind.names for column, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)}
    yield from dataset_rows(data.iter(batch_size=1000), names)


def dataset_rows(batches: Iterable[Mapping[str, list[object]]], names: Mapping[str, list[str]]) -> Iterator[Row]:
    """Turn columns into rows. `names` holds the class names of columns that store class numbers; -1 means none."""
    rows = (dict(zip(batch, cells, strict=True)) for batch in batches for cells in zip(*batch.values(), strict=True))
    for number, row in enumerate(rows, 1):
        for column, classes in names.items():
            value = row[column]
            row[column] = classes[value] if isinstance(value, int) and value >= 0 else None
        yield _plain_row(number, row)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _plain_row(number: int, row: RowLike) -> Row:
    if not hasattr(row, "keys"):
        return Row(number, {}, f"is of type {type(row).__name__}, expected a mapping of field to value")
    return Row(number, {str(key): _plain(row[key]) for key in row.keys()})  # noqa: SIM118 - a RowLike need not iterate


def _plain(value: object) -> JsonValue:
    """Reduce to JSON. NaN is how tables spell a missing number, so it becomes None; foreign types become their text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if math.isnan(value) else str(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
