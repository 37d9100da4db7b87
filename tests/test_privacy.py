"""Rows that must stay here, stay out of prompts, or stay out of MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from optimizer.candidate import Candidate, Demo, Part
from optimizer.cli.privacy import print_privacy
from optimizer.config.keys import Config
from optimizer.data.loading import load_splits
from optimizer.data.report import unquoted
from optimizer.errors import ConfigError, DataError
from optimizer.privacy.local import is_here, require_local, unused_notes
from optimizer.study.job import open_job
from optimizer.track.projection import without_rows

HERE = "http://127.0.0.1:8000/v1"
AWAY = "https://models.example.org/v1"


def config(**changes: Any) -> Config:
    return Config.model_validate(
        {
            "name": "notes",
            "privacy": "local",
            "task": {"inputs": {"note": "n"}, "outputs": {"ward": {"kind": "label", "choices": ["a", "b"]}}},
            "data": {"source": "rows.jsonl"},
            "metric": "accuracy",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (HERE, True),
        ("http://localhost:11434/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://127.9.9.9/v1", True),
        (AWAY, False),
        ("http://192.168.1.10:8000/v1", False),
        ("http://0.0.0.0:8000", False),
        ("http://localhost.example.org/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://example.org@127.0.0.1:80/v1", True),
        ("http://127.0.0.1@example.org/v1", False),
        ("nonsense", False),
    ],
)
def test_an_address_is_here_only_if_it_is_loopback(url: str, expected: bool) -> None:
    """Neighbours in the same network and names that merely look local are elsewhere."""
    assert is_here(url) is expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lm": {"task": {"model": "openai/gpt-4.1-mini"}}}, r"lm\.task is 'openai/gpt-4.1-mini' at its provider"),
        ({"lm": {"task": {"model": "openai/m", "api_base": AWAY}}}, r"lm\.task is .* at 'models\.example\.org'"),
        ({"lm": {"task": {"model": "ollama/llama3"}}}, "at its provider"),
        ({"lm": {"proposer": {"model": "openai/m", "api_base": AWAY}}}, r"lm\.proposer"),
        (
            {
                "metric": {"name": "judge", "rubric": "good"},
                "lm": {"judge": {"model": "openai/m", "api_base": AWAY}},
            },
            r"lm\.judge",
        ),
        ({"tracking": {"uri": "https://mlflow.example.org"}}, r"tracking\.uri is at 'mlflow\.example\.org'"),
        ({"tracking": {"uri": "databricks"}}, r"tracking\.uri"),
        ({"storage": "postgresql+psycopg://me:secret@db.example.org/x"}, r"storage is at 'db\.example\.org'"),
    ],
)
def test_local_privacy_refuses_every_other_address(changes: dict[str, Any], said: str) -> None:
    """Models, tracking and database: the first that is elsewhere is named, with what is allowed, and no secret."""
    with pytest.raises(ConfigError, match=said) as error:
        require_local(config(**changes))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "cure"),
    [
        ({"lm": {"task": {"model": "openai/m"}}}, "`gguf:PATH`"),
        ({"tracking": {"uri": "https://mlflow.example.org"}}, "http://127.0.0.1:5000"),
        ({"storage": "postgresql+psycopg:///x?host=db.example.org"}, "a file in its folder"),
        ({"storage": "postgresql+psycopg://localhost/x?hostaddr=192.0.2.2"}, "postgresql+psycopg://127.0.0.1"),
        ({"notify": {"webhook_env": "HOOK"}}, "http://127.0.0.1:9000"),
    ],
)
def test_each_refusal_names_its_own_cure(changes: dict[str, Any], cure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: the key, where it points, and what to write instead; never a webhook's path, which is a secret."""
    monkeypatch.setenv("HOOK", "https://chat.example.org/T0/private-path")
    with pytest.raises(ConfigError) as error:
        require_local(config(**changes))
    assert cure in str(error.value)
    assert ("`embedded`" in str(error.value)) == ("lm" in changes)
    assert "private-path" not in str(error.value)


def test_a_webhook_on_this_machine_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message to oneself goes nowhere else, unless a proxy stands in between."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9000/x")
    require_local(config(notify={"webhook_env": "HOOK"}))
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    with pytest.raises(ConfigError, match="through a proxy"):
        require_local(config(notify={"webhook_env": "HOOK"}))


