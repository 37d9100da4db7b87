"""What a study needs of tokens and money, and what is kept back of them so that it always ends with a verdict.

A call is reserved at its worst case, its whole `max_tokens`, before it is sent. The last one of the final test must fit
as well, so what is kept back is what some rows took and one such call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimizer.budget.limits import MIN_TEST_ROWS
from optimizer.budget.room import Amount, Need, fewest_tokens, lack_of_room
from optimizer.candidate import Candidate
from optimizer.errors import ConfigError
from optimizer.lm.backend import tokens_at_most
from optimizer.prompts.program import TASK_PREDICTOR, TaskProgram
from optimizer.prompts.render import render
from optimizer.records import Spend
from optimizer.search.race import FIRST_BLOCKS

if TYPE_CHECKING:
    from optimizer.study.job import Job
    from optimizer.study.session import Session

SLACK = 1.2  # test rows may be longer than those that were measured
WRAPPING = 8  # tokens of a message besides its text, as `tokens_at_most` counts them


def fewest(job: Job) -> Need:
    """Return the least that a study takes, as far as that is known before any call."""
    search, dev, test = job.config.search, job.splits.dev, job.splits.test[: job.n_test]
    race = dev[: FIRST_BLOCKS * search.block] if search.racing else dev
    known = isinstance(job.program, TaskProgram) and (job.config.budget.usd or job.config.budget.tokens)
    asked = (*race, *test, *test) if known else ()  # only a module knows what it asks
    seed = job.seed
    messages = (job.program.messages(seed, TASK_PREDICTOR, row.inputs) for row in asked)
    tokens_in = fewest_tokens(message.content for each in messages for message in each)
    usd = job.task_price * job.prices["task"].usd(tokens_in, len(asked))
    return Need(len(race), len(test), tokens=tokens_in + len(asked), usd=usd)


def least(job: Job, row: Amount) -> Need:
    """Return what the shortest study takes that ends with a verdict, if all rows take what one took."""
    n_race, n_test = min(job.config.search.block, len(job.splits.dev)), min(MIN_TEST_ROWS, job.n_test)
    total = row.times(n_race + 2 * n_test).plus(worst_call(job, job.seed))
    return Need(n_race, n_test, tokens=total.tokens, usd=total.usd)


def worst_call(job: Job, candidate: Candidate) -> Amount:
    """Return what is reserved for the longest call of a candidate on a test row, or more."""
    texts = ("".join(map(str, row.inputs.values())) for row in job.splits.test)
    longest = max(texts, key=lambda text: len(text.encode("utf-8", "replace")), default="")
    max_tokens, n_steps = job.config.lm.task.max_tokens, len(candidate.parts)
    n_messages = 2 + 2 * candidate.n_demos
    between = (n_steps - 1) * max_tokens  # what a step is handed by those before it
    tokens_in = tokens_at_most(render(job.program, candidate), longest) + WRAPPING * n_messages + between
    return Amount(tokens_in + max_tokens, job.prices["task"].usd(tokens_in, max_tokens))


def require_a_row(session: Session, before: Spend) -> None:
    """Refuse a cap that the first row shows to be too small for a verdict, and keep back what it says.

    Args:
        before: what was spent before it was asked.

    Raises:
        ConfigError: what a study of few rows takes is more than the cap.
    """
    job, after = session.job, session.journal.spend()
    row = Amount(after.tokens - before.tokens, job.task_price * (after.cost_usd - before.cost_usd))
    if not row.tokens:
        return  # its reply was known
    require_least(job, row)
    _hold(session, row.times(2), session.seed)


def require_least(job: Job, row: Amount) -> None:
    """Refuse a cap that does not pay for the shortest study, if all rows take what one took.

    Raises:
        ConfigError: it does not.
    """
    if lack := lack_of_room(job.config.budget, least(job, row)):
        raise ConfigError(f"{lack} if all rows are like the first; raise it and run again")


def hold(session: Session) -> None:
    """Keep back what the first rows of the final test need, at what rows of the seed and of the best so far took."""
    if session.job.config.budget.tokens is None and session.job.config.budget.usd is None:
        return  # nothing could be used up
    best = session.elite.incumbent or session.seed
    _hold(session, _rows(session, best), best)


def payable(session: Session, finalists: Sequence[Candidate]) -> list[Candidate]:
    """Return the finalists whose final test can be paid, the seed at least: its own rows are paid in any case.

    What a final test that was broken off has paid for is paid.
    """
    budget, spend = session.job.config.budget, session.journal.spend()
    if budget.tokens is None and budget.usd is None:
        return list(finalists)
    ids = {session.seed.id, *(candidate.id for candidate in finalists)}
    known = session.journal.outcomes_of(ids, session.job.metric.version)

    def can_pay(candidate: Candidate) -> bool:
        both = known.get(session.seed.id, {}).keys() & known.get(candidate.id, {}).keys()
        n_paid = sum(row.id in both for row in session.splits.test)
        cost = _test_cost(session, _rows(session, candidate), candidate, n_paid=n_paid)
        has_tokens = budget.tokens is None or spend.tokens + cost.tokens <= budget.tokens
        return has_tokens and (budget.usd is None or spend.cost_usd + cost.usd <= budget.usd)

    found = [candidate for candidate in finalists if candidate == session.seed or can_pay(candidate)]
    return found or [session.seed]


def _hold(session: Session, rows: Amount, candidate: Candidate) -> None:
    cost = _test_cost(session, rows, candidate)
    session.caps.hold(tokens=cost.tokens, usd=cost.usd)


def _test_cost(session: Session, rows: Amount, candidate: Candidate, *, n_paid: int = 0) -> Amount:
    """Return what is left to pay of the shortest final test, where a test row of both prompts takes `rows`."""
    n_rows = min(MIN_TEST_ROWS, session.n_test) - n_paid
    return rows.times(SLACK * n_rows).plus(worst_call(session.job, candidate)) if n_rows > 0 else Amount(0, 0)


def _rows(session: Session, candidate: Candidate) -> Amount:
    return _row(session, session.seed).plus(_row(session, candidate))


def _row(session: Session, candidate: Candidate) -> Amount:
    """Return what a row of a candidate took in its trial, what its proposal took included; nothing before it had any.

    A judge's calls belong to no trial: with one, no row takes less than the mean of all.
    """
    n_steps, spend = len(candidate.parts), session.journal.spend()
    trials = (t for t in session.known.trials if t.candidate == candidate and t.task_calls)
    trial = next(trials, None)
    own = Amount(0, 0)
    if trial is not None:
        own = Amount(trial.tokens, trial.cost_usd or 0.0).times(n_steps / trial.task_calls)
    if session.models.judge is None or not (n_calls := spend.calls.get("task", 0)):
        return own
    mean = Amount(spend.tokens, spend.cost_usd).times(n_steps / n_calls)
    return Amount(max(own.tokens, mean.tokens), max(own.usd, mean.usd))
