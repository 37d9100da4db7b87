"""What people say to a study: a prompt of their own to race next, or a candidate that must not win.

Kept in the study's database, so that it reaches a study that runs, on whatever machine. A running study looks before
each trial; vetoes count when finalists are chosen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import sqlalchemy as sa

from optimizer.candidate import Candidate
from optimizer.command_line import command_name
from optimizer.errors import StudyError
from optimizer.propose.wording import placeholders
from optimizer.records import StudyView
from optimizer.storage.database import storage_errors, study_table, wish_table
from optimizer.storage.journal import Journal
from optimizer.words import STOP_WORDS, trial_word

MAX_CHARS = 100_000
SEARCH_OVER = "search_over"  # in the study's record: why the search ended; empty while it goes on
TESTED = "tested"  # in the study's record: the candidate whose final test has begun


def suggest(journal: Journal, view: StudyView, candidate: Candidate) -> str:
    """Ask a study to race a candidate next; return why this is not done, empty when it is.

    Raises:
        StudyError: the study is finished or its search is over, or the prompt lost a placeholder of the seed.
    """
    refuse_finished(view)
    _refuse_wrong_placeholders(view, candidate)
    tried = view.trial_of(candidate)
    if tried is not None:
        return f"this very prompt has been tried, in trial {tried.number + 1} ({trial_word(tried.state)}); not added"
    if any(each.id == candidate.id for _, each in suggestions(journal)):
        return "this very prompt was suggested before and waits for its trial; not added"
    journal.put_candidate(candidate)
    _add(journal, "suggest", candidate.id)
    return ""


def veto(journal: Journal, view: StudyView, candidate: Candidate) -> bool:
    """Keep a candidate from winning; False if it was vetoed before.

    Raises:
        StudyError: the study is finished, its final test is about this candidate, or the candidate is the seed.
    """
    refuse_finished(view)
    if candidate == view.seed:
        raise StudyError("your own prompt cannot be vetoed: it is what everything is compared with")
    if candidate.id in vetoes(journal):
        return False
    _add(journal, "veto", candidate.id)
    return True


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
    """Enter a wish, unless it comes too late: the study writes how far it is before it acts, under the same lock."""
    values = {"study": journal.study, "kind": kind, "candidate": candidate_id, "at": time.time()}
    where = study_table.c.name == journal.study
    with storage_errors(), journal.engine.begin() as connection:
        row = connection.execute(sa.select(study_table).where(where).with_for_update()).one()
        refuse = _refuse_late_veto if kind == "veto" else _refuse_late_suggestion
        refuse(journal.study, row.state, json.loads(row.records), candidate_id)
        connection.execute(sa.insert(wish_table).values(**values))


def _refuse_late_veto(name: str, state: str, records: Mapping[str, str], candidate_id: str) -> None:
    if state == "finished" or records.get(TESTED) == candidate_id:
        raise StudyError(f"too late to veto: the final test of this prompt has begun (study {name!r})")


def _refuse_late_suggestion(name: str, state: str, records: Mapping[str, str], candidate_id: str) -> None:
    del candidate_id
    is_testing, reason = state == "finished" or bool(records.get(TESTED)), records.get(SEARCH_OVER, "")
    if is_testing or (reason and state == "running"):
        why = "the final test has begun" if is_testing else f"the search is over ({STOP_WORDS.get(reason, reason)})"
        raise StudyError(
            f"study {name!r} has no budget left for a suggestion: {why}; when it is finished, begin another with what "
            f"it found, `{command_name()} run CONFIG --set name=NEW --warm-start {name}`, and suggest it to that one"
        )


def _rows(journal: Journal, kind: str) -> Sequence[tuple[int, str]]:
    table = wish_table.c
    query = sa.select(table.id, table.candidate).where(table.study == journal.study, table.kind == kind)
    with storage_errors(), journal.engine.connect().execution_options(reads_only=True) as connection:
        return [(row.id, row.candidate) for row in connection.execute(query.order_by(table.id))]