def test_a_database_host_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a host goes where PGHOST says; a folder there is a socket on this machine."""
    monkeypatch.setenv("PGHOST", "db.example.org")
    with pytest.raises(ConfigError, match=r"storage is at 'db\.example\.org'"):
        require_local(config(storage="postgresql+psycopg:///local"))
    monkeypatch.setenv("PGHOST", "/var/run/postgresql")
    require_local(config(storage="postgresql+psycopg:///local"))


def test_it_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    """A file that does not even exist is not looked for."""
    with pytest.raises(ConfigError, match="privacy: local"):
        open_job(config(lm={"task": {"model": "openai/m"}}), folder=tmp_path, runs_dir=tmp_path / "runs")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lm": {"task": {"model": "openai/m", "api_base": HERE}}},
        {"tracking": {"uri": "http://localhost:5000"}},
        {"tracking": {"uri": "sqlite:///x.db"}},
        {"tracking": {"enabled": False, "uri": "https://mlflow.example.org"}},
        {"storage": "postgresql+psycopg:///local"},
        {"privacy": "open", "lm": {"task": {"model": "openai/m", "api_base": AWAY}}},
    ],
)
def test_local_privacy_allows_this_machine(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In-process models, loopback servers and files are what it is for."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    require_local(config(**changes))


def test_a_proxy_in_between_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for all of HTTP would carry off what is meant for a server on this machine."""
    here = config(lm={"task": {"model": "openai/m", "api_base": HERE}})
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigError, match=r"through a proxy .*export NO_PROXY=127\.0\.0\.1"):
        require_local(here)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    require_local(here)


def note_rows(n: int = 120) -> list[dict[str, Any]]:
    words = ("knee", "wrist", "hip", "elbow", "ankle", "thumb", "shoulder", "neck", "jaw", "heel", "toe", "rib")
    acts = ("hurts after a fall", "is swollen", "is stiff in the morning", "was operated on", "cracks when it moves")
    backs = ("since spring", "for two days")
    texts = [f"The {word} {act} {back}" for word in words for act in acts for back in backs]
    return [
        {"note": text, "ward": "ab"[i % 2], "consent": "no" if i % 3 else "", "closed": "YES" if i % 2 else "no"}
        for i, text in enumerate(texts[:n])
    ]


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_with_a_yes_never_reach_train(tmp_path: Path) -> None:
    """They are answered and scored like others, but no prompt can show them, nor a near-copy of them."""
    rows = note_rows()
    copy = {**rows[1], "note": rows[1]["note"].upper() + "!", "closed": "no"}
    write(tmp_path, [*rows, copy])
    plain = load_splits(config(), folder=tmp_path)
    splits = load_splits(config(data={"source": "rows.jsonl", "no_demos": "closed"}), folder=tmp_path)
    assert any(row.extras["closed"] == "YES" for row in plain.train)
    assert splits.train
    assert all(row.extras["closed"] == "no" for row in splits.train)
    assert not any(str(row.inputs["note"]).casefold().startswith(rows[1]["note"].casefold()) for row in splits.train)
    kept = {row.id for row in (*splits.dev, *splits.test)}
    assert {row.id for row in (*plain.dev, *plain.test)} <= kept


def test_one_text_with_a_yes_and_a_no_stays_in_one_split(tmp_path: Path) -> None:
    """Both rows go to dev or both to test, or the one that may be shown is left out of train; no other moves."""
    rows = note_rows()
    twice = [{**row, "ward": "ba"[i % 2], "closed": "YES"} for i, row in enumerate(rows) if row["closed"] == "no"]
    write(tmp_path, [*rows, *twice[:40]])
    splits = load_splits(config(data={"source": "rows.jsonl", "no_demos": "closed"}), folder=tmp_path)
    shut = {row["note"] for row in twice[:40]}
    assert splits.train
    assert not shut & {row.inputs["note"] for row in splits.train}
    assert not {row.inputs["note"] for row in splits.dev} & {row.inputs["note"] for row in splits.test}
    plain = load_splits(config(), folder=tmp_path)
    assert {row.id for row in plain.dev} <= {row.id for row in splits.dev}
    assert {row.id for row in plain.test} <= {row.id for row in splits.test}


def test_rows_held_back_are_counted_by_reason(tmp_path: Path) -> None:
    """Their own cell, or being a near-copy of such a row; those that would have been in train are counted apart."""
    rows = note_rows()
    shut, free = [row for row in rows if row["closed"] == "YES"], [row for row in rows if row["closed"] == "no"]
    copies = [{**row, "note": row["note"].upper() + "!", "closed": "no"} for row in shut[:40]]
    write(tmp_path, [*free, *shut, *copies])
    splits = load_splits(config(data={"source": "rows.jsonl", "no_demos": "closed"}), folder=tmp_path)
    found = splits.held_back
    assert (found.marked, found.marked_left_out) == (60, 0)
    assert found.copies + found.copies_left_out == 40
    assert found.copies
    assert found.copies_left_out
    assert found.marked + found.copies == len(splits.withheld)
    n, n_out = found.copies, found.copies_left_out
    assert found.words(["closed"]) == (
        f"{60 + n} rows are held back by closed (60 by their own cell, {n} as near-copies of such rows); "
        f"{n_out} more are left out of train ({n_out} as near-copies of such rows)"
    )


