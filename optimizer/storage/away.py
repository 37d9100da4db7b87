"""Waits for a database server that is away: restarted, failed over, or behind a network that broke."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from optimizer.errors import LostWorker, Paused
from optimizer.storage.database import is_away

logger = logging.getLogger(__name__)

AWAY_S = 600.0  # so long a server may be away before the study pauses
AGAIN_S = 0.5


class Shared(Protocol):
    """Something that speaks to a database; a file (`is_shared` False) is never waited for."""

    is_shared: bool


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Shared)


def patient(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Repeat a method whose transaction the server did not answer, until it does or `AWAY_S` have passed.

    Meant for methods that may be done twice: when the connection broke in the moment of the commit, nobody knows
    whether it counts. A reservation made twice leaves the ledger above the bill, never below.
    """

    @functools.wraps(method)
    def repeated(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        ends_at = time.monotonic() + AWAY_S
        while True:
            try:
                return method(self, *args, **kwargs)
            except LostWorker:
                raise
            except Paused as pause:
                if not self.is_shared or not is_away(pause) or time.monotonic() > ends_at:
                    raise
                logger.warning("%s; trying again", pause)
                time.sleep(AGAIN_S)

    return repeated
