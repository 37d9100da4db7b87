"""Which number a reply in words gives as its answer, in the spelling of any country. Pure."""
# ruff: noqa: RUF001 - models write typographic signs

from __future__ import annotations

import re

_NUMBER = re.compile(
    r"(?:(?<![\w.])[-+−])?(?:\d{1,3}(?:[. \u00a0\u202f]\d{3})+,\d+(?![\d,])|\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?"
    r"|\d+,(?:\d{1,2}|\d{4,})(?![\d,])|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_DECIMAL_COMMA = re.compile(r"[-+]?(?:\d{1,3}(?:[. \u00a0\u202f]\d{3})+|\d+),(?:\d{1,2}|\d{4,})")  # 1.234,56 or 0,5
_STEPS = re.compile(r"\W*1[.)]\s.*\n\W*2[.)]\s", re.DOTALL)  # numbers of steps, not of the answer
_SUM = re.compile(r"\s*[-+*/^=×÷x]\s*[\d.]")  # what follows the first number of `3 + 4 = 7`


def number_in(text: str) -> int | float | None:
    """Return the number that the text starts with, unless a sum or a list of steps follows; else the last one.

    A comma before exactly three digits separates thousands, any other one between digits is a decimal comma.
    """
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    starts = not re.search(r"\w", text[: found[0].start()]) and not _SUM.match(text, found[0].end())
    starts = starts and not _STEPS.match(text)
    digits = (found[0] if starts else found[-1])[0].replace("−", "-")
    if _DECIMAL_COMMA.fullmatch(digits):
        digits = re.sub(r"[. \u00a0\u202f]", "", digits).replace(",", ".")
    digits = digits.replace(",", "")
    return int(digits) if digits.lstrip("+-").isdigit() and len(digits) < 300 else float(digits)
