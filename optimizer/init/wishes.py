"""What a person asked `optimizer init` for, and the command line that asks for the same again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from optimizer.command_line import command_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a person said, by flag or answer; None and empty stand for: propose something.

    Attributes:
        goal: may be `@FILE` until it is used; so may `prompt`.
        api_base: empty for none, None while nobody was asked; so is `api_key_env`.
        is_private: None while nobody was asked.
        consent: column where a yes allows a row to be shown; empty for none. `refusal`: column where a yes forbids it.
        shows_all: no column says which rows may be shown.
    """

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
    is_private: bool | None = None
    consent: str = ""
    refusal: str = ""
    shows_all: bool = False

    def as_flags(self) -> str:
        """The command line that says the same, to go on from after a break."""
        flags = [
            ("--sheet", self.sheet),
            *(("--input", name) for name in self.inputs),
            *(("--output", name) for name in self.outputs),
            ("--goal", self.goal),
            ("--prompt", self.prompt),
            ("--model", self.model),
            ("--api-base", self.api_base),
            ("--api-key-env", self.api_key_env),
            ("--consent", self.consent or None),
            ("--refusal", self.refusal or None),
            ("--name", self.name),
            ("--config", None if self.config is None else str(self.config)),
        ]
        words = [*([self.data] if self.data else [])]
        words += [word for flag, value in flags if value is not None for word in (flag, value)]
        private = {True: ["--private"], False: ["--no-private"], None: []}[self.is_private]
        consent = ["--no-consent"] if self.shows_all else []
        return f"{command_name()} {shlex.join(['init', *words, *private, *consent])}"