def test_rows_held_back_in_a_given_train_file_are_counted(tmp_path: Path) -> None:
    """They have no other split to go to, so they are left out, and it is said how many for which reason."""
    rows = note_rows()
    for name, part in (("train", rows[:41]), ("dev", rows[41:80]), ("test", rows[80:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = {name: f"{name}.jsonl" for name in ("train", "dev", "test")}
    splits = load_splits(config(data={"files": files, "no_demos": "closed"}), folder=tmp_path)
    assert splits.held_back.words(["closed"]) == (
        "40 rows are held back by closed (40 by their own cell); 20 more are left out of train (20 by their own cell)"
    )
    assert len(splits.train) == 21


def test_a_misspelt_opt_out_column_is_refused(tmp_path: Path) -> None:
    """An opt-out that would silently do nothing is an error; so is one that leaves nothing to show."""
    write(tmp_path, note_rows())
    with pytest.raises(DataError, match=r"data\.no_demos: .* no column 'closd'"):
        load_splits(config(data={"source": "rows.jsonl", "no_demos": "closd"}), folder=tmp_path)
    write(tmp_path, [{**row, "closed": 1} for row in note_rows()])
    with pytest.raises(DataError, match=r"train is empty .*data\.no_demos keeps .* make up .* nothing in 'closed'"):
        load_splits(config(data={"source": "rows.jsonl", "no_demos": "closed"}), folder=tmp_path)


def test_without_consent_rows_that_are_made_up_are_enough(tmp_path: Path) -> None:
    """The refusal names the odd words and advises no breach; a few rows of one's own fill train."""
    rows = [{**row, "closed": "refused"} for row in note_rows()]
    write(tmp_path, rows)
    settings = config(data={"source": "rows.jsonl", "demos_only": "closed"})
    with pytest.raises(
        DataError, match=r"'refused' \(120\)\); add about twenty rows .* make up .* with yes in 'closed'"
    ):
        load_splits(settings, folder=tmp_path)
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    own = [
        {"note": f"Made up, of kind {word * 3}", "ward": "ab"[i % 2], "closed": "yes"} for i, word in enumerate(words)
    ]
    write(tmp_path, [*rows, *own])
    assert {row.extras["closed"] for row in load_splits(settings, folder=tmp_path).train} == {"yes"}


@pytest.mark.parametrize("value", ["no consent", "confidential", ["yes"]])
@pytest.mark.parametrize("key", ["no_demos", "demos_only"])
def test_an_unclear_word_holds_its_row_back(key: str, value: Any, tmp_path: Path) -> None:
    """A value that is neither yes nor no never lets a row through; the words are said where rows may be."""
    rows = note_rows()
    allowed = {"no_demos": "no", "demos_only": "YES"}[key]
    for row in [row for row in rows if row["closed"] == allowed][:7]:
        row["closed"] = value
    write(tmp_path, rows)
    splits = load_splits(config(data={"source": "rows.jsonl", key: "closed"}), folder=tmp_path)
    assert {row.extras["closed"] for row in splits.train} == {allowed}
    assert sum(row.extras["closed"] == value for row in (*splits.dev, *splits.test)) == 7
    assert {row.id for row in (*splits.dev, *splits.test) if row.extras["closed"] == value} <= splits.withheld
    said = "7 rows of 'closed' say neither yes nor no; rows are held back for that (write yes or no there)"
    assert f"{said}: {value!r} (7)" in splits.report.warnings
    assert said in map(unquoted, splits.report.warnings)


@pytest.mark.parametrize(
    ("yes", "no"), [("wahr", "FALSCH"), (True, False), (1, 0), ("x", ""), ("Y", "n"), ("ja", None)]
)
def test_usual_words_are_understood(yes: Any, no: Any, tmp_path: Path) -> None:
    """Spreadsheets in other languages, ticks, numbers and truth values."""
    rows = note_rows()
    write(tmp_path, [{**row, "closed": yes if row["closed"] == "YES" else no} for row in rows])
    splits = load_splits(config(data={"source": "rows.jsonl", "no_demos": "closed"}), folder=tmp_path)
    assert {row.extras["closed"] for row in splits.train} == {no}


def test_consent_must_be_said(tmp_path: Path) -> None:
    """With `demos_only` train holds rows with a clear yes alone; no, nothing and a missing cell hold a row back."""
    rows = [{**row, "consent": ("yes", "no", "")[i % 3]} for i, row in enumerate(note_rows())]
    del rows[2]["consent"]
    write(tmp_path, rows)
    splits = load_splits(config(data={"source": "rows.jsonl", "demos_only": "consent"}), folder=tmp_path)
    assert {row.extras["consent"] for row in splits.train} == {"yes"}
    held = {row.id for row in (*splits.dev, *splits.test) if row.extras.get("consent") != "yes"}
    assert held <= splits.withheld
    assert len(held) == 80


def test_consent_that_was_withdrawn_holds_back(tmp_path: Path) -> None:
    """With both columns a row has to pass both; lines name both; one column cannot be both."""
    said = [("yes", ""), ("yes", "no"), ("yes", "2024-05-01"), ("yes", "yes"), ("no", ""), ("", "")]
    rows = [{**row, "consent": said[i % 6][0], "withdrawn": said[i % 6][1]} for i, row in enumerate(note_rows())]
    write(tmp_path, rows)
    keys = {"demos_only": "consent", "no_demos": "withdrawn"}
    splits = load_splits(config(data={"source": "rows.jsonl", **keys}), folder=tmp_path)
    shown = {(row.extras["consent"], row.extras["withdrawn"]) for row in splits.train}
    assert shown == {("yes", ""), ("yes", "no")}
    others = [row for row in (*splits.dev, *splits.test) if row.id not in splits.withheld]
    assert {(row.extras["consent"], row.extras["withdrawn"]) for row in others} <= shown
    assert splits.held_back.marked == 80
    columns = config(data={"source": "rows.jsonl", **keys}).data.withheld_by.values()
    assert splits.held_back.words(columns).startswith("80 rows are held back by withdrawn and consent (80 by their own")
    assert any(line.startswith("20 rows of 'withdrawn' and 'consent' say neither") for line in splits.report.warnings)
    with pytest.raises(DataError, match=r"data\.demos_only: .* no column 'consents'"):
        load_splits(
            config(data={"source": "rows.jsonl", "no_demos": "withdrawn", "demos_only": "consents"}), folder=tmp_path
        )
    with pytest.raises(ValueError, match="a yes there cannot forbid and allow"):
        config(data={"source": "rows.jsonl", "demos_only": "consent", "no_demos": "consent"})


def test_a_column_that_is_also_a_field_holds_back(tmp_path: Path) -> None:
    """It makes no difference whether the task reads the column, nor by which name."""
    write(tmp_path, note_rows())
    task = {
        "inputs": {"note": "n", "shut": "c"},
        "outputs": {"ward": {"kind": "label", "choices": ["a", "b"]}},
    }
    data = {"source": "rows.jsonl", "no_demos": "closed", "fields": {"shut": "closed"}}
    splits = load_splits(config(task=task, data=data), folder=tmp_path)
    assert {row.inputs["shut"] for row in splits.train} == {"no"}


def test_tracking_can_show_ids_instead_of_rows() -> None:
    """Nothing of a shown row is left, and its id is."""
    demo = Demo(example_id="abc123", inputs={"note": "Mrs Alder fell"}, outputs={"ward": "a"}, reasoning="Alder fell")
    candidate = Candidate(parts=(Part(predictor="answer", instructions="Which ward?", demos=(demo,)),))
    shown = json.dumps(without_rows(candidate).to_json())
    assert "Alder" not in shown
    assert "[row abc123]" in shown
    assert "Which ward?" in shown


def test_check_says_what_is_personal_and_where_it_would_go(tmp_path: Path) -> None:
    """Counts by kind and split, and the address that the rows would be sent to; nothing of the rows themselves."""
    rows = [
        {**row, "note": f"{row['note']}, reported by Mrs Alder"} if i % 2 else row for i, row in enumerate(note_rows())
    ]
    write(tmp_path, rows)
    data = {"source": "rows.jsonl", "no_demos": "closed"}
    for privacy, base, said in (("open", AWAY, f"sent to lm.task ({AWAY})"), ("local", HERE, "on this machine only")):
        lm = {"task": {"model": "openai/m", "api_base": base}}
        budget = {"task_calls": 400}
        job = open_job(
            config(privacy=privacy, lm=lm, budget=budget, data=data), folder=tmp_path, runs_dir=tmp_path / "runs"
        )
        out = Console(record=True, width=200)
        print_privacy(out, job)
        text = out.export_text()
        assert f"{len(job.splits.withheld)} rows are held back by closed" in text
        assert len(job.splits.withheld) >= 60
        assert said in text
        assert "Alder" not in text
        job.close()


def test_a_judge_that_nothing_asks_is_named() -> None:
    """It is let pass, because nothing is sent to it, and said; a judge that is asked is refused."""
    away = {"lm": {"judge": {"model": "openai/m", "api_base": AWAY}}}
    require_local(config(**away))
    (note,) = unused_notes(config(**away))
    assert note.startswith("lm.judge: 'openai/m' at 'models.example.org' is not on this machine; the metric does not")
    assert unused_notes(config(lm={"judge": {"model": "openai/m", "api_base": HERE}})) == []
    assert unused_notes(config(privacy="open", **away)) == []
    assert unused_notes(config()) == []
