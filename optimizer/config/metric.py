"""The sections `metric` and `constraints`: how answers are scored, for whom, and what they must never do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from optimizer.config.data import Model


class Measure(Model):
    """One way to score an answer."""

    name: str = Field(
        description="`accuracy`, `exact_match`, `macro_f1`, `contains`, `regex`, `number`, `json_fields`, "
        "`token_f1`, `rouge_l`, `supported`, `judge`, `weighted`, or `package.module:function`."
    )
    output: str | None = Field(None, description="The output field to score; default: the first.")
    tolerance: float = Field(0.0, ge=0, description="`number`: largest allowed absolute difference.")
    pattern: str | None = Field(
        None, description="`regex`: the answer must match it; `{expected}` stands for the expected value, quoted."
    )
    rubric: str | None = Field(None, description="`judge`: what a good answer is, in plain words.")
    context: str | None = Field(
        None, description="`supported`: the input that the answer's words and numbers must occur in."
    )


class Part(Measure):
    weight: float = Field(1.0, gt=0, description="Its share of the whole, relative to the other parts.")


class Slices(Model):
    by: str = Field(description="Column whose values divide the rows into groups, such as a language or a region.")
    min_rows: int = Field(
        10, ge=2, description="Groups with fewer test rows are taken together as `other`: a few rows prove nothing."
    )
    aim: Literal["mean", "worst"] = Field(
        "mean", description="What the study improves: the mean over all rows, or the score of the worst group."
    )
    max_loss: float | None = Field(
        None,
        ge=0,
        le=1,
        description="`keep`, if any group of the test rows scores worse than with your prompt by more than this.",
    )


class Metric(Measure):
    parts: dict[str, Part] = Field(
        {}, description="`weighted`: names of your choice, each with a metric, its settings and a `weight`."
    )
    slices: Slices | None = Field(None, description="Groups of rows that are looked at one by one.")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The metrics that are really asked: the parts, or this one."""
        return tuple(self.parts.values()) or (self,)

    @property
    def asks_judge(self) -> bool:
        return any(measure.name == "judge" for measure in self.measures)

    @model_validator(mode="after")
    def _parts_fit(self) -> Metric:
        if (self.name == "weighted") != bool(self.parts):
            raise ValueError("`name: weighted` and `parts` go together: give both, or one metric and no parts")
        if inner := next((part.name for part in self.parts.values() if part.name in ("weighted", "macro_f1")), None):
            raise ValueError(f"`parts` are scored row by row, which {inner!r} is not; use accuracy for labels")
        return self


class Constraints(Model):
    max_chars: int | None = Field(None, ge=1, description="Longest answer, in characters; a longer one scores 0.")
    max_words: int | None = Field(None, ge=1, description="Longest answer, in words; a longer one scores 0.")
    forbidden: tuple[str, ...] = Field(
        (),
        description="Words or phrases that no answer may contain, in any case; one that does scores 0.",
        strict=False,
    )
    parse_rate: float | None = Field(
        None, gt=0, le=1, description="`keep`, if a smaller share of the winner's test replies can be read."
    )
    usd_per_row: float | None = Field(
        None, gt=0, description="`keep`, if the winner costs more than this for one test row, on average."
    )
    prompt_growth: float | None = Field(
        None, gt=0, description="`keep`, if the winner's prompt has more than this many times the characters of yours."
    )

    @property
    def limits_answers(self) -> bool:
        return bool(self.max_chars or self.max_words or self.forbidden)


def metric_shorthand(value: object) -> object:
    """Allow `metric: accuracy` for `metric: {name: accuracy}`."""
    return {"name": value} if isinstance(value, str) else value
