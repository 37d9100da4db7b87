"""Our loop behind `mlflow.genai.optimize_prompts`, and the study in other people's viewers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer.errors import UserError
from optimizer.mlflow_optimizer import StudyPromptOptimizer
from tests.fake_server import Body, FakeServer
from tests.test_main_job import FRUIT, HINT

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
