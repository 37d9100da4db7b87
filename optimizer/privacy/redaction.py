"""Secrets are known by value and masked wherever text leaves the process: logs, terminals, databases, MLflow, messages.

Known are environment variables that are named like secrets, and whatever else is told to `remember`.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import re
from collections.abc import Iterable
from urllib.parse import quote

MIN_SECRET_CHARS = 8  # shorter ones are placeholders; masking them would only garble messages
SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)

_remembered: set[str] = set()


def remember(*secrets: str) -> None:
    """Mask these texts from now on, for as long as the process lives."""
    _remembered.update(secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS)


def known_secrets() -> tuple[str, ...]:
    """Return all secrets, the longest first, so that one within another is masked with it."""
    named = {value for name, value in os.environ.items() if _is_named_like_one(name)}
    return tuple(sorted({s for s in named | _remembered if len(s) >= MIN_SECRET_CHARS}, key=len, reverse=True))


@functools.cache
def _is_named_like_one(name: str) -> bool:
    return SECRET_NAMES.search(name) is not None


def redact(text: str) -> str:
    """Mask every secret that is known now."""
    return redacted(text, known_secrets())


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Mask secrets as they are, URL-quoted or in base64."""
    for secret in secrets:
        for form in _forms(secret):
            text = text.replace(form, "***")
    return text


@functools.lru_cache(maxsize=256)
def _forms(secret: str) -> tuple[str, str, str]:
    return secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()


class RedactingFormatter(logging.Formatter):
    """Formats a log record, traceback included, and masks what must not be read."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
