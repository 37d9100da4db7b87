"""Programs that serve a web address: started, waited for, ended."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(
    command: Sequence[str], url: str, *, log: Path, env: Mapping[str, str] | None = None, timeout_s: float = 180
) -> Iterator[None]:
    """Run a program until the block ends; begin the block when `url` answers. What it prints goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env={**os.environ, **(env or {})}, stdout=output, stderr=output
        )
        try:
            wait_until_up(url, process, log, timeout_s=timeout_s)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path, *, timeout_s: float) -> None:
    """Return once a server answers; its last words are the error if it ends."""
    ends_at = time.monotonic() + timeout_s
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < ends_at, log.read_text()[-2000:]
            time.sleep(0.2)
