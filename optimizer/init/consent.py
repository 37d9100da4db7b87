"""Which column says what rows may be shown, by its name; its words are read when the data is loaded. Pure.

It errs on the side of holding rows back: a name decides whatever the words are, a word of refusal in it turns the
column round, and what stays open is refused and never guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from optimizer.candidate import Fields
from optimizer.data.fields import NO, YES
from optimizer.data.splits import normalise
from optimizer.errors import ConfigError
from optimizer.init.column_words import (
    CONSENT,
    CONSENT_WORD,
    GIVEN,
    HARMLESS,
    IGNORED_NAMES,
    NEGATION,
    OPT_OUT,
    PERHAPS_OPT_OUT,
    REFUSAL,
    YES_OR_NO,
)

Meaning = Literal["", "consent", "opt-out", "open"]


def meaning_of(name: str) -> Meaning:
    """Say what a yes in a column of this name stands for: may be shown, may not be shown, or either."""
    words = YES_OR_NO.sub("", _words(name))
    rest = OPT_OUT.sub("", words)
    is_consent, is_negated, is_refused = (bool(each.search(rest)) for each in (CONSENT, NEGATION, REFUSAL))
    is_opt_out = rest != words or bool(not is_consent and PERHAPS_OPT_OUT.search(words))
    if not (is_consent or is_opt_out):
        return ""
    is_refused = is_refused and is_consent
    if (is_negated and (is_opt_out or is_refused)) or (is_refused and GIVEN.search(rest)):
        return "open"
    if is_opt_out or is_refused or is_negated:
        return "opt-out"
    has_other = any(not CONSENT_WORD.fullmatch(word) and word not in HARMLESS for word in rest.split())
    return "open" if has_other else "consent"  # to what, or whether it holds, is not for us to guess


def columns_on_showing(rows: Sequence[Fields], used: Sequence[str], *, is_strict: bool) -> tuple[list[str], list[str]]:
    """Return the columns of refusal and those of consent. Raises as `opt_out_columns`."""
    return opt_out_columns(rows, used, is_strict=is_strict), consent_columns(rows, used)


def consent_columns(rows: Sequence[Fields], used: Sequence[str]) -> list[str]:
    """Return the columns that say which rows may be shown, whatever their words are; one may have no value at all."""
    return _likeliest(rows, _named(rows, used, "consent"))


def opt_out_columns(rows: Sequence[Fields], used: Sequence[str], *, is_strict: bool) -> list[str]:
    """Return the columns that say which rows must not be shown.

    Raises:
        ConfigError: somebody cares (`is_strict`), and the name of one leaves open what a yes there means.
    """
    if is_strict and (unsure := _named(rows, used, "open")):
        raise ConfigError(
            f"init: the name of column {unsure[0]!r} leaves open whether rows with a yes there may be shown; rename it "
            "to 'consent' or 'no consent', or to something else if it is about something else"
        )
    return _likeliest(rows, _named(rows, used, "opt-out"))


def refuse_none(found: Sequence[str], rows: Sequence[Fields], used: Sequence[str]) -> None:
    """Refuse `--consent` where no column can be obeyed."""
    if not found:
        names = dict.fromkeys(name for row in rows for name in row if name not in used)
        others = f"(of {', '.join(names)})" if names else "(there is none beside those that are read and the answer)"
        raise ConfigError(f"--consent: no column is named like consent; rename the one that is meant {others}")


def refuse_several(found: Sequence[str]) -> None:
    """Refuse several columns: whichever is obeyed, rows that another one holds back would be shown."""
    if len(found) > 1:
        raise ConfigError(
            f"init: columns {' and '.join(map(repr, found))} say which rows may be shown, and only one is obeyed; join "
            "them in one column, or leave the others out of the file"
        )


def is_about_consent(name: str) -> bool:
    """Tell whether a column surely says what may be shown, whichever way; 'private' may be about anything."""
    return bool(CONSENT.search(_words(name)) or OPT_OUT.search(_words(name)))


def _words(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return " ".join(re.findall(r"[^\W\d_]+", spaced.casefold()))


def _named(rows: Sequence[Fields], used: Sequence[str], meaning: Meaning) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    named = [name for name in names if name not in used and meaning_of(name) == meaning]
    return [name for name in named if _says_yes_or_no(rows, name) or is_about_consent(name)]


def _says_yes_or_no(rows: Sequence[Fields], name: str) -> bool:
    return any(normalise(str(row[name])) in YES | NO for row in rows if row.get(name) is not None)


def _likeliest(rows: Sequence[Fields], names: Sequence[str]) -> list[str]:
    """Of several, those with a yes or no, and no dates: a date beside the consent itself says nothing."""
    clear = [name for name in names if _says_yes_or_no(rows, name)] or list(names)
    return [name for name in clear if not set(_words(name).split()) & (IGNORED_NAMES - {"no"})] or clear
