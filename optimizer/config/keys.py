"""The YAML file as frozen, strict models: what may be set, in which unit, with which default.

Decides what is allowed; deliberately does not read data, open models or touch the disk beyond the file itself.
`configs/README.md` and the JSON schema are generated from the descriptions here.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from optimizer.config.batch import BATCHED, Batch, fitted_to_task_model
from optimizer.config.data import Data, Files, MaxRows, Model, Split
from optimizer.config.metric import Constraints, Measure, Metric, metric_shorthand

__all__ = [
    "FORMATS", "LM", "OPERATORS", "Budget", "Config", "Constraints", "Data", "Files", "InputField", "LMs", "MaxRows",
    "Measure", "Metric", "Model", "OutputField", "OutputKind", "Search", "Split", "Task", "Tracking", "config_folder",
    "schema",
]  # fmt: skip

OPERATORS = (
    "demos",
    "format",
    "rewrite",
    "clarify",
    "reflect",
    "induce",
    "trajectory",
    "crossover",
    "decompose",
    "trim",
    "edit",
)
FORMATS = ("plain", "chat", "json", "xml")
OutputKind = Literal["label", "text", "number", "boolean", "json"]
DottedPath = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]


class InputField(Model):
    description: str = Field("", description="What the field holds, in the words of the task.")


class OutputField(Model):
    kind: OutputKind = Field("text", description="`label` (one of `choices`), `text`, `number`, `boolean` or `json`.")
    description: str = Field("", description="What the model should put here.")
    choices: tuple[str, ...] = Field((), description="The labels, for `kind: label`.", strict=False)
    fields: dict[str, str] = Field({}, description="Name to description of each key, for `kind: json`.")
    _takes_lists: bool = PrivateAttr(False)  # of a program in Python, whose signature says what its JSON is

    @model_validator(mode="after")
    def _choices_fit_kind(self) -> OutputField:
        if self.kind == "label" and len(set(self.choices)) < 2:
            raise ValueError("`kind: label` needs `choices` with two or more different labels")
        if self.kind != "label" and self.choices:
            raise ValueError(f"`choices` goes with `kind: label`, not with `kind: {self.kind}`")
        if self.kind != "json" and self.fields:
            raise ValueError(f"`fields` goes with `kind: json`, not with `kind: {self.kind}`")
        return self


def _field_shorthand(value: object) -> object:
    """Allow `message: what it is` for `message: {description: what it is}`."""
    return {"description": value} if isinstance(value, str) else ({} if value is None else value)


class Task(Model):
    goal: str = Field("", description="What the prompt is for, in one or two plain sentences.")
    inputs: dict[
        str, Annotated[InputField, BeforeValidator(_field_shorthand, json_schema_input_type=str | InputField | None)]
    ] = Field({}, description="Input fields by name; the value is a description or `{description: ...}`.")
    outputs: dict[
        str, Annotated[OutputField, BeforeValidator(_field_shorthand, json_schema_input_type=str | OutputField | None)]
    ] = Field({}, description="Output fields by name, each with `kind` and `description`.")
    program: DottedPath | None = Field(
        None,
        description="`package.module:factory` returning a `dspy.Module`; default: one predictor made from the fields.",
    )

    @model_validator(mode="after")
    def _has_fields(self) -> Task:
        names = [*self.inputs, *self.outputs]
        if not self.inputs or not self.outputs:
            raise ValueError("`inputs` and `outputs` need at least one field each")
        for name in names:
            if not name.isidentifier():
                raise ValueError(f"field name {name!r} must be a word of letters, digits and underscores")
            if (composed := unicodedata.normalize("NFKC", name)) != name:
                raise ValueError(f"field name {name!a} must be composed as Python does it (NFKC): {composed}")
        if twice := sorted(set(self.inputs) & set(self.outputs)):
            raise ValueError(f"field {twice[0]!r} is both an input and an output")
        return self


class LM(Model):
    model: str = Field(
        "embedded",
        description="`embedded` (SmolLM2-135M-Instruct, in-process), `gguf:PATH` or `gguf:hub:owner/repo/file.gguf`, "
        "or any model name that DSPy knows, for example `openai/gpt-4.1-mini`.",
    )
    api_base: str | None = Field(None, description="Base URL of the endpoint, for OpenAI-compatible servers.")
    api_key_env: str | None = Field(
        None, description="Name of the environment variable that holds the key; never the key itself."
    )
    api_key_file: str | None = Field(None, description="File that holds the key and that only you can read.")
    api_key_command: str | None = Field(
        None, description="Command that prints the key, for example of a password manager; run without a shell."
    )
    temperature: float = Field(
        0.0, ge=0, le=2, description="Sampling temperature; of the task model the default of `search.temperatures`."
    )
    max_tokens: int = Field(512, ge=1, description="Longest reply, in tokens.")
    concurrency: int = Field(
        8, ge=1, le=512, description="Calls in flight at once. A small model in this process takes one for each core."
    )
    timeout: float = Field(120.0, gt=0, description="Seconds before one attempt of a call is given up.")
    retry_for: float = Field(
        600.0, ge=0, description="Seconds for which a call that fails for a passing reason is tried again."
    )
    outage_for: float = Field(
        14400.0, ge=0, description="Seconds for which a model that has answered is waited for while it answers nobody."
    )
    guided: Literal["off", "vllm"] = Field(
        "off",
        description="`vllm` holds replies to the form that is asked for, by the field `structured_outputs` of vLLM "
        "0.12 and later; other servers may refuse it.",
    )
    price_in: float | None = Field(
        None, ge=0, description="USD for a million input tokens; default: DSPy's price list."
    )
    price_out: float | None = Field(
        None, ge=0, description="USD for a million output tokens; default: DSPy's price list."
    )


class TaskLM(LM):
    mode: Literal["live", "batch"] = Field(
        "live",
        description="`batch` sends whole blocks through the provider's Batch API: cheaper, back within a day at the "
        "latest. For `openai/...` models.",
    )
    batch: Batch = Field(Batch(), description="How batches go, with `mode: batch`.")


class LMs(Model):
    task: TaskLM = Field(TaskLM(), description="The model whose prompt is optimized.")
    proposer: LM | None = Field(
        None,
        description="The model that writes mutations, at temperature 0.9 unless it is set; what else is not set comes "
        "from the task model.",
    )
    judge: LM | None = Field(
        None, description="The model behind `metric: judge`; default: the proposer at temperature 0."
    )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, value: object) -> object:
        """A proposer or judge without `model` takes what it does not set from the model it defaults to."""
        if not isinstance(value, dict):
            return value
        filled = dict(value)
        task = filled.get("task") or {}
        if isinstance(task, dict):
            task = {key: each for key, each in task.items() if key not in BATCHED}
        for role, base, temperature in (("proposer", task, 0.9), ("judge", None, 0.0)):
            given = filled.get(role)
            base = filled.get("proposer") or task if base is None else base
            if isinstance(given, dict) and isinstance(base, dict):
                filled[role] = {**({} if "model" in given else base), "temperature": temperature, **given}
        return filled


class Search(Model):
    trials: int = Field(40, ge=1, description="Most candidates to try, the seed and the starts included.")
    operators: tuple[str, ...] = Field(
        OPERATORS,
        min_length=1,
        description="Ways to mutate: names from the list, or `package.module:operator` for your own.",
        strict=False,
    )
    formats: tuple[Literal["plain", "chat", "json", "xml"], ...] = Field(
        ("plain", "chat"), description="Prompt layouts to try; the first is the seed's.", min_length=1, strict=False
    )
    reasoning: tuple[Literal["predict", "chain_of_thought"], ...] = Field(
        ("predict",), description="Answer at once, think first, or let the search try both.", min_length=1, strict=False
    )
    temperatures: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        (0.0,),
        description="Temperatures of the task model to try; the first is the seed's. Default: `lm.task.temperature`.",
        min_length=1,
        strict=False,
    )
    max_demos: int = Field(16, ge=0, le=64, description="Most worked examples in one prompt; 0 turns them off.")
    max_prompt_chars: int = Field(
        12000, ge=100, description="Longest prompt without the input, in characters; longer ones are rejected unpaid."
    )
    racing: bool = Field(
        True, description="Stop scoring a candidate that will hardly win; `false` scores each one on all of dev."
    )
    block: int = Field(
        5,
        ge=2,
        description="Dev examples between two race decisions, more in long races and in the last ones of several in "
        "flight; default with batches: 10.",
    )
    in_flight: int = Field(
        1,
        ge=1,
        le=64,
        description="Candidates in the race at once. 1 makes runs repeatable bit for bit; default with "
        "`mode: batch`: 16.",
    )
    finalists: int = Field(
        3, ge=1, le=20, description="Candidates that are scored on all of dev before the winner is chosen."
    )
    min_gain: float = Field(0.01, ge=0, lt=1, description="Smallest gain in score that matters.")
    patience: int | None = Field(
        None,
        ge=0,
        description="Stop after this many trials without a new best; 0: never; default: when the trials that are left "
        "are expected to gain less than `min_gain`, going by how often and by how much trials took the lead.",
    )
    objective: tuple[Literal["score", "cost"], ...] = Field(
        ("score",),
        min_length=1,
        description="What to look for. With `[score, cost]` finalists come from the front of score against prompt "
        "length, and a shorter prompt wins if it is less than `min_gain` behind.",
        strict=False,
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="Optuna sampler that picks the recipes.")
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of intervals and of the verdict.")


class Budget(Model):
    task_calls: int | None = Field(
        None, ge=1, description="Most calls of the task LM, the final test included; default: no cap."
    )
    proposer_calls: int | None = Field(None, ge=0, description="Most calls of the proposer.")
    tokens: int | None = Field(None, ge=1, description="Most tokens, in and out, all models together.")
    usd: float | None = Field(None, gt=0, description="Most money, all models together, in US dollars.")
    wall_clock: float | None = Field(
        None,
        gt=0,
        description="Seconds, pauses not counted. The search ends in time for finalists and final test, which are "
        "never cut short: where they take longer than expected, the verdict is late and says so.",
    )
    finish_by: str | None = Field(
        None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description='Local time by which the verdict should stand, as "HH:MM"; kept to in the same way.',
    )


class Tracking(Model):
    enabled: bool = Field(True, description="Log the study to MLflow.")
    uri: str | None = Field(
        None, description="MLflow tracking URI; default: an SQLite store shared by all studies of the runs folder."
    )
    experiment: str = Field("prompt-optimizer", description="MLflow experiment that the study is logged under.")
    rows: Literal["full", "ids"] = Field(
        "full",
        description="How rows that a prompt shows appear in MLflow: in full, or as their ids. With `ids` the winner is "
        "not registered; `optimizer export` has it.",
    )
    register_winner: bool = Field(
        True, description="Put the best prompt into MLflow's registry; its alias `champion` moves on `promote` only."
    )
    traces: int = Field(
        20, ge=0, le=200, description="Test rows shown as MLflow traces, with inputs and both answers; 0 for none."
    )


class Notify(Model):
    webhook_env: str | None = Field(
        None, description="Name of the environment variable with a web address that is told of the end or a pause."
    )


class Config(Model):
    """One study. Paths are relative to the file's folder."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Name of the study: lower-case letters, digits, dot, dash."
    )
    task: Task = Field(description="What the prompt is for, and its fields.")
    prompt: str = Field(
        "", description="Your present prompt; may be empty. Predictors of your own program keep theirs."
    )
    data: Data = Field(description="The labelled examples.")
    metric: Annotated[Metric, BeforeValidator(metric_shorthand, json_schema_input_type=str | Metric)] = Field(
        description="How an answer is scored: a name, or a mapping with `name` and its settings."
    )
    constraints: Constraints = Field(
        Constraints(), description="What an answer or a prompt must keep to, whatever it scores."
    )
    privacy: Literal["open", "local"] = Field(
        "open",
        description="With `local`, every model, database, tracking server and webhook must be in this process or on "
        "this machine; any other address is refused before anything is read or sent. `hub:` names are downloaded, "
        "nothing of your rows is sent.",
    )
    lm: LMs = Field(LMs(), description="The models.")
    search: Search = Field(Search(), description="How the search goes.")
    budget: Budget = Field(Budget(), description="Hard caps. With none of them set, `search.trials` ends the run.")
    storage: str | None = Field(
        None,
        description="Database URL of study and journal; default: `sqlite` in the run folder; "
        "`postgresql+psycopg://USER@HOST/NAME` for many machines. Its password belongs in PGPASSWORD or `~/.pgpass`; "
        "one that stands here is used and kept nowhere.",
    )
    tracking: Tracking = Field(Tracking(), description="The MLflow view of the study.")
    notify: Notify = Field(Notify(), description="Who is told when the study ends or pauses.")

    @model_validator(mode="before")
    @classmethod
    def _fit_search(cls, value: object) -> object:
        return fitted_to_task_model(value)

    @model_validator(mode="after")
    def _references_hold(self) -> Config:
        for measure in (self.metric, *self.metric.measures):
            if measure.output is not None and measure.output not in self.task.outputs:
                raise ValueError(
                    f"metric.output: {measure.output!r} is no output; outputs: {', '.join(self.task.outputs)}"
                )
            if measure.context is not None and measure.context not in self.task.inputs:
                raise ValueError(
                    f"metric.context: {measure.context!r} is no input; inputs: {', '.join(self.task.inputs)}"
                )
        known = {*self.task.inputs, *self.task.outputs}
        for name in self.data.fields:
            if name not in known:
                raise ValueError(f"data.fields: {name!r} is no field of the task; fields: {', '.join(sorted(known))}")
        return self

    @property
    def proposer(self) -> LM:
        """The proposer's settings, defaulted from the task model."""
        task = {name: getattr(self.lm.task, name) for name in LM.model_fields}
        return self.lm.proposer or LM(**{**task, "temperature": 0.9})

    @property
    def judge(self) -> LM:
        """The judge's settings, defaulted from the proposer at temperature 0."""
        return self.lm.judge or self.proposer.model_copy(update={"temperature": 0.0})


def schema() -> dict[str, object]:
    """JSON schema of the YAML file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def config_folder(path: Path) -> Path:
    """Folder that the paths of the configuration at `path` are relative to."""
    return path.resolve().parent
