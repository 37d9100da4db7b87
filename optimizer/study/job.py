"""Everything that a run needs, opened: from a configuration, or from the objects of a Python caller."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import dspy
import sqlalchemy as sa

from optimizer.budget.limits import SPEND_KEPT_BACK, affordable_test_rows
from optimizer.budget.room import require_room, require_room_for_a_call
from optimizer.candidate import Candidate, JsonValue, content_hash
from optimizer.config.keys import LM, Config
from optimizer.data.loading import load_splits
from optimizer.data.report import Splits
from optimizer.errors import ConfigError, ProgramError
from optimizer.lm import open_backend
from optimizer.lm.backend import Backend
from optimizer.lm.model import Pricing, require_prices
from optimizer.metrics import Metric, open_metric
from optimizer.privacy.local import places, require_local
from optimizer.prompts.program import ModuleProgram, Program, TaskProgram
from optimizer.prompts.spec import spec_of_task
from optimizer.proof.earlier import seen_before
from optimizer.proof.slices import Groups, grouped
from optimizer.propose import Operator, open_operators
from optimizer.records import Role, SeenBefore, StudyView
from optimizer.study import reserve
from optimizer.study.late_judge import LateJudge
from optimizer.user_code import load, user_code

SHAPE = "predictors"  # the fact that says what a program from Python is like
PACKAGES = ("dspy", "optuna", "mlflow", "datasets", "numpy")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One study, ready to run. Models are opened, nothing has been sent.

    Attributes:
        run_dir: folder of this study; holds its database, log and best prompt.
        runs_dir: folder of all studies; holds the default MLflow store.
        fork_of: database of the study whose replies a new one may use.
        folder: where relative paths and the user's modules are looked for.
        groups: of rows, when the study looks at them one by one.
        warm_starts: candidates by name that an earlier study found; tried right after the seed. A study that exists
            keeps those that it was started with.
        seen_before: test rows that the studies had which this one builds on; kept likewise.
        is_from_python: opened by `optimize(...)`, so that messages speak of its arguments.
    """

    config: Config
    program: Program
    splits: Splits
    metric: Metric
    operators: tuple[Operator, ...]
    task_backend: Backend
    proposer_backend: Backend
    runs_dir: Path
    folder: Path
    judge_backend: Backend | None = None
    judge: LateJudge | None = None
    groups: Groups | None = None
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    fork_of: sa.Engine | None = None
    warm_starts: tuple[tuple[str, Candidate], ...] = ()
    seen_before: tuple[SeenBefore, ...] = ()
    is_from_python: bool = False

    def __post_init__(self) -> None:
        """Refuse a budget that could not be kept, before anything is created or sent.

        Raises:
            ConfigError: no room for a first race and a final test, or spending that nothing could limit.
        """
        elsewhere = {place.role: place.model for place in places(self.config) if not place.is_here}
        require_prices(self.config.budget, self.prices, elsewhere=elsewhere)
        require_room(self.config.budget, reserve.fewest(self))
        worst = reserve.worst_call(self, self.seed)
        require_room_for_a_call(self.config.budget, worst, share=1 - SPEND_KEPT_BACK)
        if not self.usable_operators:
            raise ConfigError(
                "search.operators: only `demos` is named, and it has nothing to do: it wants one predictor and "
                "search.max_demos of 1 or more"
            )

    @property
    def seed(self) -> Candidate:
        """The prompt that the user has, in the first of each setting."""
        search, seed = self.config.search, self.program.seed(self.config.prompt)
        temperature, reasoning = search.temperatures[0], search.reasoning[0]
        return replace(seed, format=search.formats[0], temperature=temperature, reasoning=reasoning)

    @property
    def usable_operators(self) -> list[str]:
        """Names of the operators that can do something here.

        `demos` wants one predictor, because train rows do not show what passes between several.
        """
        allows_demos = self.config.search.max_demos > 0 and len(self.program.specs) == 1
        return [operator.name for operator in self.operators if operator.name != "demos" or allows_demos]

    @property
    def prices(self) -> dict[Role, Pricing]:
        """What each role's calls cost."""
        config = self.config
        prices: dict[Role, Pricing] = {
            "task": Pricing.of(self.task_backend, config.lm.task),
            "proposer": Pricing.of(self.proposer_backend, config.proposer),
        }
        return (
            prices if self.judge_backend is None else {**prices, "judge": Pricing.of(self.judge_backend, config.judge)}
        )

    @property
    def n_test(self) -> int:
        """Test rows that calls are kept back for; the final comparison takes more if more is left.

        Raises:
            ConfigError: the call budget leaves no room for them.
        """
        n_calls = len(self.program.specs)
        return affordable_test_rows(self.config.budget, n_test=len(self.splits.test), calls_per_example=n_calls)

    @property
    def task_price(self) -> float:
        """What a task call costs as a share of the price of a live one."""
        task = self.config.lm.task
        return task.batch.price if task.mode == "batch" else 1.0

    @property
    def run_dir(self) -> Path:
        return self.runs_dir / self.config.name

    @property
    def storage_url(self) -> str:
        return self.config.storage or f"sqlite:///{self.run_dir.resolve() / 'study.db'}"

    @property
    def is_free(self) -> bool:
        """Whether all models are local: calls cost nothing but time."""
        backends = [self.task_backend, self.proposer_backend, self.judge_backend]
        return all(backend is None or backend.is_local for backend in backends)

    @property
    def is_durable(self) -> bool:
        """Whether a lost reply would cost money or another's time."""
        return not self.is_free

    def identity(self) -> dict[str, JsonValue]:
        """Return what a resumed study must agree on: changing any of it would change what its scores mean."""
        return {
            "data": content_hash(self.splits.report.fingerprints, n_chars=16),
            "program": self.program.fingerprint,
            "metric": self.metric.version,
            "prompt": self.config.prompt,
            "search": self._search_identity(),
            "rules": self._rules_identity(),
            "task model": self.task_backend.identity,
            "task temperature and length": [self.config.lm.task.temperature, self.config.lm.task.max_tokens],
            "proposer model": self.proposer_backend.identity,
        }

    def _rules_identity(self) -> JsonValue:
        """Rules that the verdict is held to: loosening them after a look at the search would be no rule. None: none."""
        constraints = self.config.constraints.model_dump(mode="json", exclude_defaults=True)
        slices = self.config.metric.slices
        found = constraints | ({"slices": slices.model_dump(mode="json")} if slices else {})
        return found or None

    def _search_identity(self) -> JsonValue:
        """Search settings that change results. Defaults are left out: a later version may add keys."""
        may_change = {"trials", "in_flight", "patience"}
        return self.config.search.model_dump(mode="json", exclude=may_change, exclude_defaults=True)

    def built_on(self, view: StudyView, *, takes_prompts: bool) -> Job:
        """Return the job with a note of which of its test rows an earlier study had."""
        test_ids = [example.id for example in self.splits.test]
        found = seen_before(view, test_ids, takes_prompts=takes_prompts)
        by_study = {each.study: each for each in (*self.seen_before, *found)}
        return replace(self, seen_before=tuple(by_study.values()))

    def close(self) -> None:
        for backend in {id(b): b for b in (self.task_backend, self.proposer_backend, self.judge_backend) if b}.values():
            backend.close()


