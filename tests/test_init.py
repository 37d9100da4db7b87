"""`optimizer init`: from a file of examples to a configuration that `check` and `run` accept."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimizer.candidate import Fields, JsonValue
from optimizer.cli import main as cli
from optimizer.cli.init import init_study
from optimizer.config.file import load_config
from optimizer.data.loading import load_splits
from optimizer.data.text_files import guess_encoding
from optimizer.errors import ConfigError, DataError, UserError
from optimizer.init.answers import model_name
from optimizer.init.consent import meaning_of
from optimizer.init.even_split import MAX_ROWS, lacking, most_even_seed, unevenness
from optimizer.init.naming import field_names, study_name
from optimizer.init.study import Dialogue, Written
from optimizer.init.task import (
    Column,
    columns_of,
    guess_output,
    is_label_like,
    pick_inputs,
    pick_metric,
    pick_output,
)
from optimizer.init.wishes import Wishes

TEAMS = ("Versand", "Abrechnung", "Technik")
THINGS = ("Lampe", "Küche", "Tür", "Wäsche", "Säge", "Brücke", "Möbel", "Decke", "Uhr", "Vase")
TROUBLES = ("kam nicht an", "ist zu teuer", "geht nicht auf", "wurde doppelt geschickt", "fällt ständig um", "rostet")


def rows() -> list[dict[str, str]]:
    pairs = [(thing, trouble) for trouble in TROUBLES for thing in THINGS]
    return [
        {"Nr": f"T{i:04d}", "Nachricht": f"Meine {thing} {trouble} \u2013 was nun?", "Team": TEAMS[i % 3]}
        for i, (thing, trouble) in enumerate(pairs)
    ]


def as_csv(table: Sequence[dict[str, str]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_xlsx(table: Sequence[dict[str, str]], path: Path) -> None:
    """The smallest workbook that spreadsheet programs open: inline texts on a second sheet, an empty first one."""
    lines = [list(table[0]), *([*row.values()] for row in table)]
    cells = "".join(
        f"<row r='{i}'>" + "".join(f"<c t='inlineStr'><is><t>{escape(cell)}</t></is></c>" for cell in line) + "</row>"
        for i, line in enumerate(lines, 1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    sheet = f"<worksheet xmlns='{main}'><sheetData>{{}}</sheetData></worksheet>"
    names = ("leer", "Anfragen")
    listed = "".join(f"<sheet name='{name}' sheetId='{i}' r:id='r{i}'/>" for i, name in enumerate(names, 1))
    links = "".join(f"<Relationship Id='r{i}' Type='{office}/worksheet' Target='s{i}.xml'/>" for i in (1, 2))
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("[Content_Types].xml", f"<Types xmlns='{package}/content-types'/>")
        book.writestr(
            "_rels/.rels",
            f"<Relationships xmlns='{package}/relationships'>"
            f"<Relationship Id='r1' Type='{office}/officeDocument' Target='xl/workbook.xml'/></Relationships>",
        )
        book.writestr(
            "xl/workbook.xml", f"<workbook xmlns='{main}' xmlns:r='{office}'><sheets>{listed}</sheets></workbook>"
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels", f"<Relationships xmlns='{package}/relationships'>{links}</Relationships>"
        )
        book.writestr("xl/s1.xml", sheet.format(""))
        book.writestr("xl/s2.xml", sheet.format(cells))


def written(folder: Path, name: str, **wishes: Any) -> Written:
    settings = {"data": str(folder / name), "config": folder / "study.yaml", **wishes}
    return Dialogue(Wishes(**settings), ask=None).run(is_forced=False)


@pytest.mark.parametrize(
    ("name", "delimiter", "encoding", "named"),
    [
        ("a.csv", ",", "utf-8", None),
        ("a.csv", ";", "cp1252", "cp1252"),
        ("a.csv", ";", "utf-8-sig", None),
        ("a.csv", "|", "utf-16", None),
        ("a.tsv", "\t", "utf-16", None),
        ("a.csv", "\t", "utf-8", None),
    ],
)
def test_a_csv_of_any_separator_and_encoding_becomes_a_study(
    name: str, delimiter: str, encoding: str, named: str | None, tmp_path: Path
) -> None:
    """What spreadsheet programs save is read as it is; an encoding is named only where the file does not tell."""
    (tmp_path / name).write_bytes(as_csv(rows(), delimiter).encode(encoding))
    result = written(tmp_path, name)
    config = load_config(result.path)
    assert config.data.encoding == named
    assert list(config.task.inputs) == ["nachricht"]
    assert config.task.outputs["team"].choices == tuple(sorted(TEAMS))
    assert config.data.fields == {"nachricht": "Nachricht", "team": "Team"}
    message = load_splits(config, folder=tmp_path).dev[0].inputs["nachricht"]
    assert "\u2013 was nun?" in str(message)
    assert any(thing in str(message) for thing in THINGS)


def test_sheets_jsonl_and_parquet_become_studies(tmp_path: Path) -> None:
    """Other usual files give the same rows."""
    table = rows()
    as_xlsx(table, tmp_path / "b.xlsx")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "b.parquet")
    found = {}
    for name in ("b.xlsx", "b.jsonl", "b.parquet"):
        result = written(tmp_path, name, config=tmp_path / f"{name}.yaml", sheet="Anfragen" if "xlsx" in name else None)
        found[name] = {row.id for row in (*result.splits.train, *result.splits.dev, *result.splits.test)}
    assert len(found["b.jsonl"]) == len(table)
    assert found["b.xlsx"] == found["b.jsonl"] == found["b.parquet"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\n" + "".join(f"row {'abc'[i % 3]} {i},x{i % 2}\n" for i in range(12)), "12 rows .* too few; 40"),
        ("text\n" + "".join(f"word {i}\n" for i in range(60)), "holds the column 'text'"),
        (
            "text,label\n" + "".join(f"row {i},{'x' if i < 5 else ''}\n" for i in range(60)),
            "55 of 60 rows have no 'label'",
        ),
        ("text,label\n" + "".join(f"row {i},x\n" for i in range(60)), "every row has the same 'label'"),
        ("text,label\n", "no rows can be read"),
        ("", "no rows can be read"),
        ("text,label\n" + '"open quote,x\n' * 60, "cannot be read|no rows can be read"),
    ],
)
def test_poor_data_is_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    """Too little, empty answers, one column: it says what is missing, and nothing is written."""
    (tmp_path / "poor.csv").write_text(content)
    with pytest.raises(DataError, match=said) as error:
        written(tmp_path, "poor.csv")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "study.yaml").exists()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    """A configuration that a person has worked on is kept, also when --force meets poor data."""
    (tmp_path / "a.csv").write_text(as_csv(rows(), ","))
    (tmp_path / "study.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        written(tmp_path, "a.csv")
    (tmp_path / "dup.csv").write_text("text,label\n" + "".join(f"the same,{'xy'[i % 2]}\n" for i in range(60)))
    wishes = Wishes(data=str(tmp_path / "dup.csv"), config=tmp_path / "study.yaml")
    with pytest.raises(DataError):
        Dialogue(wishes, ask=None).run(is_forced=True)
    assert (tmp_path / "study.yaml").read_text() == "mine"


def test_force_keeps_what_a_person_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--force leaves the old file as .previous and says so; a first file leaves nothing beside it."""
    (tmp_path / "a.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    path = tmp_path / "study.yaml"
    assert written(tmp_path, "a.csv").kept is None
    assert not path.with_name("study.yaml.previous").exists()
    path.write_text("mine")
    init_study(Wishes(data=str(tmp_path / "a.csv"), config=path), None, is_forced=True)
    assert path.with_name("study.yaml.previous").read_text() == "mine"
    assert "Your old study.yaml is kept as" in capsys.readouterr().out


def test_questions_are_asked_for_what_flags_leave_open(tmp_path: Path) -> None:
    """Each answer counts, an empty one takes the proposal, and a break can be taken up with flags."""
    (tmp_path / "a.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    asked: list[tuple[str, str]] = []

    def ask(question: str, proposal: str) -> str:
        asked.append((question, proposal))
        return "Sort customers' mail: by team." if question.startswith("What") else proposal

    dialogue = Dialogue(Wishes(data=str(tmp_path / "a.csv"), config=tmp_path / "s.yaml", outputs=("Team",)), ask)
    config = load_config(dialogue.run(is_forced=False).path)
    assert config.task.goal == config.prompt == "Sort customers' mail: by team."
    assert [proposal for _, proposal in asked][:1] == ["Nachricht"]
    assert len(asked) == 6
    assert "--goal 'Sort customers'" in dialogue.wishes.as_flags()


class Person:
    """Answers questions by how they begin, one answer after the other and then the proposal; notes what was asked."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, question: str, proposal: str) -> str:
        self.asked.append(question)
        first = question.splitlines()[-1].split()[0]
        return self.answers[first].pop(0) if self.answers.get(first) else proposal

    def heard(self, reason: str) -> bool:
        return any(re.search(reason, question.partition("\n")[0]) for question in self.asked if "\n" in question)


@pytest.mark.parametrize(("answer", "is_private"), [("ja", True), ("YES", True), ("Nein.", False), ("n", False)])
def test_a_doubtful_answer_about_privacy_is_asked_again(answer: str, is_private: bool, tmp_path: Path) -> None:
    """Only a clear yes or no counts; anything else is neither."""
    (tmp_path / "a.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    person = Person(Must=["vielleicht", "yes, but no", "0", answer])
    written_ = Dialogue(Wishes(data=str(tmp_path / "a.csv"), config=tmp_path / "s.yaml"), person).run(is_forced=False)
    assert [question for question in person.asked if "neither yes nor no" in question] == [
        f"{wrong!r} is neither yes nor no; type one of the two\nMust all rows stay on this machine, yes or no"
        for wrong in ("vielleicht", "yes, but no", "0")
    ]
    assert load_config(written_.path).privacy == ("local" if is_private else "open")


def test_a_mark_in_the_prompt_names_a_column_or_is_asked_again(tmp_path: Path) -> None:
    """`{Kunden Text}` becomes the input that the column became; what names nothing is refused, or asked again."""
    table = [{"Kunden Text": row["Nachricht"], "Team": row["Team"]} for row in rows()]
    (tmp_path / "a.csv").write_text(as_csv(table, ","), encoding="utf-8")
    made = written(tmp_path, "a.csv", prompt="Nenne das Team: {Kunden Text}")
    assert load_config(made.path).prompt == "Nenne das Team: {kunden_text}"
    with pytest.raises(
        ConfigError, match=r"--prompt: the prompt's \{kunden_texte\} names no input; .* Did you mean 'kunden_text'\?"
    ):
        written(tmp_path, "a.csv", prompt="Nenne das Team: {kunden_texte}", config=tmp_path / "b.yaml")
    person = Person(Your=["Welches Team? {mail}", "Welches Team? {kunden text}"])
    made = Dialogue(Wishes(data=str(tmp_path / "a.csv"), config=tmp_path / "c.yaml"), person).run(is_forced=False)
    assert person.heard(r"\{mail\} names no input")
    assert load_config(made.path).prompt == "Welches Team? {kunden_text}"


def test_one_column_for_both_is_asked_again_and_case_does_not_matter(tmp_path: Path) -> None:
    """Naming the answer as input, too, costs one more question; `nachricht` finds `Nachricht`."""
    (tmp_path / "a.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    person = Person(Column=["team"], Columns=["Team", "nachricht"])
    config = load_config(
        Dialogue(Wishes(data=str(tmp_path / "a.csv"), config=tmp_path / "s.yaml"), person).run(is_forced=False).path
    )
    assert person.heard("'Team' is both an input and an output")
    assert config.data.fields == {"nachricht": "Nachricht", "team": "Team"}


def test_other_sheets_and_title_lines_are_named(tmp_path: Path) -> None:
    """An empty first sheet names the other one and --sheet; a title above the header is said to be one."""
    as_xlsx(rows(), tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"sheet 'leer' was taken; the file also has 'Anfragen' \(--sheet\)"):
        written(tmp_path, "a.xlsx")
    (tmp_path / "a.csv").write_text("Tickets 2026\n" + as_csv(rows(), ";").replace(",", ""), encoding="utf-8")
    with pytest.raises(DataError, match="if its first line is a title, delete it"):
        written(tmp_path, "a.csv")


def test_an_id_is_no_input(tmp_path: Path) -> None:
    """A file of ids and texts has no answer: it is refused instead of asking for the text by its number."""
    (tmp_path / "a.csv").write_text(as_csv([{k: row[k] for k in ("Nr", "Nachricht")} for row in rows()], ","))
    with pytest.raises(DataError, match=r"only 'Nr' is left, another number in each row.*--input, --output"):
        written(tmp_path, "a.csv")


def test_names_and_files_that_cannot_be_are_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong model, address, variable, file or study name costs one more question and no answer."""
    monkeypatch.chdir(tmp_path)
    Path("tickets.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    Path("prompt.txt").write_text("Which team?")
    person = Person(
        File=["", "ticket.csv", "tickets.csv"],
        Your=["@promt.txt", "@prompt.txt"],
        Must=["yes"],
        Model=["nein", "gpt-4.1", "/x", "openai/llama"],
        Address=["ja", "https://example.com/v1", "http://localhost:8000/v1"],
        Environment=["sk-live-1234567890", "OPENAI_API_KEY"],
        Name=["Meine Studie", "mine"],
    )
    config = load_config(Dialogue(Wishes(), person).run(is_forced=False).path)
    assert (config.name, config.prompt, config.privacy) == ("mine", "Which team?", "local")
    assert config.lm.task.model == "openai/llama"
    assert (config.lm.task.api_base, config.lm.task.api_key_env) == ("http://localhost:8000/v1", "OPENAI_API_KEY")
    for reason in (
        "name the file with your examples",
        r"no file 'ticket\.csv' in '.*'\. Did you mean 'tickets\.csv'\?",
        r"no file 'promt\.txt' in '.*'\. Did you mean 'prompt\.txt'\?",
        "'nein' is no model",
        "'gpt-4.1' is no model",
        "'/x' is no model",
        "'ja' is no address",
        "'https://example.com/v1' is not on this machine",
        "that is no name of a variable",
        "'Meine Studie' cannot name a study",
    ):
        assert person.heard(reason), reason
    assert not any("sk-live" in question for question in person.asked)


def test_a_gguf_file_is_named_as_configurations_want_it() -> None:
    """A bare path gets its `gguf:`; what is named rightly stays."""
    names = ("models/a.gguf", "C:\\models\\a.GGUF", "gguf:hub:o/r/f.gguf", "embedded", "openai/meta/llama-3:8b")
    assert [model_name(name) for name in names] == ["gguf:models/a.gguf", "gguf:C:\\models\\a.GGUF", *names[2:]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"model": "nein"}, "--model: 'nein' is no model"),
        ({"prompt": "@none.txt"}, r"--prompt: no file 'none\.txt' in"),
        ({"goal": "@none.txt"}, r"--goal: no file 'none\.txt' in"),
        ({"api_base": "localhost"}, "--api-base: 'localhost' is no address"),
        ({"data": "a.yaml"}, r"a\.yaml: is a configuration already; see: .*optimizer check a\.yaml"),
        ({"data": "tickets"}, r"no file 'tickets' in '.*'\. Did you mean 'tickets\.csv'\?"),
        ({"data": "x.csv"}, r"no file 'x\.csv' in '.*'\. Files there: tickets\.csv$"),
        ({"data": "nowhere/x.csv"}, "there is no folder '.*nowhere'"),
    ],
)
def test_a_wrong_flag_is_told_before_the_first_question(
    flags: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags are looked at first; a missing file is told with the folder and what lies there."""
    monkeypatch.chdir(tmp_path)
    Path("tickets.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    Path("a.yaml").touch()
    person = Person()
    with pytest.raises(UserError, match=said):
        Dialogue(Wishes(**{"data": "tickets.csv", **flags}), person).run(is_forced=False)
    assert not person.asked


@pytest.mark.parametrize("n_answers", range(10))
def test_a_break_at_any_question_keeps_every_answer(
    n_answers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that is printed asks nothing again, be it a no or an empty answer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    Path("tickets.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    answers = {
        "File": "tickets.csv", "Column": "Team", "Columns": "Nachricht", "What": "Sort mail", "Your": "Which team?",
        "Must": "no", "Model": "openai/llama", "Address,": "", "Environment": "MY_KEY", "Name": "mine",
    }  # fmt: skip
    asked: list[str] = []

    def ask(question: str, _: str) -> str:
        asked.append(question.split()[0])
        if len(asked) > n_answers:
            raise click.Abort
        return answers[asked[-1]]

    with pytest.raises(ConfigError, match="go on with") as stopped:
        init_study(Wishes(), ask, is_forced=True)
    command = str(stopped.value).partition("go on with `")[2].partition("`")[0]
    assert command.startswith("uv run optimizer init")
    assert command.endswith(" --force")

    def go_on(words: list[str]) -> Wishes:
        seen: list[Wishes] = []

        def init(wishes: Wishes, *_: object, **__: object) -> int:
            seen.append(wishes)
            return 0

        monkeypatch.setattr("optimizer.cli.init.init_study", init)
        with pytest.raises(SystemExit):
            cli.app(words, standalone_mode=False)
        return seen[0]

    person = Person(File=["tickets.csv"], Model=["openai/llama"])
    Dialogue(go_on(shlex.split(command)[3:]), person).run(is_forced=True)
    assert [question.split()[0] for question in person.asked] == list(answers)[n_answers:]


def test_answers_survive_a_file_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the data is refused after some answers, they are printed as a command, to go on when it is mended."""
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text,label\n" + "".join(f"row {i} of many,x\n" for i in range(60)))
    with pytest.raises(DataError, match=r"learned from it\. Nothing was written; .* --output label"):
        init_study(Wishes(data="a.csv"), Person(Column=["label"]), is_forced=False)


# -- split seeds -----------------------------------------------------------------------------------


def lopsided(n: int) -> list[dict[str, str]]:
    pairs = list(itertools.permutations([*THINGS, *"abcdefghijk"], 2))[:n]
    return [{"Nachricht": f"Meine {a} neben {b}", "Team": TEAMS[i % 5 // 2]} for i, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize("n", [60, 150])
def test_the_split_seed_spreads_the_classes(n: int, tmp_path: Path) -> None:
    """Of 20 seeds that one is written, with its reason, after which the classes weigh alike in all splits."""
    (tmp_path / "a.csv").write_text(as_csv(lopsided(n), ","), encoding="utf-8")
    result = written(tmp_path, "a.csv")
    text = result.path.read_text(encoding="utf-8")
    assert "# Of the split seeds 0 to 19" in text
    found = {}
    for seed in range(20):
        config = load_config(result.path, [f"data.seed={seed}"])
        try:
            found[seed] = unevenness(load_splits(config, folder=tmp_path).report.class_counts)
        except DataError:  # too few rows for dev
            continue
    chosen = load_config(result.path).data.seed
    assert found[chosen] == min(found.values())
    assert found[chosen].gap < max(each.gap for each in found.values()) / 2
    assert found[chosen] == unevenness(result.splits.report.class_counts)


def test_no_split_seed_where_there_is_nothing_to_spread(tmp_path: Path) -> None:
    """Answers without classes, and files of many rows, keep the usual seed."""
    free = [{"Nachricht": row["Nachricht"], "Antwort": f"Nehmen Sie {i} Tage"} for i, row in enumerate(rows())]
    (tmp_path / "free.csv").write_text(as_csv(free, ","), encoding="utf-8")
    result = written(tmp_path, "free.csv")
    assert result.draft.split_seed is None
    assert "seed:" not in result.path.read_text(encoding="utf-8")
    config = load_config(written(tmp_path, "free.csv", config=tmp_path / "b.yaml").path)
    assert most_even_seed([{}] * (MAX_ROWS + 1), config) is None


def test_a_private_study_with_a_model_elsewhere_is_not_written(tmp_path: Path) -> None:
    """What `check` would refuse is refused at once."""
    (tmp_path / "a.csv").write_text(as_csv(rows(), ","), encoding="utf-8")
    with pytest.raises(ConfigError, match="privacy: local, but"):
        written(tmp_path, "a.csv", is_private=True, model="openai/gpt-4.1-mini")
    assert not (tmp_path / "study.yaml").exists()
    config = load_config(written(tmp_path, "a.csv", is_private=True).path)
    assert (config.privacy, config.tracking.rows) == ("local", "ids")


def test_a_doubtful_answer_column_is_said(tmp_path: Path) -> None:
    """Where several columns could be the answer, the others are named, and offered as groups."""
    table = [{**row, "Region": ("Nord", "Süd")[i % 2]} for i, row in enumerate(rows())]
    (tmp_path / "a.csv").write_text(as_csv(table, ","), encoding="utf-8")
    result = written(tmp_path, "a.csv")
    assert result.draft.notes == ("'Team' was taken for the answer; 'Region' may be one, too (--output).",)
    assert "slices: {by: Region," in result.path.read_text(encoding="utf-8")


def column(*values: JsonValue) -> Column:
    return columns_of([{"c": value} for value in values])["c"]


@pytest.mark.parametrize(
    ("values", "kind", "metric"),
    [
        (["yes", "no"] * 20, "boolean", "accuracy"),
        (["Yes", "no", "no "] * 20, "boolean", "accuracy"),
        ([1, 0] * 20, "label", "accuracy"),
        ([*["spam"] * 5, *["ham"] * 45], "label", "macro_f1"),
        ([*["routine"] * 52, *["urgent"] * 28, *["admin"] * 20], "label", "macro_f1"),
        ([*["routine"] * 45, *["urgent"] * 47, *["admin"] * 8], "label", "macro_f1"),
        ([*["routine"] * 45, *["urgent"] * 35, *["admin"] * 20], "label", "accuracy"),
        ([*range(50)], "number", "number"),
        ([f"{i}.5" for i in range(50)], "number", "number"),
        ([f"{i:04}" for i in range(20)] * 3, "label", "accuracy"),
        ([f"intent {i}" for i in range(250)] * 3, "label", "accuracy"),
        (['{"name": "a", "age": 3}'] * 9, "json", "json_fields"),
        ([{"name": "a"}, {"name": "b"}], "json", "json_fields"),
        ([f"Paris {i}" for i in "abcdefgh"], "text", "exact_match"),
        ([f"the answer is that {i} went home early today" for i in "abcdefgh"], "text", "token_f1"),
        ([f"{i} " + "long words " * 30 for i in "abcdefgh"], "text", "rouge_l"),
    ],
)
def test_kind_and_metric_follow_from_the_values(values: list[JsonValue], kind: str, metric: str) -> None:
    """A few usual answers are recognised for what they are."""
    guess = guess_output(column(*values))
    assert (guess.kind, pick_metric(column(*values), guess)[0]) == (kind, metric)


def test_answers_of_lists_are_refused_at_once() -> None:
    """What no row could be read as is not proposed."""
    with pytest.raises(DataError, match=r"column 'c' holds lists; .* one JSON object in each row"):
        guess_output(column(["a", "b"], ["c"]))


def test_room_for_replies_goes_by_bytes() -> None:
    """A character of Chinese or Japanese is about a token, four letters of English are."""
    assert guess_output(column("カードが使えません")).max_bytes == 27
    assert guess_output(column("The card")).max_bytes == 8


def test_an_answer_may_be_called_like_a_word_of_consent() -> None:
    """Beside one text, the column with few values is the answer, whatever it is called; never a column of consent."""
    rows = [{"text": f"some longer text about matter {i}", "accepted": "yes" if i % 3 else "no"} for i in range(40)]
    assert pick_output(columns_of(rows), []) == "accepted"
    rows = [{**row, "summary": f"matter {i}"} for i, row in enumerate(rows)]
    assert pick_output(columns_of(rows), []) == "summary"


def test_spellings_of_one_label_become_one_choice() -> None:
    """The most frequent spelling stands for all; the data is read with it later."""
    assert guess_output(column(*["Billing"] * 9, "billing ", "BILLING", *["Other"] * 4)).choices == ("Billing", "Other")


def test_roles_follow_from_names_and_contents() -> None:
    """Ids and dates are not read; the answer is known by its name or its few values."""
    table = [
        {"id": f"a{i}", "created": "2024-01-01", "body": f"some longer text about matter {i}", "queue": "xy"[i % 2]}
        for i in range(20)
    ]
    columns = columns_of(table)
    assert pick_output(columns, []) == "queue"
    assert pick_inputs(columns, ["queue"]) == ["body"]


def test_field_names_are_words() -> None:
    """Any heading gives a field name that DSPy takes, none twice, in the letters of its language."""
    names = field_names(["Ticket Text", "質問", "ticket-text", "2nd", "demos", "class", "§ !", "zusta\u0308ndig"])
    assert list(names.values())[:4] == ["ticket_text", "質問", "ticket_text_2", "field_2nd"]
    assert list(names.values())[4:] == ["demos_", "class_", "field", "zust\u00e4ndig"]
    assert study_name("x/Größere Tickets (2).csv") == "groere-tickets-2"
    assert study_name("hub:owner/My_Set:en:train") == "my_set"


def test_encodings_are_guessed_by_what_people_write(tmp_path: Path) -> None:
    """Western text is Windows-1252; other scripts are told apart; UTF-8 with a broken byte is no other encoding."""
    texts = {
        "cp1252": "Größe, café \u2013 naïve „Zitat“ 5 €\n" * 5,
        "shift_jis": "返金はいつになりますか。よろしくお願いします。配達が遅れています。\n" * 20,
        "cp1251": "Добрый день, посылка ещё не пришла, верните деньги пожалуйста.\n" * 20,
    }
    for encoding, text in texts.items():
        path = tmp_path / encoding
        path.write_bytes(text.encode(encoding))
        guess = guess_encoding(path)
        assert guess is not None
        assert path.read_text(encoding=guess) == text
    assert guess_encoding(tmp_path / "cp1252") == "cp1252"
    (tmp_path / "damaged").write_bytes(texts["cp1252"].encode() + b"\xe4\n")
    assert guess_encoding(tmp_path / "damaged") is None


@pytest.mark.slow
def test_the_command_writes_a_file_that_check_accepts(tmp_path: Path) -> None:
    """`init --yes`, then `check`; without a terminal and without --yes it says how to go on."""
    (tmp_path / "Anfragen.csv").write_bytes(as_csv(rows(), ";").encode("cp1252"))

    def optimizer(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "optimizer", *words],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    stopped = optimizer("init", "Anfragen.csv", "--goal", "Sort mail")
    assert stopped.returncode == 2
    assert "optimizer init Anfragen.csv --goal 'Sort mail'" in stopped.stderr.replace("\n", " ")
    done = optimizer("init", "Anfragen.csv", "--yes")
    assert done.returncode == 0, done.stderr
    assert "optimizer check anfragen.yaml" in done.stdout
    checked = optimizer("check", "anfragen.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "Everything is in place" in checked.stdout


@pytest.mark.parametrize(
    ("meaning", "names"),
    [
        ("consent", "consent,Consent (yes/no),Einwilligung ja/nein,Einverständnis,opt-in,optedIn,may_show,zugestimmt"),
        (
            "consent",
            "consentement du patient,patient_consent_given,consenso informato,con\u00adsent,同意,Consent given",
        ),
        ("refusal", "no_consent,consent_withdrawn,consent_refused,consent revoked,Einwilligung widerrufen,noConsent"),
        ("refusal", "kein_einverstaendnis,Einwilligung nicht erteilt,Widerspruch,opt_out,optout,optOut,Sperrvermerk"),
        ("refusal", "no_demos,withheld,private,refus,refus du patient,Opposition,refused,declined,withdrawn,不同意"),
        ("refusal", "do_not_share,Do not use,doNotShow,don't share"),
        ("open", '"Consent (0=no, 1=yes)","Consent (0=yes, 1=no)",Consent (No/Yes),consent (yes/no/withdrawn)'),
        ("open", "consent_or_not,consent_without_restriction,Consent for non-commercial use,consent_refusal_form"),
        (
            "open",
            "consent_not_withdrawn,kein Widerspruch,consent given/refused,not withheld,de_consented,non_opposition",
        ),
        ("open", "ne consent pas,Einwilligung ungültig,consent_invalid,consent_pending,consent missing,consent_v3"),
        ("open", "consent_to_surgery,informed_consent_for_anaesthesia,Narkose-Einwilligung,consent_form_shown"),
        (
            "open",
            "opt_out_withdrawn,Widerspruch_zurückgezogen,optOutReversed,no_objection,may_not_be_shared,同意撤回日",
        ),
        ("open", "withdrawal,patient_refused,has_objected,Auskunftssperre,Freigabe,can_share,permissions,autorisation"),
        (
            "open",
            "data_consent,consent_status,consent_data,consenso,DONOTSHARE,optout1,OptOut1,do_not_train,cannot_be_used",
        ),
        ("open", "May we use your answers?,nicht_zeigen,darf_gezeigt_werden,widerspricht,privileged,embargo,samtykke"),
        ("", "note,adopt outcome,content,Versand,sentiment,object_id,consensus_label,market,department"),
    ],
)
def test_only_a_plain_name_says_what_a_yes_stands_for(meaning: str, names: str) -> None:
    """Legends, purposes, negations, dates: whatever stands beside a word of consent is for a person to say."""
    (split,) = csv.reader([names])
    assert {name: meaning_of(name) for name in split} == dict.fromkeys(split, meaning)


def consent_rows(*words: str, name: str = "consent", **more: JsonValue) -> list[Fields]:
    return [
        {"text": f"Message {'abcdefgh'[i % 8] * 9} on {'klmnopqrstuvwxy'[i // 8] * 9}", "team": ("x", "z")[i % 2]}
        | {name: words[i % len(words)]}
        | more
        for i in range(120)
    ]


def words_and(name: str, **more: JsonValue) -> list[Fields]:
    """Rows of a text and a column of refusal, and what else is given."""
    return [{"brief": row["text"], name: row[name]} | more for row in consent_rows("yes", "no", name=name)]


def from_consent(folder: Path, table: Sequence[Fields], **wishes: Any) -> Written:
    path = folder / "mail.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    known: dict[str, Any] = {"is_private": True, "outputs": ("team",), **wishes}
    return Dialogue(Wishes(data=str(path), config=folder / "mail.yaml", **known), None).run(is_forced=True)


def test_odd_words_do_not_silence_a_column_of_consent(tmp_path: Path) -> None:
    """The name decides; rows with a word that is no clear yes are held back, and a line says how many."""
    found = from_consent(tmp_path, consent_rows("yes", "yes", "no", "revoked", "Yes (phone)"))
    assert load_config(found.path).data.demos_only == "consent"
    assert {row.extras["consent"] for row in found.splits.train} == {"yes"}
    assert any(said.startswith("48 rows of 'consent' say neither yes nor no") for said in found.splits.report.warnings)


@pytest.mark.parametrize("name", ["no_consent", "consent_withdrawn", "Widerspruch", "opt-out"])
def test_a_column_of_refusal_holds_back_those_who_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows with a yes, or with an odd word such as a date, are never in train; a line names the column."""
    found = from_consent(tmp_path, consent_rows("yes", "no", "", "2024-05-01", name=name))
    assert load_config(found.path).data.no_demos == name
    assert {row.extras[name] for row in found.splits.train} == {"no", ""}
    init_study(Wishes(data=str(tmp_path / "mail.jsonl"), config=tmp_path / "b.yaml"), None, is_forced=True)
    assert f"never shown as examples: rows with a yes in {name!r}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "wishes", "said"),
    [
        (consent_rows("a", name="ward"), {"consent": "ok"}, r"--consent: no column 'ok'; there are: text, team, ward"),
        (
            consent_rows("yes", "no", name="consent_not_withdrawn"),
            {},
            r"not plainly; say --consent COLUMN .* --no-cons",
        ),
        (consent_rows("yes", "no", opt_in="no"), {}, "columns 'consent' and 'opt_in' .* join them in one"),
        (consent_rows("yes", withdrawn="1", refused="0"), {}, "columns 'consent' and 'withdrawn' and 'refused'"),
        (
            consent_rows("yes", withdrawn="2024-05-01"),
            {},
            r"train is empty .*data\.no_demos and data\.demos_only keep ",
        ),
        (consent_rows("yes"), {"consent": "consent", "refusal": "Consent"}, "cannot allow and forbid"),
        (consent_rows("yes", consent_status="withdrawn 2024"), {}, "columns 'consent' and 'consent_status'"),
        (consent_rows("no", name="opt_out", opt_out_date="2024"), {}, "columns 'opt_out' and 'opt_out_date'"),
        (consent_rows("yes", consent_day="no"), {}, "columns 'consent' and 'consent_day'"),
        (consent_rows("1", "2", "3"), {}, "column 'consent' may say .* but not plainly"),
        (consent_rows("yes", name="meta consent", meta={"consent": "no"}), {"is_private": False}, "'meta consent'"),
        (words_and("refused"), {"outputs": ()}, "--input or --output names it"),
        (words_and("opt_out"), {"outputs": (), "is_private": False}, "column 'opt_out'"),
        (consent_rows("yes", name="patient_refused"), {}, "column 'patient_refused' may say"),
        (consent_rows("yes", name="consent_v3"), {"is_private": False}, "column 'consent_v3' may say"),
        (consent_rows("yes"), {"consent": "consent", "shows_all": True}, "cannot stand beside"),
        (consent_rows(""), {}, r"train is empty .*data\.demos_only"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    table: list[Fields], wishes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """No such column, a name that is not plain, two of one meaning, nobody's consent: one line, and no file."""
    with pytest.raises(UserError, match=said):
        from_consent(tmp_path, table, **wishes)
    assert not (tmp_path / "mail.yaml").exists()


def test_consent_and_its_withdrawal_are_obeyed_together(tmp_path: Path) -> None:
    """One plain column of each meaning, or both flags; where somebody answers, both are proposed."""
    table: list[Any] = consent_rows("yes", "yes", "yes", "no")
    for i, row in enumerate(table):
        row["withdrawn"] = "yes" if i % 3 == 0 else ""
    for wishes in ({}, {"consent": "consent", "refusal": "withdrawn", "is_private": False}):
        found = from_consent(tmp_path, table, **wishes)
        data = load_config(found.path).data
        assert (data.demos_only, data.no_demos) == ("consent", "withdrawn")
        assert {(row.extras["consent"], row.extras["withdrawn"]) for row in found.splits.train} == {("yes", "")}
    path = tmp_path / "mail.jsonl"
    asked = Dialogue(Wishes(data=str(path), config=tmp_path / "b.yaml", outputs=("team",)), Person()).run(
        is_forced=True
    )
    assert (asked.draft.consent_column, asked.draft.opt_out_column) == ("consent", "withdrawn")
    one = Person(Never=["none"])
    asked = Dialogue(Wishes(data=str(path), config=tmp_path / "b.yaml", outputs=("team",)), one).run(is_forced=True)
    assert (asked.draft.consent_column, asked.draft.opt_out_column) == ("consent", "")
    assert any(note.endswith("not obeyed: 'withdrawn'.") for note in asked.draft.notes)
    flags = Wishes(consent="consent", refusal="withdrawn").as_flags()
    assert flags.endswith("init --consent consent --refusal withdrawn")


@pytest.mark.parametrize("name", ["refused", "opt_out", "declined"])
def test_a_column_of_refusal_is_not_the_answer_where_that_is_a_text(name: str, tmp_path: Path) -> None:
    """Of a free text under an unknown name and a yes or no, the text is the answer; the other holds rows back."""
    table = [{**row, "Kurzfassung": f"In short: {row['brief']}"} for row in words_and(name)]
    found = from_consent(tmp_path, table, outputs=())
    assert [*found.draft.outputs] == ["kurzfassung"]
    assert load_config(found.path).data.no_demos == name
    assert {row.extras[name] for row in found.splits.train} == {"no"}


def test_a_column_that_only_later_rows_have_is_seen(tmp_path: Path) -> None:
    """Names are looked for in all rows, not only in those that the proposal rests on."""
    rows = [{"text": f"Message {i // 100}x{i % 100}", "team": "xz"[i % 2]} for i in range(20_200)]
    table: list[Fields] = [{**row, "opt_out": "yes"} if i > 20_050 else {**row} for i, row in enumerate(rows)]
    with pytest.raises(ConfigError, match="column 'opt_out' may say which rows"):
        from_consent(tmp_path, table)
    assert load_config(from_consent(tmp_path, table, shows_all=True).path).data.no_demos is None


def test_consent_is_neither_read_nor_the_answer(tmp_path: Path) -> None:
    """A column that says what may be shown is proposed for nothing else; a date beside it changes nothing."""
    table = consent_rows("yes", "no", name="consent_given", consent_date="2024-05-01")
    found = from_consent(tmp_path, table, outputs=())
    assert list(found.draft.columns) == ["text", "team"]
    assert load_config(found.path).data.demos_only == "consent_given"


def notes(n: int = 120) -> list[Fields]:
    """Notes of which half may be shown, a class in one text only, and a column that staff writes afterwards."""
    classes = ["routine"] * 7 + ["urgent"] * 4
    return [
        {
            "clinical note": f"Patient {chr(97 + i // 11) * 5}{chr(97 + i % 11) * 5} reports an ailment since {i} days."
            if i >= 6
            else f"The very same words again and again, number {i}",
            "comments": f"Seen by the team on day {i}, all was as it should be.",
            "triage class": classes[i % 11] if i >= 6 else "rare",
            "consent": ("yes", "no")[i % 2],
        }
        for i in range(n)
    ]


def from_notes(folder: Path, ask: Any = None, **wishes: Any) -> Written:
    path = folder / "notes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in notes()))
    return Dialogue(Wishes(data=str(path), config=folder / "notes.yaml", **wishes), ask).run(is_forced=True)


@pytest.mark.parametrize(
    ("wishes", "column"),
    [
        ({"is_private": True}, "consent"),
        ({"is_private": True, "shows_all": True}, None),
        ({}, "consent"),
        ({"consent": "consent"}, "consent"),
    ],
)
def test_a_column_of_consent_holds_rows_back(wishes: dict[str, Any], column: str | None, tmp_path: Path) -> None:
    """One of a plain name is obeyed, another one by flag; --no-consent leaves it out."""
    assert load_config(from_notes(tmp_path, **wishes).path).data.demos_only == column


def test_what_holds_rows_back_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line names the column and the way out; without one a private file is told that any row may be shown."""
    said = []
    for words in (consent_rows("yes", "no"), consent_rows("a", name="ward")):
        from_consent(tmp_path, words)
        given = Wishes(
            data=str(tmp_path / "mail.jsonl"), config=tmp_path / "b.yaml", outputs=("team",), is_private=True
        )
        init_study(given, None, is_forced=True)
        said.append(" ".join(capsys.readouterr().out.split()))
    assert "only rows with a yes in 'consent' (data.demos_only; --no-consent leaves it out)" in said[0]
    assert "no column of consent or refusal was found: every row may be shown" in said[1]


def test_consent_is_asked_where_somebody_answers(tmp_path: Path) -> None:
    """A plain name is proposed, what is not plain has no proposal; the command to go on knows the answer."""
    config = load_config(from_notes(tmp_path, Person()).path)
    assert config.data.demos_only == "consent"
    person = Person(Shown=["no such", "none"], Never=["consent"])
    config = load_config(from_notes(tmp_path, person).path)
    assert (config.data.demos_only, config.data.no_demos) == (None, "consent")
    assert person.heard("no column 'no such'; there are: clinical note, comments, triage class, consent, or none")
    assert Wishes(shows_all=True).as_flags().endswith("init --no-consent")
    assert Wishes(refusal="my no").as_flags().endswith("init --refusal 'my no'")


def test_remarks_are_not_read_beside_a_text(tmp_path: Path) -> None:
    """What staff wrote afterwards is no input, and a line says so; where it is all there is, it is read."""
    draft = from_notes(tmp_path).draft
    assert list(draft.columns) == ["clinical_note", "triage_class"]
    assert any(note.startswith("not read: 'comments', remarks beside the text; --input") for note in draft.notes)
    alone = columns_of([{key: row[key] for key in ("comments", "triage class")} for row in notes()])
    assert pick_inputs(alone, ["triage class"]) == ["comments"]
    for name in ("Bemerkungen", "commentaires", "備考", "internal remarks"):
        columns = columns_of([{"text": row["clinical note"], name: row["comments"]} for row in notes()])
        assert pick_inputs(columns, []) == ["text"], name


def test_a_class_that_no_seed_brings_into_train_is_explained(tmp_path: Path) -> None:
    """Six rows of one text share a split: the file says why train may have none, and what helps."""
    draft, splits = (found := from_notes(tmp_path, shows_all=True)).draft, found.splits
    counts = splits.report.class_counts
    lacks = [note for note in draft.split_notes if "'rare'" in note]
    assert bool(lacks) is (counts["train"].get("rare", 0) == 0)
    config = load_config(found.path)
    why = next(note for seed in range(20) for note in lacking(notes(), config, seed) if "'rare'" in note)
    assert why == (
        "train has no row of 'rare': its 6 rows are 1 different texts but for digits and punctuation, and such "
        "near-copies share a split; rows in other words help"
    )


def test_a_column_of_dates_is_no_label() -> None:
    """Few different days are no classes: the answer is looked for elsewhere."""
    days = Column(name="Datum", values=tuple(f"2026-03-{1 + i % 9:02}" for i in range(60)), n_rows=60)
    german = Column(name="Tag", values=tuple(f"{1 + i % 9}.3.2026" for i in range(60)), n_rows=60)
    triage = Column(name="Triage", values=tuple("abc"[i % 3] for i in range(60)), n_rows=60)
    columns = {column.name: column for column in (triage, days, german)}
    assert [is_label_like(column) for column in (triage, days, german)] == [True, False, False]
    assert pick_output(columns, ()) == "Triage"


def test_whole_numbers_that_a_table_holds_as_floats_are_labels_without_a_point(tmp_path: Path) -> None:
    """pandas writes 4.0 as soon as one cell of a column is empty; the file and the data agree on how it is read."""
    rows: list[Fields] = [
        {"text": f"Review {i // 15}x{i % 15} of the day", "stars": float(1 + i % 5)} for i in range(240)
    ]
    (tmp_path / "stars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = written(tmp_path, "stars.jsonl", outputs=("stars",))
    assert found.draft.outputs["stars"].choices == ("1", "2", "3", "4", "5")
    assert {row.outputs["stars"] for row in found.splits.train} == {"1", "2", "3", "4", "5"}
