"""Open a configuration file: its text, or one line saying why that is no configuration."""

from __future__ import annotations

import shlex
from pathlib import Path

from optimizer.command_line import command_name
from optimizer.data.rows import SUFFIXES
from optimizer.errors import ConfigError, did_you_mean

MAX_BYTES = 1_000_000


def read_config(path: Path) -> str:
    """Return the file's text.

    Raises:
        ConfigError: it is missing, a folder, a data file, too large, or no UTF-8 text.
    """
    if path.suffix.lower() in SUFFIXES and path.is_file():
        made_by = f"{command_name()} init {shlex.quote(str(path))}"
        raise ConfigError(f"{path}: is a data file, not a configuration. `{made_by}` makes a configuration of it")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file.{_siblings(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a file.{_siblings(path / 'quickstart.yaml')}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES // 1_000_000} MB. Is this the data file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8 text. Save the file in UTF-8") from error


def _siblings(path: Path) -> str:
    """Name the YAML file in the same folder that was probably meant, or a few that are there."""
    names = sorted(file.name for file in path.parent.glob("*.y*ml"))
    near = did_you_mean(path.name, names) or did_you_mean(f"{path.name}.yaml", names)
    return near or (f" Files there: {', '.join(names[:5])}" if names else "")
