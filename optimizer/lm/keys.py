"""Where a provider's key comes from: an environment variable, a file that only the user reads, or a command."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from optimizer.config.keys import LM
from optimizer.errors import ConfigError
from optimizer.privacy.redaction import remember

COMMAND_LIMIT_S = 30.0


def read_key(settings: LM) -> str | None:
    """Return the key that the configuration names a source of, and have it masked from now on.

    Raises:
        ConfigError: two sources, or one that gives no key.
    """
    given = [name for name in ("env", "file", "command") if getattr(settings, f"api_key_{name}") is not None]
    if len(given) > 1:
        names = " and ".join(f"api_key_{name}" for name in given)
        raise ConfigError(f"lm: {names}: give one of them")
    if not given:
        return "none" if settings.api_base else None  # servers without keys still want the header
    key = {"env": _from_environment, "file": _from_file, "command": _from_command}[given[0]](settings)
    remember(key)
    return key


def _from_environment(settings: LM) -> str:
    name = str(settings.api_key_env)
    key = os.environ.get(name)
    if not key:
        raise ConfigError(f"lm: api_key_env: environment variable {name!r} is not set; run: export {name}=...")
    return key


def _from_file(settings: LM) -> str:
    path = Path(str(settings.api_key_file)).expanduser()
    try:
        is_open = os.name == "posix" and path.stat().st_mode & 0o077
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"lm: api_key_file: {str(path)!r} cannot be read: {error}") from None
    if is_open:
        raise ConfigError(f"lm: api_key_file: {str(path)!r} can be read by others; run: chmod 600 {path}")
    if not key or len(key.split()) != 1:
        raise ConfigError(f"lm: api_key_file: {str(path)!r} must hold the key and nothing else")
    return key


def _from_command(settings: LM) -> str:
    command = str(settings.api_key_command)
    where = f"lm: api_key_command: {command!r}"
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{where} cannot be run: {error}") from None
    key = done.stdout.strip()
    if done.returncode or len(key.split()) != 1:
        raise ConfigError(f"{where} must print the key and nothing else; it ended with code {done.returncode}")
    return key
