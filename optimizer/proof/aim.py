"""What a study's test score is the score of, in words: all rows, or the worst group of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimizer.candidate import JsonValue
from optimizer.config.metric import Slices
from optimizer.records import SliceScore, StudyView
from optimizer.words import points, visible

SAME = "no other prompt was tested; the interval says how much chance alone could show"


def worst_of(view: StudyView) -> str:
    """Return `worst ward` where the study is judged by the worst group of that column, else an empty text."""
    slices = _slices(view)
    return f"worst {visible(str(slices.get('by')))}" if slices.get("aim") == "worst" else ""


def dev_label(view: StudyView) -> str:
    """What the dev score is the score of: races and their estimates go by means of rows, whatever the metric."""
    if worst_of(view):
        return "dev, mean of all rows"
    return "dev, share right" if _is_macro(view) else "dev, searched on"


def scored_by(view: StudyView) -> str:
    """What the test scores are the score of, where it is no mean of all rows; else an empty text."""
    return worst_of(view)[:24] or ("macro F1" if _is_macro(view) else "")


def measure_words(view: StudyView) -> list[str]:
    """Say that test and dev scores are of two kinds, where they are."""
    if worst_of(view) or not _is_macro(view):
        return []
    return ["winner and verdict go by macro F1, the mean over the labels; dev scores are the share of right rows"]


def _is_macro(view: StudyView) -> bool:
    metric = view.config.get("metric")
    return isinstance(metric, Mapping) and metric.get("name") == "macro_f1"


def worst_in(slices: Slices | None) -> str:
    """Return the same for the settings of a study that has no view yet."""
    return f"worst {visible(slices.by)}" if slices is not None and slices.aim == "worst" else ""


def group_column(view: StudyView) -> str:
    """Return the column whose values are the groups; an empty text where there are none."""
    return str(_slices(view).get("by") or "")


def _slices(view: StudyView) -> Mapping[str, JsonValue]:
    metric = view.config.get("metric")
    slices = metric.get("slices") if isinstance(metric, Mapping) else None
    return slices if isinstance(slices, Mapping) else {}


def which_worst(view: StudyView) -> str:
    """Say which group is the worst with each prompt; an empty text where that is not what the study is judged by."""
    whose, verdict = worst_of(view), view.verdict
    if not whose or verdict is None or not verdict.slices:
        return ""
    counted = [each for each in verdict.slices if each.decides] or verdict.slices
    seed = min(counted, key=lambda each: each.seed).name
    winner = min(counted, key=lambda each: each.winner).name
    return f"judged by the {whose}: {visible(seed)} with your prompt, {visible(winner)} with the new one"


def group_words(view: StudyView, *, names_few: bool = True) -> list[str]:
    """Say what holds for the groups: the rule on losses and whether it was kept, what `other` is, what is too small.

    Args:
        names_few: also the values that few rows have.
    """
    verdict, settings = view.verdict, _slices(view)
    if verdict is None or not verdict.slices:
        return []
    found = [_rule_words(verdict.slices, settings.get("max_loss"))]
    found += [
        f"{visible(each.name)} holds {visible(', '.join(each.holds))}"
        for each in verdict.slices
        if each.holds and names_few
    ]
    small = [f"{visible(each.name)} ({each.n} rows)" for each in verdict.slices if not each.decides]
    if small and settings.get("aim") == "worst":
        found.append(f"too small to be counted as the worst {visible(str(settings.get('by')))}: {', '.join(small)}")
    return found


def _rule_words(slices: Sequence[SliceScore], max_loss: object) -> str:
    worst = min(slices, key=lambda each: each.difference)
    change = f"the worst change is {points(worst.difference)} points, of {visible(worst.name)}"
    if not isinstance(max_loss, int | float):
        return f"no rule limits what a group may lose (metric.slices.max_loss); {change}"
    is_kept = worst.difference >= -max_loss - 1e-9
    limit = f"no group may lose more than {100 * max_loss:g} points (metric.slices.max_loss)"
    return f"rule: {limit}; {'kept' if is_kept else 'broken'}: {change}"
