"""All outcomes of a study in one reading, for displays of studies with thousands of trials."""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa

from optimizer.database import evaluation_table, storage_errors
from optimizer.journal import Journal
from optimizer.records import Outcome

AT_ONCE = 5_000  # rows that are read from the database at a time


def outcomes_by_candidate(journal: Journal, metric: str) -> Mapping[str, Mapping[str, Outcome]]:
    """Return the kept outcomes of every candidate, by its id and the example's."""
    table = evaluation_table.c
    query = sa.select(table.candidate, table.outcome).where(table.study == journal.study, table.metric == metric)
    found: dict[str, dict[str, Outcome]] = {}
    options = {"reads_only": True, "yield_per": AT_ONCE}
    with storage_errors(), journal.engine.connect().execution_options(**options) as connection:
        for row in connection.execute(query):
            outcome = Outcome(**json.loads(row.outcome))
            found.setdefault(row.candidate, {})[outcome.example_id] = outcome
    return found
