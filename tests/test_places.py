"""A row that is named by its id can be found again: where it stands in the file, and what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.cli.rows import show_row
from optimizer.config.file import load_config
from optimizer.data.loading import load_splits, places_of
from optimizer.errors import DataError
from optimizer.report import Material, report_html
from tests.sample_study import ROWS, sample_view


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = [
        f"Note {i} is about matter {chr(97 + i % 26) * 4}{chr(97 + i // 26) * 6},{'ab'[i % 2]}" for i in range(200)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["text,team", *lines, lines[7]]) + "\n")
    study: dict[str, Any] = {
        "name": "s",
        "task": {"inputs": {"text": "t"}, "outputs": {"team": {"kind": "label", "choices": ["a", "b"]}}},
        "data": {"source": "rows.csv"},
        "metric": "accuracy",
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    return tmp_path / "s.yaml"


def test_a_row_is_found_by_its_id(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line of the file, a copy's line too, the split and the words; an id of no row is one line."""
    splits = load_splits(load_config(path), folder=path.parent).by_name()
    name, row = next((name, row) for name, rows in splits.items() for row in rows if "Note 7 " in str(row.inputs))
    assert places_of(load_config(path), {row.id}, folder=path.parent) == {
        row.id: ("line 9 of rows.csv", "line 202 of rows.csv")
    }
    assert show_row(path, (), row.id) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"row {row.id}: line 9 of rows.csv, line 202 of rows.csv; split: {name}\n  text: Note 7 is")
    with pytest.raises(DataError, match=r"--row: no row 'nobody'"):
        show_row(path, (), "nobody")


def test_a_report_names_hidden_rows_without_empty_tables() -> None:
    """Where no row may be shown there is no table of dashes: the ids, and the commands that find them."""
    material = Material(view=sample_view(), rows=ROWS, render=lambda _: "x", hides=lambda _: True, is_guarded=True)
    page = report_html(material)
    assert 'class="rows"' not in page
    assert "check CONFIG --row ID" in page
    assert re.search(r"Their ids: test\d+, test\d+", page)
    some = report_html(Material(view=sample_view(), rows=ROWS, render=lambda _: "x", hides=lambda i: i < "test2"))
    assert 'class="rows"' in some
    assert "Not shown: test" in some
