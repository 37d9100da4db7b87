"""Scores an exported prompt and its seed again, with the model of today; every call is made anew."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.candidate import Candidate, Example
from optimizer.command_line import command_name
from optimizer.config.keys import LM, Config
from optimizer.data.fields import BadRow, example_of
from optimizer.data.rows import open_table
from optimizer.data.text_files import is_utf8
from optimizer.errors import CallError, DataError, Paused, ProgramError, StudyError
from optimizer.export.reading import read_exported, words_of
from optimizer.lm import open_backend
from optimizer.lm.backend import AttemptError, Backend
from optimizer.lm.model import Model, Pricing, RetryPolicy
from optimizer.lm.pricing import unpriced
from optimizer.metrics import Metric, open_metric
from optimizer.privacy.local import require_local_models
from optimizer.prompts.formats import UnreadableReply
from optimizer.prompts.program import Refused
from optimizer.proof import verdict as verdicts
from optimizer.proof.decay import ALARM_CONFIDENCE, Decay, Measure, judge_decay
from optimizer.proof.slices import WorstSlice, group_rows
from optimizer.records import Role, Spend, Verdict
from optimizer.search.evaluate import Evaluator
from optimizer.storage.journal import Caps, Journal, open_engine
from optimizer.study.chance import FINAL_TEST, generator_of
from optimizer.study.late_judge import LateJudge
from optimizer.study.saved import SavedStudy, open_saved

if TYPE_CHECKING:
    from optimizer.export import ExportFormat

MIN_ROWS = 10
CHANGE_KEYS = ("difference", "low", "high", "n", "is_paired")
Opened = Callable[..., Model]
Prices = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What is checked: a candidate of a study, on which rows, with which model."""

    saved: SavedStudy
    candidate: Candidate
    rows: tuple[Example, ...]
    lm: LM
    source: str


def plan_check(
    target: str,
    runs_dir: Path,
    *,
    model: str | None,
    api_base: str | None,
    data: Path | None,
    prices: Prices = (None, None),
) -> Check:
    """Find what `target` names: a study, or a file that an export or a study wrote.

    Args:
        prices: USD for a million tokens, in and out, where the study's own are not to be used.

    Raises:
        UserError: there is no such study, file or row, the file was changed since it was written, or the study is
            `privacy: local` and the model is elsewhere.
    """
    path = Path(target)
    saved, candidate = _from_file(path, runs_dir) if path.is_file() else _from_study(open_saved(runs_dir, target))
    lm = model_settings(saved.config.lm.task, model, api_base)
    require_local_models(saved.config.model_copy(update={"lm": saved.config.lm.model_copy(update={"task": lm})}))
    rows = rows_of_file(saved.config, data) if data else saved.test_rows()
    if not rows:
        raise DataError(
            f"study {saved.config.name!r}: its test rows cannot be read or have changed since; give rows with --data"
        )
    source = str(data) if data else "the study's test rows"
    given = {key: usd for key, usd in zip(("price_in", "price_out"), prices, strict=True) if usd is not None}
    lm = lm.model_copy(update=given)
    return Check(saved=saved, candidate=candidate, rows=rows, lm=lm, source=source)


def model_settings(known: LM, model: str | None, api_base: str | None) -> LM:
    """Return the study's settings with another model. Endpoint and key stay with the provider that they belong to."""
    if model is None:
        return known.model_copy(update={"api_base": api_base or known.api_base})
    is_same = model.partition("/")[0] == known.model.partition("/")[0]
    fresh, provider = LM(model=model), ("api_base", "api_key_env", "api_key_file", "api_key_command", "guided")
    names = ("model", "price_in", "price_out", *(() if is_same else provider))
    changed = {name: getattr(fresh, name) for name in names}
    return known.model_copy(update={**changed, **({"api_base": api_base} if api_base else {})})


