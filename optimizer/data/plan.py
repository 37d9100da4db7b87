"""What is to be done with rows: where they come from, to which splits they may go, and how many are wanted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.config.keys import Data, Task
from optimizer.data.rows import Table
from optimizer.data.splits import SplitName


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A table and the splits that its rows may go to. `key` is what the user calls it."""

    table: Table
    names: tuple[SplitName, ...]
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do with the rows. `prefix` is `data.` where the settings come from a configuration file."""

    task: Task
    data: Data
    prefix: str
    scored: str | None

    @property
    def columns(self) -> dict[str, str]:
        """Field to column, for every field of the task."""
        return {name: self.data.fields.get(name, name) for name in [*self.task.inputs, *self.task.outputs]}

    @property
    def keep_digits(self) -> bool:
        return any(output.kind == "number" for output in self.task.outputs.values())

    @property
    def class_output(self) -> str | None:
        """The label or boolean output that is scored; the first one if the metric names no output."""
        names = self.task.outputs if self.scored is None else [self.scored]
        return next((name for name in names if self.task.outputs[name].kind in ("label", "boolean")), None)

    def share(self, name: SplitName) -> float:
        return {"train": self.data.split.train, "dev": self.data.split.dev, "test": self.data.split.test}[name]

    def cap(self, name: SplitName) -> int | None:
        caps = self.data.max_rows
        return {"train": caps.train, "dev": caps.dev, "test": caps.test}[name]
