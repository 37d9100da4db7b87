"""Which split seed spreads the classes most evenly. Pure; looks at class counts alone, never at texts or scores.

A row's split is a hash of its content, so that rows added later move no other. Of a few hundred rows such a hash can
put many of one class into dev and few into train. Another seed is another deal of the same cards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optimizer.candidate import Example, Fields
from optimizer.config.keys import Config
from optimizer.data.fields import BadRow, example_of
from optimizer.data.splits import SPLIT_NAMES, Bin, SplitName, class_of, pick_split, pick_unseen, split_key
from optimizer.data.withholding import is_withheld

N_SEEDS = 20
MAX_ROWS = 3_000  # with more, every seed is even enough, and trying them would take seconds
LEAST_ROWS: Mapping[SplitName, int] = {"train": 1, "dev": 10, "test": 10}  # fewer are refused when a study loads


class Unevenness(NamedTuple):
    """How badly the classes are spread; the smaller one in the order of the fields is better.

    Attributes:
        n_short: rows that splits lack of the fewest allowed.
        n_missing: classes that a split has no row of, over all splits.
        gap: the largest difference between two splits' shares of one class, from 0 to 1.
    """

    n_short: int
    n_missing: int
    gap: float


def most_even_seed(rows: Sequence[Fields], config: Config) -> int | None:
    """Return the best of the split seeds 0 to 19, the first of equal ones.

    None when there is nothing to choose: no label is scored, the source is split already, or the rows are many.
    """
    outputs = config.task.outputs
    names = [config.metric.output] if config.metric.output else list(outputs)
    scored = next((name for name in names if outputs[name].kind in ("label", "boolean")), None)
    if scored is None or config.data.source is None or len(rows) > MAX_ROWS:
        return None
    keyed = _keyed(rows, config)
    return min(range(N_SEEDS), key=lambda seed: unevenness(_counts(keyed, config, scored, seed)))


def lacking(rows: Sequence[Fields], config: Config, seed: int) -> list[str]:
    """Say which classes train has no row of with this seed, the best one, and why no other seed mends it."""
    outputs = config.task.outputs
    names = [config.metric.output] if config.metric.output else list(outputs)
    scored = next(name for name in names if outputs[name].kind in ("label", "boolean"))
    keyed = _keyed(rows, config)
    train = _counts(keyed, config, scored, seed)["train"]
    found = []
    for label in sorted({class_of(example, scored) for example, _, _ in keyed} - set(train)):
        of_label = [(key, withheld) for example, key, withheld in keyed if class_of(example, scored) == label]
        found.append(f"train has no row of {label!r}: {_why(of_label)}")
    return found


def _why(rows: Sequence[tuple[str, bool]]) -> str:
    n, n_texts = len(rows), len({key for key, _ in rows})
    if all(withheld for _, withheld in rows):
        return f"none of its {n} rows may be shown"
    if n_texts < n:
        return (
            f"its {n} rows are {n_texts} different texts but for digits and punctuation, and such near-copies share a "
            "split; rows in other words help"
        )
    return f"it has {n} rows in all; more of them help"


def unevenness(counts: Mapping[SplitName, Mapping[str, int]]) -> Unevenness:
    """Compare the splits' counts of each class."""
    sizes = {name: sum(counts[name].values()) for name in SPLIT_NAMES}
    labels = {label for name in SPLIT_NAMES for label in counts[name]}
    shares = [[counts[name].get(label, 0) / max(1, sizes[name]) for name in SPLIT_NAMES] for label in labels]
    return Unevenness(
        n_short=sum(max(0, LEAST_ROWS[name] - sizes[name]) for name in SPLIT_NAMES),
        n_missing=sum(not share for of_label in shares for share in of_label),
        gap=max((max(of_label) - min(of_label) for of_label in shares), default=0.0),
    )


def _keyed(rows: Sequence[Fields], config: Config) -> list[tuple[Example, str, bool]]:
    """The usable rows, the texts that decide on their splits and whether they are held back, as loading finds them."""
    columns = {name: config.data.fields.get(name, name) for name in [*config.task.inputs, *config.task.outputs]}
    keep_digits = any(output.kind == "number" for output in config.task.outputs.values())
    found = []
    for row in rows:
        try:
            example = example_of(row, config.task, columns)
        except BadRow:
            continue
        withheld = is_withheld(example, config.data, columns)
        found.append((example, split_key(example.inputs, keep_digits=keep_digits), withheld))
    return found


def _counts(
    keyed: Sequence[tuple[Example, str, bool]], config: Config, scored: str, seed: int
) -> dict[SplitName, Counter[str]]:
    split, caps = config.data.split, config.data.max_rows
    shares: dict[SplitName, float] = {"train": split.train, "dev": split.dev, "test": split.test}
    bins = {"train": Bin(cap=caps.train), "dev": Bin(cap=caps.dev), "test": Bin(cap=caps.test)}
    for example, key, withheld in keyed:
        name = (pick_unseen if withheld else pick_split)(key, shares, seed=seed)
        bins[name].offer(example, seed=seed)
    return {name: Counter(class_of(row, scored) for row in bins[name].rows.values()) for name in SPLIT_NAMES}
