"""How this program is called where it runs, for every command that is printed to be copied."""

from __future__ import annotations

import os


def command_name() -> str:
    """Return `uv run optimizer` under `uv run`, where the program's own name may not be on the path."""
    return "uv run optimizer" if "UV_RUN_RECURSION_DEPTH" in os.environ else "optimizer"
