"""Proposing: the operators that mutate a candidate, the gate before paying, the memory, the first candidates.

`open_operators` is the door: built-in operators by name, the user's own by `package.module:operator`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from optimizer.errors import ProgramError, did_you_mean
from optimizer.propose import (
    clarify,
    crossover,
    decompose,
    demos,
    edit,
    format,
    induce,
    reflect,
    rewrite,
    trajectory,
    trim,
)
from optimizer.propose.operator import (
    NEEDS,
    Ask,
    Attempt,
    Context,
    Message,
    Need,
    Operator,
    Rejection,
    Style,
    Tried,
    needs_of,
)
from optimizer.user_code import load, user_code

__all__ = [
    "BUILT_IN",
    "Ask",
    "Attempt",
    "Context",
    "Message",
    "Need",
    "Operator",
    "Rejection",
    "Style",
    "Tried",
    "needs_of",
    "open_operators",
]

_ALL: tuple[Operator, ...] = (
    demos.OPERATOR,
    format.OPERATOR,
    rewrite.OPERATOR,
    clarify.OPERATOR,
    reflect.OPERATOR,
    induce.OPERATOR,
    trajectory.OPERATOR,
    crossover.OPERATOR,
    decompose.OPERATOR,
    trim.OPERATOR,
    edit.OPERATOR,
)
BUILT_IN: Mapping[str, Operator] = {operator.name: operator for operator in _ALL}


def open_operators(names: Sequence[str], *, folder: Path | None = None) -> tuple[Operator, ...]:
    """Return the operators named, in that order, with the contract of the user's own ones checked.

    Args:
        names: built-in names or `package.module:operator` paths.
        folder: where the user's modules are looked for first, besides the usual import path.

    Raises:
        ProgramError: no name, an unknown one, a module that cannot be imported, or an object that is no operator.
    """
    if not names:
        raise ProgramError("search.operators: the list is empty, name at least one operator, for example 'rewrite'")
    operators: dict[str, Operator] = {}
    for name in names:
        operator = _own(name, folder) if ":" in name else _built_in(name)
        if operator.name in operators:
            raise ProgramError(
                f"search.operators: {name!r} gives a second operator named {operator.name!r}, names must differ"
            )
        operators[operator.name] = operator
    return tuple(operators.values())


def _built_in(name: str) -> Operator:
    if name not in BUILT_IN:
        raise ProgramError(
            f"search.operators: {name!r} is no operator; allowed: {', '.join(BUILT_IN)}, or "
            f"'package.module:operator' for your own."
            f"{did_you_mean(name, BUILT_IN)}"
        )
    return BUILT_IN[name]


def _own(path: str, folder: Path | None) -> Operator:
    return _checked(load(path, folder=folder, where="search.operators"), path)


def _checked(found: object, path: str) -> Operator:
    """Return `found` as an operator.

    Raises:
        ProgramError: it breaks the contract in `optimizer/propose/operator.py`.
    """
    where = f"search.operators: {path!r}"
    if isinstance(found, type):
        if not _takes(found, 0):
            raise ProgramError(
                f"{where} is a class that wants arguments: write `operator = {found.__name__}(...)` and name that"
            )
        with user_code(ProgramError, where):
            found = found()
    if not isinstance(found, Operator):
        missing = [name for name in ("name", "needs", "request", "parse") if not hasattr(found, name)]
        raise ProgramError(
            f"{where} is no operator: it lacks {', '.join(missing)}; needed: name, needs, request(context), "
            f"parse(reply, context)"
        )
    if not isinstance(found.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", found.name):
        raise ProgramError(
            f"{where}: name is {found.name!r}, it must be a lower-case word of at most 32 letters, digits and "
            f"underscores"
        )
    if found.name in BUILT_IN:
        raise ProgramError(f"{where}: name {found.name!r} belongs to a built-in operator, choose another")
    if not isinstance(found.needs, frozenset) or not found.needs <= NEEDS:
        raise ProgramError(
            f"{where}: needs is {found.needs!r}, it must be a frozenset out of {', '.join(sorted(NEEDS))}"
        )
    for name, n_arguments in (("request", 1), ("parse", 2)):
        if not _takes(getattr(found, name), n_arguments):
            raise ProgramError(
                f"{where}: {name} must be a function of {n_arguments} positional argument{'s' * (n_arguments > 1)}"
            )
    return found


def _takes(function: Callable[..., object], n_arguments: int) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*[None] * n_arguments)
    except (TypeError, ValueError):
        return False
    return True
