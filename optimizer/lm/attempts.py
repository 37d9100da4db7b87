"""Attempts that their caller can give up on: each is made by a thread of its own, which is used again for the next.

A socket's time limit is for the next byte, which a provider that keeps a connection alive with blanks never exceeds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Q = TypeVar("Q")
R = TypeVar("R")


class _Attempt(Generic[Q, R]):
    """One question to an answering thread. `over` is held until there is an answer, or nobody waits any more."""

    __slots__ = ("answer", "error", "over", "question")

    def __init__(self, question: Q) -> None:
        self.question, self.over = question, threading.Lock()
        self.answer: R | None = None
        self.error: BaseException | None = None
        self.over.acquire()


class GivenUp(Exception):
    """Nobody waits for the attempt any more; `is_told` if that is because of `abandon`."""

    def __init__(self, *, is_told: bool) -> None:
        super().__init__(is_told)
        self.is_told = is_told


class Attempts(Generic[Q, R]):
    """Answers questions in threads that are made as they are needed and end with the process, or at `close`."""

    def __init__(self, work: Callable[[Q], R]) -> None:
        self._work = work
        self._idle: list[SimpleQueue[_Attempt[Q, R] | None]] = []
        self._under_way: set[_Attempt[Q, R]] = set()
        self._is_abandoned = False

    def answer(self, question: Q, *, timeout_s: float) -> R:
        """Return what `work` makes of a question.

        Raises:
            GivenUp: it takes longer than `timeout_s`, or all attempts are abandoned; the thread is left to itself.
            Exception: what `work` raised.
        """
        attempt: _Attempt[Q, R] = _Attempt(question)
        self._under_way.add(attempt)
        try:
            if self._is_abandoned:
                raise GivenUp(is_told=True)
            self._thread().put(attempt)
            is_in_time = attempt.over.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))
        finally:
            self._under_way.discard(attempt)
        if attempt.error is not None:
            raise attempt.error
        if attempt.answer is None:
            raise GivenUp(is_told=is_in_time)
        return attempt.answer

    def abandon(self) -> None:
        """Let nobody wait any longer."""
        self._is_abandoned = True
        for attempt in list(self._under_way):
            _end(attempt)

    def close(self) -> None:
        """End the threads that have nothing to do."""
        while self._idle:
            self._idle.pop().put(None)

    def _thread(self) -> SimpleQueue[_Attempt[Q, R] | None]:
        try:
            return self._idle.pop()
        except IndexError:
            questions: SimpleQueue[_Attempt[Q, R] | None] = SimpleQueue()
            threading.Thread(target=self._answer_all, args=(questions,), name="attempt", daemon=True).start()
            return questions

    def _answer_all(self, questions: SimpleQueue[_Attempt[Q, R] | None]) -> None:
        while (attempt := questions.get()) is not None:
            try:
                attempt.answer = self._work(attempt.question)
            except BaseException as error:
                attempt.error = error
            self._idle.append(questions)
            _end(attempt)
            del attempt


def _end(attempt: _Attempt[Q, R]) -> None:
    """Let go on who waits; others may have done so."""
    if attempt.over.locked():
        try:
            attempt.over.release()
        except RuntimeError:  # in the same moment as another thread
            return
