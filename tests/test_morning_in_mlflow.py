"""What MLflow holds of a finished study beyond runs and numbers: report, plots, answers, traces, the chat prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from optimizer.candidate import Candidate
from optimizer.prompts.render import render
from optimizer.records import StudyView
from optimizer.report import Material, figures_of, report_html
from optimizer.report.figures import standalone
from optimizer.track import Projection, rebuild
from optimizer.track.traces import TEXT_CHARS, sampled
from tests.sample_study import PROGRAM, ROWS, sample_view
from tests.test_track import artifact, client_of, runs_of

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

N_TRACES = 8


def text(candidate: Candidate) -> str:
    return render(PROGRAM, candidate)


def extra_files(view: StudyView) -> dict[str, str]:
    material = Material(view=view, render=text, rows=ROWS)
    plots = {f"figures/{name}.svg": standalone(svg) for name, svg in figures_of(material).items()}
    return {"report.html": report_html(material), **plots}


def chat_template(candidate: Candidate) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": candidate.parts[0].instructions},
        {"role": "user", "content": "Message: {{ message }}"},
    ]


@pytest.fixture(scope="module")
def projection(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Projection:
    folder = tmp_path_factory.mktemp("morning")
    shutil.copy(empty_store, folder / "mlflow.db")
    made = Projection(
        uri=f"sqlite:///{folder / 'mlflow.db'}",
        artifact_root=folder / "artifacts",
        storage_id="5eed",
        render=text,
        template=chat_template,
        rows=lambda: ROWS,
        extra_files=extra_files,
        n_traces=N_TRACES,
    )
    rebuild(sample_view(), made)
    return made


def traces_of(projection: Projection) -> list[Any]:
    client = client_of(projection)
    experiment = client.get_experiment_by_name(projection.experiment)
    return list(client.search_traces(locations=[experiment.experiment_id]))


def test_the_report_and_its_plots_are_artifacts(projection: Projection) -> None:
    """The parent run carries the same report that the command writes, and each plot as a file of its own."""
    run = runs_of(projection)["mail-routing"]
    assert artifact(run, "report.html") == extra_files(sample_view())["report.html"]
    for name in ("progress", "operators", "length", "verdict"):
        assert artifact(run, f"figures/{name}.svg").startswith("<?xml")


def test_answers_of_seed_and_winner_stand_side_by_side(projection: Projection) -> None:
    """The tables for dev and test hold expected and given answers, values and flips, and no inputs."""
    run = runs_of(projection)["mail-routing"]
    for split, n in (("test", 30), ("dev", 40)):
        table = json.loads(artifact(run, f"{split}_flips.json"))
        assert table["columns"] == ["example_id", "expected", "seed_said", "winner_said", "seed", "winner", "flip"]
        assert len(table["data"]) == n
        for row in table["data"]:
            assert row[1] == ROWS[row[0]].outputs["team"]
            assert (row[2] == row[1]) == (row[4] == 1.0)
        assert "Message" not in json.dumps(table)


def test_traces_show_some_rows_of_the_final_comparison(projection: Projection) -> None:
    """At most as many as asked for, broken and fixed rows among them, each with both answers; a rebuild adds none."""
    shown = traces_of(projection)
    assert len(shown) == N_TRACES
    flips = [trace.info.tags["optimizer.flip"] for trace in shown]
    assert flips.count("fixed") == flips.count("broken") == 2
    spans = {span.name: span for span in shown[0].data.spans}
    assert set(spans) == {"final comparison", "seed", "winner"}
    assert set(spans["final comparison"].inputs) == {"message"}
    assert set(spans["final comparison"].outputs) == {"expected", "seed", "winner", "flip"}
    assert set(spans["winner"].outputs) == {"reply", "answer", "kind", "score"}
    assert spans["winner"].parent_id == spans["final comparison"].span_id
    run_id = runs_of(projection)["mail-routing"].info.run_id
    assert all(trace.info.trace_metadata["mlflow.sourceRun"] == run_id for trace in shown)
    rebuild(sample_view(), projection)
    assert len(traces_of(projection)) == N_TRACES


def test_a_chat_prompt_is_registered_as_chat_messages(projection: Projection) -> None:
    """The registry's version has roles and open inputs that MLflow fills, and is found again as the same version."""
    version = client_of(projection).get_prompt_version_by_alias("mail-routing", "champion")
    assert [row["role"] for row in version.template] == ["system", "user"]
    assert version.variables >= {"message"}
    versions = client_of(projection).search_prompt_versions("mail-routing")
    assert len(list(versions)) == 1
    assert version.tags["score"]


def test_the_incumbent_has_an_interval_on_the_charts(projection: Projection) -> None:
    """Best score and its bounds are drawn over trials and over calls."""
    client, run = client_of(projection), runs_of(projection)["mail-routing"]
    for prefix in ("", "over_calls/"):
        low, best, high = (
            [point.value for point in client.get_metric_history(run.info.run_id, f"{prefix}best_dev{end}")]
            for end in ("_low", "", "_high")
        )
        assert len(low) == len(best) == len(high) > 3
        assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))


def test_texts_in_traces_are_bounded() -> None:
    """A reply of any length is cut, and no trace is made before the verdict or when none are wanted."""
    made = Projection(uri="sqlite:///x", artifact_root=Path(), storage_id="1", render=text, n_traces=3)
    assert len(sampled(sample_view(), made)) == 3
    assert sampled(sample_view(verdict=None), made) == []
    from optimizer.track.traces import _cut

    cut = _cut({"reply": "x" * 10 * TEXT_CHARS, "more": ["y" * 9999, 3, None]})
    assert isinstance(cut, dict)
    assert len(str(cut["reply"])) == TEXT_CHARS
