"""The splits as a whole: what they hold, what is odd about them, and the proof that they share nothing. Pure.

Warns in plain words with numbers. Whether there is too little to learn from is decided while loading, not here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from optimizer.candidate import Example, canonical_json
from optimizer.data.classes import (
    N_SHOWN,
    Rows,
    class_counts,
    constant_answer,
    empty_classes,
    unknown_classes,
    warn_alike,
    warn_classes,
)
from optimizer.data.splits import SPLIT_NAMES, SplitName, content_key, near_key, texts
from optimizer.data.withholding import HeldBack
from optimizer.errors import DataError
from optimizer.stats import smallest_provable_gain

WANTED_ROWS: Mapping[SplitName, int] = {"dev": 50, "test": 100}
NEAR_COPIES = "near-duplicates"  # how the warning of rows that another split repeats begins
MAX_KINDS_LISTED = 5
N_KINDS_KEPT = 100
HELD_FOR_THAT = "rows are held back for that (write yes or no there)"
_QUOTES = re.compile(
    r"(a row of another answer|are bad and were left out|so these were left out"
    rf"|{re.escape(HELD_FOR_THAT)})[:,].*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What was read and what became of it.

    Attributes:
        n: rows in each split, after removals and caps.
        n_read: rows in the sources, bad ones included.
        n_bad: rows left out because they cannot be used; `bad_rows` describes the first hundred.
        n_duplicates: rows left out because an equal one was kept.
        n_overlap: rows left out because another given file has the same inputs; never from test.
        n_contradictory: rows that share their inputs with a row of another answer; all kept. `contradictions` shows
            three groups.
        class_counts: split to class to rows; empty unless an output is a label or a boolean.
        constant_answer: the most frequent class of dev and its share there, in [0, 1]: what no thought would score.
        losses: sentences on classes that are missing as a whole; also the first of the warnings.
        warnings: sentences for people.
        fingerprints: split to SHA-256 of its rows, whatever their order; extras are not part of it.
    """

    n: Mapping[SplitName, int]
    n_read: int = 0
    n_bad: int = 0
    n_duplicates: int = 0
    n_overlap: int = 0
    n_contradictory: int = 0
    bad_rows: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    class_counts: Mapping[SplitName, Mapping[str, int]] = field(default_factory=dict)
    constant_answer: tuple[str, float] | None = None
    losses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fingerprints: Mapping[SplitName, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The rows of each split, in the order in which races read them.

    Attributes:
        withheld: ids of rows that no prompt, proposer or export may show, and of their near-copies.
        held_back: how many these are for each reason, and how many such rows are in no split.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    report: DataReport
    withheld: frozenset[str] = frozenset()
    held_back: HeldBack = field(default_factory=HeldBack)

    def by_id(self) -> dict[str, Example]:
        return {row.id: row for rows in self.by_name().values() for row in rows}

    def by_name(self) -> dict[SplitName, tuple[Example, ...]]:
        return {"train": self.train, "dev": self.dev, "test": self.test}


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was met while reading; filled row by row.

    Attributes:
        overlaps: rows removed from each split because another one has their inputs.
        bad_kinds: how many rows are bad for each reason.
        answers: different outputs. It only matters whether there are two, so no more are kept.
        groups: different `split_key`s, up to a few.
        withheld: hashes of the `split_key`s of rows that no prompt may show.
        withheld_by: the columns that say so.
        n_unclear: rows that are held back because such a column says neither yes nor no; `unclear` counts the first
            words that it says.
        sampled: rows of splits for which nobody has said how many to take.
    """

    n_read: int = 0
    n_bad: int = 0
    n_duplicates: int = 0
    overlaps: Counter[SplitName] = field(default_factory=Counter)
    bad_rows: list[str] = field(default_factory=list)
    bad_kinds: Counter[str] = field(default_factory=Counter)
    answers: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    withheld: set[int] = field(default_factory=set)
    withheld_by: tuple[str, ...] = ()
    n_unclear: int = 0
    unclear: Counter[str] = field(default_factory=Counter)
    sampled: Mapping[SplitName, int] = field(default_factory=dict)

    def add_unclear(self, words: Sequence[str]) -> None:
        self.n_unclear += len(words)
        self.unclear.update(word for word in words if word in self.unclear or len(self.unclear) < N_KINDS_KEPT)

    def unclear_words(self) -> str:
        """Say which words are neither yes nor no, and how many rows have them; empty where all are clear."""
        if not self.n_unclear:
            return ""
        shown = ", ".join(f"{word} ({n})" for word, n in self.unclear.most_common(MAX_KINDS_LISTED))
        more = ", and others" if len(self.unclear) > MAX_KINDS_LISTED else ""
        n = "1 row of" if self.n_unclear == 1 else f"{self.n_unclear} rows of"
        return f"{n} {' and '.join(map(repr, self.withheld_by))} say neither yes nor no; {HELD_FOR_THAT}: {shown}{more}"

    def added_to(self, report: DataReport) -> DataReport:
        warnings = [words] if (words := self.unclear_words()) else []
        warnings += [
            f"{n} rows of {name} have the same inputs as a row of another split and were removed from {name}"
            for name, n in self.overlaps.items()
        ]
        if self.n_bad:
            kinds = [
                f"{n} {'row' if n == 1 else 'rows'}: {kind}" for kind, n in self.bad_kinds.most_common(MAX_KINDS_LISTED)
            ]
            kinds += [f"{n} for other reasons"] if (n := self.n_bad - _most(self.bad_kinds)) else []
            left_out = f"{self.n_bad} of {self.n_read} rows are bad and were left out"
            warnings.append(f"{left_out}: {'; '.join(kinds)}; the first is {self.bad_rows[0].partition(': ')[0]}")
        if self.n_duplicates:
            rows = "1 row is a copy" if self.n_duplicates == 1 else f"{self.n_duplicates} rows are copies"
            warnings.append(f"{rows} of another row and left out")
        losses = (*unknown_classes(self.bad_kinds), *report.losses)
        warnings += [
            f"{report.n[name]:,} of {n:,} {name} rows are taken; data.max_rows.{name} takes another number"
            for name, n in self.sampled.items()
            if n > report.n[name]
        ]
        return replace(
            report,
            n_read=self.n_read,
            n_bad=self.n_bad,
            n_duplicates=self.n_duplicates,
            n_overlap=self.overlaps.total(),
            bad_rows=tuple(self.bad_rows),
            losses=losses,
            warnings=(*losses, *warnings, *report.warnings),
        )


def _most(kinds: Counter[str]) -> int:
    return sum(n for _, n in kinds.most_common(MAX_KINDS_LISTED))


def describe(rows: Rows, *, class_output: str | None, choices: Sequence[str], keep_digits: bool) -> DataReport:
    """Count and compare the rows of three non-empty splits.

    What was met while reading (bad rows, duplicates, overlaps) is added by whoever read.

    Args:
        class_output: the label or boolean output whose classes are counted; None for none.
        choices: classes that the task allows, so that one without rows is noticed.
        keep_digits: see `near_key`.
    """
    n = {name: len(rows[name]) for name in SPLIT_NAMES}
    counts = class_counts(rows, class_output)
    groups = contradictions(row for name in SPLIT_NAMES for row in rows[name])
    shown = tuple(describe_contradiction(group) for group in groups[:N_SHOWN])
    n_contradictory = sum(len(group) for group in groups)
    disputed = [f"{n_contradictory} rows share their inputs with a row of another answer: {'; '.join(shown)}"]
    return DataReport(
        n=n,
        n_contradictory=n_contradictory,
        contradictions=shown,
        class_counts=counts,
        constant_answer=constant_answer(counts),
        losses=empty_classes(counts, choices),
        warnings=(
            *warn_sizes(n),
            *warn_classes(counts, choices),
            *warn_alike(choices),
            *(disputed if groups else []),
            *warn_near_copies(rows, keep_digits=keep_digits),
        ),
        fingerprints={name: fingerprint(rows[name]) for name in SPLIT_NAMES},
    )


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 over the sorted canonical rows, so the order of the rows does not matter."""
    digest = hashlib.sha256()
    for row in sorted(canonical_json([example.inputs, example.outputs]) for example in examples):
        digest.update(row.encode() + b"\n")
    return digest.hexdigest()


def assert_disjoint(splits: Splits) -> None:
    """Prove that no two splits share inputs and that no two rows share an id.

    Raises:
        DataError: they do. Loading cannot cause it; a bug or a hand-made `Splits` can.
    """
    rows = splits.by_name()
    keys = {name: {content_key(example.inputs): example.id for example in rows[name]} for name in SPLIT_NAMES}
    for one, other in combinations(SPLIT_NAMES, 2):
        if shared := sorted(keys[one].keys() & keys[other].keys()):
            raise DataError(
                f"data: {one} and {other} share {len(shared)} rows, for example {keys[other][shared[0]]!r} "
                f"{_brief(shared[0])!r}; splits must not share inputs; please report this as a bug"
            )
    ids = Counter(example.id for examples in rows.values() for example in examples)
    if twice := [example_id for example_id, n in ids.items() if n > 1]:
        raise DataError(
            f"data: id {twice[0]!r} names {ids[twice[0]]} rows; ids must be unique; please report this as a bug"
        )


def contradictions(rows: Iterable[Example]) -> list[list[Example]]:
    """Groups of rows with the same inputs and different outputs."""
    groups: dict[str, list[Example]] = {}
    for row in rows:
        groups.setdefault(content_key(row.inputs), []).append(row)
    return [group for _, group in sorted(groups.items()) if len(group) > 1]


def describe_contradiction(group: Sequence[Example]) -> str:
    answers = sorted({_brief(", ".join(texts(row.outputs)), 40) for row in group})
    return f"{_brief(' | '.join(texts(group[0].inputs)))!r} has the answers {', '.join(map(repr, answers))}"


def provable_gain(n: int) -> float:
    """The true gain that a test of `n` rows proves four times out of five, as the report says it, too."""
    return smallest_provable_gain(n)


def warn_sizes(n: Mapping[SplitName, int]) -> list[str]:
    meaning = {
        "dev": "candidates are told apart by luck almost as much as by skill",
        "test": f"only a gain of {100 * provable_gain(n['test']):.0f} points or more is likely to be proved",
    }
    return [
        f"{name} has {n[name]} rows, fewer than {wanted}: {meaning[name]}"
        for name, wanted in WANTED_ROWS.items()
        if n[name] < wanted
    ]


def warn_near_copies(rows: Rows, *, keep_digits: bool) -> list[str]:
    """Count rows that another split repeats but for digits and punctuation.

    Splitting by hash prevents it, except for short texts; splits that were given as files may hold any number.
    """
    splits_of: dict[str, set[SplitName]] = {}
    keys = {name: [near_key(row.inputs, keep_digits=keep_digits) for row in rows[name]] for name in SPLIT_NAMES}
    for name in SPLIT_NAMES:
        for key in keys[name]:
            splits_of.setdefault(key, set()).add(name)
    n = {name: sum(bool(key) and len(splits_of[key]) > 1 for key in keys[name]) for name in SPLIT_NAMES}
    if not sum(n.values()):
        return []
    counts = ", ".join(f"{count} in {name}" for name, count in n.items() if count)
    return [f"{NEAR_COPIES} across splits: {counts} differ from a row of another split only in digits or punctuation"]


def unquoted(warning: str) -> str:
    """The warning without the rows that it quotes."""
    return _QUOTES.sub(r"\1", warning)


def _brief(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
