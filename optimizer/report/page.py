"""Puts the report together: what each section says is computed here, how it looks is in `page.html.jinja`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from optimizer.candidate import Candidate, Example, Fields
from optimizer.data.report import NEAR_COPIES, unquoted
from optimizer.proof import insight, labels
from optimizer.proof.aim import SAME, group_column, group_words, scored_by, which_worst, worst_of
from optimizer.proof.earlier import of_test
from optimizer.proof.ending import stopped_words, time_notes
from optimizer.proof.insight import Pair, SliceRow, Step
from optimizer.records import StudyView
from optimizer.report.limits import limits
from optimizer.word_diff import word_diff
from optimizer.words import (
    code_parts,
    count,
    duration,
    money,
    operator_words,
    percent,
    points,
    price,
    trial_counts,
    trial_word,
    trials_words,
)

MAX_ROWS = 12  # examples fixed, and as many broken
MAX_TRIALS = 1000


def _hides_nothing(row_id: str) -> bool:
    del row_id
    return False


def _as_it_is(candidate: Candidate) -> Candidate:
    return candidate


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a report is made of.

    Attributes:
        render: a candidate's prompt as text.
        rows: examples by id; empty when the data is not at hand, then ids stand for them.
        clean: applied to every prompt and row; removes secrets.
        hides: tells of a row's id whether nothing but the id may be shown.
        shown: a candidate as its prompt may be shown.
        is_guarded: some rows are hidden, so remarks that may quote one are left out.
        marks: by candidate id, why a prompt could not win, in one or two words.
    """

    view: StudyView
    render: Callable[[Candidate], str]
    rows: Mapping[str, Example] = field(default_factory=dict)
    clean: Callable[[str], str] = str
    hides: Callable[[str], bool] = _hides_nothing
    shown: Callable[[Candidate], Candidate] = _as_it_is
    is_guarded: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def n_chars(self) -> Mapping[str, int]:
        """Prompt length by candidate id."""
        made = {trial.candidate.id: trial.candidate for trial in self.view.trials if trial.candidate}
        return {key: len(self.render(each)) for key, each in (made | {self.view.seed.id: self.view.seed}).items()}

    @cached_property
    def figures(self) -> Mapping[str, str]:
        """The plots as SVG elements by name, drawn once."""
        return _drawn(self)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The test rows as both prompts answered them; nothing before the verdict."""
        verdict = self.view.verdict
        return insight.pairs(verdict.seed_outcomes, verdict.winner_outcomes, self.rows) if verdict else ()


def report_html(material: Material) -> str:
    """Return the whole page. It loads nothing: styles and plots are inside, and there is no script."""
    environment = Environment(
        loader=PackageLoader("optimizer.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "points": points, "duration": duration, "count": count}
    environment.filters |= {"money": money, "price": price, "code_parts": code_parts, "trial_word": trial_word}
    return environment.get_template("page.html.jinja").render(**_content(material)) + "\n"


def figures_of(material: Material) -> Mapping[str, str]:
    """Return the report's plots as SVG elements by name."""
    return material.figures


def _drawn(material: Material) -> dict[str, str]:
    from optimizer.report import figures  # matplotlib takes half a second to import, and most runs draw nothing

    view = material.view
    drawn = {
        "progress": figures.progress_figure(insight.progress(view)),
        "operators": figures.operators_figure(insight.operators(view)),
        "length": figures.length_figure(view, insight.front_of(view, material.n_chars), material.n_chars),
    }
    if view.verdict is not None:
        drawn["verdict"] = figures.verdict_figure(view.verdict, is_same=view.best == view.seed)
    return drawn


def _content(material: Material) -> dict[str, Any]:
    from optimizer.report import figures

    view, verdict = material.view, material.view.verdict
    seed, best = (material.clean(material.render(material.shown(each))) for each in (view.seed, view.best))
    drawn = {name: Markup(svg) for name, svg in figures_of(material).items()}  # ours, see `figures`
    flips: Counter[str] = Counter(pair.flip for pair in material.pairs)
    return {
        "view": view,
        "verdict": verdict,
        "worst": worst_of(view),
        "is_fresh": not of_test(view),
        "which_worst": which_worst(view),
        "dev": view.dev,
        "goal": str(cast(Fields, view.config.get("task") or {}).get("goal") or ""),
        "model": str(_section(_section(view.config, "lm"), "task").get("model", "")),
        "metric": str(_section(view.config, "metric").get("name", "")),
        "headline": headline(view),
        "warned": labels.warnings(view),
        "is_same": view.best == view.seed,
        "same": SAME,
        "seed_prompt": seed,
        "best_prompt": best,
        "diff": word_diff(seed, best),
        "figures": drawn,
        "has_intervals": verdict is not None and figures.has_intervals(verdict),
        "light": Markup("".join(f"--{name}:{value};" for name, value in figures.LIGHT.items())),
        "dark": Markup("".join(f"--{name}:{value};" for name, value in figures.DARK.items())),
        "operators": insight.operators(view),
        "groups_by": group_column(view),
        "group_words": group_words(view, names_few=not material.is_guarded),
        "slices": _tables(insight.slices(material.pairs), without=group_column(view)),
        "flips": flips,
        "fixed": _answered(material, "fixed"),
        "broken": _answered(material, "broken"),
        "hidden": {flip: _hidden(material, flip) for flip in ("fixed", "broken")},
        "steps": (found := steps(view, insight.lineage(view))),
        "operator_words": operator_words(step["operator"] for step in found),
        "front": [_front_row(material, trial) for trial in insight.front_of(view, material.n_chars)],
        "trials": view.trials[:MAX_TRIALS],
        "why_not_highest": "" if worst_of(view) else insight.why_not_highest(view),
        "n_chars": material.n_chars,
        "marks": material.marks,
        "states": trials_words(trial_counts(trial.state for trial in view.trials)),
        "stopped": " ".join([f"{stopped_words(view)}.", *time_notes(view)]) if view.stop_reason else "",
        "split": _split(view, is_guarded=material.is_guarded),
        "is_guarded": material.is_guarded,
        "limits": limits(view, n_flips=flips),
        "has_rows": bool(material.rows),
    }


