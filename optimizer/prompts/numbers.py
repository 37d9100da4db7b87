"""Numbers in what people and models write, in the spelling of any country. Pure; the Python export carries a copy.

A comma before exactly three digits separates thousands, any other one between digits is a decimal comma. Points do
where there are two of them or a decimal comma follows, apostrophes and fixed spaces always, and plain spaces where a
decimal comma follows or nothing but a unit is beside the number.
"""
# ruff: noqa: RUF001 - models write typographic signs

from __future__ import annotations

import re

_NUMBER = re.compile(
    r"(?:(?<![\w.)%])(?P<sign>[-+−])[$€£¥]?)?(?P<digits>"
    r"\d{1,3}(?:[. \u00a0\u202f'’]\d{3})+,\d+(?![\d,])"  # 1.234,56
    r"|\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?"  # 1,234.56
    r"|\d{1,3}(?:\.\d{3}){2,}(?!\.?\d)"  # 1.234.567
    r"|\d{1,3}(?:[\u00a0\u202f'’]\d{3})+(?!\d)(?:\.\d+)?"  # 1'234.56
    r"|\d+,(?:\d{1,2}|\d{4,})(?![\d,])"  # 0,5
    r"|\d+(?:\.\d+)?|\.\d+)(?P<exponent>[eE][-+]?\d+)?"
)
_SPACED = re.compile(r"(\W*\d{1,3}(?: \d{3})+(?:\.\d+)?)(?!\d)\W*[^\W\d]*\W*")  # 2 500 and at most a unit
_DECIMAL_COMMA = re.compile(r"\d+,(?:\d{1,2}|\d{4,})|\d{1,3}(?:[. \u00a0\u202f'’]\d{3})+,\d+")
_STEPS = re.compile(r"\W*1[.)]\s.*\n\W*2[.)]\s", re.DOTALL)  # numbers of steps, not of the answer
_SUM = re.compile(r"\s*[-+*/^=×÷x]\s*[\d.]")  # what follows the first number of `3 + 4 = 7`


def numbers_in(text: str) -> list[int | float]:
    """Return the numbers in a text, in order: `1,234.5`, `1.234,5`, `$12`, `12 %`, `-3e5`, `0,5`. Units are ignored."""
    return [_value(found) for found in _NUMBER.finditer(_closed(text))]


def number_in(text: str) -> int | float | None:
    """Return the number that the text starts with, unless a sum or a list of steps follows; else the last one."""
    text = _closed(text)
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    starts = not re.search(r"\w", text[: found[0].start()]) and not _SUM.match(text, found[0].end())
    return _value(found[0] if starts and not _STEPS.match(text) else found[-1])


def _closed(text: str) -> str:
    """Take the spaces out of a number that stands alone."""
    alone = _SPACED.fullmatch(text)
    return re.sub(r"(?<=\d) (?=\d)", "", alone[1]) + text[alone.end(1) :] if alone else text


def _value(found: re.Match[str]) -> int | float:
    digits = found["digits"]
    if _DECIMAL_COMMA.fullmatch(digits):
        digits = re.sub(r"[. \u00a0\u202f'’]", "", digits).replace(",", ".")
    digits = re.sub(r"[,\u00a0\u202f'’]", "", digits)
    digits = digits.replace(".", "") if digits.count(".") > 1 else digits
    digits = (found["sign"] or "").replace("−", "-") + digits + (found["exponent"] or "")
    return int(digits) if digits.lstrip("+-").isdigit() and len(digits) < 300 else float(digits)
