"""Which column says what rows may be shown as examples, by its name; its words are read when the data is loaded. Pure.

Only plain names are understood (`consent_names`). Whatever else a name with a word of consent or refusal in it means is
for a person to say: guessing shows the rows of people who said no.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from optimizer.candidate import Fields
from optimizer.data.fields import NO, YES
from optimizer.data.splits import normalise
from optimizer.errors import ConfigError
from optimizer.init.consent_names import CONSENT, DATE, DATE_WORDS, LEGEND, PERHAPS, REFUSAL, SURELY
from optimizer.init.wishes import Wishes

NONE = "none"
ZERO_OR_ONE = ("0", "1", "0.0", "1.0")
MAX_SHOWN = 20
_NUMBER = re.compile(r"\s*\d+(?:\.\d+)?\s*")
Asked = Callable[[str, str, Callable[[str], str]], str]  # question, proposal, what an answer means -> what was meant
Meaning = Literal["", "consent", "refusal", "open"]


def meaning_of(name: str) -> Meaning:
    """Say what a yes in a column of this name stands for: may be shown, must not be shown, or a person has to say."""
    words = _words(name)
    if words in CONSENT:
        return "consent"
    if words in REFUSAL:
        return "refusal"
    return "open" if SURELY.search(words) or PERHAPS.search(words) else ""


def is_about_consent(name: str) -> bool:
    """Tell whether a column surely says what may be shown, whichever way; 'private' may be about anything."""
    return bool(SURELY.search(_words(name)))


def columns_on_showing(
    rows: Sequence[Fields], named: Sequence[str], guessed: Sequence[str] = (), *, is_private: bool
) -> list[str]:
    """Return the columns that may say which rows may be shown, whatever their values; one may have no value at all.

    Args:
        named: columns that a person said are read, or the answer.
        guessed: columns that were taken for that by their looks; they may be about consent all the same.
        is_private: somebody cares; then names that may be about something else count, too.
    """
    meanings = {name: meaning for name in _names(rows) if name not in named and (meaning := meaning_of(name))}
    has_plain = "consent" in meanings.values()

    def counts(name: str) -> bool:
        if has_plain and meanings[name] == "open" and _undated(name) in CONSENT and _are_dates(rows, name):
            return False  # when consent was given, beside the column that says whether
        if is_private or is_about_consent(name):
            return True
        return meanings[name] != "open" and name not in guessed  # an answer may be `declined`

    return [name for name in meanings if counts(name)]


def with_showing(
    wishes: Wishes,
    rows: Sequence[Fields],
    named: Sequence[str],
    guessed: Sequence[str],
    asked: Asked | None,
) -> Wishes:
    """Return the wishes with the column that says what may be shown: as named, plain by its name, or asked for.

    Args:
        named: see `columns_on_showing`; so is `guessed`.
        asked: asks a question; None where nobody is there.

    Raises:
        ConfigError: a flag names no column, or it is for a person to say and nobody is there.
    """
    names = {name.casefold(): name for row in rows for name in row}
    given = {"--consent": wishes.consent, "--refusal": wishes.refusal, "--no-consent": wishes.shows_all}
    if any(given.values()):
        if wishes.shows_all and sum(map(bool, given.values())) > 1:
            raise ConfigError("--no-consent: it shows any row, so it cannot stand beside --consent or --refusal")
        consent = wishes.consent and _column(wishes.consent, names, "--consent")
        refusal = wishes.refusal and _column(wishes.refusal, names, "--refusal")
        _refuse_same(consent, refusal)
        return replace(wishes, consent=consent, refusal=refusal)
    found = columns_on_showing(rows, named, guessed, is_private=bool(wishes.is_private))
    if not found:
        return wishes
    consent, refusal = _plain(found, rows, guessed)
    if asked is not None:

        def read(answer: str) -> str:
            return "" if answer.casefold() == NONE else _column(answer, names, "type")

        which = f"({'; '.join(_shown(rows, name) for name in found)}), or none"
        proposed = NONE if consent or refusal else ""  # then something has to be typed
        consent = asked(f"Shown as examples: only rows with a yes in column {which}", consent or proposed, read)
        refusal = "" if refusal == consent else refusal
        if set(found) != {consent}:
            refusal = asked(f"Never shown: rows with a yes in column {which}", refusal or proposed, read)
            _refuse_same(consent, refusal)
    elif not (consent or refusal):
        _refuse_unclear(found, guessed)
    return replace(wishes, consent=consent, refusal=refusal, shows_all=not (consent or refusal))


def _plain(found: Sequence[str], rows: Sequence[Fields], guessed: Sequence[str]) -> tuple[str, str]:
    """Return the columns of consent and refusal, empty where there is none; both are where a person has to say."""
    columns = {"consent": "", "refusal": ""}
    for name in found:
        meaning = meaning_of(name)
        if columns.get(meaning) != "" or name in guessed or _is_coded(rows, name):
            return "", ""
        columns[meaning] = name
    return columns["consent"], columns["refusal"]


def what_is_shown(wishes: Wishes, rows: Sequence[Fields], used: Sequence[str]) -> Iterator[str]:
    """Say what no column holds back, and which column might have."""
    held = [name for name in (wishes.consent, wishes.refusal) if name]
    others = [name for name in columns_on_showing(rows, used, is_private=True) if name not in held]
    beside = [name for name in others if is_about_consent(name) or meaning_of(name) != "open" or not held]
    left = f"; not obeyed: {', '.join(map(repr, beside))}" if beside else ""
    if held and left:
        yield f"{'one column says' if len(held) == 1 else 'two columns say'} which rows may be shown{left}."
    elif wishes.is_private and wishes.shows_all:
        yield f"every row may be shown as an example (--no-consent){left}."
    elif wishes.is_private and not held:
        said = [name for name in _names(rows) if name not in used and _says_yes_or_no(rows, name)]
        of = f" ({', '.join(map(repr, said))} hold yes or no, or numbers like that)" if said else ""
        yield (
            f"no column of consent or refusal was found{of}: every row may be shown as an example; --consent COLUMN or "
            "--refusal COLUMN names one."
        )


def refuse_late(first: Sequence[Fields], every: Sequence[Fields], *, is_private: bool) -> None:
    """Refuse a column that only rows further down have, after the first ones were looked at.

    Raises:
        ConfigError: there is one; it names the flags.
    """
    known = list({name for row in first for name in row})
    if found := columns_on_showing(every, known, is_private=is_private):
        _refuse_unclear(found, ())


def _names(rows: Sequence[Fields]) -> dict[str, None]:
    """The names of all columns, in order; what an object in a cell holds has a name, too."""
    names: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            names[name] = None
            if isinstance(value, dict):
                names[f"{name} {' '.join(value)}"] = None
    return names


def _cells(rows: Sequence[Fields], name: str) -> set[str]:
    return {normalise(str(row[name])) for row in rows if row.get(name) is not None} - {""}


def _says_yes_or_no(rows: Sequence[Fields], name: str) -> bool:
    cells = _cells(rows, name)
    return bool(cells) and cells <= YES | NO


def _are_dates(rows: Sequence[Fields], name: str) -> bool:
    return all(map(DATE.fullmatch, _cells(rows, name)))


def _is_coded(rows: Sequence[Fields], name: str) -> bool:
    """Whether the cells are numbers of a code book: with 2 and 3 beside it, a 1 is hardly a yes."""
    return any(str(row.get(name)).strip() not in ZERO_OR_ONE and _NUMBER.fullmatch(str(row.get(name))) for row in rows)


def _refuse_same(consent: str, refusal: str) -> None:
    if consent and consent == refusal:
        raise ConfigError(f"--consent and --refusal both name {consent!r}: a yes there cannot allow and forbid")


def _refuse_unclear(found: Sequence[str], guessed: Sequence[str]) -> None:
    if len(found) == 1:
        which, joined = f"column {found[0]!r} may say which rows may be shown as examples, but not plainly", ""
    else:
        names = " and ".join(map(repr, found))
        which = f"columns {names} may say which rows may be shown as examples, but not plainly which of them count"
        joined = "; one of each can be obeyed: where more count, join them in one column first"
    role = "; if it is read or the answer, --input or --output names it" if set(found) & set(guessed) else ""
    raise ConfigError(
        f"init: {which}; say --consent COLUMN (only rows with a yes there), --refusal COLUMN (no row with a yes "
        f"there), or --no-consent (any row){joined}{role}"
    )


def _column(answer: str, names: Mapping[str, str], where: str) -> str:
    if (name := names.get(answer.casefold())) is None:
        raise ConfigError(f"{where}: no column {answer!r}; there are: {', '.join(names.values())}, or {NONE}")
    return name


def _shown(rows: Sequence[Fields], name: str) -> str:
    """A column with its most frequent cells, so that a person can decide."""
    cells = Counter(str(row[name]).strip()[:MAX_SHOWN] for row in rows if row.get(name) is not None)
    return f"{name!r}: {', '.join(f'{cell!r} {n}' for cell, n in cells.most_common(3)) or 'empty'}"


def _words(name: str) -> str:
    """The words of a name in lower case, without a legend of the answers such as (yes/no)."""
    shown = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", shown).casefold()
    return LEGEND.sub("", " ".join(re.findall(r"[^\W_]+", spaced)))


def _undated(name: str) -> str:
    return " ".join(word for word in _words(name).split() if word not in DATE_WORDS)
