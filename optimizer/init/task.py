"""Looks at rows that nobody has described yet and proposes a task: roles of columns, kinds, labels, metric. Pure.

Every proposal is a guess that a person reads before anything is spent, so it is kept simple and says what it rests on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.candidate import Fields, JsonValue
from optimizer.config.keys import OutputKind
from optimizer.data.balance import imbalance
from optimizer.data.fields import scalar_text
from optimizer.data.splits import normalise
from optimizer.errors import DataError, did_you_mean
from optimizer.init.column_words import (
    IGNORED_NAMES,
    INPUT_NAMES,
    OUTPUT_NAMES,
    REMARK_ADJECTIVES,
    REMARK_NAMES,
)
from optimizer.init.consent import is_about_consent, meaning_of

MAX_LABELS = 400
MIN_ROWS_PER_LABEL = 3  # on average; with fewer, the values are rather free text
MAX_LABEL_CHARS = 60
SHORT_ANSWER_WORDS, LONG_ANSWER_WORDS = 4, 30
MAX_EMPTY_SHARE = 0.2
TEXT_CHARS = 25  # on average; from here on a column holds texts
MIN_ROWS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a column holds. `values` are those of rows where it is not empty."""

    name: str
    values: tuple[JsonValue, ...]
    n_rows: int

    @property
    def texts(self) -> list[str]:
        """As the data is read: a whole number has no `.0`."""
        return [
            json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else scalar_text(value)
            for value in self.values
        ]

    @property
    def n_empty(self) -> int:
        return self.n_rows - len(self.values)

    @property
    def n_different(self) -> int:
        return len({normalise(text) for text in self.texts})

    @property
    def mean_chars(self) -> float:
        return sum(map(len, self.texts)) / max(1, len(self.values))

    @property
    def mean_words(self) -> float:
        return sum(_n_words(text) for text in self.texts) / max(1, len(self.values))

    @property
    def words(self) -> frozenset[str]:
        """The words of the column's name, in lower case."""
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name)
        return frozenset(re.findall(r"[^\W\d_]+", spaced.lower()))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputGuess:
    """One output: its kind and, for labels and objects, what it may hold."""

    kind: OutputKind
    choices: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    max_bytes: int = 0
    uneven: str = ""  # which label is so large or so small that accuracy says little


def columns_of(rows: Sequence[Fields]) -> dict[str, Column]:
    """Return the columns by name, in the order in which they first occur; those without any value are left out."""
    names = dict.fromkeys(name for row in rows for name in row if name)
    found = {}
    for name in names:
        values = tuple(value for row in rows if not is_empty(value := row.get(name)))
        if values:
            found[name] = Column(name=name, values=values, n_rows=len(rows))
    return found


def is_empty(value: JsonValue) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def pick_output(columns: Mapping[str, Column], inputs: Sequence[str]) -> str:
    """Return the column that is most likely the answer: by its name, else the last one with few different values.

    Raises:
        DataError: there is no column left.
    """
    left = [column for name, column in columns.items() if name not in inputs]
    if not left:
        raise DataError("no column is left for the answer; name it with --output")
    clear = [column for column in left if not _is_on_showing(column)]
    named = [column for column in clear if column.words & OUTPUT_NAMES]
    few = [column for column in left if is_label_like(column) and not column.words & IGNORED_NAMES]
    open_ones = [column for column in few if len(clear) < 2 and not is_about_consent(column.name)]  # `accepted`
    return (named or [column for column in few if column in clear] or open_ones or clear or few or left)[-1].name


