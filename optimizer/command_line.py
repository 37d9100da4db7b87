"""How this program is called where it runs, for every command that is printed to be copied."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

OF_ONE_RUN = ("--detach", "--quiet", "-q", "--json")  # how it is shown, not what is run
NEW_STUDY = ("--fork", "--warm-start")


def command_name() -> str:
    """Return `uv run optimizer` under `uv run`, where the program's own name may not be on the path."""
    return "uv run optimizer" if "UV_RUN_RECURSION_DEPTH" in os.environ else "optimizer"


def run_command(*more: str, argv: Sequence[str] | None = None) -> str:
    """Return the `run` line that the user typed, `--set` included, with further words; else one with CONFIG to fill in.

    Args:
        argv: the words of this process, for tests.
    """
    typed = list(sys.argv if argv is None else argv)[1:]
    words = ["CONFIG"]
    if typed[:1] == ["run"]:
        words = [word for word in typed[1:] if word not in OF_ONE_RUN]
        for flag in NEW_STUDY:
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
    return f"{command_name()} run {shlex.join([*words, *more])}"


def with_overrides(config: object, overrides: Sequence[str]) -> str:
    """Return a configuration with the `--set` flags that were given with it, as words for a command."""
    return shlex.join([str(config), *(word for each in overrides for word in ("--set", each))])
