"""Opens what a study stands on: its claim, journal, Optuna study, models, evaluator, proposer and starts.

Nothing is paid here. What was opened is closed in the opposite order, also when opening fails half-way.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np

from optimizer.budget.caps import Caps
from optimizer.budget.limits import Deadline, open_caps
from optimizer.candidate import Candidate, Example, JsonValue
from optimizer.errors import StudyError
from optimizer.lm.pricing import UNPRICED, unpriced, unpriced_in
from optimizer.machines.crew import Alone, join_crew
from optimizer.privacy.redaction import remember
from optimizer.propose import Attempt
from optimizer.propose.proposer import Proposer
from optimizer.propose.starts import diverse_starts
from optimizer.propose.wording import steps_of
from optimizer.search.evaluate import Evaluator
from optimizer.search.optuna_study import RacePruner, Study
from optimizer.search.race import FloatArray, RaceRule
from optimizer.storage.addresses import passwords_in, without_password, written_settings
from optimizer.storage.database import is_shared
from optimizer.storage.file_systems import file_of, require_local_disk
from optimizer.storage.files import claim, make_private_folder
from optimizer.storage.journal import Journal, open_engine
from optimizer.study.chance import generator_of
from optimizer.study.fork import changed_study, copy_replies, differences, limits_of
from optimizer.study.job import Job
from optimizer.study.models import Models, open_models
from optimizer.study.neighbours import seen_by_any
from optimizer.study.observe import Observer
from optimizer.study.saved import leave_pointer
from optimizer.unattended.heartbeat import forget_live

logger = logging.getLogger(__name__)

Pairs = dict[int, tuple[FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a study stands on.

    Attributes:
        pairs: by trial number, the paired values of incumbent and candidate, for the pruner.
        wall_s: seconds that earlier sessions took.
        is_first_here: whether no other process of this machine works on the study.
    """

    seed: Candidate
    journal: Journal
    caps: Caps
    deadline: Deadline
    study: Study
    models: Models
    evaluator: Evaluator
    proposer: Proposer
    starts: dict[str, Candidate]
    pairs: Pairs = field(default_factory=dict)
    wall_s: float
    is_finished: bool
    crew: Alone
    is_first_here: bool
    resources: ExitStack

    def close(self) -> None:
        """End calls under way and close everything, the claim last."""
        self.resources.close()


def open_all(job: Job, observer: Observer) -> Opened:
    """Open a study, or create it.

    Raises:
        StudyError: another process runs it, or another configuration made it.
        Paused: its database or folder cannot be used.
    """
    remember(*passwords_in(job.config.storage, job.config.tracking.uri))
    make_private_folder(job.run_dir)
    with ExitStack() as resources:
        is_first = _claim_folder(resources, job)
        opened = _open_within(resources, job, observer, is_first_here=is_first)
        return opened(resources.pop_all())


def _claim_folder(resources: ExitStack, job: Job) -> bool:
    """Take the run folder, and return whether this is its first process; only where they share a database are others.

    Raises:
        StudyError: another process has it, and the database is a file.
        ConfigError: the database is a file where files of several machines are.
    """
    if not is_shared(job.storage_url):
        require_local_disk(job.storage_url)
    try:
        resources.callback(claim(job.run_dir).release)
        database = file_of(job.storage_url) if job.config.storage else None
        if database is not None and os.access(database.parent, os.W_OK):  # another run folder may go with the same file
            resources.callback(claim(job.run_dir, database.resolve()).release)
    except StudyError:
        if is_shared(job.storage_url):
            return False
        raise
    forget_live(job.run_dir)
    storage = job.config.storage and without_password(job.config.storage)
    leave_pointer(job.run_dir, storage=storage, folder=job.folder)
    return True