def check_prompt(check: Check, on_wait: Callable[[str], None] | None = None) -> tuple[Decay, Spend]:
    """Score both prompts and judge them.

    Args:
        on_wait: told in one line why calls wait, and an empty line when they go on.

    Raises:
        Paused: the model cannot be used, or too many calls failed for a fair comparison.
    """
    config, view = check.saved.config, check.saved.view()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        journal = Journal(open_engine(f"sqlite:///{folder}/check.db", is_durable=False), "check", owner="verify")
        stack.callback(journal.engine.dispose)
        opened = _opener(journal, stack, on_wait)
        metric, task = _metric(check, opened), opened(check.lm, "task")
        if not task.backend.is_local:
            _first_call(check, opened(check.lm, "task", backend=task.backend, patience_s=0.0))
        evaluator = Evaluator(
            check.saved.program(),
            task,
            metric,
            journal,
            concurrency=1 if task.backend.is_local else check.lm.concurrency,
        )
        stack.callback(evaluator.close)
        seed, prompt = (evaluator.outcomes(each, check.rows) for each in (view.seed, check.candidate))
        try:
            now = verdicts.judge(
                metric,
                check.rows,
                seed=seed,
                winner=prompt,
                is_same=check.candidate == view.seed,
                confidence=config.search.confidence,
                rng=generator_of(config.search.seed, FINAL_TEST),  # the same scores then have the same interval
            )
        except verdicts.TooManyFailures as error:
            raise Paused("error_rate", f"{error}; check again when the model is back") from error
        then = view.verdict if check.candidate == view.best else None
        measure, then = _measure(check, metric, then)
        return judge_decay(now, then, rng=np.random.default_rng(1), measure=measure), journal.spend()


def rows_of_file(config: Config, path: Path) -> tuple[Example, ...]:
    """Read labelled rows for the study's task.

    Raises:
        DataError: the file cannot be read, a row is bad, or there are too few rows.
    """
    data, path = config.data, path.resolve()
    columns = {name: data.fields.get(name, name) for name in (*config.task.inputs, *config.task.outputs)}
    encoding = None if is_utf8(path) else data.encoding
    table = open_table(
        str(path), folder=path.parent, columns=columns.values(), key="--data", encoding=encoding, sheet=data.sheet
    )
    found: dict[str, Example] = {}
    for row in table.rows:
        try:
            if row.problem:
                raise BadRow(row.problem)
            example = example_of(row.values, config.task, columns)
        except BadRow as problem:
            raise DataError(f"{table.place(row.number)}: {problem}; mend the row, or take it out") from problem
        found.setdefault(example.id, example)
    if len(found) < MIN_ROWS:
        raise DataError(f"--data: {path} has {len(found)} different rows; at least {MIN_ROWS} are needed")
    return tuple(found.values())


def result_json(check: Check, decay: Decay, spend: Spend) -> dict[str, Any]:
    """Return the result with stable keys."""
    now, change = decay.now, decay.change
    return {
        "study": check.saved.config.name,
        "candidate": check.candidate.id,
        "model": check.lm.model,
        "rows": check.source,
        "verdict": decay.standing,
        "reason": decay.reason,
        "n": now.n,
        "seed": now.seed_score,
        "prompt": now.winner_score,
        "difference": now.difference,
        "low": now.low,
        "high": now.high,
        "confidence": now.confidence,
        "p_value": now.p_value,
        "gain_then": change.then if change else None,
        "gain_change": {**{key: getattr(change, key) for key in CHANGE_KEYS}, "confidence": ALARM_CONFIDENCE}
        if change
        else None,
        "calls": dict(spend.calls),
        "tokens": spend.tokens,
        "cost_usd": spend.usd,
    }


def _from_study(saved: SavedStudy) -> tuple[SavedStudy, Candidate]:
    view = saved.view()
    if view.verdict is not None and view.verdict.decision == "keep":
        trial = view.trial_of(view.best)
        kept = f"study {view.name!r} ended in `keep`: no new prompt has taken the place of yours, so there is none to "
        kept += "verify"
        if view.best == view.seed:
            raise StudyError(kept)
        raise StudyError(
            f"{kept}. To score its best candidate all the same: {command_name()} export {view.name} --format chat-json "
            f"--trial {trial.number + 1 if trial else 'N'} -o FILE, then {command_name()} verify FILE"
        )
    return saved, view.best


