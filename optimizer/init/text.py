"""Writes a proposed study as a commented YAML file, for a person to read from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from optimizer.init.even_split import N_SEEDS
from optimizer.init.task import OutputGuess

BYTES_PER_TOKEN = 3  # of UTF-8, on the safe side: English has four letters a token, Chinese a character of three
CALLS_SHARE = 0.5  # of trials x dev rows: races drop most candidates early


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything that the file will say.

    Attributes:
        columns: field name to column, for all fields.
        outputs: by field name.
        n_rows: usable rows in the source.
        opt_out_column: a column that seems to say which rows must not be shown; empty for none.
        consent_column: only rows with a yes there may be shown; empty for none.
        group_column: a column that could divide the rows into groups; empty for none.
        split_seed: the seed that spreads the classes most evenly; None where none was looked for.
        split_notes: what no split seed could mend.
        notes: sentences for the top of the file.
    """

    name: str
    goal: str
    prompt: str
    source: str
    columns: Mapping[str, str]
    outputs: Mapping[str, OutputGuess]
    metric: str
    metric_reason: str
    n_rows: int
    model: str = "embedded"
    api_base: str | None = None
    api_key_env: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    n_bad: int = 0
    is_private: bool = False
    opt_out_column: str = ""
    consent_column: str = ""
    group_column: str = ""
    split_seed: int | None = None
    split_notes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def split(self) -> tuple[float, float, float]:
        """Shares of train, dev and test: with few rows the proof needs most of them."""
        return (0.2, 0.3, 0.5) if self.n_rows < 200 else (0.3, 0.3, 0.4)

    @property
    def caps(self) -> tuple[int | None, int | None]:
        """Most dev and test rows: beyond a few hundred, further rows cost more than they tell."""
        return (200 if self.n_rows * self.split[1] > 200 else None, 500 if self.n_rows * self.split[2] > 500 else None)

    @property
    def max_tokens(self) -> int:
        """Longest reply: twice the longest answer of the data."""
        longest = max(guess.max_bytes for guess in self.outputs.values())
        return min(4096, max(16, 8 * math.ceil(2 * longest * len(self.outputs) / BYTES_PER_TOKEN / 8)))

    @property
    def trials(self) -> int:
        return 30 if self.model == "embedded" else 40

    @property
    def task_calls(self) -> int:
        """A cap with room for the final test and a search of the usual length."""
        n_dev = min(self.caps[0] or 10**9, math.ceil(self.n_rows * self.split[1]))
        n_test = min(self.caps[1] or 10**9, math.ceil(self.n_rows * self.split[2]))
        return 2 * n_test + 50 * math.ceil(CALLS_SHARE * self.trials * n_dev / 50)


def config_text(draft: Draft) -> str:
    """Return the file. What it says is valid; whether the data fits is checked where it is read."""
    sections = (_head, _task, _prompt, _data, _metric, _models, _search, _budget)
    return "\n".join("\n".join(section(draft)) + "\n" for section in sections)


def _head(draft: Draft) -> list[str]:
    notes = [f"# Note: {note}" for note in draft.notes]
    return [
        "# Proposed by `optimizer init` from the rows; read it from top to bottom and change what does not fit.",
        "# Every key is explained in configs/README.md.",
        *notes,
        "",
        "# The study's name. Its results go to runs/NAME; running the file again continues the study.",
        f"name: {_text(draft.name)}",
    ]


def _task(draft: Draft) -> list[str]:
    described = {name: _text(_described(column)) for name, column in draft.columns.items()}
    inputs = [f"    {name}: {text}" for name, text in described.items() if name not in draft.outputs]
    lines = [
        "# What the prompt is for: what goes in, what should come out. The descriptions are shown to the models.",
        "task:",
        f"  goal: {_text(draft.goal)}",
        "  inputs:",
        *inputs,
        "  outputs:",
    ]
    for name, guess in draft.outputs.items():
        lines += [f"    {name}:", f"      kind: {guess.kind} # label, text, number, boolean or json"]
        lines += [f"      description: {described[name]}"]
        if guess.choices:
            lines += ["      choices:", *(f"        - {_text(choice)}" for choice in guess.choices)]
        if guess.keys:
            lines += ["      fields: # what each key holds"]
            lines += [f"        {_text(key)}: {_text(_described(key))}" for key in guess.keys]
    return lines


def _prompt(draft: Draft) -> list[str]:
    why = "The search starts here, and keeps it if nothing is proven to be better. It may be empty."
    return [f"# Your present prompt. {why}", f"prompt: {_text(draft.prompt)}"]