def _open_within(
    resources: ExitStack, job: Job, observer: Observer, *, is_first_here: bool
) -> Callable[[ExitStack], Opened]:
    """Open in order; what is returned takes over the resources."""
    seed, pairs = job.seed, Pairs()
    journal = Journal(
        open_engine(job.storage_url, is_durable=job.is_durable),
        job.config.name,
        owner=f"{socket.gethostname()}:{os.getpid()}",
    )
    resources.callback(journal.engine.dispose)
    crew = join_crew(journal)
    resources.callback(crew.close)
    if job.fork_of is not None and journal.load_study() is None:
        resources.callback(job.fork_of.dispose)
        n_replies = copy_replies(job.fork_of, journal.engine)
        logger.info("%d replies of the study that this one is forked from can be used again", n_replies)
    record = open_record(journal, job, seed)
    wall_s, is_finished = cast(float, record["wall_s"]), record["state"] == "finished"
    n_calls, n_finalists = len(seed.parts), job.config.search.finalists  # calls of one row
    caps = open_caps(
        job.config.budget,
        test_calls=2 * job.n_test * n_calls,
        finalist_calls=n_finalists * len(job.splits.dev) * n_calls,
    )
    study = open_study(job, journal, seed, pairs, crew)
    resources.callback(study.close)
    deadline = Deadline.of(job.config.budget, spent_s=wall_s)
    models = open_models(job, journal, caps, observer.waiting, left_s=deadline.left_s)
    evaluator = open_evaluator(job, models, journal, observer, crew)
    resources.callback(evaluator.close)
    resources.callback(models.close)
    learned, (first, *others) = _learned(record), _diverse_starts(job, seed)
    starts = dict([first, *learned, *others])
    n_starts = max(1 + len(learned), job.config.search.trials // 3)
    with crew.deciding():
        study.enqueue_starts(list(starts)[:n_starts], induced=job.proposer_backend.style == "chat" and n_starts > 2)
    proposer = open_proposer(job, seed, models, journal, evaluator)
    return lambda taken: Opened(
        seed=seed,
        journal=journal,
        caps=caps,
        deadline=deadline,
        study=study,
        models=models,
        evaluator=evaluator,
        proposer=proposer,
        starts=starts,
        pairs=pairs,
        wall_s=wall_s,
        is_finished=is_finished,
        crew=crew,
        is_first_here=is_first_here,
        resources=taken,
    )


def generator(job: Job, *identity: str | int) -> np.random.Generator:
    """Return a generator that depends on the seed and on what it is for, never on an order of calls."""
    return generator_of(job.config.search.seed, *identity)


def open_record(journal: Journal, job: Job, seed: Candidate) -> dict[str, JsonValue]:
    """Load the study's record or create it.

    Raises:
        StudyError: another configuration made it.
    """
    record, identity = journal.load_study(), job.identity()
    if record is None:
        journal.create_study(
            {
                "config": written_settings(job.config),
                "identity": identity,
                "facts": {**job.facts, UNPRICED: sorted(unpriced(job.prices))},
                "seed": seed.to_json(),
                "metric_version": job.metric.version,
                "warm_starts": [[name, candidate.to_json()] for name, candidate in job.warm_starts],
                "seen_before": [cast(JsonValue, asdict(each)) for each in seen_by_any(job)],
                "limits": limits_of(job.config),
            }
        )
        return open_record(journal, job, seed)
    if changed := differences(record, identity, config=job.config, facts=job.facts):
        raise StudyError(changed_study(job, changed))
    if job.warm_starts and not record["warm_starts"]:
        raise StudyError(
            f"study {job.config.name!r} exists and began without it: --warm-start begins a new study; "
            "add --set name=NEW, or leave it away to continue this one"
        )
    journal.adopt_orphans()
    if record["state"] != "finished" and record.get("limits") != limits_of(job.config):
        journal.update_study(records={"limits": limits_of(job.config)})
    if record["state"] != "finished":
        _keep_unpriced(journal, job, cast("dict[str, JsonValue]", record["facts"]))
    if record["state"] == "paused":
        journal.update_study(state="running", stop_reason="")
    return record


def _keep_unpriced(journal: Journal, job: Job, facts: dict[str, JsonValue]) -> None:
    """Remember whose calls had no known price, also after a price was set: those that were made stay unknown."""
    before = unpriced_in(facts)
    journal.unpriced = before | unpriced(job.prices)
    if journal.unpriced != before:
        journal.update_study(records={"facts": {**facts, UNPRICED: sorted(journal.unpriced)}})


def open_study(job: Job, journal: Journal, seed: Candidate, pairs: Pairs, crew: Alone) -> Study:
    """Open Optuna's side of the study."""
    search = job.config.search
    return Study(
        url=job.storage_url,
        name=job.config.name,
        journal=journal,
        search=search,
        operators=job.usable_operators,
        predictors=[part.predictor for part in seed.parts],
        pruner=RacePruner(RaceRule(min_gain=search.min_gain), pairs.get),
        examples_first=job.proposer_backend.style == "completion",
        crew=crew,
    )


def open_evaluator(job: Job, models: Models, journal: Journal, observer: Observer, crew: Alone) -> Evaluator:
    return Evaluator(
        job.program,
        models.task,
        job.metric,
        journal,
        concurrency=1 if job.task_backend.is_local else job.config.lm.task.concurrency,
        crew=crew,
        on_outcome=observer.scored,
    )


def open_proposer(job: Job, seed: Candidate, models: Models, journal: Journal, evaluator: Evaluator) -> Proposer:
    """Return what makes new candidates. It may try one on train rows, which is entered under the trial."""

    def attempt(candidate: Candidate, rows: Sequence[Example], number: int) -> list[Attempt]:
        journal.put_candidate(candidate)
        with models.task.at_once():
            outcomes = evaluator.outcomes(candidate, rows, trial=number)
        return [Attempt(example=row, outcome=outcome) for row, outcome in zip(rows, outcomes, strict=True)]

    config, splits = job.config, job.splits
    return Proposer(
        task=config.task,
        seed=seed,
        operators=job.operators,
        model=models.proposer,
        train=splits.train,
        held_out=[*splits.dev, *splits.test],
        max_chars=config.search.max_prompt_chars,
        max_demos=config.search.max_demos,
        attempt=attempt,
        max_tokens=config.proposer.max_tokens,
        temperature=config.proposer.temperature,
        steps=steps_of(job.program.specs, config.task),
        hides_rows=config.tracking.rows == "ids",
    )


def _learned(record: Mapping[str, JsonValue]) -> list[tuple[str, Candidate]]:
    """Return what the study took over from another one when it began."""
    kept = cast("Sequence[tuple[str, Mapping[str, JsonValue]]]", record.get("warm_starts", []))
    return [(name, Candidate.from_json(body)) for name, body in kept]


def _diverse_starts(job: Job, seed: Candidate) -> list[tuple[str, Candidate]]:
    search, rng = job.config.search, generator(job, "starts")
    formats, max_demos = search.formats, search.max_demos
    return diverse_starts(seed, job.config.task, job.splits.train, formats=formats, max_demos=max_demos, rng=rng)
