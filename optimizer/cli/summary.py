"""What a study came to, in a few lines for people and as JSON with stable keys for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from optimizer.candidate import Candidate, JsonValue
from optimizer.command_line import command_name
from optimizer.init.examples import is_example
from optimizer.proof import earlier, labels
from optimizer.proof.aim import SAME, dev_label, group_words, measure_words, scored_by, which_worst
from optimizer.proof.ending import stopped_words, time_notes
from optimizer.records import DevEstimate, StudyView, Verdict
from optimizer.words import count, duration, number_of, percent, points, price, trial_counts, trials_words, visible

MAX_PROMPT_LINES = 24
MAX_SLICES = 8
DEV_KEYS = ("n", "seed", "winner", "low", "high", "n_seed", "n_winner")


def summary_json(view: StudyView, prompts: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the study as JSON; the keys stay the same between versions.

    Args:
        prompts: candidate id to prompt text, for seed and winner.
    """
    calls = view.spend.calls
    verdict, dev = view.verdict, view.dev
    return {
        "study": view.name,
        "state": view.state,
        "stop_reason": view.stop_reason,
        "seed_prompt": prompts[view.seed.id],
        "winner_prompt": prompts[view.best.id],
        "verdict": verdict.decision if verdict else None,
        "dev": {key: asdict(dev)[key] for key in DEV_KEYS} if dev else None,
        "test": final_test_json(verdict) if verdict else None,
        "calls": {role: calls.get(role, 0) for role in ("task", "proposer", "judge")},
        "tokens": view.spend.tokens,
        "cost_usd": view.spend.usd,
        "wall_s": round(view.wall_s, 3),
        "trials": cast(JsonValue, trial_counts(trial.state for trial in view.trials)),
        "test_seen_before": [
            {"study": each.study, "opened": len(each.opened), "searched": len(each.searched)}
            for each in earlier.of_test(view)
        ],
    }


def final_test_json(verdict: Verdict) -> dict[str, JsonValue]:
    """Return the figures of the final test."""
    return {
        "n": verdict.n,
        "seed": verdict.seed_score,
        "winner": verdict.winner_score,
        "difference": verdict.difference,
        "low": verdict.low,
        "high": verdict.high,
        "p_value": verdict.p_value,
        "test_name": verdict.test_name,
        "confidence": verdict.confidence,
        "slices": [asdict(each) for each in verdict.slices],
        "broken_rules": list(verdict.broken_rules),
        "shortfall": verdict.shortfall or None,
        "classes": [asdict(each) for each in verdict.classes],
        "constant": asdict(verdict.constant) if verdict.constant else None,
    }


def print_json(view: StudyView, prompts: Mapping[str, str]) -> None:
    """Print the study as JSON alone."""
    print(json.dumps(summary_json(view, prompts), indent=2, ensure_ascii=False))


def print_summary(console: Console, view: StudyView, prompts: Mapping[str, str], *, runs_flag: str) -> None:
    """Print verdict, prompts, scores, costs and what to do next. `runs_flag` is added to each command."""
    console.print(Group(*_blocks(view, prompts, runs_flag)), highlight=False)


def one_line(view: StudyView) -> str:
    """Return the verdict in one line, for `--quiet`."""
    verdict = view.verdict
    if verdict is None:
        return f"{view.name}: {view.state}, no verdict yet"
    scores = f"{percent(verdict.seed_score)} to {percent(verdict.winner_score)}"
    interval = f"{100 * verdict.confidence:.0f}% interval {points(verdict.low)} to {points(verdict.high)}"
    found = f"{scores} on {verdict.n} test rows, difference {points(verdict.difference)} ({interval})"
    warned = "".join(f"; {each.removesuffix('.')}" for each in labels.warnings(view))
    return f"{view.name}: {verdict.decision}, {found}{warned}"


def _blocks(view: StudyView, prompts: Mapping[str, str], runs_flag: str) -> list[RenderableType]:
    blocks: list[RenderableType] = [Text(), _headline(view)]
    blocks += [*(Text(f"Warning: {each}", style="bold yellow") for each in labels.warnings(view)), Text()]
    blocks.append(_prompt_panel("Your prompt", view.seed, prompts))
    if view.best != view.seed:
        blocks.append(_prompt_panel(_winner_title(view), view.best, prompts))
    blocks += [
        _scores(view) if view.best != view.seed else _own_scores(view),
        Text(),
        _bill(view),
        Text(),
        *_next_commands(view, runs_flag),
    ]
    return blocks


def _headline(view: StudyView) -> Text:
    verdict = view.verdict
    if verdict is None:
        return Text(f"Study {view.name}: {view.state}, no verdict yet.", style="bold yellow")
    style = "bold green" if verdict.decision == "promote" else "bold yellow"
    return Text(f"Verdict: {verdict.decision}. ", style=style).append(verdict.reason, style="default")


def _winner_title(view: StudyView) -> str:
    trial = view.trial_of(view.best)
    made_by = f", made by `{trial.recipe.operator}` in trial {trial.number + 1}" if trial else ""
    if view.verdict is None:
        return f"Best prompt so far{made_by}"
    return f"{'Winning prompt' if view.chosen == view.best else 'Best candidate, not proven to be better'}{made_by}"


