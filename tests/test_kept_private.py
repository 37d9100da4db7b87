"""A finished study of rows that must stay here: what later commands send, write and print of them."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from optimizer.cli.commands import check_config
from optimizer.cli.probe import probe_config
from optimizer.cli.reading import export_front, export_study, suite_rows, write_report
from optimizer.config.keys import Config
from optimizer.data.report import unquoted
from optimizer.errors import ConfigError
from optimizer.report import report_html
from optimizer.run import run
from optimizer.study.job import open_job
from optimizer.study.saved import SavedStudy, open_saved
from optimizer.study.showing import report_material
from optimizer.verify import plan_check
from tests.fake_server import Body, FakeServer
from tests.test_main_job import answer, command, config, labelled_rows

GUESSES = itertools.cycle(["red", "blue", "green"])
AWAY = "http://192.0.2.2/v1"  # reserved for documentation: nothing answers there


def wavering(body: Body) -> str:
    """Another answer each time; as proposer, a question."""
    return "Who packs it?" if body["model"] == "proposer" else next(GUESSES)


def private_rows() -> list[dict[str, str]]:
    """Every other row is held back, and its text says so, to be looked for. Limes of the others have an address."""
    return [
        {**row, "note": f"HELD {row['note']}", "closed": "yes", "who": f"Alder{i}"} if i % 2 == 0 else
        {**row, "note": row["note"].replace("limes.", "limes. Ask kim@example.org."), "closed": "no", "who": ""}
        for i, row in enumerate(labelled_rows())
    ]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished study with a winner; `privacy: local`, and a column that holds rows back."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in private_rows()))
    with FakeServer(answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        settings = config(
            server.url,
            privacy="local",
            data={"source": "rows.jsonl", "no_demos": "closed"},
            search={"trials": 5, "formats": ["plain"], "max_demos": 0, "operators": ["rewrite"]},
            tracking={"enabled": False},
        )
        run(open_job(Config.model_validate(settings), folder=folder, runs_dir=folder / "runs"))
        yield folder


def with_ids(saved: SavedStudy) -> SavedStudy:
    """The study as if `tracking.rows: ids` had been set."""
    tracking = saved.config.tracking.model_copy(update={"rows": "ids"})
    return replace(saved, config=saved.config.model_copy(update={"tracking": tracking}))


def test_verify_obeys_the_study(study: Path) -> None:
    """Another address is refused with one line and exit code 2, for the study and for an exported file of it."""
    for target in ("fruit", str(study / "runs/fruit/best_prompt.json")):
        for model in (None, "openai/other"):
            with pytest.raises(ConfigError, match=r"privacy: local, but lm\.task is .* at '192\.0\.2\.2'"):
                plan_check(target, study / "runs", model=model, api_base=AWAY, data=None)
    with pytest.raises(ConfigError, match="at its provider"):
        plan_check("fruit", study / "runs", model="gemini/other", api_base=None, data=study / "gone.jsonl")
    done = subprocess.run(
        command("verify", "fruit", "--lm", "openai/other", "--api-base", AWAY),
        cwd=study, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    plan_check("fruit", study / "runs", model="openai/other", api_base="http://127.0.0.1:9/v1", data=None)


def test_a_suite_leaves_rows_out_that_are_held_back(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """None of them is in the file, the others are, and how many is said; with `tracking.rows: ids` there is none."""
    saved = open_saved(study / "runs", "fruit")
    splits = saved.splits()
    assert splits is not None
    held = [row for row in splits.test if row.id in splits.withheld]
    assert len(held) >= 10
    export_study("fruit", study / "runs", format="promptfoo", output=None, is_forced=False)
    said = capsys.readouterr()
    suite = yaml.safe_load(said.out)
    assert len(suite["tests"]) == len(splits.test) - len(held) >= 10
    assert "HELD" not in said.out
    assert not any(row.id in said.out for row in held)
    assert f"the file holds {len(suite['tests'])} test rows; rows held back by closed are left out" in said.err

    rows, told = suite_rows(with_ids(saved), saved.view())
    assert rows == ()
    assert "the file holds 0 test rows (tracking.rows is `ids`" in told


def test_personal_data_in_a_suite_is_counted(study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Test rows go wherever the file goes: what in them looks like personal data is told with each suite that is
    written, and not with an export that holds none of them."""
    runs = study / "runs"
    export_study("fruit", runs, format="promptfoo", output=None, is_forced=False)
    said = capsys.readouterr()
    n_rows = sum("@example.org" in str(case["vars"]) for case in yaml.safe_load(said.out)["tests"])
    told = f"personal data? the test rows show (e-mail address {n_rows}); look at the file before you send it on"
    assert n_rows >= 10
    assert told in said.err
    export_front("fruit", runs, format="promptfoo", output=tmp_path / "front", is_forced=False)
    assert told in capsys.readouterr().err
    export_study("fruit", runs, format="openai", output=None, is_forced=False)
    assert "personal data?" not in capsys.readouterr().err


