"""Finds out what a block of examples will ask a model before any of it is asked, so that it can go up as one batch.

The program is run on each example until it asks something that has no reply yet. What it asks is fetched for all
examples together, and then they are run again, until none is left: a program of n steps takes n batches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from optimizer.candidate import Candidate, Example
from optimizer.errors import CallError, OptimizerError
from optimizer.lm.backend import CallRequest, Reply
from optimizer.prompts.program import Program

logger = logging.getLogger(__name__)

MAX_STEPS = 30  # a program that asks something new each time it is run is asked live


@runtime_checkable
class Gathering(Protocol):
    """A model that fetches many replies at once."""

    def key(self, request: CallRequest) -> str: ...

    def call(self, request: CallRequest) -> Reply: ...

    def known(self, key: str) -> Reply | None: ...

    def fetch(self, requests: Mapping[str, CallRequest]) -> dict[str, Reply | CallError | None]:
        """Return what came of requests by key; None for those that are to be asked one by one."""
        ...


class _NotYet(Exception):
    """A program came to a request without a reply."""


class Ahead:
    """The replies of one block. `complete` is what the program is then run with."""

    def __init__(self, model: Gathering) -> None:
        self._model = model
        self._found: dict[str, Reply | CallError | None] = {}
        self._wanted: dict[str, CallRequest] = {}

    def fetch(self, program: Program, candidate: Candidate, examples: Sequence[Example]) -> None:
        """Fetch what the examples will ask.

        Raises:
            BudgetExhausted, Paused: as calls do.
        """
        left = list(examples)
        for _ in range(MAX_STEPS):
            self._wanted = {}
            left = [example for example in left if self._comes_to_a_stop(program, candidate, example)]
            if not self._wanted:
                return
            self._found |= self._model.fetch(self._wanted)
        logger.warning("the program asks something else each time it is run; what is left is asked one by one")

    def complete(self, request: CallRequest) -> Reply:
        found = self._found.get(self._model.key(request))
        if isinstance(found, CallError):
            raise found
        return found if found is not None else self._model.call(request)

    def _comes_to_a_stop(self, program: Program, candidate: Candidate, example: Example) -> bool:
        """Run the program with the replies that are here, note what it lacks, and return whether that was anything."""
        try:
            program.run(candidate, example.inputs, self._look)
        except _NotYet:
            return True
        except Exception as error:  # border: it will say so again when it is scored
            logger.debug("%s: %s", type(error).__name__, error)
        return False

    def _look(self, request: CallRequest) -> Reply:
        key = self._model.key(request)
        if key not in self._found and (kept := self._model.known(key)) is not None:
            self._found[key] = kept
        if key not in self._found:
            self._wanted[key] = request
            raise _NotYet
        found = self._found[key]
        if isinstance(found, CallError):
            raise found
        if found is None:
            raise OptimizerError("to be asked one by one")
        return found
