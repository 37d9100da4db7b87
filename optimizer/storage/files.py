"""Files of a run folder: the best prompt so far, written so that neither a kill nor a full disk can damage it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from optimizer.candidate import JsonValue
from optimizer.command_line import command_name
from optimizer.errors import ConfigError, StudyError
from optimizer.records import StudyView
from optimizer.storage.crash_points import crash_point

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def make_private_folder(folder: Path) -> None:
    """Create a folder and the one that holds it, for the user alone; those that exist keep their mode."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)  # MLflow's store lies there
    folder.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Let this process, and those that it starts, create files for the user alone, also where a library writes them."""
    before = os.umask(0o777 & ~PRIVATE_FOLDER)
    try:
        yield
    finally:
        os.umask(before)


def claim(run_dir: Path, database: Path | None = None) -> FileLock:
    """Take a study for this process; the claim ends with `release` or with the process.

    Args:
        database: where it is no file of the run folder, it is this file's part of the study that is taken.

    Raises:
        StudyError: another process has it.
    """
    lock = FileLock(database.with_name(f"{database.name}.{run_dir.name}.lock") if database else run_dir / ".lock")
    try:
        lock.acquire(timeout=1, poll_interval=0.05)  # somebody may just be looking, see below
    except Timeout:
        raise StudyError(
            f"study {run_dir.name!r} is being run by another process; see: {command_name()} status {run_dir.name}. "
            "For several at once give them a database server: storage: postgresql+psycopg://USER@HOST/NAME"
        ) from None
    return lock


def is_claimed(run_dir: Path) -> bool:
    """Whether a process of this machine runs the study now."""
    path = run_dir / ".lock"
    if not path.is_file():
        return False
    look = FileLock(path)
    try:
        with look.acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # nobody can run it here
        return False


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, all or nothing; what stood there before is kept as `NAME.previous`.

    Raises:
        OSError: the disk is full or read-only; the old file is untouched.
    """
    _replace(path, text, before=_keep_previous)


def _replace(path: Path, text: str, *, before: Callable[[Path], None] = lambda _: None) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE), "w", encoding="utf-8"
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        crash_point("export")
        before(path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_new(path: Path, text: str, *, is_forced: bool) -> None:
    """Write a file that the user named.

    Raises:
        ConfigError: it exists and may not be overwritten, or it cannot be written.
    """
    if path.exists() and not is_forced:
        raise ConfigError(f"--output: {str(path)!r} exists; give another name, or --force to overwrite it")
    write_text(path, text)


def write_into(folder: Path, texts: Mapping[str, str], *, is_forced: bool) -> None:
    """Write files into a folder, made if need be, and nowhere else; none if one of them may not be overwritten.

    Args:
        texts: by file name.

    Raises:
        ConfigError: a file exists, the folder is a file, or something cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: {str(folder)!r} is no folder: {error.strerror or error}") from error
    paths = {folder / name: text for name, text in texts.items()}
    for path in paths:
        if path.parent.resolve() != folder.resolve():
            raise ConfigError(f"--output: {path.name!r} would lie outside {str(folder)!r}")
        if path.exists() and not is_forced:
            raise ConfigError(f"--output: {str(path)!r} exists; give another folder, or --force to overwrite it")
    for path, text in paths.items():
        write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, without keeping what stood there.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        _replace(path, text)
    except OSError as error:
        raise ConfigError(f"--output: {str(path)!r} cannot be written: {error.strerror or error}") from error


def save_best(run_dir: Path, view: StudyView, text: str) -> None:
    """Write the prompt of a study that is to be used: `best_prompt.txt` to read, `best_prompt.json` to load.

    Args:
        text: `view.chosen` as it is sent.
    """
    verdict = view.verdict.decision if view.verdict else None
    record: dict[str, JsonValue] = {"study": view.name, "state": view.state, "verdict": verdict}
    record |= {"candidate_id": view.chosen.id, "candidate": view.chosen.to_json()}
    write_atomically(run_dir / "best_prompt.txt", text)
    write_atomically(run_dir / "best_prompt.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def previous_of(path: Path) -> Path:
    """Return where `write_atomically` keeps what stood there before."""
    return path.with_name(f"{path.name}.previous")


def _keep_previous(path: Path) -> None:
    """Give the old content a second name, without a moment in which the first one is missing."""
    if not path.exists():
        return
    spare = path.with_name(f".{path.name}.{os.getpid()}.old")
    with contextlib.suppress(FileNotFoundError):
        spare.unlink()
    try:
        os.link(path, spare)
    except OSError:  # some file systems know no second names
        try:
            shutil.copyfile(path, spare)
        except OSError:
            spare.unlink(missing_ok=True)
            raise
    os.replace(spare, previous_of(path))


def saved_best(run_dir: Path) -> str | None:
    """Return the id of the candidate that `save_best` wrote last, None when there is none or it cannot be read."""
    try:
        record = json.loads((run_dir / "best_prompt.json").read_text(encoding="utf-8"))
        return str(record["candidate_id"]) if (run_dir / "best_prompt.txt").is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
