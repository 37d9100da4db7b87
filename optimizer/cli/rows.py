"""What `optimizer check CONFIG --row ID` prints: where a row stands, in which split it is, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.cli.terminal import console
from optimizer.config.file import load_config
from optimizer.config.keys import config_folder
from optimizer.data.loading import load_splits, places_of
from optimizer.errors import DataError, did_you_mean
from optimizer.words import visible


def show_row(config_path: Path, overrides: Sequence[str], row_id: str) -> int:
    """Print a row that a report, a log or MLflow names by its id.

    Raises:
        DataError: no row of the data has this id.
    """
    config, folder = load_config(config_path, overrides), config_folder(config_path)
    splits = load_splits(config, folder=folder).by_name()
    found = {row.id: (name, row) for name, rows in splits.items() for row in rows}
    places = places_of(config, {row_id}, folder=folder).get(row_id, ())
    if not places:
        hint = did_you_mean(row_id, found)
        raise DataError(f"--row: no row {row_id!r}; ids are made of what a row says, a changed row has another.{hint}")
    split, row = found.get(row_id, ("none: a cap or a copy keeps it out", None))
    lines = [f"row {row_id}: {', '.join(places)}; split: {split}"]
    for fields in (row.inputs, row.outputs, row.extras) if row else ():
        lines += [f"  {name}: {' '.join(str(value).split())}" for name, value in fields.items() if value is not None]
    for line in lines:
        console().print(visible(line), highlight=False, markup=False, soft_wrap=True)
    return 0
