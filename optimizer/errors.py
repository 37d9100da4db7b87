"""Every error that the optimizer raises on purpose.

    OptimizerError
    ├── UserError                the user can mend it: one line, exit code 2
    │   ├── ConfigError          a key, type or range in the YAML file, or a flag
    │   ├── DataError            a file, row, field or split
    │   ├── ProgramError         the user's own module, metric or operator
    │   └── StudyError           an unknown study, or one that the configuration no longer fits
    ├── Paused                   stopped before a verdict, nothing lost: exit code 3
    │   ├── BudgetExhausted      a cap would be passed by the next call
    │   │   └── OutOfTime        a batch would come back too late
    │   └── LostWorker           others have given this worker up; it joins again
    ├── CallError                one model call failed for good; it never becomes a score
    └── MetricError              a metric raised or returned something that is no score

Messages read: where: what was wrong, the value, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OptimizerError(Exception):
    """Base of everything below; catching it catches nothing foreign."""


class UserError(OptimizerError):
    """Something that the user can mend. Shown as one line, exit code 2."""


class ConfigError(UserError):
    """A configuration key is unknown, missing, of the wrong type or out of range."""


class DataError(UserError):
    """The data cannot be read, lacks a field, or is too small to learn from."""


class ProgramError(UserError):
    """The user's own code (program, metric, operator) cannot be loaded or used."""


class StudyError(UserError):
    """A study does not exist, is in use, or no longer fits its configuration."""


class Paused(OptimizerError):
    """The run stopped before a verdict and can be continued. Exit code 3.

    Attributes:
        reason: machine-readable stop reason, for example `budget` or `provider_auth`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BudgetExhausted(Paused):
    """The next call would pass a cap, so it was not made."""

    def __init__(self, message: str) -> None:
        super().__init__("budget", message)


class OutOfTime(BudgetExhausted):
    """What is left of the time is kept for the final test."""


class LostWorker(Paused):
    """This worker was silent for so long that others have taken over what it had in hand."""

    def __init__(self) -> None:
        super().__init__("lost", "storage: this worker was silent for too long, others have taken over its work")


class CallError(OptimizerError):
    """One model call failed and will not be retried.

    Attributes:
        kind: `rate_limit`, `server`, `transport`, `timeout`, `auth`, `billing`, `context_length`,
            `invalid_request`, `truncated`, `empty`, `refused` or `unexpected`.
        is_fatal: no later call can succeed either (wrong key, no credit, unknown model).
    """

    def __init__(self, kind: str, message: str, *, is_fatal: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_fatal = is_fatal


class MetricError(OptimizerError):
    """A metric raised, or returned something that is not a number in [0, 1]."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest allowed word, or an empty string."""
    near = difflib.get_close_matches(word, list(allowed), n=3, cutoff=0.6)
    swapped = [each for each in near if sorted(each) == sorted(word)]  # two letters that changed places
    return f" Did you mean {(swapped or near)[0]!r}?" if near else ""