def test_a_suite_holds_the_rows_that_the_verdict_rests_on(study: Path) -> None:
    """Of test rows that a cap left out none is in the suite, and their number is said; before the verdict all are."""
    saved = open_saved(study / "runs", "fruit")
    view = saved.view()
    assert view.verdict is not None
    everything, _ = suite_rows(saved, replace(view, verdict=None))
    judged = [each for each in view.verdict.seed_outcomes if each.example_id in {row.id for row in everything}][:7]
    rows, told = suite_rows(saved, replace(view, verdict=replace(view.verdict, seed_outcomes=tuple(judged))))
    assert {row.id for row in rows} == {each.example_id for each in judged}
    assert told.startswith(f"the file holds 7 test rows; {len(everything) - 7} that the final test did not judge are")


def test_a_report_can_be_sent_on(study: Path) -> None:
    """Of rows that are held back it has the id alone, of others the text; no column of theirs is a group either."""
    write_report("fruit", study / "runs", output=None, is_forced=False, opens_browser=False)
    page = (study / "runs/fruit/report.html").read_text()
    saved = open_saved(study / "runs", "fruit")
    splits = saved.splits()
    assert splits is not None
    assert saved.view().best != saved.view().seed
    assert "HELD" not in page
    assert "Alder" not in page
    assert any(row.id in page for row in splits.test if row.id in splits.withheld)
    assert any(str(row.inputs["note"]) in page for row in splits.test if row.id not in splits.withheld)

    page = report_html(report_material(with_ids(saved)))
    assert not any(str(row.inputs["note"]) in page for rows in splits.by_name().values() for row in rows)
    assert any(row.id in page for row in splits.test)


def test_a_report_without_its_data_shows_ids(study: Path, tmp_path: Path) -> None:
    """Where nobody can say any more which rows are held back, no answer of any row is shown."""
    saved = replace(open_saved(study / "runs", "fruit"), folder=tmp_path)
    material = report_material(saved)
    assert material.pairs
    assert all(material.hides(pair.example_id) for pair in material.pairs)


def test_remarks_that_quote_rows_are_cut() -> None:
    """A warning keeps its count and loses the rows in it."""
    text = "4 rows share their inputs with a row of another answer: 'Mrs Alder: fell' has the answers 'a', 'b'"
    assert unquoted(text) == "4 rows share their inputs with a row of another answer"
    assert unquoted("2 of 9 rows are bad and were left out, for example x:3: 'Alder'").endswith("were left out")
    assert unquoted("dev has 20 rows, fewer than 50: roughly") == "dev has 20 rows, fewer than 50: roughly"


@pytest.mark.slow
def test_a_probe_shows_ids_and_tells_the_proposer_of_no_row_that_is_held_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `tracking.rows: ids` no text of a row is printed and nobody is asked about one; else held rows are kept."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in private_rows()))
    with FakeServer(wavering) as server:
        settings = config(server.url, data={"source": "rows.jsonl", "no_demos": "closed"}, search={"max_demos": 0})
        for rows in ("full", "ids"):
            (tmp_path / "study.yaml").write_text(yaml.safe_dump({**settings, "tracking": {"rows": rows}}))
            n_calls = len(server.calls)
            probe_config(tmp_path / "study.yaml", [], tmp_path / "runs", is_json=False, is_probed=True)
            check_config(tmp_path / "study.yaml", [], tmp_path / "runs")
            said = capsys.readouterr().out
            asked = [call.prompt for call in server.calls[n_calls:] if "leaves something open" in call.prompt]
            assert len(asked) == (rows == "full")
            assert not any("HELD" in each for each in asked)
            assert all("Box" in each for each in asked)
            assert ("HELD" in said or "Box" in said) == (rows == "full")
            assert ("'row " in said) == (rows == "ids")