def other_outputs(columns: Mapping[str, Column], inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """Return columns that might be the answer as well."""
    return [column.name for column in _further_labels(columns, [*inputs, *outputs])]


def pick_group(columns: Mapping[str, Column], used: Sequence[str]) -> str:
    """Return a column that divides the rows into a few groups, or an empty text."""
    return next((column.name for column in _further_labels(columns, used) if column.n_different <= 12), "")


def _further_labels(columns: Mapping[str, Column], used: Sequence[str]) -> list[Column]:
    left = [column for name, column in columns.items() if name not in used and not column.words & IGNORED_NAMES]
    return [column for column in left if is_label_like(column) and not _is_on_showing(column)]


def _is_on_showing(column: Column) -> bool:
    """Whether a column seems to say which rows may be shown; one of texts, such as `private notes`, does not."""
    meaning, is_short = meaning_of(column.name), column.mean_chars < TEXT_CHARS
    return is_about_consent(column.name) or meaning in ("consent", "refusal") or (meaning == "open" and is_short)


def pick_inputs(columns: Mapping[str, Column], outputs: Sequence[str]) -> list[str]:
    """Return the columns that are most likely read: those that are named so or hold text, else all but ids and dates.

    Remarks beside a text are left out: people write them when they know the answer.

    Raises:
        DataError: there is no column left.
    """
    left = [column for name, column in columns.items() if name not in outputs]
    left = [column for column in left if not _is_on_showing(column)] or left
    usable = [column for column in left if not (column.words & IGNORED_NAMES) and not _is_id(column)]
    text = [column for column in usable if column.words & INPUT_NAMES or column.mean_chars >= TEXT_CHARS]
    remarks = {column.name for column in text if _is_remark(column)}
    chosen = [column for column in text if column.name not in remarks] or text or usable
    chosen = chosen or [column for column in left if not _is_id(column)]
    if not chosen:
        ids = " and ".join(repr(column.name) for column in left)
        raise DataError(
            f"for what goes in only {ids} is left, another number in each row, from which nothing can be learned; a "
            "column with the text and one with the right answer are needed (--input, --output)"
        )
    return [column.name for column in chosen]


def left_out_remarks(columns: Mapping[str, Column], inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """Return columns of remarks that are not read beside the inputs; nobody has them yet when an answer is needed."""
    left = [column for name, column in columns.items() if name not in (*inputs, *outputs)]
    return [column.name for column in left if _is_remark(column)]


def _is_remark(column: Column) -> bool:
    return bool(column.words & REMARK_NAMES) and column.words <= REMARK_NAMES | REMARK_ADJECTIVES


def is_label_like(column: Column) -> bool:
    n = column.n_different
    is_short = max(map(len, column.texts)) <= MAX_LABEL_CHARS
    is_date = all(_DATE.fullmatch(text.strip()) for text in column.texts)
    return is_short and not is_date and 2 <= n <= MAX_LABELS and len(column.values) >= MIN_ROWS_PER_LABEL * n


def guess_output(column: Column) -> OutputGuess:
    """Return the kind of an answer, from all of its values.

    Raises:
        DataError: they are lists.
    """
    values = column.values
    max_bytes = max(len(text.encode()) for text in column.texts)
    if all(isinstance(value, list) for value in values):
        raise DataError(
            f"column {column.name!r} holds lists; an answer of several values is one JSON object in each row, such as "
            '{"items": [...]}; write it so, or name another column with --output'
        )
    if keys := _json_keys(values):
        return OutputGuess(kind="json", keys=keys, max_bytes=max_bytes)
    if {normalise(text) for text in column.texts} <= {"yes", "no", "true", "false"} and column.n_different == 2:
        uneven = imbalance(Counter(normalise(text) for text in column.texts))
        return OutputGuess(kind="boolean", max_bytes=5, uneven=uneven)
    is_number = all(_NUMBER.fullmatch(text.strip()) and not _CODE.match(text.strip()) for text in column.texts)
    if is_number and column.n_different > 10:
        return OutputGuess(kind="number", max_bytes=max_bytes)
    if is_label_like(column):
        counts = _labels(column)
        uneven = imbalance(counts)
        return OutputGuess(kind="label", choices=tuple(sorted(counts)), max_bytes=max_bytes, uneven=uneven)
    return OutputGuess(kind="number" if is_number else "text", max_bytes=max_bytes)


def pick_metric(column: Column, guess: OutputGuess) -> tuple[str, str]:
    """Return the metric for an output, and why, in a few words."""
    if guess.kind in ("label", "boolean"):
        if guess.uneven:
            return "macro_f1", f"{guess.uneven}, so every class counts alike, rare ones too (`accuracy`: every row)"
        return "accuracy", "the share of answers that are right"
    if guess.kind == "number":
        return "number", "right when the last number of the answer is the expected one"
    if guess.kind == "json":
        return "json_fields", "the share of the expected keys whose values are right"
    if column.mean_words <= SHORT_ANSWER_WORDS:
        return "exact_match", "right when the texts agree but for case and punctuation"
    if column.mean_words <= LONG_ANSWER_WORDS:
        return "token_f1", "the words in common with the expected answer; `judge` grades by a rubric instead"
    return "rouge_l", "the longest common run of words; `judge` grades by a rubric instead"


def named_columns(columns: Mapping[str, Column], wanted: Sequence[str], flag: str) -> list[str]:
    """Return the columns that are meant, in any case; refuse one that is not there.

    Raises:
        DataError: with the nearest name.
    """
    found = []
    for name in wanted:
        alike = [each for each in columns if each.casefold() == name.casefold()]
        if name not in columns and len(alike) != 1:
            known = ", ".join(columns)
            raise DataError(f"{flag}: no column {name!r}; columns with values: {known}.{did_you_mean(name, columns)}")
        found.append(name if name in columns else alike[0])
    return found


_DATE = re.compile(r"(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4})(?:[T ].*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_CODE = re.compile(r"[+-]?0\d")  # a number with leading zeros is a name
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def _n_words(text: str) -> int:
    """Words; two characters of Chinese or Japanese count as one."""
    n_cjk = len(_CJK.findall(text))
    return len(_CJK.sub(" ", text).split()) + (n_cjk + 1) // 2


def _is_id(column: Column) -> bool:
    """Every value another one, and each a number or a single word with digits in it."""
    is_unique = column.n_different == len(column.values) and len(column.values) > 1
    return is_unique and all(re.fullmatch(r"[\w.-]*\d[\w.-]*", text) for text in column.texts)


def _json_keys(values: Sequence[JsonValue]) -> tuple[str, ...]:
    """Keys of the objects, most frequent first; empty unless all values are objects or texts of objects."""
    counts: Counter[str] = Counter()
    for value in values:
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.lstrip().startswith("{") else None
            except ValueError:
                value = None
        if not isinstance(value, Mapping):
            return ()
        counts.update(value.keys())
    return tuple(name for name, _ in counts.most_common(30))


def _labels(column: Column) -> dict[str, int]:
    """Return the labels, each in its most frequent spelling, and how often each occurs."""
    spellings: dict[str, Counter[str]] = {}
    for text in column.texts:
        spellings.setdefault(normalise(text), Counter())[text.strip()] += 1
    return {counter.most_common(1)[0][0]: counter.total() for counter in spellings.values()}
