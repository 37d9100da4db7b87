"""The section `data`, and the base of all sections: where the labelled rows are and how they are split."""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Model(BaseModel):
    """Base of all configuration models: unknown keys are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Files(Model):
    train: str = Field(description="Path of the rows that proposals and demonstrations may use.")
    dev: str = Field(description="Path of the rows that score and select candidates.")
    test: str = Field(description="Path of the rows that only the final verdict sees.")


class Split(Model):
    train: float = Field(0.3, gt=0, lt=1, description="Share of the rows for proposals and demonstrations.")
    dev: float = Field(0.3, gt=0, lt=1, description="Share of the rows for scoring and selecting.")
    test: float = Field(0.4, gt=0, lt=1, description="Share of the rows for the one final comparison.")

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        total = self.train + self.dev + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares add up to {total:.3f}, they must add up to 1")
        return self


class MaxRows(Model):
    train: int | None = Field(
        None, ge=1, description="At most this many train rows; default: 50,000 of `data.source`, all of `data.files`."
    )
    dev: int | None = Field(
        None, ge=1, description="At most this many dev rows; default: 2,000 of `data.source`, all of `data.files`."
    )
    test: int | None = Field(
        None, ge=1, description="At most this many test rows; default: 4,000 of `data.source`, all of `data.files`."
    )


class Data(Model):
    source: str | None = Field(
        None,
        description="Path of a .jsonl, .csv, .tsv, .xlsx or .parquet file (relative to this file), or "
        "`hub:owner/name[:config[:split]]`.",
    )
    files: Files | None = Field(None, description="Three files instead of `source`, when the split is already made.")
    fields: dict[str, str] = Field({}, description="Field name to column name, where the two differ.")
    split: Split = Field(
        Split(), description="Shares of `source`; rows go by the hash of their inputs, so added rows move no other."
    )
    encoding: str | None = Field(
        None,
        pattern=r"^[A-Za-z][\w.-]{1,30}$",
        description="Encoding of a text file that is not UTF-8, such as `cp1252`; UTF-16 that begins with its mark "
        "needs none.",
    )
    sheet: str | None = Field(None, description="Sheet of a spreadsheet; default: the first.")
    no_demos: str | None = Field(
        None,
        description="Column of rows that no prompt may show: a row with yes, true, 1 or x there goes to `dev` or "
        "`test`, where it is answered and scored, and never to `train`; so does one with a word that is neither yes "
        "nor no.",
    )
    demos_only: str | None = Field(
        None,
        description="Column of consent, the reverse of `no_demos`: only a row with yes, true, 1 or x there may be "
        "shown; no, an empty cell or any other word holds it back. With `no_demos` beside it, a row has to pass both.",
    )
    max_rows: MaxRows = Field(MaxRows(), description="Caps on the rows of each split.")
    seed: int = Field(0, description="Changes which rows fall in which split.")
    skip_bad_rows: bool = Field(
        False,
        description="Leave out rows that cannot be read instead of stopping; `check` says how many and why.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.source is None) == (self.files is None):
            raise ValueError("give either `source` or `files`, not both and not neither")
        return self

    @model_validator(mode="after")
    def _two_columns(self) -> Data:
        if self.no_demos and self.no_demos == self.demos_only:
            raise ValueError(
                f"`no_demos` and `demos_only` both name {self.no_demos!r}: a yes there cannot forbid and allow"
            )
        return self

    @property
    def withheld_by(self) -> Mapping[str, str]:
        """The columns that hold rows back from prompts and exports, by the key that names them."""
        named = {"data.no_demos": self.no_demos, "data.demos_only": self.demos_only}
        return {key: column for key, column in named.items() if column}

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError(f"{value!r} is no encoding; usual ones: utf-8, cp1252, shift_jis, gb18030") from None
        return value
