"""Loading, checking, splitting and describing the labelled rows."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.candidate import Example, JsonValue
from optimizer.config.keys import Config, MaxRows, Split, Task
from optimizer.data.classes import warn_alike
from optimizer.data.fields import BadRow, example_of
from optimizer.data.loading import load_splits, splits_from_rows
from optimizer.data.report import DataReport, Splits, assert_disjoint, provable_gain, unquoted
from optimizer.data.rows import dataset_rows
from optimizer.data.splits import Bin, content_key, example_id, order_rank, ordered, split_key
from optimizer.errors import DataError
from optimizer.stats import smallest_provable_gain

Record = dict[str, JsonValue]
LABELS = ("billing", "delivery", "technical")
TASK = Task.model_validate(
    {"inputs": {"message": "text"}, "outputs": {"team": {"kind": "label", "choices": list(LABELS)}}}
)


def records(n: int, labels: Sequence[str] = LABELS) -> list[Record]:
    """Rows whose messages differ in letters, with classes of unequal size."""
    people = ("anna", "boris", "carla", "dmitri", "elena", "farid", "greta")
    things = ("parcel", "invoice", "kettle", "password", "refund", "charger", "voucher", "contract")
    troubles = ("has vanished", "came broken", "was charged twice", "does not open", "is far too late")
    messages = (f"{who} writes that the {what} {how}" for how, what, who in product(troubles, things, people))
    weights = [labels[0], *labels]
    return [{"message": text, "team": weights[i % len(weights)]} for i, text in enumerate(islice(messages, n))]


def as_jsonl(rows: Iterable[object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_csv(rows: Sequence[Mapping[str, JsonValue]], delimiter: str = ",") -> bytes:
    lines: list[Iterable[object]] = [rows[0].keys(), *(row.values() for row in rows)]
    return "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines).encode()


def configure(outputs: object = None, metric: object = "accuracy", **data: object) -> Config:
    task = TASK.model_dump() if outputs is None else {"inputs": {"message": "text"}, "outputs": outputs}
    rows = data if "files" in data else {"source": "rows.jsonl", **data}
    return Config.model_validate({"name": "study", "task": task, "data": rows, "metric": metric})


def load(folder: Path, content: bytes | None = None, name: str = "rows.jsonl", **data: object) -> Splits:
    if content is not None:
        (folder / name).write_bytes(content)
    return load_splits(configure(**{"source": name, **data}), folder=folder)


def everything(splits: Splits) -> list[Example]:
    return [*splits.train, *splits.dev, *splits.test]


def places(splits: Splits) -> dict[str, str]:
    return {row.id: name for name, rows in splits.by_name().items() for row in rows}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_jsonl_csv_tsv_and_parquet_give_the_same_splits(tmp_path: Path) -> None:
    """The kind of file does not matter, only what it says."""
    rows = records(90)
    expected = load(tmp_path, as_jsonl(rows)).report.fingerprints
    assert load(tmp_path, as_csv(rows), "rows.csv").report.fingerprints == expected
    assert load(tmp_path, as_csv(rows, "\t"), "rows.tsv").report.fingerprints == expected
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert load(tmp_path, name="rows.parquet").report.fingerprints == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiter_is_recognised_by_the_columns_that_the_task_needs(tmp_path: Path, delimiter: str) -> None:
    """The other delimiters may occur in the cells and even, more often, in the header."""
    rows = [{**row, "a,b;c|d\te": "x, y; z | w"} for row in records(90)]
    splits = load(tmp_path, as_csv(rows, delimiter), "rows.csv")
    assert splits.report.n_read == 90
    assert splits.dev[0].extras == {"a,b;c|d\te": "x, y; z | w"}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_byte_order_mark_and_windows_line_ends_are_ignored(tmp_path: Path, name: str) -> None:
    """Files saved by spreadsheet programs load like any other."""
    rows = records(90)
    content = (as_jsonl(rows) if name.endswith("jsonl") else as_csv(rows)).replace(b"\n", b"\r\n")
    expected = load(tmp_path, as_jsonl(rows), "plain.jsonl").report.fingerprints
    assert load(tmp_path, b"\xef\xbb\xbf" + content, name).report.fingerprints == expected
    assert load(tmp_path, b"\xef\xbb\xbf" + content, name, encoding="utf-8").report.fingerprints == expected


def test_the_line_that_names_the_separator_for_excel_is_no_header(tmp_path: Path) -> None:
    """`sep=;` before the header, which Excel hides, says what separates; lines are counted with it."""
    rows = records(90)
    expected = load(tmp_path, as_jsonl(rows), "plain.jsonl").report.fingerprints
    assert load(tmp_path, b"sep=;\n" + as_csv(rows, ";"), "rows.csv").report.fingerprints == expected
    broken = b"sep=;\n" + as_csv(rows, ";").rstrip() + b"\none;two;three\n"
    with pytest.raises(DataError, match=r"rows\.csv:93: has 3 cells"):
        load(tmp_path, broken, "rows.csv")


def test_csv_cells_may_hold_quotes_line_breaks_and_delimiters(tmp_path: Path) -> None:
    """Quoting follows the usual CSV rules, and cells that look like numbers stay text."""
    rows: list[Record] = [*records(90), {"message": 'She said "no",\nthen left; 007', "team": "billing"}]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["message", "team"])
        writer.writeheader()
        writer.writerows(rows)
    messages = {row.inputs["message"] for row in everything(load(tmp_path, name="rows.csv"))}
    assert 'She said "no",\nthen left; 007' in messages


def test_fields_map_to_columns_and_other_columns_become_extras(tmp_path: Path) -> None:
    """`data.fields` renames; what is left over stays beside the row and is never lost."""
    rows = [{"Text": row["message"], "Team": row["team"], "shop": i} for i, row in enumerate(records(90))]
    splits = load(tmp_path, as_jsonl(rows), fields={"message": "Text", "team": "Team"})
    row = splits.test[0]
    assert set(row.inputs) == {"message"}
    assert set(row.outputs) == {"team"}
    assert set(row.extras) == {"shop"}


def test_hub_class_numbers_become_class_names() -> None:
    """Data sets that store class numbers are read by name; -1 means that the row has no class."""
    batches: list[Mapping[str, list[object]]] = [{"text": ["a", "b"], "label": [1, -1]}, {"text": ["c"], "label": [0]}]
    rows = list(dataset_rows(batches, {"label": ["neg", "pos"]}))
    assert [row.values["label"] for row in rows] == ["pos", None, "neg"]
    assert [row.number for row in rows] == [1, 2, 3]


def test_only_the_rows_of_capped_splits_are_kept() -> None:
    """Of a long stream a bin holds no more than its cap, and ends with the rows of lowest rank."""
    rows = [Example(id=f"{i:012x}", inputs={"x": str(i)}, outputs={"y": "a"}) for i in range(500)]
    bin_ = Bin(cap=7)
    for row in rows:
        bin_.offer(row, seed=3)
        assert len(bin_.rows) <= 7
        assert len(bin_.heap) <= 7
    assert set(bin_.rows) == set(sorted((row.id for row in rows), key=lambda i: order_rank(i, seed=3))[:7])


# --- outputs ---------------------------------------------------------------------------------------------------------


def parsed(kind: str, value: JsonValue) -> JsonValue:
    output = {"kind": kind, "choices": ["Billing", "Late delivery", "1"]} if kind == "label" else {"kind": kind}
    task = Task.model_validate({"inputs": {"x": ""}, "outputs": {"y": output}})
    return example_of({"x": "text", "y": value}, task, {"x": "x", "y": "y"}).outputs["y"]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("label", "Billing", "Billing"),
        ("label", "  late\tDELIVERY ", "Late delivery"),
        ("label", 1, "1"),
        ("label", 1.0, "1"),
        ("text", "Same Case", "Same Case"),
        ("text", 3, "3"),
        ("text", True, "true"),
        ("number", "12", 12),
        ("number", " -0.5 ", -0.5),
        ("number", "3.0", 3),
        ("number", "1e3", 1000),
        ("number", "123456789012345678901", 123456789012345678901),
        ("number", 2.5, 2.5),
        ("boolean", "Yes", True),
        ("boolean", "0", False),
        ("boolean", 1, True),
        ("boolean", False, False),
        ("json", '{"a": [1, 2]}', {"a": [1, 2]}),
        ("json", {"a": None}, {"a": None}),
        ("json", "{}", {}),
    ],
)
def test_outputs_take_the_form_of_their_kind(kind: str, value: JsonValue, expected: JsonValue) -> None:
    """Spellings of one answer become one value, of the type that the kind promises."""
    result = parsed(kind, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "phrase"),
    [
        ("label", "biling", r"'biling' is no label; allowed: Billing, Late delivery, 1\. Did you mean 'Billing'"),
        ("label", ["Billing"], "is a list or an object"),
        ("text", {"a": 1}, "is a list or an object"),
        ("text", "   ", "is empty"),
        ("number", "nan", "no finite number"),
        ("number", "inf", "no finite number"),
        ("number", "1e999", "no finite number"),
        ("number", "1,000", "no finite number"),
        ("number", "1_000", "no finite number"),
        ("number", True, "no finite number"),
        ("boolean", "maybe", "no truth value; allowed: true, false"),
        ("boolean", 2, "no truth value"),
        ("json", "[1]", "no JSON object"),
        ("json", "{broken", "not valid JSON"),
        ("json", '{"a": NaN}', "must be finite"),
        ("json", None, "is empty"),
        ("text", "a\0b", "NUL"),
        ("text", "a\ud800b", "surrogate"),
    ],
)
def test_outputs_of_another_kind_are_bad_rows(kind: str, value: JsonValue, phrase: str) -> None:
    """The message names the field, the value and what is allowed."""
    with pytest.raises(BadRow, match=phrase) as caught:
        parsed(kind, value)
    assert str(caught.value).startswith("y: ")


def test_half_a_surrogate_inside_a_conversation_is_a_bad_row() -> None:
    """What no database can store is found in every text of a value, however deep."""
    turns = [{"role": "customer", "content": "It is broken \ud83d"}]
    with pytest.raises(BadRow, match=r"message: .* half a surrogate pair"):
        example_of({"message": turns, "team": LABELS[0]}, TASK, {"message": "message", "team": "team"})


# --- bad data --------------------------------------------------------------------------------------------------------

GOOD = records(90)
FILES = {"train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"}
NUMBER = {"team": {"kind": "number"}}
Setup = Callable[[Path], None]


def put(name: str, content: bytes) -> Setup:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def spoiled(line: bytes, name: str = "rows.jsonl") -> Setup:
    """Ninety good rows with one bad line in place 3."""
    lines = as_jsonl(GOOD).splitlines(keepends=True)
    return put(name, b"".join([*lines[:2], line + b"\n", *lines[2:]]))


def spoiled_csv(line: bytes) -> Setup:
    lines = as_csv(GOOD).splitlines(keepends=True)
    return put("rows.csv", b"".join([*lines[:2], line + b"\n", *lines[2:]]))


def given_files(train: bytes, dev: bytes, test: bytes) -> Setup:
    def write(folder: Path) -> None:
        for name, content in zip(FILES.values(), (train, dev, test), strict=True):
            (folder / name).write_bytes(content)

    return write


BAD_DATA: dict[str, tuple[Setup, dict[str, object], str]] = {
    "empty file": (put("rows.jsonl", b""), {}, r"data\.source: 'rows\.jsonl' has no rows"),
    "empty csv": (put("rows.csv", b""), {"source": "rows.csv"}, "has no rows"),
    "header only": (put("rows.csv", b"message,team\n"), {"source": "rows.csv"}, "has no rows"),
    "binary file": (
        put("rows.csv", bytes(range(256)) * 9),
        {"source": "rows.csv"},
        "rows.csv:1: is a binary or UTF-16 file",
    ),
    "NUL bytes": (spoiled(b'{"message": "a\0", "team": "billing"}'), {}, r"rows\.jsonl:3: holds a NUL byte"),
    "latin-1": (
        spoiled('{"message": "Käse", "team": "billing"}'.encode("latin-1")),
        {},
        rf"rows\.jsonl:3: byte 0xe4 at offset {len(as_jsonl(GOOD[:2])) + 14} of the file is not UTF-8; .*iconv",
    ),
    "utf-8 with a broken byte": (
        spoiled('{"message": "Käse \udce4 für Köln", "team": "billing"}'.encode(errors="surrogateescape")),
        {},
        r"rows\.jsonl:3: byte 0xe4 at offset \d+ of the file is not UTF-8, though most .* is: it is damaged here; .*-c",
    ),
    "utf-16 without its mark": (
        put("rows.csv", "message,team\n".encode("utf-16-le")),
        {"source": "rows.csv"},
        "UTF-16",
    ),
    "broken json": (
        spoiled(b'{"message": "a'),
        {},
        r"1 of 91 rows is bad: rows\.jsonl:3: is not valid JSON: .*skip_bad",
    ),
    "json list": (spoiled(b'["a", "billing"]'), {}, r"rows\.jsonl:3: is a JSON list, expected an object"),
    "json array file": (
        put("rows.jsonl", b"[\n" + as_jsonl(GOOD) + b"]"),
        {},
        "starts a JSON array, expected one JSON",
    ),
    "json nan": (spoiled(b'{"message": "a", "team": NaN}'), {}, r"rows\.jsonl:3: holds NaN"),
    "deep json": (spoiled(b"[" * 200_000), {}, r"rows\.jsonl:3: "),
    "missing column": (
        put("rows.jsonl", as_jsonl([{"message": row["message"], "taem": row["team"]} for row in GOOD])),
        {},
        r"rows\.jsonl: no column 'team' .*columns found: 'message, taem'; set data\.fields.* Did you mean 'taem'\?",
    ),
    "wrong mapping": (
        put("rows.csv", as_csv(GOOD)),
        {"source": "rows.csv", "fields": {"team": "Team"}},
        r"no column 'Team' for the field 'team'.*Did you mean 'team'\?",
    ),
    "column missing in one row": (spoiled(b'{"message": "a"}'), {}, r"rows\.jsonl:3: team: column 'team' is missing"),
    "unknown label": (
        spoiled(b'{"message": "a", "team": "bilings"}'),
        {},
        r"rows\.jsonl:3: team: 'bilings' is no label; allowed: billing, delivery, technical\. Did you mean 'billing'\?",
    ),
    "empty input": (spoiled(b'{"message": " ", "team": "billing"}'), {}, r"rows\.jsonl:3: message: is empty"),
    "many bad rows": (
        put("rows.jsonl", as_jsonl([*GOOD, *({"message": f"m{i}", "team": "x"} for i in range(7))])),
        {},
        r"7 of 97 rows are bad: rows\.jsonl:91: .*rows\.jsonl:92: .*rows\.jsonl:93: .*; and 4 more; mend",
    ),
    "all rows bad": (
        put("rows.jsonl", as_jsonl({**row, "team": "x"} for row in GOOD)),
        {"skip_bad_rows": True},
        "no rows can be used, 90 of 90 rows are bad",
    ),
    "nan number": (
        put("rows.csv", as_csv([{**row, "team": "nan" if i == 4 else i} for i, row in enumerate(GOOD)])),
        {"source": "rows.csv", "outputs": NUMBER},
        r"rows\.csv:6: team: 'nan' is no finite number",
    ),
    "ragged csv": (
        spoiled_csv(b'"a","billing","more"'),
        {"source": "rows.csv"},
        r"rows\.csv:3: has 3 cells, the header",
    ),
    "open quote": (spoiled_csv(b'"a,billing'), {"source": "rows.csv"}, r"rows\.csv:3: is not valid CSV"),
    "twin columns": (
        put("rows.csv", b"team,message,team\na,b,c\n"),
        {"source": "rows.csv"},
        "column 'team' occurs twice",
    ),
    "huge csv cell": (
        spoiled_csv(b'"' + b"a" * 1_000_001 + b'","billing"'),
        {"source": "rows.csv"},
        r"rows\.csv:3: holds a cell of more than 1,000,000 characters",
    ),
    "huge json cell": (
        spoiled(b'{"message": "' + b"a" * 1_000_001 + b'", "team": "billing"}'),
        {},
        r"rows\.jsonl:3: message: has 1,000,001 characters",
    ),
    "no parquet": (put("rows.parquet", b"PAR1 not really"), {"source": "rows.parquet"}, "is no readable parquet file"),
    "folder": (lambda folder: (folder / "rows.jsonl").mkdir(), {}, r"data\.source: 'rows\.jsonl' is a folder"),
    "missing file": (put("row.jsonl", b""), {}, r"data\.source: no file 'rows\.jsonl'.* Did you mean 'row\.jsonl'\?"),
    "missing folder": (put("x", b""), {"source": "no/where.csv"}, "no file 'no/where.csv'"),
    "path too long": (put("x", b""), {"source": "a" * 300 + ".csv"}, "data.source: .* cannot be opened"),
    "wrong extension": (put("rows.docx", b"PK"), {"source": "rows.docx"}, r"ends in '\.docx'; files end in \.jsonl"),
    "near extension": (put("rows.json", b"[]"), {"source": "rows.json"}, r"Did you mean '\.jsonl'\?"),
    "no hub name": (put("x", b""), {"source": "hub:squad"}, r"is no hub name; expected hub:owner/name"),
    "one row": (put("rows.jsonl", as_jsonl(GOOD[:1])), {}, r"rows\.jsonl: only one row; a few hundred"),
    "one row many times": (put("rows.jsonl", as_jsonl(GOOD[:1] * 9)), {}, r"only one row \(the other 8 are copies"),
    "one class": (
        put("rows.jsonl", as_jsonl({**row, "team": "billing"} for row in GOOD)),
        {},
        r"every row has the same answer 'billing': nothing to learn",
    ),
    "too few rows": (
        put("rows.jsonl", as_jsonl(GOOD[:20])),
        {},
        r"has \d of 20 rows; at least 10 are needed; add rows to data\.source \(about \d+ different ones in all\) or",
    ),
    "empty dev": (
        put("rows.jsonl", as_jsonl(GOOD)),
        {"split": {"train": 0.4999, "dev": 0.0001, "test": 0.5}},
        r"dev is empty \(90 rows in all\); at least 10 are needed; .*raise data\.split\.dev, now 0\.0001",
    ),
    "cap too low": (
        put("rows.jsonl", as_jsonl(GOOD)),
        {"max_rows": {"test": 4}},
        r"test has 4 of \d+ rows; at least 10 are needed; raise data\.max_rows\.test, now 4",
    ),
    "digits only": (
        put(
            "rows.jsonl",
            as_jsonl({"message": f"please find parcel number {i}", "team": LABELS[i % 3]} for i in range(90)),
        ),
        {},
        r"there is only 1 different text once case, digits and punctuation are ignored, .* data\.files",
    ),
    "empty dev file": (
        given_files(as_jsonl(GOOD[:30]), b"", as_jsonl(GOOD[60:])),
        {"files": FILES},
        r"data\.files\.dev: 'dev\.jsonl' has no rows",
    ),
    "overlapping files": (
        given_files(as_jsonl(GOOD[:30]), as_jsonl(GOOD[30:60]), as_jsonl(GOOD[25:60])),
        {"files": FILES},
        r"dev is empty .*; 30 of its rows also occur in another split and were removed; add others to data\.files\.dev",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_in_one_line_that_says_where_and_what_to_do(tmp_path: Path, case: str) -> None:
    """No traceback of a library, no partial result: a `DataError` of one line."""
    prepare, options, phrase = BAD_DATA[case]
    prepare(tmp_path)
    with pytest.raises(DataError, match=phrase) as caught:
        load_splits(configure(**options), folder=tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 800


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hub_data_set_that_cannot_be_reached_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, the message names the data set and says what to check."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"data\.source: 'hub:owner/none:plain:test' cannot be loaded .*network"
    ) as caught:
        load_splits(configure(source="hub:owner/none:plain:test"), folder=tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_skipped_bad_rows_are_counted_and_listed(tmp_path: Path) -> None:
    """With `skip_bad_rows` the good rows are used and the report says what is missing."""
    spoiled(b'{"message": "a", "team": "x"}')(tmp_path)
    report = load(tmp_path, skip_bad_rows=True).report
    assert (report.n_read, report.n_bad, sum(report.n.values())) == (91, 1, 90)
    assert report.bad_rows[0].startswith("rows.jsonl:3: team: 'x' is no label")
    assert any("1 of 91 rows are bad" in warning for warning in report.warnings)


# --- splitting -------------------------------------------------------------------------------------------------------

BASE = records(140)
MANY_CASES = settings(max_examples=30)
ROWS = st.lists(st.fixed_dictionaries({"message": st.text(max_size=40), "team": st.sampled_from(LABELS)}), max_size=25)


def split_base(rows: Sequence[Record], seed: int = 0) -> Splits:
    return splits_from_rows(rows, task=TASK, seed=seed, skip_bad_rows=True)


def test_a_class_that_is_left_out_as_a_whole_is_said_first() -> None:
    """Bad rows are counted by their reason; one unknown label on several rows, or a label without rows, is a loss."""
    rows: list[Record] = [*BASE, *({**row, "team": "returns"} for row in BASE[:4]), {**BASE[0], "team": "refnd"}]
    report = split_base(rows).report
    assert report.losses == report.warnings[:1]
    assert "the answers of 4 rows are none of the labels, so these were left out: 'returns'" in report.losses[0]
    assert "'returns'" not in unquoted(report.losses[0])
    said = next(each for each in report.warnings if "are bad and were left out" in each)
    assert "4 rows: team: 'returns' is no label; 1 row: team: 'refnd' is no label" in said
    assert said.endswith("the first is train row 141")
    two = [row for row in BASE if row["team"] != "technical"]
    assert split_base(two).report.losses[0].startswith("no row has the label 'technical'")
    assert split_base(BASE).report.losses == ()


@MANY_CASES
@given(extra=ROWS, seed=st.integers(0, 5))
def test_adding_rows_moves_no_other_row(extra: list[Record], seed: int) -> None:
    """A row's split depends on its own content and the seed only."""
    before, after = places(split_base(BASE, seed)), places(split_base([*extra, *BASE], seed))
    assert before.items() <= after.items()


