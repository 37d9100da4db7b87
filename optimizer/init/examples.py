"""The ready configurations, for people who installed the package and have no copy of the repository.

The wheel carries them inside the package; in a checkout they are the folder `configs`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath

import yaml

from optimizer.errors import ConfigError, did_you_mean

_PACKAGE = Path(__file__).parent.parent
PACKED = _PACKAGE / "examples"  # as pyproject.toml says
FOLDER = PACKED if PACKED.is_dir() else _PACKAGE.parent / "configs"
EDITOR_LINE = "# yaml-language-server:"


def examples() -> dict[str, str]:
    """Return the names of the ready configurations, the quickstart first, each with the first sentence about it."""
    paths = sorted(FOLDER.glob("*.yaml"), key=lambda path: (path.stem != "quickstart", path.stem))
    return {path.stem: _first_sentence(path) for path in paths}


def copy_example(name: str, into: Path) -> list[Path]:
    """Copy a configuration and what it reads into a folder, and return the files, the configuration first.

    Raises:
        ConfigError: there is no such example, or a file is in the way or cannot be written.
    """
    known = list(examples())
    if name not in known:
        raise ConfigError(f"example: no {name!r}; there are: {', '.join(known)}.{did_you_mean(name, known)}")
    source = FOLDER / f"{name}.yaml"
    text = source.read_text(encoding="utf-8")
    files = [source, *(FOLDER / path for path in _needed(yaml.safe_load(text)))]
    targets = [into / path.relative_to(FOLDER) for path in files]
    for path, target in zip(files, targets, strict=True):
        if target.exists() and not (target != targets[0] and target.read_bytes() == path.read_bytes()):
            raise ConfigError(f"example: {str(target)!r} exists; give another folder with --into")
    try:
        for path, target in zip(files, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        lines = text.splitlines(keepends=True)
        targets[0].write_text("".join(line for line in lines if not line.startswith(EDITOR_LINE)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"example: {str(into)!r} cannot be written: {error.strerror or error}") from error
    return targets


def is_example(config: Mapping[str, object]) -> bool:
    """Tell whether a study is about a ready task: it has the goal and the rows of one, whatever else was changed."""
    told = _told(config)
    return all(told) and any(_told(_read(path)) == told for path in FOLDER.glob("*.yaml"))


def _read(path: Path) -> object:
    """Return what a file holds; nothing where it is no YAML: in a checkout the folder is open to everybody."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _told(config: object) -> tuple[object, str]:
    """Return goal and name of the rows; of a path its last part, as `copy_example` keeps it."""
    task, data = (config.get("task"), config.get("data")) if isinstance(config, Mapping) else (None, None)
    source = data.get("source") if isinstance(data, Mapping) else None
    return task.get("goal") if isinstance(task, Mapping) else None, PurePath(str(source or "")).name


def _first_sentence(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    said: list[str] = []
    for line in lines[1:]:
        if not line.startswith("# "):
            break
        said.append(line.removeprefix("# "))
    return f"{' '.join(said).partition('. ')[0].rstrip('., ')}."


def _needed(given: Mapping[str, Mapping[str, object]]) -> list[Path]:
    """The files that a configuration names: rows, and the module of a program."""
    paths = [Path(str(given["data"]["source"]))]
    if program := given["task"].get("program"):
        module = str(program).partition(":")[0]
        paths.append(Path(*module.split(".")).with_suffix(".py"))
    return paths
