"""Named places at which a test can have the process killed, as by `kill -9`; in production they do nothing.

`OPTIMIZER_CRASH_AT=reply:7` kills the process when it comes to `reply` for the seventh time.
"""

from __future__ import annotations

import os
import signal
import threading

POINTS = ("reserve", "reply", "commit", "export", "outbox", "resume")
BATCH_POINTS = ("batch-plan", "batch-upload", "batch-create", "batch-row")

_name, _, _number = os.environ.get("OPTIMIZER_CRASH_AT", "").partition(":")
_n_left, _lock = int(_number or 1), threading.Lock()


def crash_point(name: str) -> None:
    """Die here if a test wants that."""
    if name == _name:
        _count_down()


def crash_at(name: str, number: int) -> None:
    """As the environment variable, for a process that is there already."""
    global _name, _n_left
    _name, _n_left = name, number


def _count_down() -> None:
    global _n_left
    with _lock:
        _n_left -= 1
        if _n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
