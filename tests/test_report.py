"""The report: everything that a decision needs, in one file that loads nothing and escapes everything."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from optimizer.cli.summary import print_summary, summary_json
from optimizer.cli.tables import status_cells
from optimizer.cli.terminal import print_command
from optimizer.command_line import command_name
from optimizer.init.examples import FOLDER
from optimizer.privacy.personal_data import count_findings
from optimizer.prompts.render import render
from optimizer.proof import insight
from optimizer.propose import BUILT_IN
from optimizer.records import Spend, StudyView
from optimizer.report import Material, figures_of, report_html, shown_texts
from optimizer.report.figures import standalone
from optimizer.report.page import steps
from optimizer.stats import BOOTSTRAP
from optimizer.track.note import study_note
from optimizer.track.projection import Projection
from optimizer.word_diff import word_diff
from optimizer.words import OPERATOR_WORDS, code_parts, operator_words
from tests.sample_study import EVIL, N_TEST, PROGRAM, ROWS, SEED, outcomes, sample_view

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


def summary_text(view: StudyView) -> str:
    """What a run ends with."""
    out = Console(file=io.StringIO(), width=200)
    print_summary(out, view, {each.id: "x" for each in (view.seed, view.best)}, runs_flag="")
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


class Page(HTMLParser):
    """Collects tags, attributes and texts; notes tags that are closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.mistakes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def material(view: StudyView | None = None, **changes: Any) -> Material:
    given: dict[str, Any] = {"rows": ROWS, "render": lambda each: render(PROGRAM, each)} | changes
    return Material(view=view or sample_view(), **given)


@pytest.fixture(scope="module")
def html() -> str:
    return report_html(material())


def test_the_report_holds_what_a_decision_needs(html: str) -> None:
    """Verdict, interval, both prompts, classes, slices, flips, operators, cost, split and limits are on the page."""
    page, view = Page(html), sample_view()
    verdict = view.verdict
    assert verdict is not None
    for words in (
        "promote", "Use the new prompt", f"{N_TEST} test rows", "+10.0 to +60.0", "p = 0.003", "exact McNemar",
        "By team", "By channel", "billing", "Fixed:", "Broken:", "took the lead", "How it came to be", "$0.12",
        "500 task calls",
        "by the hash of their inputs", "makes up 21% of test", "Limits", "four of five",
    ):  # fmt: skip
        assert words in page.text, words
    assert "By note" not in page.text
    assert page.mistakes == []
    assert page.open == []
    assert sum(tag == "svg" for tag, _ in page.tags) == 4


def test_the_report_loads_nothing_and_runs_nothing(html: str) -> None:
    """No tag points outside the file, there is no script, and what users wrote stays text."""
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action", "data", "poster"):
                assert (value or "").startswith("#"), value
    assert not re.findall(r"@import|url\((?!#)", html)
    assert " ".join(EVIL.split()) in page.text
    assert "49" not in re.findall(r"</script> &amp; (\d+)", html)


def test_the_report_knows_dark_rooms_and_small_screens(html: str) -> None:
    """Every colour of a plot is a variable that has a value in light and in dark, and the width is the device's."""
    assert "prefers-color-scheme:dark" in html
    assert "width=device-width" in html
    used = set(re.findall(r"var\(--(\w+)\)", html))
    light, dark = (set(re.findall(r"--(\w+):", block)) for block in re.findall(r":root\{(.*?)\}", html))
    assert used <= light == dark
    assert not re.findall(r"<svg [^>]*width=", html)


def test_ids_of_plots_do_not_meet(html: str) -> None:
    """No id stands for two things, and every reference finds its id."""
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', html)) <= set(ids)


@pytest.mark.parametrize(
    "changes", [{"verdict": None, "dev": None, "state": "running"}, {"trials": (), "verdict": None}]
)
def test_a_study_under_way_has_a_report(changes: dict[str, Any]) -> None:
    """Before the verdict, and before the first trial, the page says so and shows what there is."""
    page = Page(report_html(material(sample_view(**changes), rows={})))
    assert "There is no verdict yet" in page.text
    assert page.mistakes == []


def test_without_the_data_the_rows_go_by_their_ids() -> None:
    """A report of a study whose data file is gone names rows by id and says why groups are missing."""
    text = Page(report_html(material(rows={}))).text
    assert "the data file is not where it was" in text
    assert re.search(r"test\d+ ", text)


def test_personal_data_in_the_report_is_counted() -> None:
    """What the page quotes, prompts and rows, can be looked through before it is sent on."""
    texts = shown_texts(Material(view=sample_view(), render=lambda _: "Write to anna.berg@example.org", rows=ROWS))
    assert count_findings(texts)["e-mail address"] == 1
    assert any("Message" in text for text in texts)