@MANY_CASES
@given(extra=ROWS, order=st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(extra: list[Record], order: random.Random) -> None:
    """Shuffled rows give the same splits in the same order, whichever of several copies comes first."""
    rows = [*BASE, *extra, *({**row, "message": str(row["message"]).upper()} for row in BASE[:9])]
    shuffled = order.sample(rows, len(rows))
    one, other = split_base(rows), split_base(shuffled)
    assert one.by_name() == other.by_name()
    assert one.report.fingerprints == other.report.fingerprints


@MANY_CASES
@given(extra=ROWS)
def test_splits_share_no_inputs(extra: list[Record]) -> None:
    """No normalised input occurs in two splits."""
    owners: dict[str, set[str]] = {}
    for name, rows in split_base([*BASE, *extra]).by_name().items():
        for row in rows:
            owners.setdefault(content_key(row.inputs), set()).add(name)
    assert all(len(names) == 1 for names in owners.values())


@MANY_CASES
@given(
    text=st.sampled_from([str(row["message"]) for row in BASE]),
    spaces=st.sampled_from([" ", "\t", "  \n"]),
    number=st.integers(0, 10**6),
    mark=st.sampled_from(["!", "?!", " ...", "(", " -"]),
)
def test_copies_and_near_copies_share_a_split(text: str, spaces: str, number: int, mark: str) -> None:
    """Case, spaces, punctuation and digits change a longer text's split as little as a copy would."""
    variants = [text.upper(), text.replace(" ", spaces), text + mark, f"{number} {text}{mark}{number}"]
    keys = {split_key({"message": variant}, keep_digits=False) for variant in [text, *variants]}
    assert len(keys) == 1
    rows: list[Record] = [{"message": variant, "team": team} for variant in variants for team in LABELS]
    splits = split_base([*BASE, *rows])
    folded = {content_key({"message": variant}) for variant in variants}
    assert (
        len({name for name, rows in splits.by_name().items() for row in rows if content_key(row.inputs) in folded}) == 1
    )


def test_digits_count_where_they_are_the_question() -> None:
    """In very short texts, and in tasks with a number for an answer, other digits are another row."""
    sums = [{"message": f"what is the sum of the numbers {i} and 7"} for i in (3, 4)]
    assert split_key(sums[0], keep_digits=False) == split_key(sums[1], keep_digits=False)
    assert split_key(sums[0], keep_digits=True) != split_key(sums[1], keep_digits=True)
    assert split_key({"message": "item 7"}, keep_digits=False) != split_key({"message": "item 8"}, keep_digits=False)
    assert split_key({"message": "!!!"}, keep_digits=False) != split_key({"message": "???"}, keep_digits=False)


def test_shares_are_met_roughly_and_another_seed_splits_otherwise() -> None:
    """Hashing deals out 40/30/30 within a few rows in a hundred; the seed changes who is where."""
    n = split_base(records(280)).report.n
    assert abs(n["test"] - 112) < 25
    assert abs(n["dev"] - 84) < 25
    assert sum(n.values()) == 280
    assert places(split_base(BASE, 0)) != places(split_base(BASE, 1))


def test_a_larger_cap_only_adds_rows() -> None:
    """Caps keep the rows of lowest rank, so a small run's rows are part of a larger run's."""
    small = splits_from_rows(BASE, task=TASK, max_rows=MaxRows(dev=11, test=17))
    large = splits_from_rows(BASE, task=TASK, max_rows=MaxRows(dev=20, test=30))
    assert (len(small.dev), len(small.test)) == (11, 17)
    assert {row.id for row in small.dev} < {row.id for row in large.dev}
    assert {row.id for row in small.test} < {row.id for row in large.test}


def test_of_a_very_large_source_a_sample_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a number is set, a split by hash has a largest size; the rows are those that the same cap would keep."""
    monkeypatch.setattr("optimizer.data.loading.LARGEST", {"train": 30, "dev": 12, "test": 15})
    sampled, wanted = splits_from_rows(BASE, task=TASK), MaxRows(train=30, dev=12, test=15)
    assert (len(sampled.train), len(sampled.dev), len(sampled.test)) == (30, 12, 15)
    assert splits_from_rows(BASE, task=TASK, max_rows=wanted).report.fingerprints == sampled.report.fingerprints
    assert any("12 of " in line and "data.max_rows.dev" in line for line in sampled.report.warnings)
    assert len(splits_from_rows(BASE, task=TASK, max_rows=MaxRows(train=35)).train) == 35
    given = splits_from_rows(BASE[:80], BASE[80:110], BASE[110:], task=TASK)
    assert len(given.train) > 30


def test_ids_name_the_normalised_content() -> None:
    """Twelve hex digits; spelling does not change them, another answer does."""
    one = example_id({"m": "Hello  World"}, {"t": "a"})
    assert len(one) == 12
    assert int(one, 16) >= 0
    assert one == example_id({"m": " hello\nworld"}, {"t": "A"})
    assert one != example_id({"m": "Hello World"}, {"t": "b"})


def test_duplicates_are_dropped_and_contradictions_kept() -> None:
    """One row of equal ones stays; rows with two answers stay and are shown."""
    message = str(BASE[0]["message"])
    twisted: Record = {"message": message.title(), "team": "technical"}
    report = split_base([*BASE, *BASE[:6], twisted]).report
    assert (report.n_duplicates, report.n_contradictory, sum(report.n.values())) == (6, 2, 141)
    assert report.contradictions == (f"{message!r} has the answers 'billing', 'technical'",)
    assert any(warning.startswith("2 rows share their inputs") for warning in report.warnings)


def test_rows_of_test_are_removed_from_dev_and_train_and_rows_of_dev_from_train(tmp_path: Path) -> None:
    """Given files may overlap; test keeps all its rows and the report says what was removed."""
    given_files(as_jsonl(BASE[:60]), as_jsonl(BASE[50:90]), as_jsonl([*BASE[80:130], BASE[0]]))(tmp_path)
    splits = load_splits(configure(files=FILES), folder=tmp_path)
    assert splits.report.n == {"train": 49, "dev": 30, "test": 51}
    assert splits.report.n_overlap == 21
    assert any(warning.startswith("11 rows of train have the same inputs") for warning in splits.report.warnings)


@MANY_CASES
@given(labels=st.lists(st.sampled_from("aaaaabbc"), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_every_prefix_holds_each_class_nearly_in_proportion(labels: list[str], seed: int) -> None:
    """However a race cuts the list, no class is ahead of its share by more than two rows."""
    rows = [Example(id=f"{i:012x}", inputs={"x": str(i)}, outputs={"y": y}) for i, y in enumerate(labels)]
    order = [str(row.outputs["y"]) for row in ordered(rows, output="y", seed=seed)]
    assert Counter(order) == Counter(labels)
    for n in range(1, len(order) + 1):
        met = Counter(order[:n])
        assert all(abs(met[y] - n * labels.count(y) / len(labels)) <= 2 for y in set(labels))


# --- rows from Python ------------------------------------------------------------------------------------------------


class Keyed:
    """As little as an example object of another library offers."""

    def __init__(self, row: Record) -> None:
        self._row = row

    def keys(self) -> Iterable[str]:
        return list(self._row)

    def __getitem__(self, key: str, /) -> object:
        return self._row[key]


def test_rows_may_be_any_objects_with_keys() -> None:
    """Ids come from the content, so they equal those of plain dicts."""
    assert places(split_base(BASE)) == places(splits_from_rows([Keyed(row) for row in BASE], task=TASK))


def test_a_missing_split_is_taken_from_the_one_before_it() -> None:
    """Test comes from dev, dev from train, and given rows stay where they were put."""
    both = splits_from_rows(BASE[:60], BASE[60:], task=TASK)
    assert both.report.n["train"] == 60
    assert both.report.n["dev"] + both.report.n["test"] == 80
    outer = splits_from_rows(BASE[:100], None, BASE[100:], task=TASK, split=Split(train=0.5, dev=0.2, test=0.3))
    assert outer.report.n["test"] == 40
    assert outer.report.n["train"] + outer.report.n["dev"] == 100


def test_bad_rows_from_python_are_named_by_argument_and_number() -> None:
    """There is no file to point at, so the message says which argument and which row."""
    with pytest.raises(DataError, match=r"1 of 141 rows is bad: train row 141: team: .*skip_bad_rows=True"):
        splits_from_rows([*BASE, {"message": "a", "team": "x"}], task=TASK)
    with pytest.raises(DataError, match=r"dev has 5 of \d+ rows; at least 10 are needed; add rows to dev"):
        splits_from_rows(BASE[:50], BASE[50:55], BASE[60:], task=TASK)


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_counts_classes_and_scores_the_constant_answer() -> None:
    """Counts add up to the splits' sizes; the constant answer is dev's most frequent class."""
    splits = split_base(BASE)
    report = splits.report
    assert {name: sum(counts.values()) for name, counts in report.class_counts.items()} == report.n
    dev = Counter(str(row.outputs["team"]) for row in splits.dev)
    label, score = report.constant_answer or ("", 0.0)
    assert dev[label] == max(dev.values())
    assert score == dev[label] / len(splits.dev)


def test_classes_are_counted_for_the_scored_output_only() -> None:
    """Without a label or boolean output there is nothing to count; booleans count as true and false."""
    texts = Task.model_validate({"inputs": {"message": ""}, "outputs": {"team": {"kind": "text"}}})
    report = splits_from_rows(BASE, task=texts).report
    assert report.class_counts == {}
    assert report.constant_answer is None
    flags = Task.model_validate({"inputs": {"message": ""}, "outputs": {"urgent": {"kind": "boolean"}}})
    rows = [{"message": row["message"], "urgent": row["team"] == "billing"} for row in BASE]
    assert set(splits_from_rows(rows, task=flags).report.class_counts["train"]) == {"true", "false"}


def test_small_splits_are_warned_about_with_the_gain_they_could_prove() -> None:
    """The figure is rough and says so."""
    warnings = split_base(BASE).report.warnings
    assert any("test has" in warning and "only a gain of" in warning for warning in warnings)
    assert provable_gain(100) == smallest_provable_gain(100)


def test_rare_and_unevenly_spread_classes_are_warned_about() -> None:
    """A class that train hardly shows, or that weighs more in one split, is named with its numbers."""
    teams = ["billing"] * 57 + ["technical"] * 3 + ["billing"] * 20 + ["technical"] * 20 + ["billing", "technical"] * 20
    rows: list[Record] = [{**row, "team": team} for row, team in zip(BASE, teams, strict=True)]
    warnings = splits_from_rows(rows[:60], rows[60:100], rows[100:], task=TASK).report.warnings
    assert "class 'technical' has 3 train rows, fewer than 5" in warnings
    assert "class 'delivery' has 0 train rows, fewer than 5" in warnings
    assert "class 'technical' makes up 5% of train and 50% of test" in warnings


def test_labels_that_a_reply_can_hardly_tell_apart_are_warned_about() -> None:
    """Those that differ in nothing that a reader looks at are named; others are not."""
    assert warn_alike(["billing", "Billing.", "non-urgent", "non urgent", "urgent"]) == [
        "the labels 'billing' and 'Billing.'; 'non-urgent' and 'non urgent' differ in case, dashes or punctuation "
        "alone: a reply counts only if it is spelled to the letter; make them one, or give them other words"
    ]
    assert warn_alike(["<30", ">30", "-1", "1"]) == []


def test_near_copies_across_given_files_are_warned_about() -> None:
    """They are kept, because the user chose the files, but they are counted."""
    near: list[Record] = [{**row, "message": f"{row['message']} 24!"} for row in BASE[:4]]
    warnings = splits_from_rows(BASE[:50], BASE[50:90], [*BASE[90:], *near], task=TASK).report.warnings
    assert any("4 in train, 4 in test differ from a row of another split only" in warning for warning in warnings)


def test_fingerprints_follow_the_rows_and_not_the_extras() -> None:
    """Another answer changes the fingerprint of its split only; a column that nobody reads changes none."""
    base = split_base(BASE).report.fingerprints
    assert split_base([{**row, "note": 1} for row in BASE]).report.fingerprints == base
    changed = split_base([{**BASE[0], "team": "technical"}, *BASE[1:]]).report.fingerprints
    assert sum(base[name] != changed[name] for name in base) == 1


def test_disjointness_is_proven_and_not_assumed() -> None:
    """Splits that share inputs, even in another spelling, or an id, are refused."""
    one = Example(id="a" * 12, inputs={"x": "Hello"}, outputs={"y": "p"})
    two = Example(id="b" * 12, inputs={"x": " hello "}, outputs={"y": "q"})
    three = Example(id="b" * 12, inputs={"x": "other"}, outputs={"y": "q"})
    report = DataReport(n={"train": 1, "dev": 1, "test": 1}, fingerprints={})
    assert_disjoint(Splits(train=(one,), dev=(three,), test=(), report=report))
    with pytest.raises(DataError, match="train and test share 1 rows, for example 'bbbbbbbbbbbb' 'hello'"):
        assert_disjoint(Splits(train=(one,), dev=(), test=(two,), report=report))
    with pytest.raises(DataError, match="id 'bbbbbbbbbbbb' names 2 rows"):
        assert_disjoint(Splits(train=(), dev=(three,), test=(two,), report=report))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hub_that_nobody_answers_for_is_told_at_once(tmp_path: Path) -> None:
    """One line within seconds: the tries of the hub's client are neither waited for nor printed."""
    code = f"""
import sys, time
from pathlib import Path
from optimizer.data.loading import load_splits
from optimizer.errors import DataError
from tests.test_data import configure
import datasets, huggingface_hub
started = time.monotonic()
try:
    load_splits(configure(source="hub:owner/none"), folder=Path({str(tmp_path)!r}))
except DataError as error:
    print(error)
print(time.monotonic() - started)
"""
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    env = {**os.environ, **away, "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True, timeout=200
    )
    said, took_s = done.stdout.splitlines()
    assert "data.source: 'hub:owner/none' cannot be loaded from the Hugging Face hub" in said
    assert "Retry" not in done.stderr
    assert float(took_s) < 15
