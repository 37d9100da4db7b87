"""One open study: its journal, models, Optuna study, tracker, and what the search knows so far.

`optimizer.run` says what happens in which order; the verbs are here. Everything the search knows is rebuilt from the
database when a study is continued, so a session holds nothing that a kill could lose.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import cast

import numpy as np
from optuna.trial import TrialState

from optimizer.candidate import Candidate, Example, JsonValue
from optimizer.errors import BudgetExhausted, Paused
from optimizer.privacy.redaction import redact
from optimizer.prompts.render import render
from optimizer.proof.verdict import dev_estimate
from optimizer.propose import Rejection
from optimizer.propose.proposer import Proposal, RejectedProposal
from optimizer.propose.rest import is_resting, rest_note
from optimizer.records import DevEstimate, Outcome, StudyView, Verdict
from optimizer.review.wishes import suggestions
from optimizer.search.known import RACED, Known
from optimizer.search.optuna_study import PERSON, Ticket
from optimizer.search.race import FIRST_BLOCKS, race_rows
from optimizer.storage.crash_points import crash_point
from optimizer.storage.files import save_best, saved_best
from optimizer.study import reserve
from optimizer.study.baseline import Failures, require_readable
from optimizer.study.job import Job
from optimizer.study.observe import Observer
from optimizer.study.opening import generator, open_all
from optimizer.study.rounds import next_size
from optimizer.study.sharing import IS_BEST, ended_elsewhere, keep_made, made_before, take_in, verdict_of
from optimizer.study.stops import stop_reason
from optimizer.study.tracking import open_tracker
from optimizer.study.view import TOLD, Records, order_told, read_view
from optimizer.track import NoTracker, Tracker

logger = logging.getLogger(__name__)

OUT_OF_REACH = ("storage", "lost")  # pauses of a worker that cannot write to the study


class Session:
    """An open study. Thread-safe where trials run side by side: `ask`, `tell` and what they change hold a lock."""

    def __init__(self, job: Job, observer: Observer) -> None:
        self.job, self.observer, self.splits = job, observer, job.splits
        self._lock, self._deepening = threading.RLock(), threading.Lock()
        self.is_stopping, self.is_restored, self.budget_note = False, False, cast("BudgetExhausted | None", None)
        self._began_at = self._opened_at = time.monotonic()
        self.n_plain = 0  # trials that did without the proposer
        self.failures = Failures()
        self._opened = opened = open_all(job, observer)
        self.seed, self.n_test, self.is_finished = opened.seed, job.n_test, opened.is_finished
        self.journal, self.study, self.proposer = opened.journal, opened.study, opened.proposer
        self.models, self.crew, self.is_first_here = opened.models, opened.crew, opened.is_first_here
        self.caps, self.deadline = opened.caps, opened.deadline
        self._records = Records(opened.journal, str((opened.journal.load_study() or {})["metric_version"]))
        self.known = Known([row.id for row in self.splits.dev])
        self.elite = self.known.elite
        self.tracker: Tracker | NoTracker = NoTracker()
        try:
            with self.crew.deciding():
                self.tracker = open_tracker(job, self.journal, self.view, self.crew, is_finished=self.is_finished)
            observer.opened(self)
        except BaseException:
            self.close()
            raise

    def restore(self) -> None:
        """Rebuild what the search knows from finished trials, in their order. Begin with this.

        Raises:
            Paused: a race that a killed process had not lengthened yet cannot be lengthened now.
        """
        if self.crew.is_shared:
            with self.deciding():
                self.is_restored = True
                return
        ended = sorted((trial for trial in self.study.trials() if trial.state.is_finished()), key=order_told)
        for trial, found in zip(self._records.of(ended), ended, strict=True):
            crash_point("resume")
            self.known.learn(trial)
            if found.user_attrs.get(IS_BEST) and trial.candidate is not None:
                self.elite.incumbent = trial.candidate
                self.enter_kept(trial.candidate)
        try:  # what it costs is in the journal, unless the process was killed before it was paid
            self.deepen(n_races=self.known.n_races())
        except BudgetExhausted as error:
            self.budget_used_up(error)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Hold off every other decision, of other threads and other workers, and know what they told."""
        with self._lock, self.crew.deciding():
            if self.crew.is_shared:
                take_in(self)
            yield

    def enter_kept(self, candidate: Candidate) -> None:
        """Enter what any worker has scored the candidate on."""
        kept = self.journal.outcomes(candidate.id, self.job.metric.version)
        self.known.enter(candidate, list(kept.values()))

    # -- what the loop asks -------------------------------------------------------------------

    def stop_reason(self) -> str | None:
        """Return why no further trial should begin, or None."""
        self._take_suggestions()
        return ended_elsewhere(self) or stop_reason(self)

    def ask(self) -> Ticket | None:
        """Return the next trial, or None when there is a reason to stop. While the proposer fails it needs no model."""
        with self.deciding():  # side by side, workers would start more trials than are wanted
            if self.stop_reason() is not None:
                return None
            require_readable(self)
            self.failures.require_few()
            if plain := self._plain_operators():
                if not self.n_plain:
                    logger.warning("the last replies of the proposer were no use; going on without it for a while")
                self.n_plain += 1
                rng = self.generator("without proposer", len(self.study.trials()))
                self.study.enqueue_operator(plain[int(rng.integers(len(plain)))])
            return self.study.ask()

    def propose(self, ticket: Ticket) -> Proposal:
        """Return the candidate of a trial.

        Raises:
            Rejection: there is nothing to score.
        """
        if (proposal := made_before(self, ticket)) is not None:
            return proposal
        proposal = self._made(ticket)
        if self.crew.is_shared or self.job.config.search.in_flight > 1:  # else it comes out the same again
            keep_made(self, ticket, proposal)
        return proposal

    def _made(self, ticket: Ticket) -> Proposal:
        if ticket.start is not None:
            start = Proposal(candidate=self._opened.starts[ticket.start])
            predictor = start.candidate.parts[0].predictor
            if start.candidate == self.seed:
                return start
            try:
                return self.proposer.checked(start, parent=None, predictor=predictor, memory=self.known.memory)
            except RejectedProposal as rejection:
                if ticket.start.startswith(PERSON) and rejection.reason.startswith("nearly"):
                    return start  # to a person, one word can be the point
                raise
        rng = self.generator("trial", ticket.number)
        return self.proposer.propose(
            ticket.recipe, number=ticket.number, elite=self.elite, memory=self.known.memory, rng=rng
        )

    def _take_suggestions(self) -> None:
        """Make trials of the prompts that people gave since the last look."""
        with self.deciding():
            for wish_id, candidate in suggestions(self.journal):
                self._opened.starts[name := f"{PERSON} {wish_id}"] = candidate
                if self.elite.incumbent is not None:  # the seed comes first: everything is compared with it
                    self.study.put_first(name)

    def evaluate(self, candidate: Candidate, examples: Sequence[Example], *, trial: int | None = None) -> list[Outcome]:
        self.journal.put_candidate(candidate)
        return self._opened.evaluator.outcomes(candidate, examples, trial=trial)

    def score(self, candidate: Candidate, examples: Sequence[Example]) -> None:
        """Score a candidate on dev examples outside a race, and enter the values."""
        outcomes = self.evaluate(candidate, examples)
        with self._lock:
            self.known.enter(candidate, outcomes)

    def blocks(self) -> Iterator[Sequence[Example]]:
        """Yield the dev examples of a race: those that the incumbent is scored on, block by block."""
        dev, size, start = self.splits.dev, self.job.config.search.block, 0
        n_first = FIRST_BLOCKS * size if self.job.config.search.racing else len(dev)
        while start < min(n_rows := self.elite.n_raced or n_first, len(dev)):  # others may lengthen it
            size = next_size(self, size, start=start, n_rows=n_rows)
            yield dev[start : (start := min(start + size, n_rows))]

    def deepen(self, *, n_races: int) -> None:
        """Score the incumbent on further rows as the search goes on, so that races grow as the field gets closer."""
        search, n_dev = self.job.config.search, len(self.splits.dev)
        progress = len(self.known.memory.trials) / search.trials
        n_rows = race_rows(n_races=n_races, block=search.block, n_dev=n_dev, progress=progress)
        if not self._deepening.acquire(blocking=False):
            return  # another thread is at it; what is still missing then comes with the next trial
        try:
            if self.elite.incumbent is not None and n_rows > self.elite.n_raced:
                self.score(self.elite.incumbent, self.splits.dev[self.elite.n_raced : n_rows])
        finally:
            self._deepening.release()

    def should_drop(self, ticket: Ticket, candidate: Candidate, outcomes: Sequence[Outcome]) -> bool:
        """Enter a block of outcomes, report it to Optuna, and ask the pruner."""
        with self._lock:
            self.known.enter(candidate, outcomes)
            self.study.report(ticket, self.elite.gain(candidate), step=self.known.n_scored(candidate))
            incumbent = self.elite.incumbent
            if incumbent is None or incumbent == candidate or not self.job.config.search.racing:
                return False
            self._opened.pairs[ticket.number] = self.elite.race_values(candidate)
            return self.study.should_prune(ticket)

    def tell(self, ticket: Ticket, proposal: Proposal, *, state: str, reason: str, duration_s: float) -> None:
        """Finish a trial, and keep the best prompt on disk when it changed."""
        candidate = proposal.candidate
        with self.deciding():
            if self.study.has_ended(ticket):
                return  # another worker has closed the search
            difference, gain = self.elite.difference(candidate), self.elite.gain(candidate)
            is_best = state == "complete" and self.elite.challenge(candidate)
            facts: dict[str, JsonValue] = {
                "candidate": candidate.id,
                "parents": list(proposal.parents),
                "state": state,
                "reason": reason,
                "scored": cast(JsonValue, self.known.scored_ids(candidate)),
                "difference": difference,
                "duration_s": round(duration_s, 3),
                TOLD: len(self.known.trials),
                IS_BEST: is_best,
            }
            optuna_state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(state, TrialState.FAIL)
            self.study.tell(ticket, optuna_state, gain if state == "complete" else None, facts)
            self._after_trial(ticket.number, is_best=is_best)
            n_races = self.known.n_races()
        if state in RACED:
            self.deepen(n_races=n_races)

    def tell_rejected(self, ticket: Ticket, rejection: Rejection, duration_s: float) -> None:
        reason = redact(rejection.reason)
        facts: dict[str, JsonValue] = {"state": "rejected", "reason": reason, "duration_s": duration_s}
        if isinstance(rejection, RejectedProposal):
            self.journal.put_candidate(rejection.proposal.candidate)
            facts |= {"candidate": rejection.proposal.candidate.id, "parents": list(rejection.proposal.parents)}
        with self.deciding():
            if self.study.has_ended(ticket):
                return
            facts[TOLD] = len(self.known.trials)
            # To Optuna, pruned before the first step: the sampler learns from it, where it would forget a failure.
            self.study.tell(ticket, TrialState.PRUNED, None, facts)
            self._after_trial(ticket.number, is_best=False)

    def budget_used_up(self, error: BudgetExhausted, ticket: Ticket | None = None) -> None:
        """A cap was reached in the middle of a trial; the trial stays open and is taken up when the cap is raised."""
        logger.info("search ends: %s", error)
        self.budget_note = error
        if ticket is not None:
            self.crew.leave(ticket.number)

    def finish(self, reason: str, winner: Candidate, verdict: Verdict) -> None:
        """Write the verdict, unless another worker has. From here on the study costs nothing."""
        with self.deciding():
            if verdict_of(self) is None:
                self._write_verdict(reason, winner, verdict)
        self.see_finished()

    def see_finished(self) -> None:
        """Take note of a verdict that stands."""
        self.is_finished = True
        self.tracker.study_finished()
        self.observer.finished(self.view())

    def _write_verdict(self, reason: str, winner: Candidate, verdict: Verdict) -> None:
        records: dict[str, JsonValue] = {
            "best": winner.to_json(),
            "dev": cast(JsonValue, asdict(self.dev_estimate(winner))),
            "verdict": cast(JsonValue, asdict(verdict)),
        }
        self.journal.update_study(records=records)
        view = replace(self.view(), state="finished")
        save_best(self.job.run_dir, view, self.render(view.chosen))
        self._close_record("finished", reason, {})  # last: what it takes to get here again is in the journal

    def stop(self) -> None:
        """Begin nothing further: another thread has met an error, or the user stops the run."""
        self.is_stopping = True
        self.models.stop()

    def pause(self, reason: str, message: str = "") -> None:
        """Write why the study stopped, if anything can be written; running it again continues it.

        A verdict that stands, of this worker or of another, is left alone.
        """
        if self.crew.is_shared and reason in OUT_OF_REACH:
            return
        with contextlib.suppress(Paused), self.crew.deciding():
            if verdict_of(self) is not None:
                return None
            if self.crew.n_workers() > 1:
                return self._add_time(is_urgent=True)  # the others go on
            self._close_record("paused", reason, {"pause": redact(message)})
        self.tracker.study_finished()

    def mend_best(self) -> None:
        """Write the best prompt if a kill or a full disk has kept it from being written."""
        best, saved = self.elite.incumbent, saved_best(self.job.run_dir)
        if self.is_finished:
            if saved != (view := self.view()).chosen.id:
                save_best(self.job.run_dir, view, self.render(view.chosen))
        elif best is not None and saved != best.id:
            self._keep(best)

    def close(self) -> None:
        """End calls under way and close everything; safe after any error."""
        self.models.stop()
        if note := rest_note(self.n_plain):
            logger.warning("%s", note)
        try:
            self.tracker.close()
        finally:
            self._opened.close()

    def n_chars(self, candidate: Candidate) -> int:
        """Length of a candidate's prompt without an input, in characters."""
        return len(self.render(candidate))

    def why_nothing(self) -> str:
        """Say why there is no scored candidate."""
        return str(self.budget_note or self.known.last_reason() or "no trial was finished")

    def dev_estimate(self, winner: Candidate) -> DevEstimate:
        """Return what the search believes of the winner on dev."""
        return dev_estimate(self.elite, seed=self.seed, winner=winner, confidence=self.job.config.search.confidence)

    def generator(self, *identity: str | int) -> np.random.Generator:
        """Return a generator that depends on the seed and on what it is for, never on an order of calls."""
        return generator(self.job, *identity)

    def render(self, candidate: Candidate) -> str:
        """Return the candidate's prompt as text, with the inputs left open."""
        return render(self.job.program, candidate)

    def view(self) -> StudyView:
        return read_view(self.journal, self.study.trials(), self._records)

    # -- bookkeeping ----------------------------------------------------------------------------------

    def _plain_operators(self) -> list[str]:
        """Operators that need no model, while the proposer is given a rest; else none."""
        by_name = {operator.name: operator for operator in self.job.operators}
        asking = {name for name in self.job.usable_operators if "lm" in by_name[name].needs}
        return (
            [n for n in self.job.usable_operators if n not in asking]
            if is_resting(self.known.trials, asking=asking)
            else []
        )

    def _after_trial(self, number: int, *, is_best: bool) -> None:
        trial = self._records.of([self.study.trials()[number]])[0]
        self.known.learn(trial)
        reserve.hold(self)
        if is_best and self.elite.incumbent is not None:
            self._keep(self.elite.incumbent)
        self._add_time(is_urgent=False)
        self.tracker.trial_finished(number)
        self.observer.trial_finished(trial, is_best=is_best)

    def _keep(self, best: Candidate) -> None:
        self.journal.update_study(records={"best": best.to_json()})
        save_best(self.job.run_dir, self.view(), self.render(best))

    @property
    def seconds_per_row(self) -> float | None:
        """How long an evaluation takes, calls in flight together counted once; None before the first."""
        return self._opened.evaluator.seconds_per_row

    @property
    def elapsed_s(self) -> float:
        """Seconds that all runs of the study have taken."""
        return self._opened.wall_s + time.monotonic() - self._began_at

    def _add_time(self, *, is_urgent: bool) -> None:
        """Enter the time since the last entry, so that a kill loses no more than one trial's."""
        now = time.monotonic()
        elapsed_s, self._opened_at = now - self._opened_at, now
        self.journal.update_study(add_wall_s=self.crew.time_to_enter(elapsed_s), is_urgent=is_urgent)

    def _close_record(self, state: str, reason: str, records: dict[str, JsonValue]) -> None:
        self._add_time(is_urgent=False)
        self.journal.update_study(state=state, stop_reason=reason, records=records)
