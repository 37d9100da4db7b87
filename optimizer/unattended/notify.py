"""One message to a web address when a study ends or pauses. It never holds a run up for long and never fails it."""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.request
from collections.abc import Callable, Mapping

from optimizer.candidate import JsonValue
from optimizer.config.keys import Config
from optimizer.errors import ConfigError
from optimizer.privacy.redaction import redact, remember
from optimizer.records import StudyView
from optimizer.words import count, percent, price

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0


def webhook_url(config: Config) -> str | None:
    """Return the address from the environment, None when no message is wanted.

    Raises:
        ConfigError: the variable is not set, or holds no web address.
    """
    name = config.notify.webhook_env
    if name is None:
        return None
    url = os.environ.get(name, "")
    if not url.startswith(("http://", "https://")):
        what = "holds no http:// or https:// address" if url else "is not set"
        raise ConfigError(f"notify.webhook_env: environment variable {name!r} {what}; run: export {name}=https://...")
    remember(url)  # whoever knows such an address can write to it
    return url


def message_of(view: StudyView, *, reason: str = "") -> dict[str, JsonValue]:
    """Return what is told of a study. No row, prompt, address or key is in it.

    Args:
        reason: why it paused, in one line without secrets; empty when it is finished.
    """
    verdict = view.verdict
    said = (
        f"paused: {reason}"
        if reason or verdict is None
        else f"{verdict.decision}, {percent(verdict.seed_score)} to {percent(verdict.winner_score)} on {verdict.n} rows"
    )
    n_calls = sum(view.spend.calls.values())
    return {
        "text": f"study {view.name}: {said} ({count(n_calls)} calls, {price(view.spend.usd)})",
        "study": view.name,
        "state": view.state,
        "stop_reason": view.stop_reason,
        "verdict": verdict.decision if verdict else None,
        "calls": n_calls,
        "cost_usd": view.spend.usd,
    }


def tell(url: str | None, read_view: Callable[[], StudyView], *, reason: str = "") -> None:
    """Send what there is to say of a study, if anybody wants to know."""
    if url is None:
        return
    try:
        message = message_of(read_view(), reason=reason)
    except Exception as error:  # border: a pause because of the database leaves nothing to read; the type is kept
        message = {"text": f"a study paused: {reason}", "state": "paused", "stop_reason": type(error).__name__}
    send(url, message)


def send(url: str, message: Mapping[str, JsonValue]) -> None:
    """Post a message and wait for at most ten seconds; a failure is a line in the log, without the address."""
    thread = threading.Thread(target=_post, args=(url, message), name="notify", daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    if thread.is_alive():
        logger.warning("notify.webhook_env: no answer within %.0f s", TIMEOUT_S)


def _post(url: str, message: Mapping[str, JsonValue]) -> None:
    body = redact(json.dumps(message)).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass
    except Exception as error:  # border: the address and whatever answers there are foreign; the type is kept
        logger.warning("notify.webhook_env: the message was not delivered: %s", type(error).__name__)
