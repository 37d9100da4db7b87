"""Names that `init` makes of what it finds: of the study, of fields, of columns in a sentence, of a path. Pure."""

from __future__ import annotations

import keyword
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_RESERVED = frozenset(
    ["self", "instance", "signature", "config", "demos", "lm", "fields", "instructions", "reasoning", "completions"]
)


def study_name(source: str) -> str:
    """Return a name for a study of this file: `My Tickets (2).csv` becomes `my-tickets-2`."""
    stem = source.rpartition("/")[2].partition(":")[0] if source.startswith("hub:") else Path(source).stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9._-]+", "-", plain.lower()).strip("-._")[:60] or "study"


def field_names(columns: Sequence[str], *, taken: Sequence[str] = ()) -> dict[str, str]:
    """Return a field name for each column: one lower-case word in the letters of its language, none twice.

    Names are composed as Python composes them (NFKC), so that `answer.größe` finds the field.
    """
    names: dict[str, str] = {}
    for column in columns:
        plain = unicodedata.normalize("NFKC", column).lower()
        base = re.sub("_+", "_", "".join(char if f"a{char}".isidentifier() else "_" for char in plain)).strip("_")
        base = base if base.isidentifier() else f"field_{base}".rstrip("_")
        base = f"{base}_" if base in _RESERVED or keyword.iskeyword(base) else base
        name, n = base, 2
        while name in names.values() or name in taken:
            name, n = f"{base}_{n}", n + 1
        names[column] = name
    return names


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
