"""`show` and `compare`: what the terminal says of trials, operators, the winner's making and two prompts."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from optimizer.cli.comparison import compare_studies, compare_trials
from optimizer.cli.tables import diff_text, lineage_tree, operator_table, trial_table
from optimizer.errors import StudyError
from optimizer.prompts.render import render
from optimizer.proof import insight
from optimizer.report import Material
from optimizer.study.showing import picked
from tests.sample_study import PROGRAM, ROWS, outcomes, sample_view


def material(n_trials: int = 13) -> Material:
    return Material(view=sample_view(n_trials), rows=ROWS, render=lambda each: render(PROGRAM, each))


def printed(shown: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(shown, highlight=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_trial_and_operator_has_a_line() -> None:
    """The lists hold each trial with its fate, and each operator with what was tried and what took the lead."""
    given = material()
    lines = printed(trial_table(given.view, given.n_chars)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [str(i) for i in range(1, 14)]
    assert "copies a row" in lines[6]
    assert {line.split()[2] for line in lines[1:]} == {"complete", "dropped", "rejected"}  # `pruned` is Optuna's word
    rows = {line.split()[0]: line.split()[1:] for line in printed(operator_table(given.view)).splitlines()[1:]}
    assert set(rows) == {"rewrite", "reflect", "demos", "trim"}
    assert sum(int(cells[0]) for cells in rows.values()) == 13


def test_the_tree_leads_from_the_winner_to_the_seed() -> None:
    """Each ancestor stands below what was made from it, with what that step was worth."""
    view = material().view
    lines = printed(lineage_tree(view, "made")).splitlines()
    assert [line.split("trial ")[1].split()[0] for line in lines[1:]] == ["13", "10", "7", "4", "1"]
    gained = insight.worth(view.trials[12].outcomes, view.trials[9].outcomes)
    assert gained is not None
    assert f"{100 * gained.difference:+.1f} on 40 shared rows" in lines[2]
    full = replace(view, dev_scores={view.seed.id: (0.4125, 37)})
    assert "41.2% on 37 rows" in printed(lineage_tree(full, "made")).splitlines()[-1]


def test_a_finalist_has_one_score_everywhere() -> None:
    """Rows that a finalist was scored on after its race count in the table, the tree and the comparison; where another
    trial has a higher figure on other rows, a line says why it does not lead."""
    given = material()
    best = given.view.trial_of(given.view.best)
    assert best is not None
    raced = replace(best, state="pruned", outcomes=best.outcomes[:10])
    trials = tuple(raced if trial.number == best.number else trial for trial in given.view.trials)
    rows = (*best.outcomes[:25],)
    mean = sum(each.value or 0.0 for each in rows) / 25
    view = replace(
        given.view, trials=trials, dev_scores={given.view.best.id: (mean, 25)}, dev_outcomes={given.view.best.id: rows}
    )
    given = replace(given, view=view)
    line = printed(trial_table(view, given.n_chars)).splitlines()[best.number + 1]
    assert line.split()[3:5] == [f"{100 * mean:.1f}%", "25"]
    assert f"{100 * mean:.1f}% on 25 rows" in printed(lineage_tree(view, "made"))
    assert "on 25 shared rows" in printed(lineage_tree(view, "made"))
    shown = " ".join(printed(compare_trials(given, picked(view, "10"), view.best)).split())
    assert f"{100 * mean:.1f}% on 25 rows" in shown
    assert "points on 25 dev rows" in shown
    assert insight.progress(view)[best.number].score == mean
    assert insight.why_not_highest(replace(view, dev_scores={view.best.id: (0.99, 25)})) == ""
    lower = replace(view, dev_scores={view.best.id: (0.2, 25)})
    assert "compared on the rows that both have" in insight.why_not_highest(lower)


def test_a_start_is_worth_what_it_gained_on_the_seed() -> None:
    """A candidate without parents is compared with the seed that it started from."""
    view = sample_view(4)
    start = replace(view.trials[3], parents=())
    step = insight.lineage(replace(view, trials=(*view.trials[:3], start)))
    assert [each.candidate for each in step.parents] == [view.seed]
    assert step.worth[0] is not None


def test_a_diff_reads_without_colours() -> None:
    """What was added and removed is marked by signs, too."""
    assert diff_text("Say one word.", "Say one short word.").plain == "Say one {+short +}word."
    assert diff_text("a b", "a c").plain == "a [-b-]{+c+}"


def test_two_trials_are_compared_on_shared_dev_rows() -> None:
    """Facts of both, the paired difference and the rows that flipped are shown; a trial and itself have none."""
    given = material()
    view = given.view
    one, other = picked(view, "4"), picked(view, "13")
    shown = printed(compare_trials(given, one, other))
    worth = insight.worth(view.trials[12].outcomes, view.trials[3].outcomes)
    assert worth is not None
    assert f"second less first: {100 * worth.difference:+.1f} points on 40 dev rows" in " ".join(shown.split())
    assert "trial 4" in shown
    assert "{+" in shown
    assert "Both are the same prompt" in " ".join(printed(compare_trials(given, one, one)).split())


def test_seed_and_best_are_compared_on_test_rows() -> None:
    """By default the comparison is the verdict's own, in either direction."""
    given = material()
    view, verdict = given.view, given.view.verdict
    assert verdict is not None
    forward = printed(compare_trials(given, view.seed, view.best))
    assert f"{100 * verdict.difference:+.1f} points on 30 test rows" in " ".join(forward.split())
    backward = printed(compare_trials(given, view.best, view.seed))
    assert f"{-100 * verdict.difference:+.1f} points on 30 test rows" in " ".join(backward.split())


