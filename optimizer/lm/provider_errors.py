"""DSPy's exceptions as ours: which are worth a retry, which may have been billed, and nothing secret in their text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from dspy.utils import exceptions as errors

from optimizer.lm.backend import AttemptError, no_key, no_provider
from optimizer.privacy.redaction import MIN_SECRET_CHARS, SECRET_NAMES, redacted

MAX_MESSAGE_CHARS = 300
NO_PROVIDER = "LLM Provider NOT provided"  # in LiteLLM's words
_KEY_NAME = re.compile(r"\bSet ([A-Z][A-Z0-9_]+) in the environment")  # in DSPy's words


class Meaning(NamedTuple):
    """What a failure says about the next attempt and about the bill."""

    kind: str
    is_retryable: bool = False
    is_fatal: bool = False
    is_billed: bool = False


BY_STATUS: Mapping[int, Meaning] = {
    404: Meaning("unknown_model", is_fatal=True),
    405: Meaning("unknown_model", is_fatal=True),
    502: Meaning("unavailable", is_retryable=True, is_billed=True),  # the gateway failed, the model may have worked
    503: Meaning("unavailable", is_retryable=True),
    529: Meaning("unavailable", is_retryable=True),
}
# Subclasses stand before their parents.
BY_CLASS: tuple[tuple[type[errors.LMError], Meaning], ...] = (
    (errors.ContextWindowExceededError, Meaning("context_length")),
    (errors.LMAuthError, Meaning("auth", is_fatal=True)),
    (errors.LMBillingError, Meaning("billing", is_fatal=True)),
    (errors.LMRateLimitError, Meaning("rate_limit", is_retryable=True)),
    (errors.LMUnsupportedModelError, Meaning("unknown_model", is_fatal=True)),
    (errors.LMInvalidRequestError, Meaning("invalid_request")),
    (errors.LMTimeoutError, Meaning("timeout", is_retryable=True, is_billed=True)),
    (errors.LMServerError, Meaning("server", is_retryable=True, is_billed=True)),
    (errors.LMNotConfiguredError, Meaning("not_configured", is_fatal=True)),
    (errors.LMConfigurationError, Meaning("invalid_request", is_fatal=True)),
    (errors.LMUnsupportedFeatureError, Meaning("invalid_request", is_fatal=True)),
    (errors.LMTransportError, Meaning("transport", is_retryable=True, is_billed=True)),
    (errors.LMProviderError, Meaning("server", is_retryable=True, is_billed=True)),
)
NEVER_SENT = Meaning("unavailable", is_retryable=True)
UNCLASSIFIED = Meaning("unexpected", is_retryable=True, is_billed=True)


def attempt_error(error: errors.DSPyError, secrets: Iterable[str], *, model: str) -> AttemptError:
    """Translate an exception of DSPy; its message becomes one line without secrets."""
    if NO_PROVIDER in error.message:  # found before anything is sent
        return AttemptError("not_configured", no_provider(model), is_fatal=True)
    if isinstance(error, errors.LMNotConfiguredError) and (name := _KEY_NAME.search(error.message)):
        return AttemptError("not_configured", no_key(model, name[1]), is_fatal=True)
    meaning = _meaning(error)
    status = f"HTTP {error.status}" if error.status is not None else ""
    text = redacted(" ".join(error.message.split("\n\n")[0].split()), secrets)[:MAX_MESSAGE_CHARS]
    return AttemptError(
        meaning.kind,
        ": ".join(part for part in (status, text) if part) or type(error).__name__,
        is_retryable=meaning.is_retryable,
        is_fatal=meaning.is_fatal,
        is_billed=meaning.is_billed,
        retry_after_s=error.retry_after,
    )


def secrets_in(connection: Mapping[str, object]) -> tuple[str, ...]:
    """Return every text that a provider could echo and nobody should read.

    Keys and header values of the connection, credentials in its URLs, and environment variables named like secrets,
    because DSPy finds a provider's usual key there by itself.
    """
    found = {value for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    for name, value in connection.items():
        if isinstance(value, Mapping):
            found |= {str(header).removeprefix("Bearer ") for header in value.values()}
        elif isinstance(value, str) and SECRET_NAMES.search(name):
            found.add(value)
        elif isinstance(value, str) and "://" in value:
            parts = urlsplit(value)
            found |= {parts.username or "", parts.password or "", parts.query}
    long_enough = [secret for secret in found if len(secret) >= MIN_SECRET_CHARS]
    return tuple(sorted(long_enough, key=len, reverse=True))


def _meaning(error: errors.DSPyError) -> Meaning:
    known = next((meaning for cls, meaning in BY_CLASS if isinstance(error, cls)), UNCLASSIFIED)
    if known.kind == "transport" and _never_connected(error):
        return NEVER_SENT
    if known.is_fatal or known.kind == "context_length":
        return known
    return BY_STATUS.get(error.status or 0, known)


def _never_connected(error: BaseException) -> bool:
    """Whether the connection itself failed. The HTTP clients below DSPy share these class names."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
            return True
        cause = cause.__cause__
    return False
