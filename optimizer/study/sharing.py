"""How the workers of one study come to the same knowledge, and to one verdict.

Every decision (the next trial, a trial's end, who leads, the verdict) is made while all other workers are held off, and
begins by taking in what they have told since. They therefore see the same trials in the same order, agree on the
incumbent, and start no trial too many.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Literal, cast

from optimizer.candidate import Fields
from optimizer.machines.crew import LOOK_S
from optimizer.propose.proposer import Proposal
from optimizer.records import Verdict
from optimizer.review.wishes import SEARCH_OVER, TESTED
from optimizer.study.view import order_told, trial_records, verdict_from_json

if TYPE_CHECKING:
    from optimizer.search.optuna_study import Ticket
    from optimizer.study.session import Session

IS_BEST = "is_best"
MADE = "made"  # the candidate that a trial is about, so that who takes it up scores the same one

Turn = Literal["lead", "search", "finished"]


def take_in(session: Session) -> None:
    """Enter what other workers have told, in the order in which they did, and show it. Call it while deciding."""
    known = {trial.number for trial in session.known.trials}
    new = [trial for trial in session.study.trials() if trial.state.is_finished() and trial.number not in known]
    facts = {trial.number: trial.user_attrs for trial in new}
    if not new:
        return
    before = session.elite.incumbent
    new.sort(key=order_told)
    for trial in trial_records(session.journal, new, metric=session.job.metric.version):
        session.known.learn(trial)
        is_best = bool(facts[trial.number].get(IS_BEST))
        if is_best:
            session.elite.incumbent = trial.candidate
        if session.is_restored and trial.state != "unfinished":
            session.observer.trial_finished(trial, is_best=is_best)
    if (best := session.elite.incumbent) is not None:
        session.enter_kept(best)
    if best != before:
        session.mend_best()


def wait_turn(session: Session) -> Turn:
    """Wait until this worker has something to do again: lead the study to its verdict, search on, or look at it.

    The search is over when no living worker has a trial in hand. A trial of one that died is searched on with.

    Raises:
        Paused: the run is stopped.
    """
    while True:
        with session.deciding():
            record = session.journal.load_study()
            if record is not None and record["state"] == "finished":
                return "finished"
            if session.stop_reason() is None:
                return "search"
            if session.crew.leads() and len(session.study.running()) == len(session.study.orphans()):
                return "lead"
        session.models.task.raise_if_stopped()
        time.sleep(LOOK_S)


def ended_elsewhere(session: Session) -> str | None:
    """Return why the search is over where another worker makes the final test or has made it, else None."""
    if not session.crew.is_shared or session.crew.n_workers() == 1:
        return None
    record = session.journal.load_study() or {}
    if record.get("state") == "finished" or record.get(TESTED):
        return str(record.get(SEARCH_OVER) or record.get("stop_reason") or "trials")
    return None


def verdict_of(session: Session) -> Verdict | None:
    """Return the verdict that another worker has written, None while there is none."""
    record = session.journal.load_study()
    found = record.get("verdict") if record and record["state"] == "finished" else None
    return verdict_from_json(cast(Fields, found)) if found else None


def made_before(session: Session, ticket: Ticket) -> Proposal | None:
    """Return what a worker that died had made for this trial, None if it had not come so far."""
    kept = ticket.trial.user_attrs.get(MADE)
    if not kept:
        return None
    candidate_id, parents = json.loads(kept)
    found = session.journal.candidates([candidate_id]).get(candidate_id)
    return None if found is None else Proposal(candidate=found, parents=tuple(parents))


def keep_made(session: Session, ticket: Ticket, proposal: Proposal) -> None:
    session.journal.put_candidate(proposal.candidate)
    ticket.trial.set_user_attr(MADE, json.dumps([proposal.candidate.id, list(proposal.parents)]))
