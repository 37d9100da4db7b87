"""Where a worst group is judged, the figures say so, and which group it is."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from optimizer.cli.summary import print_summary
from optimizer.config.metric import Slices
from optimizer.proof.aim import which_worst, worst_in, worst_of
from optimizer.records import SliceScore, StudyView
from optimizer.report import Material, report_html
from optimizer.report.page import headline
from optimizer.track.note import _scores
from tests.sample_study import sample_view


def by_ward() -> StudyView:
    """A finished study that is judged by its worst ward."""
    view = sample_view()
    assert view.verdict is not None
    slices = (
        SliceScore(name="north", n=20, seed=0.3, winner=0.6),
        SliceScore(name="south", n=30, seed=0.5, winner=0.4),
        SliceScore(name="east", n=25, seed=0.9, winner=0.8),
    )
    verdict = replace(view.verdict, decision="keep", slices=slices, broken_rules=())
    best = next(trial.candidate for trial in view.trials if trial.candidate not in (None, view.seed))
    assert best is not None
    metric = {"slices": {"by": "ward", "aim": "worst"}}
    return replace(view, config={**view.config, "metric": metric}, verdict=verdict, best=best)


def test_every_display_names_the_worst_group() -> None:
    """Terminal, report and MLflow call the score that of the worst ward, and name the ward for either prompt."""
    view, out = by_ward(), StringIO()
    which = "judged by the worst ward: north with your prompt, south with the new one"
    assert which_worst(view) == which
    print_summary(Console(file=out, width=120), view, {view.seed.id: "a", view.best.id: "b"}, runs_flag="")
    assert "worst ward" in next(line for line in out.getvalue().splitlines() if line.startswith("test"))
    assert which in out.getvalue()
    assert "in the worst ward of" in headline(view)
    assert "| test, worst ward |" in _scores(view)
    assert which in _scores(view)


def test_every_display_names_macro_f1() -> None:
    """The score of the test is called by its name, and that dev scores are of another kind is said."""
    view, out = sample_view(), StringIO()
    view = replace(view, config={**view.config, "metric": {"name": "macro_f1"}})
    print_summary(Console(file=out, width=160), view, {view.seed.id: "a", view.best.id: "b"}, runs_flag="")
    assert "macro F1" in next(line for line in out.getvalue().splitlines() if line.startswith("test"))
    assert "winner and verdict go by macro F1" in out.getvalue()
    assert "it raised the macro F1 from" in headline(view)
    assert "| test, macro F1 |" in _scores(view)


def test_a_mean_is_not_called_a_worst_group() -> None:
    """Groups that are only looked at change nothing in how the score is called."""
    view = by_ward()
    for slices in (None, {"by": "ward", "aim": "mean"}):
        other = replace(view, config={**view.config, "metric": {"slices": slices}})
        assert (worst_of(other), which_worst(other)) == ("", "")
        assert "| test |" in _scores(other)


def test_the_report_names_the_rule_that_keeps_your_prompt() -> None:
    """A proven gain that breaks a rule is not called chance."""
    view = by_ward()
    assert view.verdict is not None
    rule = "the group 'south' gets worse by -10.0 points on 30 rows (allowed: -5.0)"
    said = headline(replace(view, verdict=replace(view.verdict, broken_rules=(rule,))))
    assert said.startswith("Keep your prompt")
    assert rule in said
    assert "chance" not in said


@pytest.mark.parametrize(
    ("max_loss", "said"),
    [
        (
            0.05,
            "rule: no group may lose more than 5 points (metric.slices.max_loss); broken: the worst change is -10.0",
        ),
        (0.2, "rule: no group may lose more than 20 points (metric.slices.max_loss); kept: the worst change is -10.0"),
        (None, "no rule limits what a group may lose (metric.slices.max_loss); the worst change is -10.0"),
    ],
)
def test_every_group_and_the_rule_on_losses_are_shown(max_loss: float | None, said: str) -> None:
    """Report and terminal have a line for each group, also without the data, and say what the rule is and came to."""
    view, out = by_ward(), StringIO()
    slices = {"by": "ward", "aim": "worst", "max_loss": max_loss}
    small = SliceScore(name="other", n=3, seed=0.0, winner=0.0, holds=("west 2", "harbour 1"), decides=False)
    assert view.verdict is not None
    verdict = replace(view.verdict, slices=(*view.verdict.slices, small))
    view = replace(view, config={**view.config, "metric": {"name": "accuracy", "slices": slices}}, verdict=verdict)
    page = report_html(Material(view=view, render=lambda _: "x"))
    print_summary(Console(file=out, width=200), view, {view.seed.id: "a", view.best.id: "b"}, runs_flag="")
    assert "By <bdi>ward</bdi>, the groups of the study" in page
    assert page.count("<td><bdi>south</bdi></td>") == 1
    for text in (page, out.getvalue()):
        assert said[1:] in text
        assert "ther holds west 2, harbour 1" in text
        assert "oo small to be counted as the worst ward: other (3 rows)" in text
    assert which_worst(view).startswith("judged by the worst ward: north with your prompt")


def test_means_are_called_means_where_the_worst_group_is_judged() -> None:
    """The settings alone say so, for the lines of a study that runs; a mean needs no word."""
    assert worst_in(Slices(by="ward", aim="worst")) == "worst ward"
    assert worst_in(Slices(by="ward")) == worst_in(None) == ""


def test_one_prompt_is_not_compared_with_itself() -> None:
    """Where no candidate was better on dev there is no second prompt, and the interval is that of chance."""
    view, out = by_ward(), StringIO()
    view = replace(view, best=view.seed)
    print_summary(Console(file=out, width=200), view, {view.seed.id: "a"}, runs_flag="")
    page = report_html(Material(view=view, render=lambda _: "x"))
    for text in (out.getvalue(), page):
        assert "no other prompt was tested; the interval says how much chance alone could show" in text
    assert "Both prompts answered" not in page
    assert "difference on test:" not in out.getvalue()
