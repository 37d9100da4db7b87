"""What a study's test score is the score of, in words: all rows, or the worst group of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.records import StudyView
from optimizer.words import visible


def worst_of(view: StudyView) -> str:
    """Return `worst ward` where the study is judged by the worst group of that column, else an empty text."""
    metric = view.config.get("metric")
    slices = metric.get("slices") if isinstance(metric, Mapping) else None
    if not isinstance(slices, Mapping) or slices.get("aim") != "worst":
        return ""
    return f"worst {visible(str(slices.get('by')))}"


def which_worst(view: StudyView) -> str:
    """Say which group is the worst with each prompt; an empty text where that is not what the study is judged by."""
    whose, verdict = worst_of(view), view.verdict
    if not whose or verdict is None or not verdict.slices:
        return ""
    seed = min(verdict.slices, key=lambda each: each.seed).name
    winner = min(verdict.slices, key=lambda each: each.winner).name
    return f"judged by the {whose}: {visible(seed)} with your prompt, {visible(winner)} with the new one"
