"""`optimizer init`: from a file of examples to a configuration that `check` accepts.

Reads the rows as a study would, proposes a task (`propose_task`), asks where a person may know better, writes the file
(`config_text`), and loads it again with its data before it says that all is well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from optimizer.candidate import Fields
from optimizer.config.file import parse_config
from optimizer.data.loading import load_splits
from optimizer.data.report import Splits
from optimizer.data.rows import SUFFIXES
from optimizer.data.text_files import text_of
from optimizer.errors import ConfigError, UserError
from optimizer.init.answers import address, checked, flag, key_variable, model_name, study, words, yes_or_no
from optimizer.init.consent import refuse_late, what_is_shown, with_showing
from optimizer.init.even_split import lacking, most_even_seed
from optimizer.init.naming import field_names, named, relative, study_name
from optimizer.init.rows import (
    RowsRead,
    listed,
    personal_kinds,
    read_rows,
    refuse_both,
    refuse_one_column,
    refuse_poor,
    sheets_note,
)
from optimizer.init.task import (
    Column,
    OutputGuess,
    columns_of,
    guess_output,
    is_empty,
    left_out_remarks,
    named_columns,
    other_outputs,
    pick_group,
    pick_inputs,
    pick_metric,
    pick_output,
)
from optimizer.init.text import Draft, config_text
from optimizer.init.wishes import Wishes
from optimizer.privacy.local import IN_PROCESS, require_local
from optimizer.privacy.personal_data import Kind
from optimizer.prompts.marks import marks_for_columns

LOCAL_SERVER = "http://localhost:11434/v1"  # where Ollama listens
Ask = Callable[[str, str], str]  # question, proposal -> answer
T = TypeVar("T")
Tell = Callable[[Mapping[str, Column]], None]  # what the file holds, before the first question


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of it. `kept` is where the file that stood there is now."""

    path: Path
    draft: Draft
    splits: Splits
    kept: Path | None = None