def _from_file(path: Path, runs_dir: Path) -> tuple[SavedStudy, Candidate]:
    """Read study and candidate off an export, or a study's `best_prompt.json`."""
    name, candidate_id, form = read_exported(path)
    saved = open_saved(runs_dir, name)
    found = saved.journal.candidates([candidate_id])
    if candidate_id not in found:
        raise StudyError(
            f"{path}: study {name!r} has no candidate {candidate_id}; was it exported from another folder?"
        )
    if form is not None:
        _refuse_changed(path, form, saved, found[candidate_id])
    return saved, found[candidate_id]


def _refuse_changed(path: Path, form: ExportFormat, saved: SavedStudy, candidate: Candidate) -> None:
    from optimizer.export import export

    fresh = export(replace(saved.view(), best=candidate), saved.program(), form, candidate)
    if words_of(path.read_text(encoding="utf-8"), form) != words_of(fresh, form):
        raise StudyError(
            f"{path}: its messages are not those of candidate {candidate.id}; export it again, or make your text the "
            "`prompt` of a configuration and run that"
        )


def _first_call(check: Check, task: Model) -> None:
    """Ask for the first answer without patience: a model that has never answered is not waited for.

    The reply is in the journal and is not paid twice.

    Raises:
        Paused: there is no answer. A limit of the rate is one: the model is there.
    """
    try:
        check.saved.program().run(check.saved.view().seed, check.rows[0].inputs, task.call)
    except Paused as pause:
        if not (isinstance(pause.__cause__, AttemptError) and pause.__cause__.kind == "rate_limit"):
            raise
    except (CallError, ProgramError, UnreadableReply, Refused):
        return  # it spoke; what is wrong with a row is told when all are scored


def _metric(check: Check, opened: Opened) -> Metric:
    config, judge = check.saved.config, LateJudge(check.saved.config.judge)
    if config.metric.asks_judge:
        judge.complete = opened(config.judge, "judge").call
    metric, slices = open_metric(config, judge=judge, folder=check.saved.folder), config.metric.slices
    if slices is None or slices.aim != "worst":
        return metric
    return WorstSlice.of(metric, group_rows(slices, check.rows, check.saved.test_rows()), slices.by)


def _measure(check: Check, metric: Metric, then: Verdict | None) -> tuple[Measure | None, Verdict | None]:
    """Return how a set of rows is scored if not by their mean, and the study's verdict if its rows can be scored so."""
    if metric.is_mean:
        return None, then
    by_id = {row.id: row for row in (*check.saved.test_rows(), *check.rows)}
    if then is not None and any(outcome.example_id not in by_id for outcome in then.seed_outcomes):
        then = replace(then, seed_outcomes=(), winner_outcomes=())  # no change can be told, but what it decided can
    return lambda outcomes: verdicts.score_of(metric, [by_id[each.example_id] for each in outcomes], outcomes), then


def _opener(journal: Journal, stack: ExitStack, on_wait: Callable[[str], None] | None) -> Opened:
    """Return what opens a model; a second one with another patience can share its backend."""

    def opened(lm: LM, role: Role, *, backend: Backend | None = None, patience_s: float | None = None) -> Model:
        if backend is None:
            backend = open_backend(lm)
            stack.callback(backend.close)
        pricing = Pricing.of(backend, lm)
        journal.unpriced |= unpriced({role: pricing})
        return Model(
            backend,
            role=role,
            journal=journal,
            caps=Caps(calls={}, tokens=None, usd=None),
            pricing=pricing,
            retry=RetryPolicy(retry_for_s=lm.retry_for if patience_s is None else patience_s),
            on_wait=on_wait,
        )

    return opened
