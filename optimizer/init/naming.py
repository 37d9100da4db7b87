"""Names that `init` makes of what it finds: of the study, of columns in a sentence, of a path. Pure."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path


def study_name(source: str) -> str:
    """Return a name for a study of this file: `My Tickets (2).csv` becomes `my-tickets-2`."""
    stem = source.rpartition("/")[2].partition(":")[0] if source.startswith("hub:") else Path(source).stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9._-]+", "-", plain.lower()).strip("-._")[:60] or "study"


def named(columns: Sequence[str]) -> str:
    names = [" ".join(column.replace("_", " ").split()) for column in columns]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def relative(source: str, config: Path) -> str:
    """The path from the configuration's folder; a hub name stays."""
    if source.startswith("hub:"):
        return source
    try:
        return Path(os.path.relpath(source, config.parent)).as_posix()
    except ValueError:  # another drive
        return Path(source).resolve().as_posix()
