"""A command in a terminal of its own: what it shows, and what a person types."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """The master's side of a pseudo-terminal."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master, self._process = master, process
        self.shown = ""
        self._seen = 0  # up to where the screen has been waited for

    def wait_for(self, words: str, timeout_s: float = 120) -> str:
        """Read until the words stand on the screen, after what was waited for before; return what came until then."""
        deadline, begun = time.monotonic() + timeout_s, self._seen
        while (at := self.shown.find(words, begun)) < 0:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{words!r} never came; the screen says: {self.shown[-2000:]}")
        self._seen = at + len(words)
        return self.shown[begun : self._seen]

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self, timeout_s: float = 120) -> int:
        """Read to the end, and return the exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            pass
        return self._process.wait(timeout_s)

    def _read(self, left_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, left_s))
        try:
            data = os.read(self._master, 65536) if ready else b""
        except OSError:  # the other side is closed
            return False
        self.shown += _COLOURS.sub("", data.decode(errors="replace")).replace("\r\n", "\n")
        return bool(data)


@contextlib.contextmanager
def in_terminal(
    words: Sequence[str], folder: Path, *, columns: int = 80, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Run `optimizer WORDS` in a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "optimizer", *words],
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**settings, "TERM": "xterm", **(env or {})},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
