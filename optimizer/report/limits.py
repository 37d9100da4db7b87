"""What the report's figures do not show, in sentences for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.proof import labels
from optimizer.proof.earlier import of_test, warning
from optimizer.records import StudyView
from optimizer.stats import smallest_provable_gain
from optimizer.words import number_of, percent, points

FEW_IN_SLICE = 10


def limits(view: StudyView, *, n_flips: Mapping[str, int]) -> list[str]:
    """Return the sentences, those that matter most first."""
    verdict, found = view.verdict, []
    if verdict is None:
        found.append(
            "The test rows have not been opened, so nothing is proven yet; dev scores flatter what was chosen."
        )
    else:
        if seen := of_test(view):
            found.append(warning(seen))
        found += labels.warnings(view)
        gain = smallest_provable_gain(verdict.n, confidence=verdict.confidence)
        found.append(
            f"With {verdict.n} test rows a true gain of about {100 * gain:.0f} points is found in four of five "
            "studies; smaller ones usually end in `keep`."
        )
        if n_broken := n_flips.get("broken", 0):
            found.append(
                f"The new prompt is not better everywhere: {number_of(n_broken, 'test row')} that had been right "
                f"{'is' if n_broken == 1 else 'are'} wrong now."
            )
        found.append(f"Tables of classes and slices rest on few rows: under {FEW_IN_SLICE} rows they are anecdotes.")
        found.append(
            "The verdict holds for this model, metric and kind of data; `optimizer verify` checks another model."
        )
    if (dev := view.dev) is not None and view.best != view.seed:
        yours = "" if dev.seed is None else f"; your prompt scored {percent(dev.seed)}{_on(dev.n_seed)}"
        found.append(
            f"On dev the winner scored {percent(dev.raw)}{_on(dev.n_winner)}; having been chosen as the best of "
            f"{len(view.trials)} trials, it is believed to be worth {percent(dev.winner)} "
            f"({points(dev.winner - dev.raw)}){yours}."
        )
    once = "" if of_test(view) else " once"
    by = "by your prompt" if view.best == view.seed else "by two prompts"
    found.append(
        f"Test rows were scored{once} in this study, after its search had ended, and {by} only. If they are used for a "
        "second study they no longer are what the search never saw."
    )
    return found


def _on(n_rows: int | None) -> str:
    return "" if n_rows is None else f" on {n_rows} rows"
