"""`optimizer init`: from a file of examples to a configuration that `check` accepts.

Reads the rows as a study would, proposes a task (`propose_task`), asks where a person may know better, writes the file
(`config_text`), and loads it again with its data before it says that all is well.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from optimizer.candidate import Fields
from optimizer.config_file import load_config
from optimizer.config_text import Draft, config_text
from optimizer.data import load_splits
from optimizer.data_report import Splits
from optimizer.errors import ConfigError, DataError, UserError
from optimizer.privacy import require_local
from optimizer.propose_task import (
    MAX_EMPTY_SHARE,
    MIN_ROWS,
    Column,
    OutputGuess,
    columns_of,
    field_names,
    guess_output,
    is_empty,
    other_outputs,
    pick_group,
    pick_inputs,
    pick_metric,
    pick_output,
    require_columns,
)
from optimizer.rows import SUFFIXES, open_table
from optimizer.text_files import guess_encoding

MAX_ROWS = 20_000  # looked at; a study reads all
TEXT_SUFFIXES = (".jsonl", ".csv", ".tsv")
Ask = Callable[[str, str], str]  # question, proposal -> answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a person said, by flag or answer; None and empty stand for: propose something."""

    data: str | None = None
    goal: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    prompt: str | None = None
    name: str | None = None
    config: Path | None = None
    model: str | None = None
    api_base: str | None = None
    api_key_env: str | None = None
    sheet: str | None = None
    is_private: bool = False

    def as_flags(self) -> str:
        """The command line that says the same, to go on from after a break."""
        import shlex

        flags = [("--goal", self.goal), *(("--input", name) for name in self.inputs)]
        flags += [("--output", name) for name in self.outputs]
        flags += [("--prompt", self.prompt), ("--name", self.name), ("--model", self.model)]
        words = [*([self.data] if self.data else [])]
        words += [word for flag, value in flags if value is not None for word in (flag, value)]
        return shlex.join(["optimizer", "init", *words])


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of it."""

    path: Path
    draft: Draft
    splits: Splits


class Dialogue:
    """Fills what a person left open, one question after the other. Without `ask`, proposals are taken as they are.

    Attributes:
        wishes: what is known so far, so that a break loses nothing.
    """

    def __init__(self, wishes: Wishes, ask: Ask | None) -> None:
        self.wishes = wishes
        self._ask = ask
        self._guesses_output = not wishes.outputs and ask is None

    def run(self, *, is_forced: bool) -> Written:
        """Ask, write the file, and load it.

        Raises:
            UserError: the data is too poor, or a name is wrong; nothing was written.
        """
        source = self._data()
        rows, encoding, n_broken = _read(source, self.wishes.sheet)
        columns = columns_of(rows)
        if len(columns) < 2:
            named = f"the column {next(iter(columns))!r}" if columns else "no column"
            raise DataError(
                f"{source}: holds {named} with values; a column for what goes in and one for the answer are needed"
            )
        outputs, inputs = self._roles(columns)
        _refuse_poor(source, rows, outputs, columns)
        self._words(inputs, outputs)
        return self._write(source, rows, (inputs, outputs), columns, (encoding, n_broken), is_forced=is_forced)

    def _data(self) -> str:
        if self.wishes.data is None:
            self.wishes = replace(self.wishes, data=self._answer("File with your examples", "") or None)
        if self.wishes.data is None:
            raise ConfigError(f"init: name the file with your examples ({', '.join(SUFFIXES)}) or hub:owner/name")
        return self.wishes.data

    def _roles(self, columns: dict[str, Column]) -> tuple[list[str], list[str]]:
        wishes = self.wishes
        require_columns(columns, wishes.inputs, "--input")
        require_columns(columns, wishes.outputs, "--output")
        outputs = list(wishes.outputs) or self._columns(
            "Column of the answer", [pick_output(columns, wishes.inputs)], columns, "--output"
        )
        self.wishes = replace(self.wishes, outputs=tuple(outputs))
        inputs = list(wishes.inputs) or self._columns(
            "Columns that are read", pick_inputs(columns, outputs), columns, "--input"
        )
        self.wishes = replace(self.wishes, inputs=tuple(inputs))
        if both := sorted(set(inputs) & set(outputs)):
            raise ConfigError(f"init: column {both[0]!r} is both an input and an output; name it once")
        return outputs, inputs

    def _columns(self, question: str, proposed: list[str], columns: dict[str, Column], flag: str) -> list[str]:
        answer = self._answer(f"{question} (of {', '.join(columns)})", ", ".join(proposed))
        chosen = [answer] if answer in columns else [part.strip() for part in answer.split(",") if part.strip()]
        require_columns(columns, chosen, flag)
        return chosen or proposed

    def _words(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        goal = f"Give the right {_words(outputs)} for the {_words(inputs)}."
        wishes = self.wishes
        if wishes.goal is None:
            self.wishes = wishes = replace(wishes, goal=self._answer("What should the prompt achieve", goal))
        if wishes.prompt is None:
            prompt = self._answer("Your present prompt", wishes.goal or goal)
            self.wishes = wishes = replace(wishes, prompt=prompt)
        if wishes.model is None:
            self.wishes = replace(wishes, model=self._answer("Model", "embedded"))

    def _write(
        self,
        source: str,
        rows: Sequence[Fields],
        roles: tuple[list[str], list[str]],
        columns: dict[str, Column],
        reading: tuple[str | None, int],
        *,
        is_forced: bool,
    ) -> Written:
        inputs, outputs = roles
        wishes, (encoding, n_broken) = self.wishes, reading
        name = wishes.name or self._answer("Name of the study", study_name(source))
        path = wishes.config or Path(f"{name}.yaml")
        if path.exists() and not is_forced:
            raise ConfigError(f"--config: {str(path)!r} exists; give another name, or --force to overwrite it")
        names = field_names(inputs) | field_names(outputs, taken=list(field_names(inputs).values()))
        guesses = {column: guess_output(columns[column]) for column in outputs}
        n_bad = n_broken + sum(any(is_empty(row.get(column)) for column in [*inputs, *outputs]) for row in rows)
        metric, reason = pick_metric(columns[outputs[0]], guesses[outputs[0]])
        others = other_outputs(columns, inputs, outputs)
        draft = Draft(
            name=name,
            goal=wishes.goal or "",
            prompt=wishes.prompt or "",
            source=_relative(source, path),
            columns={names[column]: column for column in [*inputs, *outputs]},
            outputs={names[column]: guess for column, guess in guesses.items()},
            metric=metric,
            metric_reason=reason,
            n_rows=len(rows) + n_broken - n_bad,
            model=wishes.model or "embedded",
            api_base=wishes.api_base,
            api_key_env=wishes.api_key_env,
            encoding=encoding,
            sheet=wishes.sheet,
            n_bad=n_bad,
            is_private=wishes.is_private,
            group_column=pick_group(columns, [*inputs, *outputs]),
            notes=tuple(_notes(guesses, others=others if self._guesses_output else [])),
        )
        return Written(path=path, draft=draft, splits=_written(draft, path))

    def _answer(self, question: str, proposal: str) -> str:
        return proposal if self._ask is None else self._ask(question, proposal).strip()


def study_name(source: str) -> str:
    """Return a name for a study of this file: `My Tickets (2).csv` becomes `my-tickets-2`."""
    stem = source.rpartition("/")[2].partition(":")[0] if source.startswith("hub:") else Path(source).stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9._-]+", "-", plain.lower()).strip("-._")[:60] or "study"


def _read(source: str, sheet: str | None) -> tuple[list[Fields], str | None, int]:
    """Return the rows, the encoding if it must be named, and how many rows cannot be read at all."""
    path = Path(source)
    is_text = path.suffix.lower() in TEXT_SUFFIXES and not source.startswith("hub:") and path.is_file()
    encoding = guess_encoding(path) if is_text else None
    table = open_table(source, folder=Path(), columns=(), key="init", encoding=encoding, sheet=sheet)
    read = list(islice(table.rows, MAX_ROWS))
    rows, broken = [row.values for row in read if not row.problem], [row for row in read if row.problem]
    if not rows:
        why = f": {table.place(broken[0].number)}: {broken[0].problem}" if broken else ""
        raise DataError(f"{source}: no rows can be read{why}; the first line names the columns, then one example a row")
    if len(broken) > MAX_EMPTY_SHARE * len(read):
        first = f"{table.place(broken[0].number)}: {broken[0].problem}"
        raise DataError(f"{source}: {len(broken)} of {len(read)} rows cannot be read, the first: {first}")
    return rows, encoding, len(broken)


def _refuse_poor(source: str, rows: Sequence[Fields], outputs: Sequence[str], columns: dict[str, Column]) -> None:
    for name in outputs:
        column = columns[name]
        if column.n_empty > MAX_EMPTY_SHARE * len(rows):
            raise DataError(
                f"{source}: {column.n_empty} of {len(rows)} rows have no {name!r}; fill them in or remove these rows, "
                "or name another column with --output"
            )
        if column.n_different < 2:
            raise DataError(f"{source}: every row has the same {name!r}; nothing can be learned from it")
    n_usable = sum(not any(is_empty(row.get(name)) for name in outputs) for row in rows)
    if n_usable < MIN_ROWS:
        raise DataError(
            f"{source}: {n_usable} rows with an answer are too few; {MIN_ROWS} are the least, "
            "a few hundred can prove a gain of ten points"
        )


def _notes(guesses: dict[str, OutputGuess], others: Sequence[str]) -> list[str]:
    n = len(guesses)
    notes = [f"{n} outputs; the metric looks at the first one. `metric.parts` weighs several."] if n > 1 else []
    if others:
        chosen = ", ".join(map(repr, guesses))
        notes.append(f"{chosen} was taken for the answer; {', '.join(map(repr, others))} may be one, too (--output).")
    return notes


def _words(columns: Sequence[str]) -> str:
    names = [" ".join(column.replace("_", " ").split()) for column in columns]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _relative(source: str, config: Path) -> str:
    """The path from the configuration's folder; a hub name stays."""
    if source.startswith("hub:"):
        return source
    try:
        return Path(os.path.relpath(source, config.parent)).as_posix()
    except ValueError:  # another drive
        return Path(source).resolve().as_posix()


def _written(draft: Draft, path: Path) -> Splits:
    """Write the file, load it with its data, and take it back if that fails."""
    from optimizer.files import write_atomically

    before = path.read_bytes() if path.exists() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, config_text(draft))
    except OSError as error:
        raise ConfigError(f"--config: {str(path)!r} cannot be written: {error.strerror or error}") from error
    try:
        config = load_config(path)
        require_local(config)
        return load_splits(config, folder=path.resolve().parent)
    except UserError:
        path.unlink() if before is None else path.write_bytes(before)
        raise
