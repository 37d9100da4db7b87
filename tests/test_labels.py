"""A prompt that gives one label whatever it is shown is told apart from a good one, and lost classes are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from optimizer.candidate import Example
from optimizer.cli.summary import one_line, print_summary, summary_json
from optimizer.config.keys import Config, Constraints
from optimizer.data.balance import imbalance
from optimizer.export import export
from optimizer.metrics import open_metric
from optimizer.probe.check import metric_notes
from optimizer.proof.labels import class_scores, constant_of, gives_one_label, warnings
from optimizer.proof.rules import Facts, held_to
from optimizer.proof.verdict import judge
from optimizer.records import Outcome, StudyView, Verdict
from optimizer.report import Material, report_html
from optimizer.study.view import verdict_from_json
from optimizer.track.note import headline
from tests.sample_study import CONFIG, PROGRAM, sample_view

CLASSES = ["returns"] * 46 + ["parcels"] * 28 + ["billing"] * 14
ROWS = [
    Example(id=f"t{i}", inputs={"message": f"m{i}"}, outputs={"team": name}, extras={})
    for i, name in enumerate(CLASSES)
]
METRIC = open_metric(CONFIG)


def said(answers: Sequence[str | None]) -> list[Outcome]:
    return [
        Outcome(example_id=row.id, kind="unparsed")
        if answer is None
        else Outcome(
            example_id=row.id, kind="scored", score=float(answer == row.outputs["team"]), answer={"team": answer}
        )
        for row, answer in zip(ROWS, answers, strict=True)
    ]


SEED = said(["billing"] * 60 + ["parcels"] * 14 + ["billing"] * 14)  # right on half of parcels and all of billing
CONSTANT = said(["returns"] * 88)
GOOD = said([*CLASSES[:80], *["returns"] * 8])


def verdict_on(winner: list[Outcome], **limits: Any) -> Verdict:
    rng = np.random.default_rng(0)
    found = judge(METRIC, ROWS, seed=SEED, winner=winner, is_same=False, confidence=0.95, rng=rng)
    facts = Facts(
        classes=class_scores("team", ROWS, SEED, winner),
        constant=constant_of(METRIC, "team", ROWS, winner, confidence=0.95, rng=rng),
    )
    return held_to(found, facts, Constraints(**limits), max_loss=None)


def view_of(verdict: Verdict) -> StudyView:
    return replace(sample_view(), verdict=verdict)


def shown(view: StudyView) -> str:
    out = StringIO()
    print_summary(Console(file=out, width=300), view, {view.seed.id: "a", view.best.id: "b"}, runs_flag="")
    return out.getvalue()


def test_a_prompt_that_gives_one_label_is_not_promoted() -> None:
    """Its gain is proven, and it is what the largest class gives for nothing: keep, with that reason."""
    verdict = verdict_on(CONSTANT)
    assert verdict.low > 0
    assert verdict.decision == "keep"
    assert "it answers 'returns' to 88 of 88 test rows, whatever they say" in verdict.reason
    few_others = verdict_on(said(["returns"] * 85 + ["parcels"] * 3))
    assert few_others.decision == "keep"
    assert verdict_on(GOOD).decision == "promote"


def test_each_display_warns_directly_under_the_verdict() -> None:
    """Terminal, report, MLflow and the one line of --quiet name the constant answer and each class that is lost."""
    view = view_of(verdict_on(CONSTANT))
    always = "answers 'returns' to 88 of 88 test rows and is no better than always answering 'returns' (52.3%)"
    lost = "Worse in 2 of 3 classes (points, rows): billing 100.0% to 0.0% (-100.0 on 14), parcels 50.0% to 0.0% "
    lines = shown(view).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Verdict: keep"))
    assert lines[at + 1].startswith("Warning: The new prompt answers")
    page = report_html(Material(view=view, render=lambda _: "x")).replace("&#39;", "'")
    for text in (shown(view), page, headline(view), one_line(view)):
        assert always in text
        assert lost in text
    found: Any = summary_json(view, {view.seed.id: "a", view.best.id: "b"})["test"]
    assert found["constant"]["label"] == "returns"
    assert [each["name"] for each in found["classes"]] == ["billing", "parcels", "returns"]


def test_a_gain_that_does_not_beat_the_constant_answer_says_so() -> None:
    """Different answers, more right ones than before, and still not proven to be worth more than one label for all."""
    mixed = said([*["returns"] * 30, *["parcels"] * 16, *["parcels"] * 20, *["returns"] * 22])
    view = view_of(verdict_on(mixed))
    assert view.verdict is not None
    assert view.verdict.decision == "promote"
    assert "not proven to be better than always answering 'returns' (52.3%)" in warnings(view)[0]
    assert "not proven to be better than always answering" in report_html(Material(view=view, render=lambda _: "x"))
    page = export(view, PROGRAM, "markdown", view.best)
    assert "not proven to be better than always answering" in page


def test_a_good_winner_is_not_warned_of() -> None:
    """Above the constant answer, no class lost: there is nothing to say."""
    perfect = view_of(verdict_on(said(CLASSES)))
    assert warnings(perfect) == []
    assert warnings(sample_view()) == []  # a study from before these figures


def test_figures_of_classes_survive_the_record() -> None:
    """What is written to the database comes back, and records without the figures are read as ever."""
    from dataclasses import asdict

    verdict = verdict_on(CONSTANT)
    assert verdict_from_json(asdict(verdict)) == verdict
    older = {key: value for key, value in asdict(verdict).items() if key not in ("classes", "constant")}
    assert verdict_from_json(older).constant is None


@pytest.mark.parametrize(("winner", "is_one"), [(CONSTANT, True), (GOOD, False), (said([None] * 88), False)])
def test_a_finalist_that_gives_one_label_is_known_by_its_dev_rows(winner: list[Outcome], *, is_one: bool) -> None:
    """A candidate with replies that differ, or that cannot be read, is another matter."""
    assert gives_one_label(METRIC, "team", ROWS, winner) is is_one
    assert not gives_one_label(METRIC, "team", ROWS[:9], winner[:9])


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"routine": 52, "urgent": 28, "admin": 20}, "'routine' makes up 52% of the rows"),
        ({"a": 40, "b": 40, "c": 20}, ""),
        ({"a": 48, "b": 45, "c": 7}, "'c' makes up 7% of the rows"),
        ({"yes": 60, "no": 40}, ""),
        ({"ham": 87, "spam": 13}, "'ham' makes up 87% of the rows"),
        ({f"l{i:02}": 3 for i in range(77)}, ""),
        ({"only": 9}, ""),
        ({}, ""),
    ],
)
def test_uneven_classes_are_named(counts: dict[str, int], said: str) -> None:
    """A class above half, or a rare one; of two, or of very many, a fair share is another."""
    assert imbalance(counts) == said


@pytest.mark.parametrize(
    ("metric", "is_warned"),
    [
        ({"name": "accuracy"}, True),
        ({"name": "macro_f1"}, False),
        ({"name": "accuracy", "slices": {"by": "team", "max_loss": 0.05}}, False),
    ],
)
def test_check_says_what_accuracy_does_not_tell(metric: dict[str, Any], *, is_warned: bool) -> None:
    """On uneven classes a mean over rows hides what becomes of rare ones; another metric or a rule helps."""
    config = Config.model_validate({**CONFIG.model_dump(mode="json"), "metric": metric})
    report = SimpleNamespace(class_counts={"dev": {"returns": 46, "parcels": 28, "billing": 14}})
    job: Any = SimpleNamespace(config=config, metric=METRIC, splits=SimpleNamespace(dev=ROWS, report=report))
    notes = metric_notes(job)
    assert bool(notes) is is_warned
    assert all("'returns' makes up 52% of the rows: a prompt can gain by giving up a rare class" in n for n in notes)


@pytest.mark.parametrize(("n_fixed", "decision"), [(4, "keep"), (5, "keep"), (8, "promote")])
def test_an_interval_and_a_test_that_disagree_are_explained(n_fixed: int, decision: str) -> None:
    """Where the interval lies above 0 and the test does not bear it out, the verdict says that both must hold."""
    seed, rng = said(["nobody"] * n_fixed + CLASSES[n_fixed:]), np.random.default_rng(0)
    found = judge(METRIC, ROWS, seed=seed, winner=said(CLASSES), is_same=False, confidence=0.95, rng=rng)
    assert (found.low > 0, found.decision) == (True, decision)
    assert ("both must hold" in found.reason) == (decision == "keep")
