"""How many evaluations are asked for at once: in batches, where each would be a round of its own, and between looks.

What comes of them is in the journal; the loop then goes on as it does with a model that answers at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from optimizer.candidate import Candidate, Example
from optimizer.errors import BudgetExhausted

if TYPE_CHECKING:
    from optimizer.study.session import Session

NEWS = 20  # a race is looked at again when a twentieth of what is known is new


def together(session: Session, wanted: Sequence[tuple[Candidate, Sequence[Example]]]) -> None:
    """Evaluate candidates on examples in one round; nothing is done where single calls are made.

    Raises:
        Paused: the model cannot be used. A cap that is reached is left to the loop.
    """
    if session.job.config.lm.task.mode != "batch":
        return

    def evaluate(candidate: Candidate, examples: Sequence[Example]) -> None:
        with contextlib.suppress(BudgetExhausted):
            session.evaluate(candidate, examples)

    with ThreadPoolExecutor(len(wanted), thread_name_prefix="round") as pool:
        for future in [pool.submit(evaluate, *each) for each in wanted]:
            future.result()


def next_size(session: Session, size: int, *, start: int, n_rows: int) -> int:
    """Return how many rows the next block of a race has, `start` of `n_rows` being scored.

    Single calls: as many as `search.block` says, and in long races more, because five rows beside two hundred change no
    decision; the last races of a search fill the places that others have left, with no more rows than they had before.
    In batches a decision takes an hour: there are as few as will do, and none before there is an incumbent.
    """
    if session.job.config.lm.task.mode != "batch":
        return max(session.job.config.search.block, start // NEWS, min(start, _places_for_each(session)))
    return max(size, start) if session.elite.incumbent is not None else n_rows


def _places_for_each(session: Session) -> int:
    """Return how many calls each race could have in flight once no other will begin; 0 before that.

    With one candidate at a time it is 0, too: what is asked must not depend on how many calls the model takes at once.
    """
    search = session.job.config.search
    if search.in_flight == 1 or session.study.n_started() < search.trials:
        return 0
    return session.job.config.lm.task.concurrency // max(1, len(session.study.running()))
