"""The gate between proposing and paying: reasons, found without any model call, not to evaluate a candidate.

Decides from the candidate's text alone. It never repairs a candidate: a lost placeholder is a rejection, and a
reason never quotes held-out text, because reasons are remembered and shown.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from optimizer.candidate import Candidate, Example, JsonValue, Part
from optimizer.config.keys import Task
from optimizer.privacy.personal_data import findings
from optimizer.propose.flaws import flaw_of
from optimizer.propose.memory import Memory
from optimizer.propose.rows import key_of, value_text
from optimizer.propose.wording import placeholders, words_of

_N_GRAM = 8  # words in a row that two texts do not share by chance
_MIN_ROW_WORDS = 4  # shorter whole inputs are common phrases
_NEAR = 0.97


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What dev and test rows look like, as hashes: enough to recognise a copied row, not enough to read one.

    Attributes:
        grams: hashes of the runs of eight words in inputs and outputs.
        rows: hashes of whole inputs of four to seven words, by their number of words.
        personal: what in instructions may point to a person, because the user wrote it; None: nothing is looked for.
    """

    grams: frozenset[int] = field(default=frozenset(), repr=False)
    rows: dict[int, frozenset[int]] = field(default_factory=dict, repr=False)
    personal: frozenset[str] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        held_out: Iterable[Example],
        *,
        train: Iterable[Example] = (),
        known: Sequence[str] = (),
        hides_rows: bool = False,
    ) -> HeldOut:
        """Hash the held-out rows, leaving out what train rows or `known` texts (seed prompt, goal) contain as well.

        Where rows are to be hidden, train rows are held out of instructions, too, and so is what points to a person.
        """
        if hides_rows:
            held_out, train = [*held_out, *train], ()
        grams: set[int] = set()
        rows: dict[int, set[int]] = {}
        for row in held_out:
            grams.update(gram for text in _texts(row.inputs, row.outputs) for gram in _grams(words_of(text), _N_GRAM))
            for words in map(words_of, _texts(row.inputs)):
                if _MIN_ROW_WORDS <= len(words) < _N_GRAM:
                    rows.setdefault(len(words), set()).update(_grams(words, len(words)))
        for words in map(words_of, [*(text for row in train for text in _texts(row.inputs, row.outputs)), *known]):
            grams.difference_update(_grams(words, _N_GRAM))
            for size, hashes in rows.items():
                hashes.difference_update(_grams(words, size))
        return cls(
            grams=frozenset(grams),
            rows={size: frozenset(hashes) for size, hashes in rows.items()},
            personal=frozenset(found.text for text in known for found in findings(text)) if hides_rows else None,
        )

    @classmethod
    def of_study(
        cls, held_out: Iterable[Example], *, train: Iterable[Example], task: Task, seed: Candidate, hides_rows: bool
    ) -> HeldOut:
        """The same, where what may stand in a prompt in any case is the user's own: the seed's words and the goal."""
        known = [task.goal, *(part.instructions for part in seed.parts)]
        return cls.of(held_out, train=train, known=known, hides_rows=hides_rows)

    def personal_in(self, text: str) -> str | None:
        """Return what kind of personal data stands in `text`, if that is looked for."""
        if self.personal is None:
            return None
        return next((found.kind for found in findings(text) if found.text not in self.personal), None)

    def is_copied_in(self, text: str) -> bool:
        """Tell whether eight words in a row, or a whole short input, of a held-out row stand in `text`."""
        words = words_of(text)
        if any(gram in self.grams for gram in _grams(words, _N_GRAM)):
            return True
        return any(gram in hashes for size, hashes in self.rows.items() for gram in _grams(words, size))


def check(
    candidate: Candidate,
    *,
    parent: Candidate | None,
    predictor: str,
    seed_placeholders: frozenset[str],
    memory: Memory,
    heldout: HeldOut,
    train_ids: frozenset[str],
    max_chars: int,
) -> str | None:
    """Return why `candidate` is not worth an evaluation, in one line, or None.

    Args:
        candidate: the proposal.
        parent: what it was made from; None for a start, whose words are the user's and are not searched for flaws.
        predictor: the part that was to change.
        seed_placeholders: the `{marks}` in the seed's instructions for `predictor`.
        memory: what was tried before.
        heldout: what dev and test rows look like.
        train_ids: ids of the rows that demonstrations may show.
        max_chars: longest prompt of a part without its input.
    """
    part = candidate.part(predictor)
    return (
        _misshapen(candidate, parent, predictor)
        or too_long(candidate, max_chars)
        or _flawed(part, parent)
        or _wrong_placeholders(part, seed_placeholders)
        or _foreign_demos(candidate, train_ids)
        or leaking(candidate, heldout)
        or _known(candidate, memory)
    )


