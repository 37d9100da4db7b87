"""The optimizer from Python: `optimize` and the DSPy teleprompter, both over the loop that the command line runs."""

from __future__ import annotations

import enum
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import dspy
import pydantic
import pytest

import optimizer
from optimizer.cli.reading import show_status
from optimizer.errors import ConfigError, DataError, StudyError, UserError
from optimizer.export import export
from optimizer.prompts.program import ModuleProgram
from optimizer.prompts.render import render
from optimizer.study.saved import open_saved
from tests.fake_server import FakeServer
from tests.test_main_job import FRUIT, HINT, N_ROWS, answer, labelled_rows

Team = Literal["red", "green", "blue"]


class Pack(dspy.Signature):
    """Which team packs this box?"""

    note: str = dspy.InputField()
    team: Team = dspy.OutputField()


class Computes(dspy.Module):
    """Its answer is made of what the predictor writes, and has another name."""

    def __init__(self) -> None:
        super().__init__()
        self.say = dspy.Predict("note -> reply")

    def forward(self, note: str) -> Any:
        return dspy.Prediction(team=str(self.say(note=note).reply).strip().lower())


class TwoSteps(dspy.Module):
    """Names the fruit, then the team."""

    def __init__(self) -> None:
        super().__init__()
        self.find = dspy.Predict("note -> fruit")
        self.pick = dspy.Predict(Pack)

    def forward(self, note: str) -> Any:
        found = self.find(note=note)
        return self.pick(note=f"{note} ({found.fruit})")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answer) as running:
        yield running


def lm(server: FakeServer, name: str) -> dspy.LM:
    return dspy.LM(f"openai/{name}", api_base=server.url, api_key="none", max_tokens=100)


def settings(tmp_path: Path, server: FakeServer) -> dict[str, Any]:
    return {
        "lm": lm(server, "task"),
        "proposer": lm(server, "proposer"),
        "search": {"trials": 8, "max_demos": 2},
        "tracking": {"enabled": False},
        "runs_dir": tmp_path,
    }


@pytest.mark.slow
def test_optimize_returns_a_better_program_with_its_proof(tmp_path: Path, server: FakeServer) -> None:
    """A signature goes in, a program that gets every row right comes out; asking again costs nothing."""
    options = settings(tmp_path, server)
    result = optimizer.optimize(Pack, metric="accuracy", train=labelled_rows(), **options)
    assert (result.verdict.decision, result.verdict.winner_score) == ("promote", 1.0)
    assert HINT in result.prompt
    assert len(str(result.verdict)) < 2000, "its rows are not printed with it"
    assert "Outcome(" not in str(result.view.trials)
    assert HINT in result.export("yaml")
    with dspy.context(lm=options["lm"]):
        assert result.program(note="Box 7 holds 3 limes.").team == FRUIT["lime"]

    n_calls = len(server.calls)
    again = optimizer.optimize(Pack, metric="accuracy", train=labelled_rows(), **options)
    assert again.view.best == result.view.best
    assert len(server.calls) == n_calls


