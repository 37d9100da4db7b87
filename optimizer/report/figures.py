"""The report's plots, drawn by matplotlib as SVG whose colours are CSS variables: light or dark, as the reader likes.

Nothing here opens a window or a file: the object-oriented interface only, no `pyplot`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from optimizer.proof.insight import Dot, OperatorRow
from optimizer.records import Outcome, StudyView, TrialRecord, Verdict
from optimizer.stats import BOOTSTRAP, interval_of_mean
from optimizer.words import trial_word

# Stand-ins that no palette uses: each becomes a CSS variable once matplotlib has written the SVG.
COLOURS = {
    "ink": "#010203",
    "muted": "#020304",
    "grid": "#030405",
    "seed": "#040506",
    "winner": "#050607",
    "bad": "#060708",
    "soft": "#070809",
}
LIGHT = {"ink": "#1c2430", "muted": "#5d6876", "grid": "#d9dee5", "seed": "#b25e00", "winner": "#0b62a3"}
LIGHT |= {"bad": "#b3261e", "soft": "#8fa9bf"}
DARK = {"ink": "#e8ecf1", "muted": "#a3adb9", "grid": "#39424d", "seed": "#ffab5c", "winner": "#6cb8f5"}
DARK |= {"bad": "#ff8a80", "soft": "#58708a"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 11,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
MARKS = {"complete": ("o", "winner"), "pruned": ("v", "soft"), "failed": ("x", "bad")}
SIZE = (5.4, 3.3)  # inches; at 72 to the inch and full width of a phone the letters stay readable


def progress_figure(dots: Sequence[Dot]) -> str:
    """Draw each trial's dev score, and the best so far, against the calls made."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for state, (mark, colour) in MARKS.items():
            found = [dot for dot in dots if dot.state == state and dot.score is not None]
            if found:
                scores, name = [100 * (dot.score or 0.0) for dot in found], trial_word(state)
                axes.scatter([d.calls for d in found], scores, marker=mark, s=28, color=COLOURS[colour], label=name)
        best = [dot for dot in dots if dot.best is not None]
        heights = [100 * (dot.best or 0.0) for dot in best]
        axes.step([d.calls for d in best], heights, where="post", color=COLOURS["ink"], lw=1.4, label="best complete")
        axes.set(xlabel="calls so far", ylabel="dev score, %")
        _legend(axes)
        return _svg(figure, "progress", "Dev score of each trial and the best complete score so far, against calls")


def verdict_figure(verdict: Verdict, *, is_same: bool = False) -> str:
    """Draw both test scores, with their intervals where they have some; one where both prompts are the same."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes((5.4, 1.4 if is_same else 1.9))
        yours = ("your prompt", "seed", verdict.seed_score, verdict.seed_outcomes)
        new = ("new prompt", "winner", verdict.winner_score, verdict.winner_outcomes)
        for height, (name, side, score, outcomes) in enumerate([yours] if is_same else [new, yours]):
            colour = COLOURS[side]
            if (bounds := _interval(verdict, outcomes)) is not None:
                axes.plot([100 * bound for bound in bounds], [height, height], color=colour, lw=3, alpha=0.45)
            axes.plot([100 * score], [height], "o", color=colour, ms=8)
            axes.annotate(f"{100 * score:.1f}%", (100 * score, height + 0.14), ha="center", color=colour)
            axes.text(-0.02, height, name, transform=axes.get_yaxis_transform(), ha="right", va="center")
        axes.set(xlim=(0, 100), ylim=(-0.4, 0.6 if is_same else 1.6), xlabel="score on test, %", yticks=[])
        axes.spines["left"].set_visible(False)
        return _svg(figure, "verdict", "Test scores of both prompts")


def has_intervals(verdict: Verdict) -> bool:
    """Whether each of the two scores has an interval of its own: no F1 and no worst group has one."""
    return verdict.test_name != BOOTSTRAP and bool(verdict.seed_outcomes)


def _interval(verdict: Verdict, outcomes: Sequence[Outcome]) -> tuple[float, float] | None:
    if not has_intervals(verdict):
        return None
    values = np.array([outcome.value for outcome in outcomes], dtype=np.float64)
    return interval_of_mean(values, confidence=verdict.confidence, rng=np.random.default_rng(0))


def operators_figure(rows: Sequence[OperatorRow]) -> str:
    """Draw what became of each operator's candidates."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes((5.4, 0.9 + 0.32 * max(3, len(rows))))
        left = [0.0] * len(rows)
        kinds = (
            ("took the lead", "winner", [row.won for row in rows]),
            ("scored in full", "soft", [row.complete - row.won for row in rows]),
            ("dropped early", "grid", [row.pruned for row in rows]),
            ("rejected or failed", "bad", [row.rejected + row.failed for row in rows]),
        )
        for label, colour, counts in kinds:
            axes.barh(range(len(rows)), counts, left=left, color=COLOURS[colour], label=label, height=0.7)
            left = [a + b for a, b in zip(left, counts, strict=True)]
        axes.set_yticks(range(len(rows)), [row.operator for row in rows])
        axes.invert_yaxis()
        axes.set(xlabel="trials")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=2, fontsize=10)
        return _svg(figure, "operators", "Number of trials by operator and by what became of them")


def length_figure(view: StudyView, front: Sequence[TrialRecord], n_chars: Mapping[str, int]) -> str:
    """Draw dev score against prompt length; the line joins the trials that none beats in both."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for state, (mark, colour) in MARKS.items():
            found = _points(view, [trial for trial in view.trials if trial.state == state], n_chars)
            if found:
                across, up = [x for x, _ in found], [y for _, y in found]
                axes.scatter(across, up, marker=mark, s=28, color=COLOURS[colour], label=trial_word(state))
        if line := _points(view, front, n_chars):
            axes.plot(
                [x for x, _ in line],
                [y for _, y in line],
                color=COLOURS["ink"],
                lw=1.2,
                label="none better and shorter",
            )
        axes.set(xlabel="characters of the prompt without its input", ylabel="dev score, %")
        _legend(axes)
        return _svg(figure, "length", "Dev score of each trial against the length of its prompt")


def standalone(svg: str) -> str:
    """Return a plot as a file of its own, which brings its colours along."""
    light = "".join(f"--{name}:{value};" for name, value in LIGHT.items())
    dark = "".join(f"--{name}:{value};" for name, value in DARK.items())
    style = (
        f"<style>svg{{{light}background:#ffffff}}"
        f"@media(prefers-color-scheme:dark){{svg{{{dark}background:#14181d}}}}</style>"
    )
    head, bracket, rest = svg.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}{bracket}{style}{rest}\n'


def _points(view: StudyView, trials: Sequence[TrialRecord], n_chars: Mapping[str, int]) -> list[tuple[int, float]]:
    return [
        (n_chars[trial.candidate.id], 100 * score)
        for trial in trials
        if trial.candidate is not None and (score := view.dev_score(trial)[0]) is not None
    ]


def _axes(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="both", lw=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=10)


def _svg(figure: Figure, name: str, label: str) -> str:
    """Return the SVG element: no prolog, no metadata, ids of its own, colours as CSS variables."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
