"""What a user's function depends on within its own module: it makes up the version of a metric.

The rest of the file may change: a script that calls `optimize` holds the metric and much else. What is imported from
other modules is not looked into.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

PLAIN = (str, bytes, int, float, bool, type(None))
COLLECTIONS = (tuple, list, dict, set, frozenset)


def source_of(function: Callable[..., object]) -> list[str]:
    """Return the source of a function and of the functions, classes and plain values of its module that it names.

    Where Python keeps no source its bytecode stands in; empty for what has neither.
    """
    found: dict[str, str] = {}
    _follow("", function, found)
    return [found[name] for name in sorted(found)]


def _follow(name: str, value: object, found: dict[str, str]) -> None:
    """Enter a value under its name, and what it names in turn."""
    if name in found:
        return
    if isinstance(value, functools.partial):
        found[name] = repr((value.args, sorted(value.keywords.items())))
        _follow(f"{name}.func", value.func, found)
    elif isinstance(value, PLAIN + COLLECTIONS):
        if _is_plain(value):
            found[name] = f"{name} = {sorted(map(repr, value)) if isinstance(value, set | frozenset) else value!r}"
    elif callable(value):
        own = _definition(value)
        found[name] = _text(own)
        module = _globals(own)
        for other in sorted({each for code in _codes(own) for each in _names(code)} & set(module)):
            if _is_local(module[other], own):
                _follow(other, module[other], found)
        for other, inside in _closure(own):
            _follow(f"{name}.{other}", inside, found)


def _definition(value: object) -> Any:
    """Return the function or class behind a decorated function, a bound method or an object that can be called."""
    value = inspect.unwrap(value) if callable(value) else value
    value = getattr(value, "__func__", value)
    return value if isinstance(value, FunctionType | type) else type(value)


def _is_local(value: object, user: Any) -> bool:
    """Whether a value that a function names belongs to the module of that function."""
    if isinstance(value, (functools.partial, *PLAIN, *COLLECTIONS)):
        return True
    return callable(value) and getattr(_definition(value), "__module__", None) == user.__module__


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, COLLECTIONS):
        return all(_is_plain(each) for each in value)
    return isinstance(value, PLAIN)


def _text(own: Any) -> str:
    try:
        return inspect.getsource(own)
    except (OSError, TypeError):
        return "".join(code.co_code.hex() + repr(code.co_names) for code in _codes(own))


def _globals(own: Any) -> Mapping[str, object]:
    return own.__globals__ if isinstance(own, FunctionType) else vars(sys.modules.get(own.__module__, object()))


def _codes(own: Any) -> Iterator[CodeType]:
    if isinstance(own, FunctionType):
        yield own.__code__
        return
    for member in vars(own).values():
        inside = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(inside, FunctionType):
            yield inside.__code__


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names that code uses, that of functions within it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _closure(own: Any) -> Iterator[tuple[str, object]]:
    if isinstance(own, FunctionType) and own.__closure__:
        for name, cell in zip(own.__code__.co_freevars, own.__closure__, strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if _is_local(value, own):
                yield name, value
