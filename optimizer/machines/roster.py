"""Who works on a study that several processes share, for `optimizer status` on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from optimizer.machines.sign_of_life import NOW
from optimizer.storage.database import claim_table, storage_errors, worker_table
from optimizer.storage.journal import Journal
from optimizer.words import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One living worker.

    Attributes:
        name: machine and process.
        trials: numbers of those that it has in hand, from 0.
        silent_s: seconds since its last sign of life.
    """

    name: str
    trials: tuple[int, ...]
    silent_s: float


def workers(journal: Journal) -> list[Worker]:
    """Return the living workers of a study, the eldest first; none where one process has the study to itself."""
    if not journal.is_shared:
        return []
    table = worker_table.c
    query = sa.select(table.id, (NOW - table.beat_at).label("silent_s")).where(table.study == journal.study)
    claims = sa.select(claim_table.c.worker, claim_table.c.trial).where(claim_table.c.study == journal.study)
    with storage_errors(), journal.engine.connect() as connection:
        alive = connection.execute(query.order_by(table.seq)).all()
        in_hand = connection.execute(claims.order_by(claim_table.c.trial)).all()
    return [
        Worker(
            name=row.id.rpartition(":")[0],
            trials=tuple(claim.trial for claim in in_hand if claim.worker == row.id),
            silent_s=max(0.0, float(row.silent_s)),
        )
        for row in alive
    ]


def lines(found: Sequence[Worker]) -> list[str]:
    """Say who works on what."""
    return [
        f"worker {each.name}{', the eldest' if each is found[0] else ''}: {_in_hand(each)}; "
        f"heard of {duration(each.silent_s)} ago"
        for each in found
    ]


def _in_hand(worker: Worker) -> str:
    if not worker.trials:
        return "no trial in hand"
    return f"trial{'s' if len(worker.trials) > 1 else ''} {', '.join(str(number + 1) for number in worker.trials)}"