def test_a_score_that_is_no_mean_has_no_interval_of_its_own() -> None:
    """A share of right answers and a mean of grades have a bar; of an F1 or a worst group the points alone are drawn,
    and the page says where its interval is."""
    view = sample_view()
    verdict = view.verdict
    assert verdict is not None
    graded = replace(
        verdict,
        test_name="paired permutation",
        winner_outcomes=tuple(replace(each, score=0.5 + 0.3 * (each.score or 0)) for each in verdict.winner_outcomes),
    )
    f1 = replace(verdict, test_name=BOOTSTRAP)
    drawn = {}
    for name, one in (("share", verdict), ("graded", graded), ("f1", f1)):
        given = material(replace(view, verdict=one))
        drawn[name] = figures_of(given)["verdict"]
        text = Page(report_html(given)).text
        assert ("with its own 95% interval" in text) == (name != "f1")
        assert ("no mean of the rows: the comparison below, in pairs, has the interval" in text) == (name == "f1")
        assert "Wilson" not in text
    bars = {name: svg.count("stroke-opacity: 0.45") for name, svg in drawn.items()}
    assert bars == {"share": 2, "graded": 2, "f1": 0}
    assert drawn["graded"] != drawn["share"]


def test_the_page_says_on_how_many_rows_its_scores_rest() -> None:
    """A final test that was cut short says so beside the comparison, and both dev scores have their rows."""
    view = sample_view()
    assert view.verdict is not None
    assert view.dev is not None
    assert "It rests on" not in Page(report_html(material(view))).text
    cut = replace(view.verdict, shortfall="30 of 50 test rows; the cap paid for no more")
    page = Page(report_html(material(replace(view, verdict=cut, dev=replace(view.dev, n_seed=20, n_winner=40)))))
    assert "It rests on 30 of 50 test rows; the cap paid for no more." in page.text
    assert "On dev the winner scored 75.0% on 40 rows;" in page.text
    assert "your prompt scored 40.0% on 20 rows." in page.text
    assert page.mistakes == []


def test_plots_are_files_of_their_own() -> None:
    """Each plot is well-formed XML with its own colours, and the same every time."""
    drawn = figures_of(material())
    assert sorted(drawn) == ["length", "operators", "progress", "verdict"]
    for svg in drawn.values():
        root = ET.fromstring(standalone(svg))
        assert root.tag.endswith("svg")
        assert root.get("viewBox")
    assert figures_of(material()) == drawn


@pytest.mark.parametrize(
    ("old", "new"),
    [("Say one word.", "Say one short word."), ("", "a\n\n b"), ("x", "x"), ("a b c", "c b a"), ("é 小包", "é")],
)
def test_a_word_diff_holds_both_texts(old: str, new: str) -> None:
    """Without what was added it is the old text, without what was removed the new one; equal texts have no changes."""
    pieces = word_diff(old, new)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == old
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == new
    assert all(piece.kind == "same" for piece in pieces) == (old == new)
    assert ("removed", "one") not in pieces


def test_lineage_tells_what_each_step_was_worth() -> None:
    """The winner's ancestors come in order, each with the mean difference on the rows that both were scored on."""
    view = sample_view(13)
    step = insight.lineage(view)
    assert step.candidate == view.best
    chain = []
    while step.parents:
        chain.append((step.trial.number if step.trial else None, step.worth[0]))
        step = step.parents[0]
    assert [number for number, _ in chain] == [12, 9, 6, 3]
    assert step.candidate == SEED
    assert chain[0][1] == insight.worth(view.trials[12].outcomes, view.trials[9].outcomes)
    assert insight.worth(outcomes("dev", 4, 1.1, seed=0), outcomes("dev", 9, 0.0, seed=0)) == (1.0, 4)
    assert insight.worth(outcomes("dev", 4, 1.0, seed=0), outcomes("test", 9, 0.0, seed=0)) is None


def test_operators_are_counted_by_what_became_of_them() -> None:
    """Tried is the sum of all fates, and the operator that made the winner is marked."""
    view = sample_view(13)
    rows = insight.operators(view)
    assert sum(row.tried for row in rows) == 13
    assert all(row.tried == row.rejected + row.failed + row.pruned + row.complete for row in rows)
    assert [row.operator for row in rows if row.is_winner] == ["rewrite"]
    assert sum(row.won for row in rows) == 5


def test_slices_add_up() -> None:
    """Rows of each column add up to all test rows, and the worst change stands first."""
    verdict = sample_view().verdict
    assert verdict is not None
    rows = insight.slices(insight.pairs(verdict.seed_outcomes, verdict.winner_outcomes, ROWS))
    teams = [row for row in rows if row.column == "team"]
    assert sum(row.n for row in teams) == N_TEST
    assert sum(row.n * row.difference for row in teams) == pytest.approx(verdict.difference * N_TEST)
    assert [row.difference for row in teams] == sorted(row.difference for row in teams)


def test_every_operator_is_explained() -> None:
    """Each built-in operator has words of its own, and the page says what those on the winner's way do."""
    assert set(BUILT_IN) <= OPERATOR_WORDS.keys()
    text = report_html(material())
    for step in steps(sample_view(), insight.lineage(sample_view())):
        assert not step["operator"] or OPERATOR_WORDS[step["operator"]] in text
    assert operator_words(["demos", "mine:own", "demos"]) == {"demos": OPERATOR_WORDS["demos"]}