def _data(draft: Draft) -> list[str]:
    train, dev, test = draft.split
    lines = [
        f"# The labelled examples: {draft.n_rows} rows that can be used. The path is relative to this file.",
        "data:",
        f"  source: {_text(draft.source)}",
    ]
    if draft.encoding:
        lines += [f"  encoding: {draft.encoding} # the file is not UTF-8"]
    if draft.sheet:
        lines += [f"  sheet: {_text(draft.sheet)}"]
    renamed = {name: column for name, column in draft.columns.items() if name != column}
    if renamed:
        lines += ["  fields: # field name above: column in the file"]
        lines += [f"    {name}: {_text(column)}" for name, column in renamed.items()]
    if draft.n_bad:
        lines += [f"  skip_bad_rows: true # {draft.n_bad} rows lack a value"]
    lines += [
        "  split:",
        f"    train: {train} # the search may read these rows and show them in prompts",
        f"    dev: {dev} # these rows score the candidates",
        f"    test: {test} # opened once, at the end, to compare your prompt with the best one",
    ]
    if draft.split_seed is not None:
        lines += [
            f"  # Of the split seeds 0 to {N_SEEDS - 1}, that which spreads the classes most evenly over them;",
            "  # chosen by the counts of the classes alone. Rows that are added later move no others.",
            *(f"  # {note}" for note in draft.split_notes),
            f"  seed: {draft.split_seed}",
        ]
    caps = [f"    {name}: {cap}" for name, cap in zip(("dev", "test"), draft.caps, strict=True) if cap]
    if caps:
        lines += ["  max_rows: # enough for a clear answer", *caps]
    key = f"  no_demos: {_text(draft.opt_out_column)}" if draft.opt_out_column else "  # no_demos: COLUMN"
    lines += [f"{key} # rows with yes in this column are never shown in a prompt"]
    if draft.consent_column:
        lines += [
            f"  demos_only: {_text(draft.consent_column)} # only rows with yes in this column are shown in prompts"
        ]
    return lines


def _metric(draft: Draft) -> list[str]:
    group = _text(draft.group_column) if draft.group_column else "COLUMN"
    return [
        f"# How an answer is scored, from 0 to 1: {draft.metric_reason}.",
        "metric:",
        f"  name: {draft.metric}",
        f"  # slices: {{by: {group}, max_loss: 0.05}} # no group of rows may get worse by more than this",
    ]


def _models(draft: Draft) -> list[str]:
    own = [f"    api_base: {_text(draft.api_base)}"] if draft.api_base else []
    own += [f"    api_key_env: {draft.api_key_env} # name of the variable, never the key"] if draft.api_key_env else []
    is_embedded = draft.model == "embedded"
    remark = "# a small model inside this program, to try things out; too small for real work" if is_embedded else ""
    lines = []
    if draft.is_private:
        lines += ["# Nothing of your rows leaves this machine: any other address is refused."]
        lines += [
            "# A `hub:` name is downloaded: the name and your token are sent, nothing else.",
            "privacy: local",
            "",
        ]
        lines += ["# MLflow shows the ids of rows instead of the rows.", "tracking:", "  rows: ids", ""]
    return [
        *lines,
        "# The models: the one that the prompt is for, and the one that writes new prompts.",
        "lm:",
        "  task:",
        f"    model: {_text(draft.model)} {remark}".rstrip(),
        *own,
        f"    max_tokens: {draft.max_tokens} # twice the longest answer of the data",
        "  proposer:",
        f"    model: {_text(draft.model)} # few calls: a stronger model costs little here",
        *own,
        "    temperature: 0.9",
        f"    max_tokens: {60 if is_embedded else 1000}",
    ]


def _search(draft: Draft) -> list[str]:
    return [
        "# How long to search.",
        "search:",
        f"  trials: {draft.trials} # candidates to try, at most",
        "  max_demos: 8 # worked examples in a prompt, at most; 0 for none",
    ]


def _budget(draft: Draft) -> list[str]:
    lines = ["# Hard limits. The final comparison is always kept back for.", "budget:"]
    if draft.model == "embedded":
        return [*lines, "  wall_clock: 1800 # seconds"]
    return [*lines, f"  task_calls: {draft.task_calls}", "  # usd: 5", '  # finish_by: "06:30"']


def _described(column: str) -> str:
    words = " ".join(column.replace("_", " ").split())
    return f"{words[:1].upper()}{words[1:]}."


def _text(text: str | None) -> str:
    """The text as one YAML value on one line."""
    dumped: str = yaml.safe_dump(text or "", allow_unicode=True, width=10**9, default_style=None)
    line = dumped.removesuffix("...\n").rstrip("\n")
    if "\n" in line or " #" in line:
        line = yaml.safe_dump(text, allow_unicode=True, width=10**9, default_style='"').rstrip("\n")
    return line