def _prompt_panel(title: str, candidate: Candidate, prompts: Mapping[str, str]) -> Panel:
    lines = prompts[candidate.id].splitlines()
    shown = lines if len(lines) == MAX_PROMPT_LINES + 1 else lines[:MAX_PROMPT_LINES]
    if len(lines) > len(shown):
        shown.append(f"... {len(lines) - len(shown)} more lines; `optimizer export` prints them all")
    facts = f"{candidate.format}, {candidate.n_demos} examples, {len(prompts[candidate.id])} characters"
    return Panel(
        Text(visible("\n".join(shown))), title=title, title_align="left", subtitle=facts, subtitle_align="right"
    )


def _own_scores(view: StudyView) -> RenderableType:
    """What the user's own prompt scores, where no other one is to be compared with it."""
    scored: list[tuple[str, int, float | None]] = []
    if view.verdict:
        scored.append((_test_label(view), view.verdict.n, view.verdict.seed_score))
    if dev := view.dev:
        scored.append((dev_label(view), dev.n if dev.n_seed is None else dev.n_seed, dev.seed))
    if not scored:
        return Text("Nothing has been scored on test rows yet.", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("", "rows", "your prompt"):
        table.add_column(head, justify="right" if head else "left")
    for what, n, score in scored:
        table.add_row(what, str(n), percent(score))
    notes: list[RenderableType] = []
    if (verdict := view.verdict) is not None:
        interval = f"{100 * verdict.confidence:.0f}% interval {points(verdict.low)} to {points(verdict.high)}"
        notes = [Text(f"{SAME}: {interval}"), *([Text(verdict.shortfall, style="yellow")] if verdict.shortfall else [])]
    return Group(table, *notes)


def _scores(view: StudyView) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("", "rows", "your prompt", "new prompt", "difference"):
        table.add_column(head, justify="right" if head else "left")
    notes: list[RenderableType] = []
    if (verdict := view.verdict) is not None:
        scores = (percent(verdict.seed_score), percent(verdict.winner_score), points(verdict.difference))
        table.add_row(_test_label(view), str(verdict.n), *scores)
        notes += [Text(each) for each in measure_words(view)]
        if which := which_worst(view):
            notes.append(Text(which))
        interval = f"{100 * verdict.confidence:.0f}% interval {points(verdict.low)} to {points(verdict.high)}"
        notes.append(Text(f"difference on test: {interval}, p = {verdict.p_value:.2g} ({verdict.test_name})"))
        if verdict.shortfall:
            notes.append(Text(verdict.shortfall, style="yellow"))
        if seen := earlier.of_test(view):
            notes.append(Text(earlier.warning(seen), style="yellow"))
        for each in verdict.slices[:MAX_SLICES]:
            scores = (percent(each.seed), percent(each.winner), points(each.difference))
            table.add_row(f"  {each.name[:24]}", str(each.n), *scores)
        if len(verdict.slices) > MAX_SLICES:
            notes.append(Text(f"{len(verdict.slices) - MAX_SLICES} more groups, none of them with a worse difference"))
        notes += [Text(each) for each in group_words(view)]
        notes += [Text(f"broken rule: {rule}", style="yellow") for rule in verdict.broken_rules]
    if (dev := view.dev) is not None:
        table.add_row(dev_label(view), str(dev.n if dev.n_winner is None else dev.n_winner), *_dev_cells(dev))
        unseen = "" if dev.n_winner in (None, dev.n) else f" and estimated for all {dev.n} rows"
        said = f"new prompt on dev: corrected for having been chosen{unseen}, {percent(dev.raw)} before"
        notes.append(Text(said, style="dim"))
    return Group(table, *notes)


def _test_label(view: StudyView) -> str:
    """Which rows the final test was on, and what its scores are."""
    return ": ".join(filter(None, (earlier.label(earlier.of_test(view)), scored_by(view))))


def _dev_cells(dev: DevEstimate) -> tuple[str, str, str]:
    """Your prompt's score, with its rows where they are not those of the new one; the new one's score; the gain."""
    is_shared = dev.n_seed == dev.n_winner
    seed = percent(dev.seed) + ("" if is_shared or dev.seed is None else f" on {dev.n_seed}")
    return seed, percent(dev.winner), "-" if dev.difference is None else points(dev.difference)


def _bill(view: StudyView) -> Text:
    trials = trials_words(trial_counts(trial.state for trial in view.trials))
    calls = ", ".join(f"{count(n)} {role}" for role, n in view.spend.calls.items()) or "none"
    bill = Text(
        f"{number_of(len(view.trials), 'trial')}{f' ({trials})' if trials else ''}; {stopped_words(view)}\n"
        f"calls: {calls}; {count(view.spend.tokens)} tokens; {price(view.spend.usd)}; {duration(view.wall_s)}"
    )
    for note in time_notes(view):
        bill.append(f"\n{note}", style="yellow")
    return bill


def _next_commands(view: StudyView, runs_flag: str) -> list[RenderableType]:
    table = Table.grid(padding=(0, 3))
    is_kept = view.chosen != view.best
    for what, command in (
        ("see the whole search", f"ui {view.name}{runs_flag}"),
        ("read what it came to", f"report {view.name}{runs_flag}"),
        ("see rows that flipped", f"compare {view.name} seed best{runs_flag}")
        if is_kept
        else ("take the prompt away", f"export {view.name} --format markdown{runs_flag}"),
        *([("use it on your own data", "init FILE")] if is_example(view.config) else []),
    ):
        table.add_row(Text(what, style="dim"), Text(f"{command_name()} {command}", style="cyan"))
    return [table]