@pytest.mark.slow
def test_a_function_may_be_the_metric(tmp_path: Path, server: FakeServer) -> None:
    """A DSPy metric of example and prediction scores the answers, and its feedback reaches the journal."""

    def right_team(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> tuple[float, str]:
        del trace
        return float(example.team == prediction.team), f"expected {example.team}"

    options = settings(tmp_path, server) | {"search": {"trials": 2}}
    rows = [dspy.Example(**row).with_inputs("note") for row in labelled_rows()]
    result = optimizer.optimize(dspy.Predict(Pack), metric=right_team, train=rows, **options)
    feedback = {outcome.feedback for trial in result.view.trials for outcome in trial.outcomes}
    assert "expected green" in feedback


@pytest.mark.slow
def test_the_teleprompter_compiles_a_student_of_two_predictors(tmp_path: Path, server: FakeServer) -> None:
    """`compile` has the usual arguments, mutates both predictors, and hands over a program that DSPy can call."""
    options = settings(tmp_path, server) | {
        "search": {"trials": 10, "operators": ["rewrite", "format"], "max_demos": 0}
    }
    rows = [dspy.Example(**row).with_inputs("note") for row in labelled_rows()]
    compiled = optimizer.PromptOptimizer(metric="accuracy", **options).compile(
        TwoSteps(), trainset=rows[:50], valset=rows[50:], goal="Say which team packs the box."
    )
    assert isinstance(compiled, dspy.Module)
    assert compiled.result.view.state == "finished"
    assert {trial.recipe.predictor for trial in compiled.result.view.trials} >= {"find", "pick"}
    with dspy.context(lm=options["lm"]):
        assert compiled(note="Box 7 holds 3 plums.").team in FRUIT.values()


@pytest.mark.slow
def test_an_answer_that_the_program_computes_is_named(tmp_path: Path, server: FakeServer) -> None:
    """`outputs` names the label column where no predictor has a field of that name; a wrong name is one line."""
    options = settings(tmp_path, server) | {"search": {"trials": 2, "formats": ["plain"]}}
    result = optimizer.optimize(Computes(), metric="accuracy", train=labelled_rows(), outputs=["team"], **options)
    assert {outcome.kind for outcome in result.view.trials[0].outcomes} == {"scored"}
    assert result.verdict.seed_score > 0
    with pytest.raises(DataError, match=r"outputs: teem is no column; columns: note, team"):
        optimizer.optimize(Computes(), metric="accuracy", train=labelled_rows(), outputs=["teem"], **options)


@pytest.mark.slow
def test_after_keep_the_prompt_is_your_own_and_a_changed_study_names_the_way_on(tmp_path: Path) -> None:
    """`prompt`, `program` and export say the same; other rows under the same name are refused in Python's words."""
    with FakeServer(
        lambda body: "<instruction>Guess.</instruction>" if body["model"] == "proposer" else "red"
    ) as server:
        options = settings(tmp_path, server) | {"search": {"trials": 4, "operators": ["rewrite"], "max_demos": 0}}
        rows = labelled_rows()
        result = optimizer.optimize(dspy.Predict(Pack), metric="accuracy", train=rows, **options)
        assert result.verdict.decision == "keep"
        own = replace(result, view=replace(result.view, best=result.view.seed))
        assert result.prompt == own.prompt
        assert "Which team packs this box?" in result.prompt
        with pytest.raises(StudyError, match=r"another data .*name='...'; with fork='optimize'"):
            optimizer.optimize(dspy.Predict(Pack), metric="accuracy", train=rows[:90], **options)
        with pytest.raises(ConfigError, match=r"fork: 'optimize' is the study itself"):
            optimizer.optimize(dspy.Predict(Pack), metric="accuracy", train=rows, fork="optimize", **options)
        n_calls = len(server.calls)
        options |= {"name": "again", "fork": "optimize"}
        again = optimizer.optimize(dspy.Predict(Pack), metric="accuracy", train=rows, **options)
        assert len(server.calls) - n_calls < 5
        assert again.view.seen_before[0].study == "optimize"


def test_what_is_compiled_stands_for_the_users_own_program(tmp_path: Path) -> None:
    """Steps are reached by their names, and a saved state goes into the user's class and back."""
    program = ModuleProgram(TwoSteps(), max_tokens=50)
    seed = program.seed("")
    compiled = program.apply(seed.with_instructions("find", "Name the fruit."))
    assert compiled.find.signature.instructions == "Name the fruit."
    assert [name for name, _ in compiled.named_predictors()] == ["find", "pick"]
    compiled.save(tmp_path / "state.json")
    own = TwoSteps()
    own.load(tmp_path / "state.json")
    assert own.find.signature.instructions == "Name the fruit."
    other = program.apply(seed).deepcopy()
    other.load(tmp_path / "state.json")
    assert other.find.signature.instructions == "Name the fruit."
    with pytest.raises(AttributeError):
        _ = compiled.found


def test_a_mistaken_setting_is_one_line(tmp_path: Path, server: FakeServer) -> None:
    """As in a file: where, what, what is allowed; no model has been asked."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"budget": {"task_call": 4}}, r"optimize: budget\.task_call: unknown key\. Did you mean 'task_calls'\?"),
        ({"search": {"trials": 0}}, r"optimize: search\.trials: must be .*got 0"),
        ({"tracking": {"rows": "none"}}, r"optimize: tracking\.rows: must be"),
    ]
    for given, said in wrong:
        with pytest.raises(ConfigError, match=said):
            optimizer.optimize(
                Pack, metric="accuracy", train=labelled_rows(), **{**settings(tmp_path, server), **given}
            )
    assert not server.calls


@pytest.mark.parametrize("program", [Pack, TwoSteps()], ids=["signature", "module"])
def test_a_further_column_is_no_part_of_the_task(program: Any, tmp_path: Path, server: FakeServer) -> None:
    """Rows off a table have more columns than the program takes; nothing is called with them."""
    rows = [{**row, "ward": "a"} for row in labelled_rows()]
    options = settings(tmp_path, server) | {"search": {"trials": 1}, "budget": {"task_calls": 200}}
    result = optimizer.optimize(program, metric="accuracy", train=rows, **options)
    assert list(cast("dict[str, Any]", result.view.config["task"])["inputs"]) == ["note"]
    renamed = [{"text": row["note"], "team": row["team"]} for row in rows]
    with pytest.raises(DataError, match="none of the columns text, team is an input of the program, which takes note"):
        optimizer.optimize(program, metric="accuracy", train=renamed, **{**options, "name": "other"})


def test_rows_without_the_answer_are_refused(tmp_path: Path, server: FakeServer) -> None:
    """When no column is an output of the program, the error names both."""
    rows = [{"note": row["note"]} for row in labelled_rows()]
    with pytest.raises(DataError, match=r"none of the columns note is an output of the program \(team\)"):
        optimizer.optimize(Pack, metric="accuracy", train=rows, **settings(tmp_path, server))
    assert len(rows) == N_ROWS
    assert not server.calls


def test_a_study_from_python_is_shown_and_exported_by_the_commands(server: FakeServer, tmp_path: Path) -> None:
    """Its program's shape is kept: what is rendered and written later is what its result gives at once."""
    result = optimizer.optimize(
        TwoSteps(),
        metric="accuracy",
        train=labelled_rows(),
        lm=lm(server, "task"),
        search={"trials": 2},
        budget={"task_calls": 200},
        tracking={"enabled": False},
        name="packing",
        runs_dir=tmp_path,
    )
    saved = open_saved(tmp_path, "packing")
    view, program = saved.view(), saved.program()
    assert render(program, view.chosen) == result.prompt
    for format in ("text", "dspy", "chat-json"):
        assert export(view, program, format, view.chosen) == result.export(format)


def test_a_study_that_was_stopped_before_it_began_hides_no_other(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` has a line for it and goes on with the others."""
    rows = labelled_rows()
    for name in ("first", "second"):
        optimizer.optimize(
            Pack,
            metric="accuracy",
            train=rows,
            lm=lm(server, "task"),
            search={"trials": 1},
            budget={"task_calls": 100},
            tracking={"enabled": False},
            name=name,
            runs_dir=tmp_path,
        )
    with sqlite3.connect(tmp_path / "second/study.db") as database:
        database.execute("UPDATE studies SET study_name = 'gone'")
    assert show_status(None, tmp_path, is_json=True) == 0
    said = capsys.readouterr()
    assert [each["study"] for each in json.loads(said.out)] == ["first"]
    assert "study 'second': it was stopped before it began; run its line again" in said.err


def test_models_are_closed_when_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a name opened is closed again; a model that is the caller's stays open."""
    closed: list[str] = []
    monkeypatch.setattr("optimizer.api.open_backend", lambda lm: SimpleNamespace(close=lambda: closed.append(lm.model)))
    with pytest.raises(UserError, match="trial"):
        optimizer.optimize(
            Pack,
            metric="accuracy",
            train=labelled_rows(),
            lm="embedded",
            proposer="openai/other",
            search={"trial": 3},
            runs_dir=tmp_path,
        )
    assert sorted(closed) == ["embedded", "openai/other"]


class Place(pydantic.BaseModel):
    city: str


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


@pytest.mark.parametrize(
    ("kind", "values", "replies"),
    [
        (list[str], (["a", "b"], ["c"]), ('["a", "b"]', '["c"]')),
        (Place, (Place(city="Ulm"), Place(city="Bonn")), ('{"city": "Ulm"}', '{"city": "Bonn"}')),
        (Size, (Size.SMALL, Size.LARGE), ("1", "2")),
        (Literal[1, 2], (1, 2), ("1", "2")),
    ],
)
@pytest.mark.slow
def test_outputs_may_be_of_any_type_that_dspy_knows(
    kind: Any, values: tuple[Any, Any], replies: tuple[str, str], tmp_path: Path, server: FakeServer
) -> None:
    """Rows may hold lists, pydantic objects and enum members; what a row and a reply say is compared as JSON."""
    signature = dspy.Signature({"note": (str, dspy.InputField()), "found": (kind, dspy.OutputField())}, "Find it.")
    words = ["pears", "plums", "figs", "dates", "limes", "kiwis", "nuts", "oats", "rye", "corn", "beans", "peas"]
    rows = [
        dspy.Example(note=f"{word} in box {'abcdefghij'[j]}{word[::-1]}", found=values[(i + j) % 2]).with_inputs("note")
        for i, word in enumerate(words)
        for j in range(10)
    ]
    right = {row.note: replies[values.index(row.found)] for row in rows}
    options = settings(tmp_path, server) | {"search": {"trials": 2}}
    with FakeServer(lambda body: next(right[note] for note in right if note in str(body["messages"]))) as model:
        options |= {"lm": lm(model, "task"), "proposer": lm(model, "proposer")}
        result = optimizer.optimize(signature, metric="accuracy", train=rows, **options)
    assert result.verdict.seed_score == 1.0
