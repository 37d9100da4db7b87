"""Values of Python programs and what JSON can hold of them. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from optimizer.candidate import Fields


def json_fields(values: Mapping[str, Any]) -> Fields:
    """Reduce a module's values (pydantic models, dates, enums, ...) to what JSON can hold; NaN becomes null."""
    fields: Fields = to_jsonable_python(dict(values.items()), fallback=str, inf_nan_mode="null")
    return fields


def plain_rows(rows: Iterable[Any]) -> list[Any]:
    """Reduce the values of rows, mappings or `dspy.Example`s, to what JSON can hold; other rows stay as they are."""
    return [json_fields(dict(row.items())) if hasattr(row, "items") else row for row in rows]


def of_enum(value: Any, annotation: Any) -> Any:
    """Return the value of the member that a label names: its choices are texts, its members may be numbers."""
    members: list[enum.Enum] = list(annotation) if isinstance(annotation, enum.EnumMeta) else []
    return next((member.value for member in members if str(member.value) == value), value)
