"""Where a row goes and in which order: pure functions of its content and the seed. No files, no clock.

A row's split depends on its own content only, so rows that are added later move no other. The hash reads less than
the eye: case, punctuation, spaces and, in longer texts, digits are left out. Copies and near-copies of a row therefore
share its split and cannot carry an answer from train to test.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from optimizer.candidate import Example, Fields, JsonValue, canonical_json, content_hash

SplitName = Literal["train", "dev", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "dev", "test")
# More rows of a source than these are not taken unless it is said: they would fill the memory and prove little more.
LARGEST: Mapping[SplitName, int] = {"train": 50_000, "dev": 2_000, "test": 4_000}
# Below this many letters the digits of a text are likely what it says ("item 7"), not a detail of it.
MIN_LETTERS = 20


@lru_cache(maxsize=64)  # each text is asked for three times in a row: split, copies, id
def normalise(text: str) -> str:
    """Drop what does not change the meaning: Unicode variants (NFKC), case, and how wide the spaces are."""
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(folded.casefold().split())


def texts(fields: Fields) -> list[str]:
    """The normalised values, in the order of their names."""
    values = (fields[name] for name in sorted(fields))
    return [normalise(value if isinstance(value, str) else canonical_json(value)) for value in values]


def content_key(fields: Fields) -> str:
    """The text that two rows share when these fields are the same but for case, spaces and Unicode variants."""
    return "\x1f".join(texts(fields))


def near_key(inputs: Fields, *, keep_digits: bool) -> str:
    """The text that two rows share when their inputs differ only in case, spaces, punctuation or digits.

    Empty when nothing is left. `keep_digits` is for tasks whose answer is a number: there, another number is another
    question.
    """
    pattern = r"[\W_]+" if keep_digits else r"[\W\d_]+"
    kept = [re.sub(pattern, "", text) for text in texts(inputs)]
    return "\x1f".join(kept) if any(kept) else ""


def split_key(inputs: Fields, *, keep_digits: bool) -> str:
    """The text that decides on a row's split: rows of one key share a split. Equal `content_key`s give equal keys."""
    key = near_key(inputs, keep_digits=keep_digits)
    if not keep_digits and len(key) < MIN_LETTERS:
        key = near_key(inputs, keep_digits=True)
    return key or content_key(inputs)


def hash64(*parts: str | int) -> int:
    """An integer in [0, 2**64) that depends on all parts."""
    text = "\x1e".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])


def pick_split(key: str, shares: Mapping[SplitName, float], *, seed: int) -> SplitName:
    """Hash the key to a point in [0, 1) and look up whose cumulative share it falls in: test, then dev, then train.

    Args:
        shares: relative sizes of the splits that may be picked; at least one.
    """
    point = (hash64(seed, "split", key) >> 11) / 2**53
    names = [name for name in reversed(SPLIT_NAMES) if name in shares]
    below = 0.0
    for name in names:
        below += shares[name] / sum(shares.values())
        if point < below:
            return name
    return names[-1]


def pick_unseen(key: str, shares: Mapping[SplitName, float], *, seed: int) -> SplitName:
    """Pick a split for a row that no prompt may show: its own, or, if that is train, by a hash of its own another one.

    Near-copies of which only some are held back therefore share dev or test; those in train are left out later.
    """
    name = pick_split(key, shares, seed=seed)
    others: dict[SplitName, float] = {other: share for other, share in shares.items() if other != "train"}
    return pick_split(f"unseen\x1e{key}", others, seed=seed) if name == "train" and others else name


def example_id(inputs: Fields, outputs: Fields) -> str:
    """Twelve hex digits that rows share when inputs and outputs are the same after normalising."""
    sides = [{name: _folded(side[name]) for name in side} for side in (inputs, outputs)]
    return content_hash(sides, n_chars=12)


def _folded(value: JsonValue) -> JsonValue:
    return normalise(value) if isinstance(value, str) else value


def order_rank(example_id: str, *, seed: int) -> tuple[int, str]:
    """Where a row stands in its split, and which rows a cap keeps: the lowest. Independent of the split's own hash."""
    return hash64(seed, "order", example_id), example_id


def class_of(example: Example, output: str) -> str:
    value = example.outputs[output]
    return str(value).lower() if isinstance(value, bool) else str(value)


def ordered(examples: Iterable[Example], *, output: str | None, seed: int) -> tuple[Example, ...]:
    """Order by hash, then spread each class of `output` evenly over the whole.

    Races decide on prefixes. In plain hash order ten early rows may hold one class only, and a prompt that always
    answers that class would win them. Here each prefix holds each class nearly in proportion: the k-th of n rows of a
    class goes to position (k + 1/2) / n of the whole.
    """
    by_rank = sorted(examples, key=lambda example: order_rank(example.id, seed=seed))
    if output is None:
        return tuple(by_rank)
    sizes = Counter(class_of(example, output) for example in by_rank)
    met: Counter[str] = Counter()
    placed: list[tuple[float, int, int]] = []
    for index, example in enumerate(by_rank):
        label = class_of(example, output)
        placed.append(((met[label] + 0.5) / sizes[label], hash64(seed, "class", label), index))
        met[label] += 1
    return tuple(by_rank[index] for _, _, index in sorted(placed))


@dataclass(slots=True, kw_only=True)
class Bin:
    """The rows of one split; of more than `cap`, those of the lowest rank, in whatever order they come.

    Attributes:
        n_left_out: how often a row was one too many.
    """

    cap: int | None
    n_left_out: int = 0
    rows: dict[str, Example] = field(default_factory=dict)
    heap: list[tuple[int, str]] = field(default_factory=list)

    def offer(self, example: Example, *, seed: int) -> None:
        """Keep the row, or of equal rows the one whose spelling sorts first: the reading order must not matter."""
        if (known := self.rows.get(example.id)) is not None:
            self.rows[example.id] = min(known, example, key=_spelling)
        elif self.cap is None:
            self.rows[example.id] = example
        else:
            self._offer_capped(example, -order_rank(example.id, seed=seed)[0], self.cap)

    def _offer_capped(self, example: Example, negative_rank: int, cap: int) -> None:
        entry = (negative_rank, example.id)
        if len(self.heap) < cap:
            heapq.heappush(self.heap, entry)
        elif entry > self.heap[0]:
            del self.rows[heapq.heapreplace(self.heap, entry)[1]]
            self.n_left_out += 1
        else:
            self.n_left_out += 1
            return
        self.rows[example.id] = example


def _spelling(example: Example) -> str:
    return canonical_json([example.inputs, example.outputs, example.extras])
