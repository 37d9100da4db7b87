"""How a search is closed: when people are too late, and what becomes of trials that nobody will carry out.

Each step is noted in the study's record before it is taken. What people say (`optimizer.review.wishes`) is entered only
after a look at the same record within one transaction, so that a wish that was accepted is a wish that counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from optimizer.candidate import Candidate, JsonValue
from optimizer.records import Recipe
from optimizer.review.wishes import SEARCH_OVER, TESTED, suggestions, vetoes
from optimizer.search.optuna_study import PERSON

if TYPE_CHECKING:
    from optimizer.study.session import Session

NOT_TRIED = "not tried: the search had ended"
CUT_SHORT = "cut short: the search had ended"
CLOSED: Mapping[str, JsonValue] = {SEARCH_OVER: "", TESTED: "", "verdict": None, "dev": None}  # and what is left of it


def begin_search(session: Session) -> None:
    """Open a search that was closed, where a study is continued with something left to spend: people may suggest
    prompts again, and what a final test that was broken off has left is void."""
    record = session.journal.load_study() or {}
    if any(record.get(key) for key in CLOSED) and session.stop_reason() is None:
        session.journal.update_study(records=CLOSED)


def end_search(session: Session, reason: str) -> bool:
    """Take no more suggestions; False if one came at the last moment and can still be tried."""
    session.journal.update_study(records={SEARCH_OVER: reason})
    if session.stop_reason() is not None:
        return True
    session.journal.update_study(records={SEARCH_OVER: ""})
    return False


def enter_seed(session: Session) -> None:
    """Enter the rows of a seed whose first block a cap has cut short: a verdict needs no more than some."""
    seed, metric = session.seed, session.job.metric.version
    if seed not in session.elite and session.journal.outcomes(seed.id, metric):
        session.enter_kept(seed)


def begin_test(session: Session, winner: Candidate) -> bool:
    """Note that the final test of a candidate begins; False if somebody vetoed it before that."""
    session.journal.update_study(records={TESTED: winner.id})
    if winner.id not in vetoes(session.journal):
        return True
    session.journal.update_study(records={TESTED: ""})
    return False


def close_trials(session: Session) -> None:
    """End what has begun and will not be carried out: a finished study has no running trial."""
    wanted = {f"{PERSON} {wish_id}": candidate for wish_id, candidate in suggestions(session.journal)}
    with session.deciding():
        for trial in session.study.running():
            suggested = wanted.get(str(trial.user_attrs.get("start")))
            session.study.abandon(trial.number, _facts(suggested, has_begun="recipe" in trial.user_attrs))
            session.tracker.trial_finished(trial.number)


def _facts(suggested: Candidate | None, *, has_begun: bool) -> dict[str, JsonValue]:
    facts: dict[str, JsonValue] = {"state": "unfinished", "reason": CUT_SHORT if has_begun else NOT_TRIED}
    if suggested is not None:
        facts |= {"candidate": suggested.id, "recipe": json.dumps(asdict(Recipe(operator=PERSON)))}
    return facts