def prompt_chars(part: Part) -> int:
    """Return the characters of instructions and demonstrations; the layout adds a few for each field."""
    shown = (_texts(demo.inputs, demo.outputs, {"reasoning": demo.reasoning or ""}) for demo in part.demos)
    return len(part.instructions) + sum(len(text) for texts in shown for text in texts)


def is_near(candidate: Candidate, tried: Candidate) -> bool:
    """Tell whether two candidates differ in next to nothing: same layout and demonstrations, nearly the same words.

    Word order counts: models answer differently when clauses or labels change places.
    """
    if (candidate.format, candidate.reasoning, candidate.temperature) != (
        tried.format,
        tried.reasoning,
        tried.temperature,
    ):
        return False
    return len(candidate.parts) == len(tried.parts) and all(
        a.predictor == b.predictor and a.demos == b.demos and _reads_alike(a.instructions, b.instructions)
        for a, b in zip(candidate.parts, tried.parts, strict=True)
    )


def _reads_alike(a: str, b: str) -> bool:
    words_a, words_b = words_of(a), words_of(b)
    if words_a == words_b:
        return True
    matcher = difflib.SequenceMatcher(None, words_a, words_b, autojunk=False)
    # The two quick ratios are upper bounds, so that the slow one runs on real suspects only.
    return matcher.real_quick_ratio() >= _NEAR and matcher.quick_ratio() >= _NEAR and matcher.ratio() >= _NEAR


def _misshapen(candidate: Candidate, parent: Candidate | None, predictor: str) -> str | None:
    if parent is None:
        return None
    if [part.predictor for part in candidate.parts] != [part.predictor for part in parent.parts]:
        return "the candidate has other predictors than its parent"
    for part in candidate.parts:
        if part.predictor != predictor and part != parent.part(part.predictor):
            return f"the candidate changes predictor {part.predictor!r}, only {predictor!r} was to change"
    return None


def too_long(candidate: Candidate, max_chars: int) -> str | None:
    """Say that a part is longer than allowed without its input, or return None."""
    for part in candidate.parts:
        if (n_chars := prompt_chars(part)) > max_chars:
            return f"the prompt is too long: {n_chars} characters, at most {max_chars} are allowed"
    return None


def _flawed(part: Part, parent: Candidate | None) -> str | None:
    if parent is None or (before := parent.part(part.predictor).instructions) == part.instructions:
        return None
    return flaw_of(part.instructions, parent=before)


def _wrong_placeholders(part: Part, seed_placeholders: frozenset[str]) -> str | None:
    found = placeholders(part.instructions)
    if lost := sorted(seed_placeholders - found):
        return f"the instruction lost the placeholder {', '.join(lost)}"
    if invented := sorted(found - seed_placeholders):
        return f"the instruction invented the placeholder {', '.join(invented)}"
    return None


def _foreign_demos(candidate: Candidate, train_ids: frozenset[str]) -> str | None:
    for part in candidate.parts:
        ids = [demo.example_id for demo in part.demos]
        if foreign := sorted(set(ids) - train_ids):
            return f"demonstration {foreign[0]!r} is no train row"
        if len({key_of(demo.inputs) for demo in part.demos}) < len(ids) or len(set(ids)) < len(ids):
            return "a demonstration is shown twice"
    return None


def leaking(candidate: Candidate, heldout: HeldOut) -> str | None:
    """Say that the words of a candidate show what they must not, or return None."""
    for part in candidate.parts:
        thoughts = (demo.reasoning for demo in part.demos if demo.reasoning)
        if any(heldout.is_copied_in(text) for text in (part.instructions, *thoughts)):
            return "the prompt copies text of a held-out row"
        if kind := heldout.personal_in(part.instructions):
            return f"the instruction shows personal data ({kind}), and tracking.rows is `ids`"
    return None


def _known(candidate: Candidate, memory: Memory) -> str | None:
    if memory.seen(candidate):
        return "the same candidate was tried before"
    if any(is_near(candidate, tried) for tried in memory.candidates):
        return "nearly the same candidate was tried before"
    return None


def _texts(*values: JsonValue) -> Iterator[str]:
    """Yield every leaf of nested fields as text."""
    for value in values:
        if isinstance(value, dict):
            yield from _texts(*value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(*value)
        else:
            yield value_text(value)


def _grams(words: list[str], size: int) -> Iterator[int]:
    for i in range(len(words) - size + 1):
        digest = hashlib.blake2b(" ".join(words[i : i + size]).encode(), digest_size=8).digest()
        yield int.from_bytes(digest, "big")