def test_commands_in_sentences_are_set_as_code() -> None:
    """No backtick is left in the limits of a study."""
    assert code_parts("a `b` c") == [(False, "a "), (True, "b"), (False, " c")]
    limits = report_html(material()).partition("<h2>Limits</h2>")[2]
    assert "<code>optimizer verify</code>" in limits
    assert "`" not in limits


def test_the_next_commands_are_those_that_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `uv run` the commands to go on with begin with it, and elsewhere with the program's own name."""
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    out = Console(width=20)
    with out.capture() as captured:
        print_command(out, "check my-tickets.yaml --probe")
    assert captured.get() == "  uv run optimizer check my-tickets.yaml --probe\n"
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH")
    assert command_name() == "optimizer"


def test_an_unknown_price_is_not_said_to_be_nothing() -> None:
    """Where calls were made whose price nobody has told, texts say so and JSON says null; else the sum stands there."""
    unknown = sample_view(spend=Spend(calls={"task": 5}, unpriced=frozenset({"task"})))
    free = replace(unknown, spend=Spend(calls={"task": 5}, unpriced=frozenset({"judge"})))
    prompts = {each.id: "x" for each in (unknown.seed, unknown.best)}
    shown = Projection(uri="x", artifact_root=Path("x"), storage_id="s", render=lambda _: "x")
    assert summary_json(unknown, prompts)["cost_usd"] is None
    assert "; price unknown; " in summary_text(unknown)
    assert status_cells(unknown, is_running=False)[5] == "unknown"
    assert "price unknown" in study_note(unknown, shown)
    page = report_html(replace(material(), view=unknown))
    assert "<b>unknown</b>" in page
    assert "price unknown" in page
    assert summary_json(free, prompts)["cost_usd"] == 0.0
    assert "; $0.00; " in summary_text(free)


def test_every_trial_is_counted() -> None:
    """A trial that a cap cut off is unfinished; the counts add up to the number of trials."""
    view = sample_view(13)
    view = replace(view, trials=(*view.trials, replace(view.trials[-1], number=13, state="running")))
    counts = summary_json(view, {each.id: "x" for each in (view.seed, view.best)})["trials"]
    assert isinstance(counts, dict)
    assert (counts["unfinished"], sum(map(int, counts.values()))) == (1, 14)
    assert ", 1 unfinished)" in summary_text(view)
    assert "unfinished" not in summary_text(sample_view(13))


def test_only_a_ready_task_ends_with_how_to_use_ones_own_data() -> None:
    """A study of a person's own rows is not told to use them; a renamed copy of the quickstart still is."""
    assert "own data" not in summary_text(sample_view())
    text = (FOLDER / "quickstart.yaml").read_text(encoding="utf-8")
    ready = {**yaml.safe_load(text), "name": "mine"}
    assert "own data" in summary_text(sample_view(config=ready))
    ready["data"] = {**ready["data"], "source": "mine.csv"}
    assert "own data" not in summary_text(sample_view(config=ready))


def test_the_report_claims_no_more_of_copies_than_is_true() -> None:
    """Where near-copies stand in two splits it says how many; that there are none is said only where there are none."""
    near = "near-duplicates across splits: 2 in dev, 2 in test differ from a row of another split only in digits"
    facts = {**sample_view().facts, "warnings": [near]}
    text = Page(report_html(material(sample_view(facts=facts)))).text
    assert f"Exact copies share a split, but not all near-copies do: {near}" in text
    assert "no row of another split differs" not in text
    text = Page(report_html(material())).text
    assert "Exact copies share a split, and no row of another split differs from a test row in digits" in text
    assert "in another guise" not in text


def test_the_front_has_the_winner_whatever_fewer_rows_say() -> None:
    """The chosen one is shown, be it longer and lower on more rows than another; shortest first."""
    view = sample_view()
    n_chars = {trial.candidate.id: 100 + trial.number for trial in view.trials if trial.candidate}
    front = insight.front_of(view, n_chars)
    assert view.trial_of(view.best) in front
    last = max((trial for trial in view.trials if trial.state == "complete"), key=lambda trial: trial.number)
    assert last.candidate is not None
    moved = replace(view, best=last.candidate)
    assert last in insight.front_of(moved, n_chars)
    assert [n_chars[trial.candidate.id] for trial in front if trial.candidate] == sorted(
        n_chars[trial.candidate.id] for trial in front if trial.candidate
    )


def test_a_report_of_a_prompt_that_stayed_speaks_of_no_new_one() -> None:
    """Where nothing beat the user's own prompt there is one score, and no table of what a new prompt changed."""
    view = sample_view()
    page = report_html(material(replace(view, best=view.seed)))
    assert "What got better and what got worse" not in page
    assert "new prompt, on test" not in page
    assert "by your prompt only" in page