def test_two_studies_are_paired_only_on_shared_test_rows() -> None:
    """Winners that saw the same test rows get a paired difference; others are told apart."""
    one, other = material(13), material(7)
    assert "on 30 test rows" in " ".join(printed(compare_studies(one, other)).split())
    assert other.view.verdict is not None
    elsewhere = replace(
        other.view.verdict,
        seed_outcomes=outcomes("other", 9, 0.5, seed=1),
        winner_outcomes=outcomes("other", 9, 0.5, seed=2),
    )
    apart = replace(other, view=replace(other.view, verdict=elsewhere))
    assert "cannot be compared in pairs" in printed(compare_studies(one, apart))


def test_what_two_studies_do_not_share_is_said_first() -> None:
    """Other data, models and programs are named above the difference; with another metric there is no difference."""
    one, other = material(13), material(7)
    base = {"metric": "m1", "program": "p1", "task model": "embedded", "data": "d1"}

    def compared(**changes: str) -> str:
        first = replace(one, view=replace(one.view, identity=base))
        second = replace(other, view=replace(other.view, identity={**base, **changes}))
        return " ".join(printed(compare_studies(first, second)).split())

    assert "differ in" not in compared()
    assert "second less first" in compared()
    apart = compared(data="d2", program="p2")
    assert apart.startswith("These studies differ in: program; data (mail.jsonl in both, but not the same).")
    assert "second less first" in apart
    other_metric = compared(metric="m2")
    assert other_metric.startswith("These studies differ in: metric (accuracy in both, but not the same).")
    assert "the scores of the two studies cannot be compared" in other_metric
    assert "second less first" not in other_metric
    assert "p =" not in other_metric


def test_a_trial_without_a_prompt_says_why() -> None:
    """A number without a candidate is a mistake of one line, with what became of the trial or how many there are."""
    with pytest.raises(StudyError, match=r"no prompt of trial 6: it was rejected, copies a row"):
        picked(sample_view(7), "6")
    with pytest.raises(StudyError, match=r"no prompt of trial 99: it has trials 1 to 7"):
        picked(sample_view(7), "99")
