"""What is looked at before a search is paid for: is the model there, can a row be scored, can replies be read?"""

from __future__ import annotations

import socket
import urllib.request
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scipy.stats import binom

from optimizer.candidate import Candidate
from optimizer.errors import ConfigError, Paused
from optimizer.proof.verdict import MAX_FAILED_SHARE
from optimizer.records import Outcome
from optimizer.study import reserve
from optimizer.words import visible

if TYPE_CHECKING:
    from optimizer.study.session import Session

CONNECT_S = 10.0
MANY_UNREAD, MANY_PROMPTS = 20, 3  # replies, to so many prompts, none of them readable: no matter of the wording
MAX_SHOWN = 60
NO_ACCIDENT = 0.01
WAY_ON = "mend that and run again to continue; where it takes another metric, program or data, add --fork NAME"


def check_baseline(session: Session, candidate: Candidate) -> None:
    """Try the seed on one row before the search begins, so that a broken set-up stops here and not at dawn.

    Raises:
        ConfigError: the call failed for a reason that retrying will not mend, or took too much of a cap.
        Paused: nobody answers at the model's address.
    """
    before = session.journal.spend()
    if not before.calls:
        require_reachable(session.job.config.lm.task.api_base)
    outcome = session.evaluate(candidate, session.splits.dev[:1], trial=0)[0]
    if outcome.kind == "failed":
        raise ConfigError(f"the first example could not be scored: {outcome.error}")
    reserve.require_a_row(session, before)


def require_reachable(api_base: str | None) -> None:
    """Refuse an address that has never answered and does not now; later, a model that is away is waited for.

    Raises:
        Paused: the host is unknown, or refuses connections.
    """
    parts = urlsplit(api_base or "")
    if parts.hostname is None or urllib.request.getproxies():
        return  # a provider's own address, or reached by way of another
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_S).close()
    except (ConnectionRefusedError, socket.gaierror) as error:
        why = "the name is unknown" if isinstance(error, socket.gaierror) else "the connection is refused"
        raise Paused(
            "provider",
            f"lm.task.api_base: {parts.hostname}:{port} cannot be reached, {why}; start the server and run again, or "
            "mend the address and give the study another name",
        ) from error
    except OSError:
        return  # slow, or it wants another way in: the call itself finds out


def require_readable(session: Session) -> None:
    """Refuse to go on where no reply could be read, neither to the seed nor to any other of the first candidates.

    One prompt whose replies cannot be read is what a search is there to mend.

    Raises:
        Paused: it is so after `MANY_UNREAD` replies to `MANY_PROMPTS` prompts.
    """
    trials = session.known.trials
    if any(not _is_unread(outcome) for trial in trials for outcome in trial.outcomes):
        return  # as a rule the first one
    outcomes = [outcome for trial in trials for outcome in trial.outcomes]
    n = len({trial.candidate.id for trial in trials if trial.candidate and trial.outcomes})
    if len(outcomes) < MANY_UNREAD or n < MANY_PROMPTS:
        return
    waiting = (trial for trial in session.study.trials() if trial.state.name == "WAITING")
    if any("start" in trial.user_attrs for trial in waiting):
        return
    shows_rows = session.job.config.tracking.rows == "full"
    reply = f", one was {visible(' '.join(outcomes[0].text.split()))[:MAX_SHOWN]!r}" if shows_rows else ""
    raise Paused(
        "unreadable",
        f"lm.task: none of {len(outcomes)} replies to {n} prompts can be read as an answer "
        f"({outcomes[0].error}{reply}); look at the server, raise max_tokens, allow another layout in search.formats, "
        "or take another model, and begin a study of another name",
    )


class Failures:
    """Which dev rows could be scored with some prompt, and which with none. Several threads may add."""

    def __init__(self) -> None:
        self._n_prompts: Counter[str] = Counter()
        self._scored: set[str] = set()
        self._last = ""

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Note what came of rows with one prompt."""
        for outcome in outcomes:
            self._n_prompts[outcome.example_id] += 1
            if outcome.kind == "failed":
                self._last = str(outcome.error)
            else:
                self._scored.add(outcome.example_id)

    def require_few(self) -> None:
        """Refuse to go on where so many rows cannot be scored with any prompt that there would be no verdict.

        Raises:
            Paused: so many are no accident where no more rows fail than a final test allows.
        """
        rows = [row for row, n in list(self._n_prompts.items()) if n >= MANY_PROMPTS]
        n_failing = sum(row not in self._scored for row in rows)
        if n_failing and float(binom.sf(n_failing - 1, len(rows), MAX_FAILED_SHARE)) < NO_ACCIDENT:
            raise Paused(
                "error_rate",
                f"{n_failing} of {len(rows)} dev rows cannot be scored with any prompt, one because of {self._last}; "
                f"with so many there would be no verdict: {WAY_ON}",
            )


def _is_unread(outcome: Outcome) -> bool:
    return outcome.kind in ("unparsed", "refused")
