"""Which column says what rows may be shown as examples, by its name; its words are read when the data is loaded. Pure.

Only plain names are understood (`consent_names`). Whatever else a name with a word of consent or refusal in it means is
for a person to say: guessing shows the rows of people who said no.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from optimizer.candidate import Fields
from optimizer.errors import ConfigError
from optimizer.init.consent_names import CONSENT, DATE_WORDS, LEGEND, PERHAPS, REFUSAL, SURELY
from optimizer.init.wishes import Wishes

NONE = "none"
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


def columns_on_showing(rows: Sequence[Fields], used: Sequence[str], *, is_private: bool) -> list[str]:
    """Return the columns that may say which rows may be shown, whatever their values; one may have no value at all.

    Args:
        used: columns that are read, and the answer.
        is_private: somebody cares; then names that may be about something else count, too.
    """
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in used]
    meanings = {name: meaning for name in names if (meaning := meaning_of(name))}
    found = [name for name in meanings if is_private or meanings[name] != "open" or is_about_consent(name)]
    dates = {name for name in found if _undated(name) in CONSENT and meanings[name] == "open"}
    return [name for name in found if name not in dates] if "consent" in meanings.values() else found


def with_showing(wishes: Wishes, rows: Sequence[Fields], used: Sequence[str], asked: Asked | None) -> Wishes:
    """Return the wishes with the column that says what may be shown: as named, plain by its name, or asked for.

    Args:
        asked: asks a question; None where nobody is there.

    Raises:
        ConfigError: a flag names no column, or it is for a person to say and nobody is there.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    given = {"--consent": wishes.consent, "--refusal": wishes.refusal, "--no-consent": wishes.shows_all}
    if any(given.values()):
        if sum(map(bool, given.values())) > 1:
            raise ConfigError(f"{', '.join(given)}: give one of them; one column says what may be shown")
        column = wishes.consent or wishes.refusal
        if column and column not in names:
            raise ConfigError(f"{'--consent' if wishes.consent else '--refusal'}: {_no_column(column, names)}")
        return wishes
    found = columns_on_showing(rows, used, is_private=bool(wishes.is_private))
    if not found:
        return wishes
    plain = meaning_of(found[0]) if len(found) == 1 else "open"
    consent, refusal = (found[0] if plain == each else "" for each in ("consent", "refusal"))
    if asked is not None:

        def read(answer: str) -> str:
            if answer and answer.casefold() != NONE and answer not in names:
                raise ConfigError(_no_column(answer, [*names, NONE]))
            return answer if answer in names else ""

        which = f"({', '.join(map(repr, found))} may say so, or none)"
        consent = asked(f"Shown as examples: only rows with a yes in column {which}", consent or NONE, read)
        refusal = "" if consent else asked(f"Never shown: rows with a yes in column {which}", refusal or NONE, read)
    elif plain == "open":
        _refuse_unclear(found)
    return replace(wishes, consent=consent, refusal=refusal, shows_all=not (consent or refusal))


def _refuse_unclear(found: Sequence[str]) -> None:
    if len(found) == 1:
        which, joined = f"column {found[0]!r} may say which rows may be shown as examples, but not plainly", ""
    else:
        names = " and ".join(map(repr, found))
        which = f"columns {names} may say which rows may be shown as examples, and one alone can be obeyed"
        joined = "; where several count, join them in one column first"
    raise ConfigError(
        f"init: {which}; say --consent COLUMN (only rows with a yes there), --refusal COLUMN (no row with a yes "
        f"there), or --no-consent (any row){joined}"
    )


def _no_column(column: str, names: Sequence[str]) -> str:
    return f"no column {column!r}; there are: {', '.join(names)}"


def _words(name: str) -> str:
    """The words of a name in lower case, without a legend of the answers such as (yes/no)."""
    shown = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", shown).casefold()
    return LEGEND.sub("", " ".join(re.findall(r"[^\W_]+", spaced)))


def _undated(name: str) -> str:
    return " ".join(word for word in _words(name).split() if word not in DATE_WORDS)
