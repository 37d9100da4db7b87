"""Whether the Hugging Face hub can be reached, asked once: its own client tries for a minute, a line for each try."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 10.0
LOGGERS = ("huggingface_hub", "datasets")


def is_reachable(repo: str) -> bool:
    """Ask for a data set's facts once. An answer that refuses is an answer, too."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    answers: list[bool] = []

    def ask() -> None:
        try:
            HfApi().dataset_info(repo, timeout=PATIENCE_S)
            answers.append(True)
        except HfHubHTTPError:
            answers.append(True)
        except Exception:  # border: the client's own and its transport's errors, all of which mean that nobody answered
            answers.append(False)

    thread = threading.Thread(target=ask, name="hub", daemon=True)  # looking a name up knows no patience of its own
    thread.start()
    thread.join(PATIENCE_S)
    return bool(answers) and answers[0]


@contextmanager
def silent() -> Iterator[None]:
    """Keep the client's remarks on its tries from the terminal; what fails is said in one line by who asked."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
