"""The first candidates of a study: cheap, plain and different from each other. No model is asked for them.

A capable proposer adds one that it induces from examples (`Study.enqueue_starts`).

A search that starts from one weak prompt spends its budget on climbing to where a plain sentence with a few
balanced examples already stands; some small models even do best with no instruction at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from optimizer.candidate import Candidate, Demo, Example
from optimizer.config.keys import Task
from optimizer.propose.rows import label_field, pick_rows
from optimizer.propose.wording import goal_text, label_line, labels_of, normalise, placeholders

_MAX_STARTS = 10
_FEW, _MANY = 4, 16


class _Start(NamedTuple):
    text: str  # which wording
    demos: Literal["none", "few", "some", "many"]
    format: int  # place in the list of formats, wrapping round


# Likely improvements come early, because a short budget sees only the first few. How many rows are shown, and which,
# matters as much as whether any are, so the seed is tried with several draws of several sizes.
_PLAN = (
    _Start("seed", demos="none", format=0),
    _Start("seed", demos="many", format=0),
    _Start("seed", demos="few", format=0),
    _Start("goal+labels", demos="many", format=0),
    _Start("seed", demos="some", format=0),
    _Start("empty", demos="many", format=0),
    _Start("seed", demos="many", format=1),
    _Start("goal", demos="none", format=0),
    _Start("seed", demos="few", format=0),
    _Start("seed", demos="some", format=0),
    _Start("seed", demos="none", format=1),
    _Start("empty", demos="few", format=0),
    _Start("seed", demos="many", format=0),
    _Start("goal+labels", demos="none", format=0),
    _Start("goal", demos="many", format=1),
    _Start("seed", demos="none", format=2),
    _Start("seed", demos="none", format=3),
)


def diverse_starts(
    seed: Candidate,
    task: Task,
    train: Sequence[Example],
    *,
    formats: Sequence[str],
    max_demos: int,
    rng: np.random.Generator,
) -> list[tuple[str, Candidate]]:
    """Return up to ten named candidates, the seed first, no two alike, each with demonstrations of its own.

    A program of several predictors keeps its words and gets no demonstrations, because train rows do not show
    what passes between its predictors; only its layout varies. A seed with placeholders keeps its words too.
    """
    texts, sizes = _texts(seed, task), _sizes(task, max_demos if len(seed.parts) == 1 else 0)
    starts: dict[str, tuple[str, Candidate]] = {seed.id: ("seed", seed)}
    for plan in _PLAN:
        n_demos = sizes[plan.demos]
        if plan.text not in texts or (plan.demos != "none" and not n_demos):
            continue
        layout = _format_of(plan, seed, formats)
        candidate = _worded(replace(seed, format=layout), texts[plan.text])
        if n_demos:
            rows = pick_rows(train, n_demos, task=task, rng=rng)
            candidate = candidate.with_demos(candidate.parts[0].predictor, [Demo.from_example(row) for row in rows])
        name = (
            plan.text
            + (f"+{candidate.n_demos} demos" if n_demos else "")
            + (f" ({layout})" if layout != seed.format else "")
        )
        n_alike = sum(other.partition(" #")[0] == name for other, _ in starts.values())
        starts.setdefault(candidate.id, (f"{name} #{n_alike + 1}" if n_alike else name, candidate))
    return list(starts.values())[:_MAX_STARTS]


def _texts(seed: Candidate, task: Task) -> dict[str, str | None]:
    """Return the wordings by name; None keeps the seed's own. Wordings that say the same appear once."""
    first = seed.parts[0].instructions
    if len(seed.parts) > 1 or placeholders(first):
        return {"seed": None}
    goal = goal_text(task)
    named = {"goal": goal, "goal+labels": f"{goal} {label_line(task)}".strip(), "empty": ""}
    texts: dict[str, str | None] = {"seed": None}
    said = {normalise(first)}
    for name, text in named.items():
        if normalise(text) not in said:
            said.add(normalise(text))
            texts[name] = text
    return texts


def _worded(candidate: Candidate, text: str | None) -> Candidate:
    return candidate if text is None else candidate.with_instructions(candidate.parts[0].predictor, text)


def _format_of(plan: _Start, seed: Candidate, formats: Sequence[str]) -> str:
    """Return the seed's format for place 0, and the other allowed ones after it."""
    ordered = [seed.format, *(name for name in formats if name != seed.format)]
    return ordered[plan.format % len(ordered)]


def _sizes(task: Task, max_demos: int) -> dict[str, int]:
    """Return how many rows are few (one for each label, at least four), many, and between, never more than allowed."""
    field = label_field(task)
    n_labels = len(labels_of(task.outputs[field])) if field else 0
    few = min(max_demos, max(_FEW, n_labels))
    many = min(max_demos, max(_MANY, 2 * few))
    return {"none": 0, "few": few, "some": round(math.sqrt(few * many)), "many": many}
