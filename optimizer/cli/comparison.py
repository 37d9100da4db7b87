"""Two candidates of one study, or two studies, side by side in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from optimizer import stats
from optimizer.candidate import Candidate, JsonValue
from optimizer.cli.tables import diff_text
from optimizer.proof import insight
from optimizer.proof.insight import Pair
from optimizer.records import StudyView, Verdict
from optimizer.report import Material
from optimizer.words import count, duration, money, percent, points, trial_word, visible

MAX_FLIPS = 10
CELL_CHARS = 60


def compare_trials(material: Material, one: Candidate, other: Candidate) -> Group:
    """Return what two candidates have in common and what not: facts, the paired difference, prompts, flipped rows."""
    table = _table("", _name(material.view, one), _name(material.view, other))
    facts = [_trial_facts(material, each) for each in (one, other)]
    for head in facts[0]:
        table.add_row(head, facts[0][head], facts[1][head])
    if one == other:
        return Group(table, Text(), Text("Both are the same prompt: there is nothing to compare."))
    compared, split = _compared(material, one, other)
    verdict, is_final = material.view.verdict, split == "test" and one == material.view.seed
    said = Text(_difference(compared, split, verdict if is_final else None))
    return Group(table, Text(), said, Text(), _changes(material, one, other), *_flips(compared))


def compare_studies(one: Material, other: Material) -> Group:
    """Return two studies side by side, what differs first; their winners in pairs when both were tested on the same
    rows with the same metric."""
    views = one.view, other.view
    table = _table("", *(view.name for view in views))
    facts = [_study_facts(view) for view in views]
    for head in facts[0]:
        table.add_row(head, facts[0][head], facts[1][head])
    verdicts = [view.verdict for view in views]
    apart = _what_differs(*views)
    if "metric" in apart:
        said = "The metrics differ: the scores of the two studies cannot be compared."
    elif None in verdicts or not (pairs := _winners(one, other)):
        said = "The winners were not tested on the same rows: their scores cannot be compared in pairs."
    else:
        said = f"The two winners on the test rows that both were scored on: {_difference(pairs, 'test')}"
    before, after = one.clean(one.render(views[0].best)), other.clean(other.render(views[1].best))
    title = f"From the best prompt of {views[0].name} to that of {views[1].name}: {{+added+}} [-removed-]"
    panel = Panel(diff_text(before, after), title=Text(title), title_align="left")
    warning = [Text(f"These studies differ in: {'; '.join(apart.values())}.", style="yellow"), Text()] if apart else []
    return Group(*warning, table, Text(), Text(said), Text(), panel)


def _what_differs(one: StudyView, other: StudyView) -> dict[str, str]:
    """Return what the scores of two studies rest on and is not the same in both, each with a few words."""
    sides = [_rests_on(view) for view in (one, other)]
    found: dict[str, str] = {}
    for what, (name, version) in sides[0].items():
        other_name, other_version = sides[1][what]
        if version != other_version:
            both = f"{name} in both, but not the same" if name else ""
            named = f"{name} and {other_name}" if name != other_name else both
            found[what] = f"{what} ({visible(named)})" if named else what
    return found


def _rests_on(view: StudyView) -> dict[str, tuple[str, JsonValue]]:
    """Return name and version of each; where the record is older than versions, the settings stand for them."""
    task, metric, data = (_section(view.config, key) for key in ("task", "metric", "data"))
    model = str(_section(_section(view.config, "lm"), "task").get("model", "-"))
    known = view.identity
    return {
        "metric": (str(metric.get("name", "")), known.get("metric", dict(metric))),
        "program": (str(task.get("program") or ""), known.get("program", dict(task))),
        "model": (model, known.get("task model", model)),
        "data": (str(data.get("source") or ""), known.get("data", view.facts.get("fingerprints"))),
    }


def _section(config: Mapping[str, JsonValue], key: str) -> Mapping[str, JsonValue]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _trial_facts(material: Material, candidate: Candidate) -> dict[str, str]:
    trial, is_seed = material.view.trial_of(candidate), candidate == material.view.seed
    score, n_scored = material.view.dev_score(trial)
    return {
        "made by": trial.recipe.operator if trial else "you" if is_seed else "-",
        "state": trial_word(trial.state) if trial else "not tried" if is_seed else "its trial was cut short",
        "dev score": f"{percent(score)} on {n_scored} rows" if n_scored else "-",
        "against the best then": points(trial.difference) if trial and trial.difference is not None else "-",
        "layout": f"{candidate.format}, {candidate.reasoning}, temperature {candidate.temperature:g}",
        "examples": str(candidate.n_demos),
        "characters": count(len(material.render(candidate))),
        "calls": str(trial.task_calls + trial.proposer_calls) if trial else "0",
        "cost": money(trial.cost_usd) if trial else "-",
        "why it ended": trial.reason[:CELL_CHARS] if trial else "",
    }


def _study_facts(view: StudyView) -> dict[str, str]:
    verdict = view.verdict
    task = _section(_section(view.config, "lm"), "task")
    return {
        "verdict": verdict.decision if verdict else view.state,
        "model": str(task.get("model", "-")),
        "seed on test": percent(verdict.seed_score) if verdict else "-",
        "best on test": percent(verdict.winner_score) if verdict else "-",
        "difference": (
            f"{points(verdict.difference)} ({points(verdict.low)} to {points(verdict.high)})" if verdict else "-"
        ),
        "test rows": str(verdict.n) if verdict else "-",
        "trials": str(len(view.trials)),
        "calls": count(sum(view.spend.calls.values())),
        "cost": money(view.spend.usd),
        "time": duration(view.wall_s),
    }


def _compared(material: Material, one: Candidate, other: Candidate) -> tuple[tuple[Pair, ...], str]:
    """Return the rows that both were scored on: test rows where they are seed and winner, else dev rows."""
    view, verdict = material.view, material.view.verdict
    if verdict is not None and {one.id, other.id} == {view.seed.id, view.best.id} and one != other:
        sides = {view.seed.id: verdict.seed_outcomes, view.best.id: verdict.winner_outcomes}
        return insight.pairs(sides[one.id], sides[other.id], material.rows), "test"
    first, second = (view.dev_rows(view.trial_of(each)) for each in (one, other))
    return insight.pairs(first, second, material.rows), "dev"


def _winners(one: Material, other: Material) -> tuple[Pair, ...]:
    first, second = one.view.verdict, other.view.verdict
    if first is None or second is None:
        return ()
    return insight.pairs(first.winner_outcomes, second.winner_outcomes, {**one.rows, **other.rows})


def _difference(compared: Sequence[Pair], split: str, verdict: Verdict | None = None) -> str:
    """Say how the second one does against the first one, and how sure that is; in the verdict's own figures, if any."""
    values = [
        (a, b) for pair in compared if (a := pair.seed.value) is not None and (b := pair.winner.value) is not None
    ]
    if not values:
        return "There is no row that both were scored on."
    first, second = np.array([a for a, _ in values]), np.array([b for _, b in values])
    is_binary = bool(np.isin([first, second], (0.0, 1.0)).all())
    rng = np.random.default_rng(0)
    confidence = verdict.confidence if verdict else 0.95
    found = verdict or stats.compare(first, second, is_binary=is_binary, confidence=confidence, rng=rng)
    flips = Counter(pair.flip for pair in compared)
    chosen = "" if split == "test" else "; dev rows chose the candidates, so this flatters the better one"
    return (
        f"second less first: {points(found.difference)} points on {found.n} {split} rows, "
        f"{100 * confidence:.0f}% interval {points(found.low)} to {points(found.high)}, p = {found.p_value:.2g}; "
        f"{flips['fixed']} fixed, {flips['broken']} broken{chosen}"
    )


