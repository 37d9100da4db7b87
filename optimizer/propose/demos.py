"""`demos`: choose, exchange, add, drop or reorder the worked examples of a prompt. Needs no LM.

Demonstrations are the strongest lever of a prompt, in both directions: an unlucky, one-sided set can pull a model
onto one label. Every pick here keeps the labels as even as the rows allow. A pick that the parent cannot follow (it has
no demonstrations to exchange, or no room for another) gives a fresh set instead, so that no trial is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from optimizer.candidate import Candidate, Demo, Example
from optimizer.propose.operator import Context, Need, Rejection
from optimizer.propose.rows import distinct, key_of, label_field, label_of, pick_rows
from optimizer.records import DemoPick

_N_SHUFFLES = 8


class Demos:
    """The parent with other demonstrations, picked from train as `recipe.demo_pick` says."""

    name: str = "demos"
    needs: frozenset[Need] = frozenset({"demos"})

    def request(self, context: Context) -> None:
        """Nothing is asked."""

    def parse(self, reply: str, context: Context) -> Candidate:  # noqa: ARG002 - the protocol's shape
        pick = _PICKS[context.recipe.demo_pick] if _can_follow(context) else _fresh
        demos = tuple(pick(context, context.generator()))
        if demos == context.part.demos:
            raise Rejection("nothing changed: the parent already has these demonstrations")
        return context.parent.with_demos(context.predictor, demos)


def _can_follow(context: Context) -> bool:
    n_demos = len(context.part.demos)
    if context.recipe.demo_pick in ("swap", "drop", "shuffle"):
        return n_demos > (context.recipe.demo_pick == "shuffle")
    return context.recipe.demo_pick != "add" or n_demos < context.max_demos


def _fresh(context: Context, rng: np.random.Generator) -> Sequence[Demo]:
    rows = pick_rows(context.train, context.recipe.n_demos, task=context.task, rng=rng)
    return [Demo.from_example(row) for row in rows]


def _swap(context: Context, rng: np.random.Generator) -> Sequence[Demo]:
    """Exchange half of the demonstrations, each for an unused row of the same label, or of any when none is left.

    Half, because a child then keeps most of what makes its parent good and still differs by more than noise.
    """
    demos, unused = list(context.part.demos), _unused(context)
    field = label_field(context.task)
    for place in rng.permutation(len(demos))[: (len(demos) + 1) // 2]:
        label = label_of(demos[place].outputs, field) if field else ""
        alike = [row for row in unused if field and label_of(row.outputs, field) == label]
        if not unused:
            break
        row = _one_of(alike or unused, rng)
        unused.remove(row)
        demos[place] = Demo.from_example(row)
    return demos


def _add(context: Context, rng: np.random.Generator) -> Sequence[Demo]:
    """Insert, at a random place, an unused row of the label that has fewest demonstrations."""
    demos, unused = list(context.part.demos), _unused(context)
    field = label_field(context.task)
    if field is not None:
        counts = Counter(label_of(demo.outputs, field) for demo in demos)
        fewest = min((counts[label_of(row.outputs, field)] for row in unused), default=0)
        unused = [row for row in unused if counts[label_of(row.outputs, field)] == fewest]
    row = _one_of(unused, rng)
    demos.insert(int(rng.integers(len(demos) + 1)), Demo.from_example(row))
    return demos


def _drop(context: Context, rng: np.random.Generator) -> Sequence[Demo]:
    """Take one away, of the label that has most."""
    demos = list(context.part.demos)
    field = label_field(context.task)
    labels = [label_of(demo.outputs, field) if field else "" for demo in demos]
    counts = Counter(labels)
    places = [place for place, label in enumerate(labels) if counts[label] == max(counts.values())]
    del demos[places[int(rng.integers(len(places)))]]
    return demos


def _shuffle(context: Context, rng: np.random.Generator) -> Sequence[Demo]:
    demos = context.part.demos
    for _ in range(_N_SHUFFLES):
        shuffled = [demos[i] for i in rng.permutation(len(demos))]
        if tuple(shuffled) != demos:
            return shuffled
    return demos


def _bootstrap(context: Context, rng: np.random.Generator) -> Sequence[Demo]:
    """Pick only rows that the parent answered rightly, with the model's own reasoning; a fresh set if there are none.

    Source: Khattab et al., 2023, "DSPy", section 4 (BootstrapFewShot). Deviation: balanced over labels.
    """
    train_ids = {row.id for row in context.train}
    right = {
        attempt.example.id: attempt
        for attempt in context.attempts
        if attempt.is_right and attempt.example.id in train_ids
    }
    if not right:
        return _fresh(context, rng)
    rows = pick_rows(
        [attempt.example for attempt in right.values()], context.recipe.n_demos, task=context.task, rng=rng
    )
    thoughts = {row.id: right[row.id].outcome.answer.get("reasoning") for row in rows}
    return [Demo.from_example(row, reasoning=_text_or_none(thoughts[row.id])) for row in rows]


def _text_or_none(thought: object) -> str | None:
    return thought.strip() or None if isinstance(thought, str) else None


def _unused(context: Context) -> list[Example]:
    used_ids = {demo.example_id for demo in context.part.demos}
    used_keys = {key_of(demo.inputs) for demo in context.part.demos}
    return [row for row in distinct(context.train) if row.id not in used_ids and key_of(row.inputs) not in used_keys]


def _one_of(rows: Sequence[Example], rng: np.random.Generator) -> Example:
    if not rows:
        raise Rejection("every train row is a demonstration already")
    return rows[int(rng.integers(len(rows)))]


_PICKS: Mapping[DemoPick, Callable[[Context, np.random.Generator], Sequence[Demo]]] = {
    "fresh": _fresh,
    "swap": _swap,
    "add": _add,
    "drop": _drop,
    "shuffle": _shuffle,
    "bootstrap": _bootstrap,
}

OPERATOR = Demos()
