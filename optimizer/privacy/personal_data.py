"""What in a text points to a person: addresses, numbers and dates that can be recognised by their form.

`findings` is the door. Decides by form and check digits alone, so it reports what it can recognise and never proves
that a text is free of personal data: a bare name or a rare disease has no form. Nothing is sent anywhere or changed.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import iban, luhn
from stdnum.gb import nhs
from stdnum.us import ssn

Kind = Literal[
    "e-mail address",
    "phone number",
    "bank account",
    "payment card",
    "social security number",
    "health number",
    "record number",
    "date of birth",
    "name",
    "street address",
    "IP address",
    "key or password",
]

# Where a national number without a country code is looked for. Grouping must be that of the country.
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "JP")
MIN_PHONE_DIGITS = 7
MAX_CHARS = 100_000  # of one text; the rest is not looked at

_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{4}年\d{1,2}月\d{1,2}日"
    r"|\d{1,2}(?:st|nd|rd|th)?\.? [^\W\d_]{3,10}\.?,? \d{4}|[^\W\d_]{3,10}\.? \d{1,2},? \d{4})"
)
_PATTERNS: Mapping[Kind, re.Pattern[str]] = {
    "e-mail address": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"),
    "date of birth": re.compile(
        rf"(?i:\b(?:born(?: on)?|date of birth|birth ?date|d\.?o\.?b\.?|geb(?:oren)?(?: am)?|née? le|nacid[oa] el"
        rf"|nat[oa] il)|生年月日|誕生日)\W{{0,4}}{_DATE}"
    ),
    "record number": re.compile(
        r"(?i:\b(?:mrn|patient(?:en)?(?:[ -]?(?:id|no|nr|number|nummer))|medical record(?: (?:no|number))?"
        r"|passport(?: (?:no|number))?|insurance (?:no|number)|customer (?:id|no|number)|account (?:no|number)))"
        r"[.:# ]{1,3}[A-Z]{0,4}[- ]?\d[\d-]{3,14}\b"
    ),
    "name": re.compile(
        r"(?:\b[Mm]y name is|\b[Ii] am called|\b[Ii]ch heiße|\b[Mm]ein Name ist|\b[Jj]e m['\u2019]appelle"
        r"|\b(?:Mrs?|Ms|Miss|Dr|Prof|Herr|Frau|Monsieur|Madame|Mme|Señora?|Signora?)\.?) (?:[^\W\d_]\. ?)?"
        r"(?=[^\W\d_])(?P<name>[A-ZÀ-ÖØ-Þ][^\W\d_'\u2019-]+(?:[-'\u2019 ][A-ZÀ-ÖØ-Þ][^\W\d_]+)?)"
    ),
    "street address": re.compile(
        r"\b\d{1,5}[a-z]? (?:[A-Z][\w'\u2019-]+ ){1,3}"
        r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Boulevard|Blvd|Court|Way)\b"
        r"|\b[A-ZÄÖÜ][\wäöüß-]+(?:straße|strasse|str\.|weg|gasse|platz) \d{1,4}[a-z]?\b"
        r"|\b\d{1,4},? (?:bis |ter )?(?:rue|avenue|boulevard|place|chemin) (?:d[eu]s? |de la |de l['\u2019])?"
        r"[A-ZÀ-Þ][\w'\u2019-]+"
    ),
    "key or password": re.compile(
        r"(?i:\b(?:password|passwort|mot de passe|contraseña|passphrase|pin code)\s{0,2}(?:is|ist|:|=)\s{0,2})\S{4,64}"
        r"|\b(?:sk-[\w-]{16,}|gh[po]_\w{20,}|AKIA[A-Z0-9]{12,})"
    ),
}
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_CARD = re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")
_NHS = re.compile(r"(?i:\bNHS\b\D{0,12})(?P<number>\d{3}[ -]?\d{3}[ -]?\d{4})\b")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_IP = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])|(?<![\w:])[0-9A-Fa-f:]{6,39}(?![\w:])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A stretch of text that points to a person; `text` is what stands at [start, end)."""

    kind: Kind
    start: int
    end: int
    text: str

    @property
    def masked(self) -> str:
        """Its ends alone, for reports: `anna@example.org` becomes `a…g`."""
        return f"{self.text[0]}…{self.text[-1]}" if len(self.text) > 4 else "…"


def findings(text: str) -> list[Finding]:
    """Return what points to a person, in order, without overlaps: of two that overlap the earlier, longer one stays."""
    text = text[:MAX_CHARS]
    found = sorted(_all(text), key=lambda finding: (finding.start, finding.start - finding.end))
    kept: list[Finding] = []
    for finding in found:
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
    return kept


def count_findings(texts: Iterable[str]) -> dict[Kind, int]:
    """Return in how many of the texts each kind occurs, most frequent first."""
    counts: Counter[Kind] = Counter()
    for text in texts:
        counts.update({finding.kind for finding in findings(text)})
    return dict(counts.most_common())


def _all(text: str) -> Iterator[Finding]:
    for kind, pattern in _PATTERNS.items():
        yield from (_finding(kind, match) for match in pattern.finditer(text))
    yield from _checked("bank account", _IBAN, text, iban.is_valid)
    yield from _checked("payment card", _CARD, text, _is_card)
    yield from _checked("health number", _NHS, text, lambda part: nhs.is_valid(re.sub(r"\D", "", part)))
    yield from _checked("social security number", _SSN, text, ssn.is_valid)
    yield from _checked("IP address", _IP, text, _is_ip)
    if sum(char.isdigit() for char in text) >= MIN_PHONE_DIGITS:
        yield from _phones(text)


def _finding(kind: Kind, match: re.Match[str]) -> Finding:
    return Finding(kind=kind, start=match.start(), end=match.end(), text=match.group())


def _checked(kind: Kind, pattern: re.Pattern[str], text: str, is_valid: Callable[[str], bool]) -> Iterator[Finding]:
    yield from (_finding(kind, match) for match in pattern.finditer(text) if is_valid(match.group()))


def _is_card(digits: str) -> bool:
    """Luhn's check digit holds for one number in ten by chance, so the first digit must be that of a card, too."""
    digits = re.sub(r"[ -]", "", digits)
    return digits[0] in "3456" and len(set(digits)) > 1 and luhn.is_valid(digits)


def _is_ip(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _phones(text: str) -> Iterator[Finding]:
    for match in PhoneNumberMatcher(text, None):
        yield Finding(kind="phone number", start=match.start, end=match.end, text=match.raw_string)
    for region in REGIONS:
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING):
            if re.search(r"\d[ ()/.-]+\d", match.raw_string):  # one run of digits may be an order
                yield Finding(kind="phone number", start=match.start, end=match.end, text=match.raw_string)