class Dialogue:
    """Fills what a person left open, one question after the other. Without `ask`, proposals are taken as they are.

    Attributes:
        wishes: what is known so far, so that a break loses nothing.
        has_answers: whether anything was asked and answered.
    """

    def __init__(self, wishes: Wishes, ask: Ask | None, tell: Tell | None = None) -> None:
        self.wishes = wishes
        self._ask = ask
        self._tell = tell
        self._personal: dict[Kind, int] = {}
        self._guesses_output = not wishes.outputs and ask is None
        self._names_inputs = bool(wishes.inputs) or ask is not None
        self.has_answers = False

    def run(self, *, is_forced: bool) -> Written:
        """Ask, write the file, and load it.

        Raises:
            UserError: the data is too poor, or a name is wrong; nothing was written.
        """
        self.wishes = checked(self.wishes)
        source, (rows, encoding, n_broken) = self._data()
        columns = columns_of(rows)
        refuse_one_column(source, list(columns), self.wishes.sheet)
        if self._tell is not None:
            self._tell(columns)
        outputs, inputs = self._roles(columns)
        refuse_poor(source, rows, outputs, columns)
        self._personal = personal_kinds(rows, [*inputs, *outputs])
        self._words(inputs, outputs)
        return self._write(source, rows, (inputs, outputs), columns, (encoding, n_broken), is_forced=is_forced)

    def _data(self) -> tuple[str, RowsRead]:
        def read(source: str) -> tuple[str, RowsRead]:
            if not source:
                raise ConfigError(f"init: name the file with your examples ({', '.join(SUFFIXES)}) or hub:owner/name")
            return source, read_rows(source, self.wishes.sheet)

        if self.wishes.data is not None:
            return read(self.wishes.data)
        source, found = self._asked("File with your examples", "", read)
        self.wishes = replace(self.wishes, data=source)
        return source, found

    def _roles(self, columns: dict[str, Column]) -> tuple[list[str], list[str]]:
        inputs = named_columns(columns, self.wishes.inputs, "--input")
        outputs = named_columns(columns, self.wishes.outputs, "--output")
        outputs = outputs or self._columns(
            "Column of the answer", [pick_output(columns, inputs)], columns, "--output", taken=inputs
        )
        self.wishes = replace(self.wishes, outputs=tuple(outputs))
        inputs = inputs or self._columns(
            "Columns that are read", pick_inputs(columns, outputs), columns, "--input", taken=outputs
        )
        self.wishes = replace(self.wishes, inputs=tuple(inputs))
        refuse_both(inputs, outputs)
        return outputs, inputs

    def _columns(
        self, question: str, proposed: list[str], columns: dict[str, Column], flag: str, *, taken: Sequence[str]
    ) -> list[str]:
        def read(answer: str) -> list[str]:
            chosen = [answer] if answer in columns else [part.strip() for part in answer.split(",") if part.strip()]
            found = named_columns(columns, chosen, flag)
            refuse_both(found, taken)
            return found or proposed

        return self._asked(f"{question} (of {', '.join(columns)})", ", ".join(proposed), read, again=question)

    def _words(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        goal = f"Give the right {named(outputs)} for the {named(inputs)}."

        def read(answer: str) -> str:
            marks_for_columns(text_of(answer), field_names(inputs))
            return answer

        self.wishes = replace(self.wishes, prompt=flag("--prompt", self.wishes.prompt, read))
        if self.wishes.goal is None:
            self.wishes = replace(self.wishes, goal=self._asked("What should the prompt achieve", goal, words))
        if self.wishes.prompt is None:
            proposal = self.wishes.goal or goal
            question = "Your present prompt, or @FILE with it"
            self.wishes = replace(self.wishes, prompt=self._asked(question, proposal, read))
        if self.wishes.is_private is None and self.wishes.model is None:
            question = f"Must all rows stay on this machine{listed(self._personal)}, yes or no"
            must_stay = self._asked(question, "yes" if self._personal and self._ask else "no", yes_or_no)
            self.wishes = replace(self.wishes, is_private=must_stay)
        if self.wishes.model is None:
            known = "embedded, gguf:FILE, openai/NAME, or another name that DSPy knows"
            self.wishes = replace(self.wishes, model=self._asked(f"Model ({known})", "embedded", model_name))
        if self._ask is not None and not (self.wishes.model or "").startswith(IN_PROCESS):
            self._address()

    def _address(self) -> None:
        """Where a model outside this process is, and which variable holds its key."""
        wishes = self.wishes
        if wishes.api_base is None:
            question = "Address of the server on this machine" if wishes.is_private else "Address, if it is your server"
            read = partial(address, must_be_here=bool(wishes.is_private))
            found = self._asked(question, LOCAL_SERVER if wishes.is_private else "", read)
            self.wishes = wishes = replace(wishes, api_base=found)
        if wishes.api_key_env is None:
            provider = (wishes.model or "").partition("/")[0].upper()
            proposed = "" if wishes.api_base else f"{provider}_API_KEY"
            name = self._asked("Environment variable with the key, if it wants one", proposed, key_variable)
            self.wishes = replace(wishes, api_key_env=name)

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
        name, path = self._name(source, is_forced=is_forced)
        names = field_names(inputs) | field_names(outputs, taken=list(field_names(inputs).values()))
        guesses = {column: guess_output(columns[column]) for column in outputs}
        n_bad = n_broken + sum(any(is_empty(row.get(column)) for column in [*inputs, *outputs]) for row in rows)
        metric, reason = pick_metric(columns[outputs[0]], guesses[outputs[0]])
        guessed = [*(() if self._names_inputs else inputs), *(outputs if self._guesses_output else ())]
        named = [column for column in (*inputs, *outputs) if column not in guessed]
        self.wishes = wishes = with_showing(wishes, rows, named, guessed, self._asked if self._ask else None)
        others = other_outputs(columns, inputs, outputs)
        remarks = [] if self._names_inputs else left_out_remarks(columns, inputs, outputs)
        draft = Draft(
            name=name,
            goal=text_of(wishes.goal).strip(),
            prompt=marks_for_columns(text_of(wishes.prompt).strip(), field_names(inputs)),
            source=relative(source, path),
            columns={names[column]: column for column in [*inputs, *outputs]},
            outputs={names[column]: guess for column, guess in guesses.items()},
            metric=metric,
            metric_reason=reason,
            n_rows=len(rows) + n_broken - n_bad,
            model=wishes.model or "embedded",
            api_base=wishes.api_base or None,
            api_key_env=wishes.api_key_env or None,
            encoding=encoding,
            sheet=wishes.sheet,
            n_bad=n_bad,
            is_private=bool(wishes.is_private),
            opt_out_column=wishes.refusal,
            consent_column=wishes.consent,
            group_column=pick_group(columns, [*inputs, *outputs]),
            notes=(
                *self._notes(guesses, others=others if self._guesses_output else [], remarks=remarks),
                *what_is_shown(wishes, rows, [*inputs, *outputs]),
            ),
        )
        return _written(draft, path, rows, looks_late=not wishes.shows_all)

    def _name(self, source: str, *, is_forced: bool) -> tuple[str, Path]:
        question, proposed = "Name of the study", study_name(source)
        while True:
            name = self.wishes.name or self._asked(question, proposed, study)
            path = self.wishes.config or Path(f"{name}.yaml")
            if is_forced or not path.exists():
                return name, path
            if self._ask is None or self.wishes.name or self.wishes.config:
                raise ConfigError(f"--config: {str(path)!r} exists; give another name, or --force to overwrite it")
            question, proposed = f"{path} exists; another name", f"{name}-2"

    def _notes(
        self, guesses: dict[str, OutputGuess], *, others: Sequence[str], remarks: Sequence[str]
    ) -> Iterator[str]:
        if len(guesses) > 1:
            yield f"{len(guesses)} outputs; the metric looks at the first one. `metric.parts` weighs several."
        if others:
            chosen = ", ".join(map(repr, guesses))
            yield f"{chosen} was taken for the answer; {', '.join(map(repr, others))} may be one, too (--output)."
        if remarks:
            yield f"not read: {', '.join(map(repr, remarks))}, remarks beside the text; --input names what is read."
        if note := sheets_note(self.wishes.data or "", self.wishes.sheet):
            yield f"{note}."
        if self._personal and not self.wishes.is_private:
            yield f"rows seem to hold personal data{listed(self._personal)}; --private keeps them on this machine."

    def _asked(self, question: str, proposal: str, read: Callable[[str], T], *, again: str = "") -> T:
        """Ask until the answer can be used; without anybody to ask, use the proposal.

        Args:
            read: what an answer means; raises `UserError` with the reason to ask again.
            again: the question when it is asked again, where the first is a long one.
        """
        asked = question
        while self._ask is not None:
            try:
                found = read(self._ask(asked, proposal).strip())
            except UserError as error:
                asked = f"{error}\n{again or question}"
            else:
                self.has_answers = True
                return found
        return read(proposal)


def _written(draft: Draft, path: Path, rows: Sequence[Fields], *, looks_late: bool) -> Written:
    """Find the best split seed, load what the file will say with its data, and write it once; or write nothing.

    Args:
        rows: the first ones of the data.
        looks_late: whether all others are looked at for columns of consent that these do not have.
    """
    from optimizer.storage.files import previous_of, write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        config = parse_config(config_text(draft), str(path))
        require_local(config)
        if (seed := most_even_seed(rows, config)) is not None:
            draft = replace(draft, split_seed=seed, split_notes=tuple(lacking(rows, config, seed)))
            config = parse_config(config_text(draft), str(path))
        splits = load_splits(config, folder=path.resolve().parent)
        if looks_late:
            refuse_late(rows, [row.extras for row in splits.by_id().values()], is_private=draft.is_private)
        had_file = path.exists()
        write_atomically(path, config_text(draft))
    except OSError as error:
        raise ConfigError(f"--config: {str(path)!r} cannot be written: {error.strerror or error}") from error
    return Written(path=path, draft=draft, splits=splits, kept=previous_of(path) if had_file else None)
