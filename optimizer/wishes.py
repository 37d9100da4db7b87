"""What people say to a study: a prompt of their own to race next, or a candidate that must not win.

Kept in the study's database, so that it reaches a study that runs, on whatever machine. A running study looks before
each trial; vetoes count when finalists are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import sqlalchemy as sa

from optimizer.candidate import Candidate
from optimizer.command_line import command_name
from optimizer.database import storage_errors, wish_table
from optimizer.errors import StudyError
from optimizer.journal import Journal
from optimizer.propose.wording import placeholders
from optimizer.records import StudyView

MAX_CHARS = 100_000


def suggest(journal: Journal, view: StudyView, candidate: Candidate) -> bool:
    """Ask a study to race a candidate next; False if it has raced this very one.

    Raises:
        StudyError: the study is finished, or the prompt lost a placeholder of the seed.
    """
    refuse_finished(view)
    _refuse_wrong_placeholders(view, candidate)
    if any(trial.candidate == candidate for trial in view.trials):
        return False
    journal.put_candidate(candidate)
    _add(journal, "suggest", candidate.id)
    return True


def veto(journal: Journal, view: StudyView, candidate: Candidate) -> None:
    """Keep a candidate from winning.

    Raises:
        StudyError: the study is finished, or the candidate is the seed.
    """
    refuse_finished(view)
    if candidate == view.seed:
        raise StudyError("your own prompt cannot be vetoed: it is what everything is compared with")
    _add(journal, "veto", candidate.id)


def suggestions(journal: Journal) -> list[tuple[int, Candidate]]:
    """Return what people suggested so far, with a number for each, oldest first."""
    rows = _rows(journal, "suggest")
    candidates = journal.candidates({candidate_id for _, candidate_id in rows}) if rows else {}
    return [(wish_id, candidates[candidate_id]) for wish_id, candidate_id in rows]


def vetoes(journal: Journal) -> frozenset[str]:
    """Return the ids of candidates that must not win."""
    return frozenset(candidate_id for _, candidate_id in _rows(journal, "veto"))


def reworded(base: Candidate, text: str, predictor: str | None) -> Candidate:
    """Return the candidate with other words for one predictor; layout and examples stay.

    Raises:
        StudyError: the text is empty or very long, or it is not clear which predictor is meant.
    """
    names = [part.predictor for part in base.parts]
    if not text.strip() or len(text) > MAX_CHARS:
        raise StudyError(f"the prompt has {len(text.strip()):,} characters; give 1 to {MAX_CHARS:,}, or @FILE")
    if (predictor is None and len(names) > 1) or (predictor is not None and predictor not in names):
        raise StudyError(f"--predictor: the program has {', '.join(names)}; name the one that the prompt is for")
    part = base.part(predictor or names[0])
    return base.with_part(replace(part, instructions=text.strip()))


def refuse_finished(view: StudyView) -> None:
    """Raise `StudyError` when a study has its verdict."""
    if view.state == "finished":
        raise StudyError(
            f"study {view.name!r} is finished and its test rows are used; begin another one with what it found, "
            f"`{command_name()} run CONFIG --set name=NEW --warm-start {view.name}`, "
            "and suggest your prompt to that one"
        )


def _refuse_wrong_placeholders(view: StudyView, candidate: Candidate) -> None:
    for old, new in zip(view.seed.parts, candidate.parts, strict=True):
        wanted, found = placeholders(old.instructions), placeholders(new.instructions)
        if wanted != found:
            lost, extra = sorted(wanted - found), sorted(found - wanted)
            what = f"lacks the placeholder {', '.join(lost)}" if lost else f"has the new placeholder {', '.join(extra)}"
            raise StudyError(f"the prompt {what}; placeholders must be those of your first prompt")


def _add(journal: Journal, kind: Literal["suggest", "veto"], candidate_id: str) -> None:
    values = {"study": journal.study, "kind": kind, "candidate": candidate_id, "at": time.time()}
    with storage_errors(), journal.engine.begin() as connection:
        connection.execute(sa.insert(wish_table).values(**values))


def _rows(journal: Journal, kind: str) -> Sequence[tuple[int, str]]:
    table = wish_table.c
    query = sa.select(table.id, table.candidate).where(table.study == journal.study, table.kind == kind)
    with storage_errors(), journal.engine.connect().execution_options(reads_only=True) as connection:
        return [(row.id, row.candidate) for row in connection.execute(query.order_by(table.id))]
