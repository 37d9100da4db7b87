"""Our loop behind `mlflow.genai.optimize_prompts`, and the study in other people's viewers."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optimizer.errors import ConfigError, UserError
from optimizer.mlflow_optimizer import StudyPromptOptimizer, rows_by_text
from tests.fake_server import Body, FakeServer
from tests.test_main_job import FRUIT, HINT, answer, labelled_rows

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def proposer(_body: Body) -> str:
    return f"<prompt>{HINT} The box: {{{{note}}}}</prompt>"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Any]:
    """MLflow with a store of its own, as a user has it; the process's settings are put back."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'own.db'}")
    mlflow.set_registry_uri(f"sqlite:///{tmp_path / 'own.db'}")
    yield mlflow
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.mark.slow
def test_mlflow_users_get_a_proven_prompt(registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`optimize_prompts` runs a study over the user's own function and scorer, and registers the better template."""
    import dspy
    from mlflow.genai.scorers import scorer

    monkeypatch.setenv("MLFLOW_GENAI_EVAL_MAX_WORKERS", "1")
    prompt = registry.genai.register_prompt(name="boxes", template="Which team packs this box? {{note}}")

    def predict(note: str) -> str:
        asked = registry.genai.load_prompt(prompt.uri).format(note=note)
        fruit = next(fruit for fruit in FRUIT if fruit in note)
        return FRUIT[fruit] if "apple is red" in asked and note in asked else "red"

    @scorer
    def exact(outputs: str, expectations: dict[str, str]) -> float:
        return float(outputs == expectations["expected_response"])

    fruits = list(FRUIT)
    rows = [
        {
            "inputs": {"note": f"Box {chr(97 + i // 26)}{chr(97 + i % 26)} holds {fruits[i % 3]}s."},
            "expectations": {"expected_response": FRUIT[fruits[i % 3]]},
        }
        for i in range(120)
    ]
    with FakeServer(proposer) as server:
        lm = dspy.LM("openai/proposer", api_base=server.url, api_key="none", cache=False)
        result = registry.genai.optimize_prompts(
            predict_fn=predict,
            train_data=rows,
            prompt_uris=[prompt.uri],
            optimizer=StudyPromptOptimizer(
                proposer=lm,
                search={"trials": 4, "operators": ("rewrite", "induce"), "block": 5},
                runs_dir=tmp_path / "runs",
                tracking={"enabled": False},
            ),
            scorers=[exact],
            enable_tracking=False,
        )
    best = result.optimized_prompts[0]
    assert HINT in best.template
    assert "{{note}}" in best.template
    assert best.version == 2
    assert result.initial_eval_score < 0.7 < result.final_eval_score == 1.0


@pytest.mark.parametrize(
    ("prompts", "rows", "said"),
    [
        ({"a": "x", "b": "y"}, [{"inputs": {}}], "one at a time"),
        ({"a": '[{"role": "user", "content": "x"}]'}, [{"inputs": {}}], "chat prompt"),
        ({"a": "x"}, [], "no train_data"),
    ],
)
def test_what_cannot_be_searched_is_refused(prompts: dict[str, str], rows: list[dict[str, Any]], said: str) -> None:
    """Several prompts, chat prompts and missing rows are one line each."""
    with pytest.raises(UserError, match=said):
        StudyPromptOptimizer().optimize(lambda *_: [], rows, prompts)


def test_a_cap_that_nobody_could_hold_is_refused() -> None:
    """The user's function asks its model itself, so calls and money cannot be counted: one line says what can limit."""
    with pytest.raises(ConfigError, match=r"budget\.task_calls cannot be held.*search=\{'trials': N\}"):
        StudyPromptOptimizer(budget={"task_calls": 300, "wall_clock": 60})


def test_changed_scorers_begin_a_study_of_their_own(tmp_path: Path) -> None:
    """The same prompt and rows are searched again, under the next free name: the scorers may be others."""

    def rated_by(value: float) -> Any:
        def evaluate(prompts: dict[str, str], rows: list[dict[str, Any]]) -> list[Any]:
            del prompts
            return [SimpleNamespace(outputs="x", score=value, individual_scores={}, rationales={}) for _ in rows]

        return evaluate

    rows = [
        {
            "inputs": {"note": f"Box {chr(97 + i // 26)}{chr(97 + i % 26)}"},
            "expectations": {"expected_response": "xy"[i % 2]},
        }
        for i in range(60)
    ]
    optimizer = StudyPromptOptimizer(
        search={"trials": 1, "operators": ("edit",)}, runs_dir=tmp_path, tracking={"enabled": False}
    )
    scores = [optimizer.optimize(rated_by(value), rows, {"boxes": "Who? {{note}}"}) for value in (0.25, 0.75)]
    assert [found.initial_eval_score for found in scores] == [0.25, 0.75]
    assert {path.name for path in tmp_path.iterdir()} >= {"boxes", "boxes-2"}


AUTOLOG = """
import json, sys
import dspy, mlflow, optimizer
from typing import Literal

url, rows = sys.argv[1], json.load(open("rows.json"))
mlflow.set_tracking_uri("sqlite:///own.db")
mlflow.set_experiment("mine")
mlflow.dspy.autolog()


class Pack(dspy.Signature):
    note: str = dspy.InputField()
    team: Literal["red", "green", "blue"] = dspy.OutputField()


def lm(name):
    return dspy.LM(f"openai/{name}", api_base=url, api_key="none", max_tokens=100, cache=False)


def traces():
    mlflow.flush_trace_async_logging()
    return [trace.data.spans[0].name for trace in mlflow.search_traces(return_type="list", order_by=["timestamp ASC"])]


dspy.configure(lm=lm("task"), adapter=optimizer.FormatAdapter("chat"))
program = dspy.Predict(Pack)
program(note="Box 1 holds 3 limes.")
found = {"before": traces()}
result = optimizer.optimize(
    program, metric="accuracy", train=rows, proposer=lm("proposer"), search={"trials": 2, "max_demos": 2}, name="study"
)
found["study"] = traces()
program(note="Box 2 holds 3 limes.")
result.program(note="Box 3 holds 3 limes.")
found["after"] = traces()
found["uri"], found["runs"] = mlflow.get_tracking_uri(), len(mlflow.search_runs(search_all_experiments=True))
client = mlflow.MlflowClient("sqlite:///runs/mlflow.db")
found["ours"] = len(client.search_runs([client.get_experiment_by_name("prompt-optimizer").experiment_id]))
found["n_trials"] = len(result.view.trials)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_autolog_goes_on_around_a_study(tmp_path: Path) -> None:
    """A program is traced before and after a study; the study's own calls are not, its runs lie in its own store."""
    (tmp_path / "rows.json").write_text(json.dumps(labelled_rows(60)))
    with FakeServer(answer) as server:
        run = [sys.executable, "-c", AUTOLOG, server.url]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-2000:]
        n_calls = len(server.calls)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] == found["study"] == ["Predict.forward"]
    assert found["after"] == ["Predict.forward", "Predict.forward", "LaidOut.forward"]
    assert (found["uri"], found["runs"]) == ("sqlite:///own.db", 0)
    assert found["ours"] == 1 + found["n_trials"]
    assert n_calls > 20