def shown_texts(material: Material) -> list[str]:
    """Return what the page quotes: both prompts, and the rows that were fixed or broken, each as one text."""
    prompts = [
        material.clean(material.render(material.shown(each))) for each in (material.view.seed, material.view.best)
    ]
    rows = [*_answered(material, "fixed"), *_answered(material, "broken")]
    return list(dict.fromkeys([*prompts, *("\n".join(row.values()) for row in rows)]))


def headline(view: StudyView) -> str:
    """Return what the study came to, in one sentence that needs no knowledge of statistics."""
    verdict = view.verdict
    if verdict is None:
        return f"The study is {view.state}; there is no verdict yet."
    scores = f"{percent(verdict.seed_score)} to {percent(verdict.winner_score)} on {verdict.n} examples"
    if whose := worst_of(view):
        scores = (
            f"{percent(verdict.seed_score)} to {percent(verdict.winner_score)} in the {whose} of {verdict.n} examples"
        )
    what = "score" if whose else scored_by(view) or "score"
    never = "" if of_test(view) else " that the search never saw"
    interval = f"between {points(verdict.low)} and {points(verdict.high)} points"
    if verdict.decision == "promote":
        return (
            f"Use the new prompt: it raised the {what} from {scores}{never}, "
            f"a difference that is {interval} with {100 * verdict.confidence:.0f}% confidence.{_no_better(view)}"
        )
    if view.best == view.seed:
        return "Keep your prompt: no candidate did better while searching."
    if verdict.broken_rules:
        return f"Keep your prompt: the best candidate went from {scores}, but {'; and '.join(verdict.broken_rules)}."
    p_value = f"; p = {verdict.p_value:.2g}" if verdict.low > 0 else ""
    return f"Keep your prompt: the best candidate went from {scores}, which may be chance ({interval}{p_value})."


def _no_better(view: StudyView) -> str:
    found = view.verdict.constant if view.verdict else None
    if found is None or found.is_beaten:
        return ""
    return f" But it is not proven to be better than always answering {found.label!r} ({percent(found.score)})."


def steps(view: StudyView, step: Step, depth: int = 0) -> list[dict[str, Any]]:
    """Return the lineage as rows, the winner first, each one deeper than what was made from it."""
    trial, (score, n_scored) = step.trial, view.dev_score(step.trial)
    gained = next((each for each in step.worth if each), None)
    row = {
        "depth": depth,
        "what": step.name,
        "score": score,
        "n": n_scored,
        "worth": gained,
        "operator": trial.recipe.operator if trial else "",
    }
    return [row, *(each for parent in step.parents for each in steps(view, parent, depth + 1))]


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _tables(rows: Sequence[SliceRow], *, without: str) -> dict[str, list[SliceRow]]:
    """The tables by column; the groups that the study looks at have one of their own."""
    tables: dict[str, list[SliceRow]] = {}
    for row in rows:
        if row.column != without:
            tables.setdefault(row.column, []).append(row)
    return tables


def _answered(material: Material, flip: str) -> list[dict[str, str]]:
    """Return the first rows that were fixed or broken and may be shown, as the page shows them."""
    found = [pair for pair in material.pairs if pair.flip == flip and not material.hides(pair.example_id)][:MAX_ROWS]
    return [
        {
            "id": pair.example_id,
            "input": material.clean(insight.as_line(pair.example.inputs))[:400] if pair.example else "",
            "expected": material.clean(insight.as_line(pair.example.outputs))[:200] if pair.example else "",
            "seed": material.clean(insight.said(pair.seed))[:200],
            "winner": material.clean(insight.said(pair.winner))[:200],
        }
        for pair in found
    ]


def _hidden(material: Material, flip: str) -> list[str]:
    """Return the ids of the first rows that were fixed or broken and may not be shown."""
    return [pair.example_id for pair in material.pairs if pair.flip == flip and material.hides(pair.example_id)][
        :MAX_ROWS
    ]


def _front_row(material: Material, trial: Any) -> dict[str, Any]:
    return {"trial": trial, "n_chars": material.n_chars[trial.candidate.id]}


def _split(view: StudyView, *, is_guarded: bool) -> dict[str, Any]:
    data, facts = _section(view.config, "data"), view.facts
    n_rows, counts = _section(facts, "n_rows"), _section(facts, "class_counts")
    warnings = cast("Sequence[str]", facts.get("warnings") or ())
    return {
        "copies": next((each for each in warnings if each.startswith(NEAR_COPIES)), ""),
        "shares": _section(data, "split"),
        "is_given": bool(data.get("files")),
        "seed": data.get("seed", 0),
        "rows": [(name, n, _section(counts, name)) for name, n in n_rows.items()],
        "fingerprints": _section(facts, "fingerprints"),
        "warnings": [unquoted(each) if is_guarded else each for each in warnings],
    }