def _changes(material: Material, one: Candidate, other: Candidate) -> RenderableType:
    before, after = material.clean(material.render(one)), material.clean(material.render(other))
    if before == after:
        return Text("The prompts are the same text.")
    return Panel(diff_text(before, after), title=Text("{+added+} [-removed-]"), title_align="left")


def _flips(compared: Sequence[Pair]) -> Iterator[RenderableType]:
    flipped = [pair for pair in compared if pair.flip in ("fixed", "broken")]
    if not flipped:
        return
    table = _table("row", "flip", "expected", "first said", "second said")
    for pair in sorted(flipped, key=lambda pair: pair.flip)[:MAX_FLIPS]:
        row = insight.as_line(pair.example.inputs) if pair.example else pair.example_id
        expected = insight.as_line(pair.example.outputs) if pair.example else "-"
        cells = (row, pair.flip, expected, insight.said(pair.seed), insight.said(pair.winner))
        table.add_row(*(Text(visible(cell[:CELL_CHARS])) for cell in cells))
    yield Text()
    yield table
    if len(flipped) > MAX_FLIPS:
        yield Text(f"and {len(flipped) - MAX_FLIPS} more", style="dim")


def _name(view: StudyView, candidate: Candidate) -> str:
    trial = view.trial_of(candidate)
    roles = [role for role, each in (("your prompt", view.seed), ("best", view.best)) if each == candidate]
    return ", ".join([f"trial {trial.number + 1}" if trial else "not tried", *roles])


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(Text(head), overflow="fold")
    return table
