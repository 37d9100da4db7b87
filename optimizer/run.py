"""Start reading here: one study from its baseline to its verdict.

    search      ask Optuna for a recipe, make a candidate of it, race it against the incumbent, tell
    recommend   score the finalists on all of dev, choose one
    final_test  seed against winner on test rows, once

What the loop stands on (journal, models, Optuna, MLflow) is opened in `optimizer.study.opening`; what it says is
carried out in `optimizer.study.session`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace

from optimizer.candidate import Candidate
from optimizer.errors import BudgetExhausted, Paused, UserError
from optimizer.proof import verdict
from optimizer.proof.earlier import among, tested_on
from optimizer.propose import Rejection
from optimizer.records import StudyView, Verdict
from optimizer.search.optuna_study import Ticket
from optimizer.storage.database import storage_errors
from optimizer.study import closing, held
from optimizer.study.baseline import WAY_ON, check_baseline
from optimizer.study.chance import FINAL_TEST
from optimizer.study.final import tested
from optimizer.study.job import Job
from optimizer.study.observe import Observer
from optimizer.study.reserve import hold, payable
from optimizer.study.rounds import together
from optimizer.study.session import OUT_OF_REACH, Session
from optimizer.study.sharing import wait_turn
from optimizer.study.stops import can_score, goes_on, keep_ending, timing
from optimizer.study.view import seen_from_json
from optimizer.unattended.heartbeat import Heartbeat
from optimizer.unattended.notify import tell, webhook_url
from optimizer.words import REFUSED

logger = logging.getLogger(__name__)

MAX_FAILED_SHARE = 0.2  # of a block; one odd row is left out of the comparison, a broken model ends the trial


def run(job: Job, observer: Observer | None = None, on_open: Callable[[], None] | None = None) -> StudyView:
    """Carry out a study, or continue it, and return it with its verdict. A finished study costs nothing.

    Args:
        on_open: called once the study is this process's, or it has joined those that share it.

    Raises:
        Paused: a person or time must act first; run again to continue. Disks and databases that fail end here, too.
        UserError: the study exists and does not fit the job.
    """
    url, heartbeat = webhook_url(job.config), Heartbeat(job.run_dir, observer or Observer())
    try:
        with storage_errors():
            session = Session(job, heartbeat)
        try:
            if on_open is not None:
                on_open()
            was_finished = session.is_finished
            view = _carry_out(session)
            if not was_finished:
                tell(url, session.view)
            return view
        except Paused as pause:
            session.pause(pause.reason, str(pause))
            if not (session.crew.is_shared and pause.reason in OUT_OF_REACH):  # that worker will join again
                tell(url, session.view, reason=str(pause))
            raise
        except UserError as error:
            session.pause(REFUSED, str(error))
            tell(url, session.view, reason=str(error))
            raise
        except KeyboardInterrupt:
            session.pause("user")
            raise
        finally:
            session.close()
    finally:
        heartbeat.close()


def _carry_out(session: Session) -> StudyView:
    """Take the study from wherever it stands to its verdict."""
    with storage_errors():
        if not session.is_finished:
            session.restore()
            hold(session)
        session.mend_best()
        while not session.is_finished:
            closing.begin_search(session)
            reason = search(session)
            if session.crew.is_shared and (turn := wait_turn(session)) != "lead":
                if turn == "finished":
                    session.see_finished()
                    session.mend_best()
                continue
            if not closing.end_search(session, reason):
                continue
            kept, winner = timing(session), recommend(session)
            if goes_on(session, reason):
                continue
            while not closing.begin_test(session, winner):
                winner = recommend(session)
            found = final_test(session, winner)
            keep_ending(session, kept)
            closing.close_trials(session)
            session.finish(reason, winner, found)
        return session.view()


def search(session: Session) -> str:
    """Try candidates until there is a reason to stop, and return it."""

    def work() -> None:
        while (ticket := session.ask()) is not None:
            try:
                run_trial(session, ticket)
            except BudgetExhausted as error:
                session.budget_used_up(error, ticket)

    n_workers = session.job.config.search.in_flight
    try_first_row(session)
    if n_workers == 1:
        work()
    else:
        _side_by_side(session, work, n_workers)
    return session.stop_reason() or "trials"


def try_first_row(session: Session) -> None:
    """Score the seed on one row, alone, before the first trial begins."""
    if session.study.n_started() or session.stop_reason() is not None:
        return
    try:
        with session.models.task.at_once():
            check_baseline(session, session.seed)
    except BudgetExhausted as error:
        session.budget_used_up(error)


def _side_by_side(session: Session, work: Callable[[], None], n_workers: int) -> None:
    """Run several workers. What one of them raises ends all, and is raised before the pauses that this brings about."""
    with ThreadPoolExecutor(n_workers, thread_name_prefix="trial") as pool:
        futures = [pool.submit(work) for _ in range(n_workers)]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException as first:
            session.stop()
            if not isinstance(first, Paused):
                raise
            errors = [first, *(error for future in futures if (error := future.exception()) is not None)]
            raise min(errors, key=_is_consequence) from None


def _is_consequence(error: BaseException) -> int:
    """Rank errors of workers that ended together: those that made the others stop come first."""
    return isinstance(error, Paused) + (getattr(error, "reason", "") == "user")


def run_trial(session: Session, ticket: Ticket) -> None:
    """Make one candidate and race it; tell Optuna how it went."""
    started = time.monotonic()
    session.observer.trial_started(ticket)
    try:
        proposal = session.propose(ticket)
    except Rejection as rejection:
        session.tell_rejected(ticket, rejection, time.monotonic() - started)
        return
    state, reason = race(session, ticket, proposal.candidate)
    session.tell(ticket, proposal, state=state, reason=reason, duration_s=time.monotonic() - started)


def race(session: Session, ticket: Ticket, candidate: Candidate) -> tuple[str, str]:
    """Score a candidate block by block on dev, until it is done, dropped or failed; return state and reason."""
    for examples in session.blocks():
        outcomes = session.evaluate(candidate, examples, trial=ticket.number)
        session.failures.add(outcomes)
        failed = [outcome for outcome in outcomes if outcome.kind == "failed"]
        if len(failed) > MAX_FAILED_SHARE * len(outcomes):
            return "failed", failed[0].error or "failed"
        if session.should_drop(ticket, candidate, outcomes):
            return "pruned", session.study.pruner.reasons[ticket.number]
    return "complete", ""


def recommend(session: Session) -> Candidate:
    """Score the finalists on all of dev and return the one to use.

    Among finalists that score alike the shorter prompt wins: it is cheaper for as long as it is used.
    """
    closing.enter_seed(session)
    finalists, search_settings = held.finalists(session), session.job.config.search
    if not finalists:
        raise Paused("error_rate", f"no candidate could be scored: {session.why_nothing()}")
    session.observer.finalists(finalists)
    session.caps.release_finalists()
    session.models.task.hurry()
    # The seed last: it matters only to people who compare dev scores.
    together(session, [(candidate, session.splits.dev) for candidate in (*finalists, session.seed)])
    for candidate in [*finalists, session.seed]:
        if candidate != finalists[0] and not can_score(session, candidate):
            break  # the time that is left is kept for the test
        try:
            session.score(candidate, session.splits.dev)
        except BudgetExhausted:
            session.enter_kept(candidate)  # the rows that it paid for count; what is left is kept for the test
            break
    finalists = held.fit(session, payable(session, finalists))  # on all of dev it may be plain that one gives one label
    if not session.job.metric.is_mean:
        return held.by_aim(session, finalists)[0]
    tolerance = search_settings.min_gain if "cost" in search_settings.objective else 0.0
    return verdict.choose_winner(session.elite, finalists, session.n_chars, tolerance=tolerance)


def final_test(session: Session, winner: Candidate) -> Verdict:
    """Compare seed and winner on test rows, once, and decide whether the winner may replace the seed.

    Raises:
        Paused: too many calls failed for a fair comparison, or for the caps.
    """
    session.caps.release_reserve()
    rows, old, new, usd_per_row, shortfall = tested(session, winner)
    try:
        found = verdict.judge(
            session.job.metric,
            rows,
            seed=old,
            winner=new,
            is_same=winner == session.seed,
            confidence=session.job.config.search.confidence,
            rng=session.generator(FINAL_TEST),
            tested_on=tested_on(among(seen_from_json(session.journal.load_study() or {}), [row.id for row in rows])),
        )
    except verdict.TooManyFailures as error:
        raise Paused("error_rate", f"{error}; {WAY_ON}") from error
    return held.held_to_rules(session, replace(found, shortfall=shortfall), winner, usd_per_row=usd_per_row)
