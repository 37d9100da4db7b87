"""Finds studies in a runs folder and opens them to be read: no data is loaded, no model is started.

The database of a study holds everything that displays and exports need; `study.json` beside it says where it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from optimizer.command_line import command_name
from optimizer.config.keys import Config
from optimizer.errors import ConfigError, ProgramError, StudyError, UserError, did_you_mean
from optimizer.records import StudyView
from optimizer.search.trial_storage import open_storage
from optimizer.storage.files import write_atomically
from optimizer.storage.journal import Journal, open_engine
from optimizer.study.view import read_view

if TYPE_CHECKING:
    from optimizer.candidate import Example
    from optimizer.data.report import Splits
    from optimizer.prompts.program import Program
    from optimizer.study.job import Job

POINTER = "study.json"
N_NAMED = 5  # studies that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStudy:
    """A study that can be read while another process runs it."""

    runs_dir: Path
    config: Config
    folder: Path
    journal: Journal
    study: optuna.Study

    @property
    def run_dir(self) -> Path:
        return self.runs_dir / self.config.name

    def view(self) -> StudyView:
        return read_view(self.journal, self.study.get_trials(deepcopy=False))

    def program(self) -> Program:
        """Open the study's program; the user's own module is imported again.

        Raises:
            ProgramError: the module is gone, or came from Python and not from a configuration file.
        """
        from optimizer.prompts.recorded import program_of
        from optimizer.study.job import SHAPE, open_program

        facts = (self.journal.load_study() or {}).get("facts")
        shape = facts.get(SHAPE) if isinstance(facts, Mapping) else None
        if isinstance(shape, Mapping):
            return program_of(shape, max_tokens=self.config.lm.task.max_tokens)
        if self.config.data.source == "rows" and self.config.metric.name.startswith("python:"):
            raise ProgramError(
                f"study {self.config.name!r} came from Python, and its program is not kept; use the result of "
                "`optimize(...)`: result.prompt, result.export(...)"
            )
        return open_program(self.config, folder=self.folder)

    def rows(self) -> dict[str, Example]:
        """Return the study's examples by id, as far as they can still be read.

        Empty when the data is gone or came from Python. Ids are made of the content, so a row that has changed since
        is not found rather than shown in place of another.
        """
        splits = self.splits()
        return splits.by_id() if splits else {}

    def withheld(self) -> frozenset[str]:
        """Return the ids of rows that no prompt and no export may show, as far as they can still be read."""
        splits = self.splits()
        return splits.withheld if splits else frozenset()

    def test_rows(self, *, shows_withheld: bool = True) -> tuple[Example, ...]:
        """Return the test rows, or nothing where they cannot be read or have changed since.

        Args:
            shows_withheld: also those that no prompt and no export may show.
        """
        splits = self.splits()
        if splits is None:
            return ()
        known = self.view().facts.get("fingerprints")
        if not isinstance(known, Mapping) or known.get("test") != splits.report.fingerprints["test"]:
            return ()
        return tuple(row for row in splits.test if shows_withheld or row.id not in splits.withheld)

    def splits(self) -> Splits | None:
        """Read the study's data again; None where it is gone, has become unusable, or came from Python."""
        from optimizer.data.loading import load_splits

        try:
            return load_splits(self.config, folder=self.folder)
        except UserError:
            return None


def leave_pointer(run_dir: Path, *, storage: str | None, folder: Path) -> None:
    """Write where the study's database and its configuration's folder are."""
    path = run_dir / POINTER
    text = json.dumps({"storage": storage, "folder": str(folder)}, indent=2) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def study_names(runs_dir: Path) -> list[str]:
    """Return the studies of a runs folder, the one that was touched last first."""
    found = [path.parent for path in runs_dir.glob(f"*/{POINTER}")]
    return [folder.name for folder in sorted(found, key=lambda folder: -_touched_at(folder))]


def open_saved(runs_dir: Path, name: str | None) -> SavedStudy:
    """Open a study by name, or the latest one.

    Raises:
        StudyError: there is none of this name.
    """
    names = study_names(runs_dir)
    if not names:
        raise StudyError(
            f"{runs_dir}: no studies here; start one with `{command_name()} run CONFIG`, or give --runs-dir"
        )
    chosen = names[0] if name is None else name
    if chosen not in names:
        more = f" and {len(names) - N_NAMED} more; `{command_name()} status` lists them" if len(names) > N_NAMED else ""
        hint = did_you_mean(chosen, names) or f" Studies here: {', '.join(names[:N_NAMED])}{more}"
        raise StudyError(f"study {chosen!r}: not found in {runs_dir}.{hint}")
    pointer = _read_pointer(runs_dir / chosen / POINTER)
    url = pointer["storage"] or f"sqlite:///{(runs_dir / chosen).resolve() / 'study.db'}"
    if not pointer["storage"] and not (runs_dir / chosen / "study.db").is_file():
        raise StudyError(f"study {chosen!r}: its database {runs_dir / chosen / 'study.db'} is gone")
    engine = open_engine(url, is_durable=False)
    journal = Journal(engine, chosen, owner="reader")
    record = journal.load_study()
    if record is None:
        raise StudyError(f"study {chosen!r}: its database holds no such study; it was stopped before it began")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(study_name=chosen, storage=open_storage(url))
    except KeyError as error:
        raise StudyError(f"study {chosen!r}: it was stopped before it began; run its line again") from error
    return SavedStudy(
        runs_dir=runs_dir,
        config=Config.model_validate_json(json.dumps(record["config"])),
        folder=Path(str(pointer["folder"])),
        journal=journal,
        study=study,
    )


def forked(job: Job, name: str) -> Job:
    """Return the job of a new study that may use what another one of its runs folder paid for.

    Raises:
        ConfigError: the other one is the study itself.
        StudyError: there is none of this name.
    """
    if name == job.config.name:
        raise ConfigError(f"fork: {name!r} is the study itself; give the new study another name, name='...'")
    source = open_saved(job.runs_dir, name)
    return replace(job, fork_of=source.journal.engine).built_on(source.view(), takes_prompts=False)


def _read_pointer(path: Path) -> dict[str, str | None]:
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
        return {"storage": pointer["storage"], "folder": pointer["folder"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path}: cannot be read: {error}; `{command_name()} run CONFIG` writes it again") from error


def _touched_at(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0.0)