def test_rows_are_known_by_their_input_and_given_back_as_they_were(tmp_path: Path) -> None:
    """Dates, NumPy numbers and NaN are no trouble, short questions stay apart, and rows without an answer are rated."""
    asked: list[dict[str, Any]] = []

    def evaluate(prompts: dict[str, str], rows: list[dict[str, Any]]) -> list[Any]:
        del prompts
        asked.extend(rows)
        return [SimpleNamespace(outputs="x", score=0.5, individual_scores={}, rationales={}) for _ in rows]

    sums = [
        {"inputs": {"question": f"{a} * {b}"}, "expectations": {"expected_response": str(a * b)}}
        for a in range(11, 21)
        for b in range(11, 25)
    ]
    judged = [
        {
            "inputs": {
                "who": f"Person {chr(97 + i // 26)}{chr(97 + i % 26)} ü",
                "day": datetime.date(2026, 1, 1 + i % 28),
            }
        }
        | ({"expectations": float("nan")} if i % 2 else {"inputs_seen": np.int64(i)})
        for i in range(60)
    ]
    for name, rows in (("sums", sums), ("judged", judged)):
        optimizer = StudyPromptOptimizer(
            search={"trials": 1, "operators": ("edit",)}, runs_dir=tmp_path, tracking={"enabled": False}
        )
        found = optimizer.optimize(evaluate, rows, {name: "Answer: {{question}}"})
        assert found.initial_eval_score == 0.5
    assert all(row in [*sums, *judged] for row in asked)
    assert len({str(row["inputs"]) for row in asked}) > 60


def test_rows_with_one_input_and_two_answers_are_both_kept() -> None:
    """A question that is asked twice with other expectations is two rows; the same row twice is one."""
    first = {"inputs": {"question": "Why?"}, "expectations": {"expected_response": "a"}}
    second = {"inputs": {"question": "Why?"}, "expectations": {"expected_response": "b"}}
    found = rows_by_text([first, second, first])
    assert list(found.values()) == [first, second]
    assert found["Why?"] is first
