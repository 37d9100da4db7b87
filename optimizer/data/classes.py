"""The classes of a label: how many rows each split has of them, which are scarce, and which are missing. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from optimizer.candidate import Example
from optimizer.data.splits import SPLIT_NAMES, SplitName, class_of
from optimizer.prompts.kinds import bare

Rows = Mapping[SplitName, Sequence[Example]]
N_SHOWN = 3
WANTED_TRAIN_PER_CLASS = 5
SHARE_GAP = 0.10
MAX_CLASSES_LISTED = 12
MANY_ALIKE = 3  # rows with the same unknown label: no slip of the keyboard
_NO_LABEL = re.compile(r": (.*) is no label$")


def class_counts(rows: Rows, output: str | None) -> dict[SplitName, dict[str, int]]:
    if output is None:
        return {}
    return {name: dict(sorted(Counter(class_of(row, output) for row in rows[name]).items())) for name in SPLIT_NAMES}


def constant_answer(counts: Mapping[SplitName, Mapping[str, int]]) -> tuple[str, float] | None:
    """The best that one fixed answer can score on dev; the first in the alphabet when two tie."""
    if not counts:
        return None
    dev = counts["dev"]
    label = max(sorted(dev), key=lambda name: dev[name])
    return label, dev[label] / sum(dev.values())


def unknown_classes(kinds: Mapping[str, int]) -> tuple[str, ...]:
    """Name answers that are no label and that several rows share: no slips, but a class that nobody declared."""
    found = {match[1]: n for kind, n in kinds.items() if n >= MANY_ALIKE and (match := _NO_LABEL.search(kind))}
    return tuple(
        "a whole class would be missing (add it to `choices`, or mend the spelling): "
        f"the answers of {n} rows are none of the labels, so these were left out: {label}"
        for label, n in found.items()
    )


def empty_classes(counts: Mapping[SplitName, Mapping[str, int]], choices: Sequence[str]) -> tuple[str, ...]:
    """Name declared classes that no row has."""
    held = {label for split in counts.values() for label in split}
    return tuple(
        f"no row has the label {label!r}: take it out of `choices`, or see why its rows are missing"
        for label in choices
        if counts and label not in held
    )


def warn_classes(counts: Mapping[SplitName, Mapping[str, int]], choices: Sequence[str]) -> list[str]:
    """Name classes that train can hardly show, and classes that weigh differently from split to split."""
    if not counts:
        return []
    labels = sorted({*choices, *(label for split in counts.values() for label in split)})
    scarce = {label: n for label in labels if (n := counts["train"].get(label, 0)) < WANTED_TRAIN_PER_CLASS}
    found = [f"class {label!r} has {n} train rows, fewer than {WANTED_TRAIN_PER_CLASS}" for label, n in scarce.items()]
    if len(scarce) > N_SHOWN:
        fewest = ", ".join(
            f"{label!r} ({n})" for label, n in sorted(scarce.items(), key=lambda item: item[1])[:N_SHOWN]
        )
        few = f"{len(scarce)} of {len(labels)} classes have fewer than {WANTED_TRAIN_PER_CLASS} train rows"
        found = [f"{few}, such as {fewest}"]
    for label in labels:
        shares = sorted((counts[name].get(label, 0) / sum(counts[name].values()), name) for name in SPLIT_NAMES)
        (low, low_name), (high, high_name) = shares[0], shares[-1]
        if high - low > SHARE_GAP:
            found.append(f"class {label!r} makes up {low:.0%} of {low_name} and {high:.0%} of {high_name}")
    return found


def warn_alike(choices: Sequence[str]) -> list[str]:
    """Name labels that a reply tells apart only if it spells one of them to the letter."""
    by_words: dict[str, list[str]] = {}
    for choice in choices:
        by_words.setdefault(bare(choice), []).append(choice)
    alike = [" and ".join(map(repr, each)) for each in by_words.values() if len(each) > 1]
    if not alike:
        return []
    more = f", and {len(alike) - N_SHOWN} more such" if len(alike) > N_SHOWN else ""
    return [
        f"the labels {'; '.join(alike[:N_SHOWN])}{more} differ in case, dashes or punctuation alone: a reply counts "
        "only if it is spelled to the letter; make them one, or give them other words"
    ]


def classes_text(counts: Mapping[str, int]) -> str:
    """The classes of a split with their rows; many classes are summed up."""
    if len(counts) <= MAX_CLASSES_LISTED:
        return ", ".join(f"{name} {n}" for name, n in counts.items())
    return f"{len(counts)} classes of {min(counts.values())} to {max(counts.values())} rows"