def open_job(config: Config, *, folder: Path, runs_dir: Path) -> Job:
    """Open what the configuration names: data, program, metric, operators and models.

    Args:
        folder: the configuration's own folder.

    Raises:
        UserError: something does not exist or does not fit; one line says what.
    """
    require_local(config)
    splits = load_splits(config, folder=folder)
    operators = open_operators(config.search.operators, folder=folder)
    program = open_program(config, folder=folder)
    task_backend = open_backend(config.lm.task)
    proposer_backend = _shared(task_backend, config.lm.task, config.proposer) or open_backend(config.proposer)
    judge, judge_backend = LateJudge(config.judge), None
    if config.metric.asks_judge:
        judge_backend = _shared(proposer_backend, config.proposer, config.judge) or open_backend(config.judge)
    n_calls = len(program.specs)
    n_tested = affordable_test_rows(config.budget, n_test=len(splits.test), calls_per_example=n_calls)
    opened, others = open_metric(config, judge=judge, folder=folder), (*splits.dev, *splits.train)
    metric, groups = grouped(config.metric.slices, opened, splits.test, others, n_tested=n_tested)
    return Job(
        config=config,
        program=program,
        splits=splits,
        metric=metric,
        groups=groups,
        judge=judge,
        operators=operators,
        task_backend=task_backend,
        proposer_backend=proposer_backend,
        judge_backend=judge_backend,
        runs_dir=runs_dir,
        folder=folder,
        facts=facts_of(splits, folder=folder),
    )


def open_program(config: Config, *, folder: Path) -> Program:
    """Return the configured program: one predictor made from the fields, or the user's own module."""
    max_tokens = config.lm.task.max_tokens
    if config.task.program is None:
        return TaskProgram(spec_of_task(config.task), max_tokens=max_tokens)
    return ModuleProgram(_load_module(config.task.program, folder), max_tokens=max_tokens)


def git_commit(folder: Path | None) -> str | None:
    """Return the commit that a folder is at, `-dirty` if something in it is not committed; None outside of git."""
    command = ["git", "-C", str(folder or Path.cwd()), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def facts_of(splits: Splits, *, folder: Path | None = None) -> dict[str, JsonValue]:
    """Return what people want to know of data and environment; no decision rests on it."""
    report = splits.report
    return {
        "n_rows": dict(report.n.items()),
        "class_counts": {name: dict(counts) for name, counts in report.class_counts.items()},
        "constant_answer": list(report.constant_answer) if report.constant_answer else None,
        "fingerprints": dict(report.fingerprints.items()),
        "warnings": list(report.warnings),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "git_commit": git_commit(folder),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _shared(backend: Backend, opened: LM, wanted: LM) -> Backend | None:
    """Return the open backend when the same model at the same endpoint is wanted: loading a model twice is waste."""
    same = ("model", "api_base", "api_key_env", "api_key_file", "api_key_command", "timeout", "guided")
    return backend if all(getattr(opened, name) == getattr(wanted, name) for name in same) else None


def _load_module(path: str, folder: Path) -> dspy.Module:
    found = load(path, folder=folder, where="task.program")
    if isinstance(found, type) and issubclass(found, dspy.Signature):
        name = found.__name__
        raise ProgramError(
            f"task.program: {path!r} is a signature, a dspy.Module is needed: write `program = dspy.Predict({name})` "
            "and name that"
        )
    if callable(found) and not isinstance(found, dspy.Module):
        with user_code(ProgramError, f"task.program: {path!r}"):
            found = found()
    return checked_module(found, path)


def checked_module(found: object, path: str) -> dspy.Module:
    if not isinstance(found, dspy.Module):
        raise ProgramError(f"task.program: {path!r} gave {type(found).__name__!r}, a dspy.Module is needed")
    return found
