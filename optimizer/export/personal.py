"""Personal data in demonstrations: what an export would carry to wherever the prompt goes.

Found: e-mail addresses, telephone numbers of all countries (international form, or the forms of `REGIONS`), bank
accounts (IBAN) and payment cards, the last two only where their check digits hold; and names where words such as `my
name is` or `Mr` announce them. Not found: names without such words, addresses, numbers of passports or customers, and
anything spelt out. It is a help for a person who looks, no proof of absence. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import phonenumbers
from stdnum import iban, luhn

from optimizer.candidate import Candidate, Demo

REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN")
CARD_DIGITS = (13, 14, 15, 16, 19)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]){11,30}\b")
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
_CALLED = r"(?:[A-ZÀ-Þ][\w'-]+)(?:[ ][A-ZÀ-Þ][\w'-]+){0,2}"
_NAMED = re.compile(
    rf"(?:\b[Mm]y name is|\b[Ii] am called|\b[Ii]ch heiße|\b[Mm]ein Name ist|\b[Jj]e m'appelle|"
    rf"\b(?:Mr|Mrs|Ms|Dr|Herr|Frau|Mme)\.?|\b(?:[Rr]egards|[Ss]incerely|[Cc]heers|[Gg]rüße),?)\s+({_CALLED})"
)


class Found(NamedTuple):
    """One piece of personal data: what it seems to be, where it stands, and its masked text."""

    kind: str
    example_id: str
    field: str
    masked: str


def personal_data(candidate: Candidate) -> tuple[Found, ...]:
    """Return what the demonstrations of a candidate hold, in their order."""
    return tuple(
        found
        for part in candidate.parts
        for demo in part.demos
        for field, text in _texts(demo)
        for found in (Found(kind, demo.example_id, field, masked(said)) for kind, said in _find(text))
    )


def masked(text: str) -> str:
    """Return enough of a text to find it again, and no more."""
    return text[:2] + "*" * min(8, max(1, len(text) - 3)) + text[-1:]


def _texts(demo: Demo) -> Iterator[tuple[str, str]]:
    for fields in (demo.inputs, demo.outputs, {"reasoning": demo.reasoning}):
        for name, value in fields.items():
            if value is not None and not isinstance(value, bool):
                yield name, value if isinstance(value, str) else str(value)


def _find(text: str) -> Iterator[tuple[str, str]]:
    """Yield what a text holds. What is one thing for sure is not shown to a later, vaguer test."""
    for kind, pattern, is_valid in _CHECKED:
        for match in pattern.finditer(text):
            if is_valid(match[0]):
                yield kind, match[0]
                text = text.replace(match[0], " " * len(match[0]))
    for number in dict.fromkeys(_phones(text)):
        yield "telephone", number
    for match in _NAMED.finditer(text):
        yield "name", match[1]


def _is_email(said: str) -> bool:
    return not said.startswith(".")


def _is_iban(said: str) -> bool:
    return bool(iban.is_valid(said))


def _is_card(said: str) -> bool:
    digits = re.sub(r"\D", "", said)
    return len(digits) in CARD_DIGITS and bool(luhn.is_valid(digits))


_CHECKED: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("e-mail", _EMAIL, _is_email),
    ("bank account", _IBAN, _is_iban),
    ("payment card", _CARD, _is_card),
)


def _phones(text: str) -> Iterator[str]:
    for region in REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            if len(re.sub(r"\D", "", match.raw_string)) >= 9 or match.raw_string.startswith("+"):
                yield match.raw_string
