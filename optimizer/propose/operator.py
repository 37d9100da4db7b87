"""What an operator is: a pure `request` (what the LM is asked) and a pure `parse` (what is taken from its reply).

Decides the words that operators and their callers share. Deliberately does not call a model: who sends an `Ask`,
how often, and at what price is the caller's matter, so that every operator can be tested without one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from optimizer.candidate import Candidate, Example, Part
from optimizer.config.keys import Task
from optimizer.records import Outcome, Recipe, TrialState

Style = Literal["completion", "chat"]  # small, base-like models complete patterns; capable ones follow requests
Need = Literal["lm", "attempts", "other", "demos"]
NEEDS: frozenset[Need] = frozenset({"lm", "attempts", "other", "demos"})


class Rejection(Exception):
    """The operator can make nothing of this context or reply. Costs no evaluation; the reason is remembered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat request."""

    role: Literal["system", "user"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to the proposer in both wordings; the caller sends the one that fits the model's style.

    Attributes:
        prompt: a pattern to be continued, for `completion`.
        messages: the same question as a chat request.
        stop: texts that end a completion; not used for chat.
        max_tokens: longest useful reply, in tokens.
        temperature: sampling temperature, or None for the proposer's configured one.
    """

    prompt: str
    messages: tuple[Message, ...]
    stop: tuple[str, ...] = ("\n",)
    max_tokens: int = 120
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What the parent made of one train example."""

    example: Example
    outcome: Outcome

    @property
    def is_right(self) -> bool:
        """The answer got the full score."""
        return self.outcome.value == 1.0

    @property
    def is_wrong(self) -> bool:
        """The prompt is to blame for lost score; failed calls are neither right nor wrong."""
        return self.outcome.value is not None and self.outcome.value < 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One earlier candidate as the proposer sees it: the instructions of one predictor and how it went."""

    instructions: str
    operator: str
    score: float | None
    state: TrialState
    format: str
    n_demos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything that an operator may look at. Holds train rows only; dev and test never get here.

    Attributes:
        predictor: name of the part that is mutated.
        other: the second parent, for `crossover`.
        attempts: the parent on train examples; empty unless the operator needs them.
        history: earlier candidates in the order in which they were tried.
        max_demos: most demonstrations that a prompt may have.
        step: of a predictor that writes no output of the task, what it reads and writes; rows do not show that.
        rng: source of every random choice; operators draw from `generator()`, never from this object.
    """

    task: Task
    recipe: Recipe
    predictor: str
    parent: Candidate
    parent_score: float | None = None
    other: Candidate | None = None
    train: Sequence[Example] = ()
    attempts: Sequence[Attempt] = ()
    history: Sequence[Tried] = ()
    rng: np.random.Generator
    style: Style = "completion"
    max_demos: int = 16
    step: str = ""

    @property
    def part(self) -> Part:
        """The parent's part that is mutated."""
        return self.parent.part(self.predictor)

    @property
    def instructions(self) -> str:
        """The parent's instructions that are mutated."""
        return self.part.instructions

    def generator(self) -> np.random.Generator:
        """Return a copy of `rng` in its present state: `request` and `parse` see the same draws, `rng` stays put."""
        return copy.deepcopy(self.rng)


@runtime_checkable
class Operator(Protocol):
    """A way to mutate a candidate. Both methods are pure: equal contexts give equal results."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[Need]: ...

    def request(self, context: Context) -> Ask | None:
        """Return what the proposer is asked, or None if and only if `lm` is not in `needs`.

        Raises:
            Rejection: the context lacks what the operator works on.
        """
        ...

    def parse(self, reply: str, context: Context) -> Candidate:
        """Return the mutated candidate. `reply` is empty for operators that need no LM.

        Raises:
            Rejection: no candidate can be made of this reply, or it would equal the parent.
        """
        ...


def needs_of(operator: Operator, recipe: Recipe) -> frozenset[Need]:
    """Return what the operator needs for this recipe: bootstrapped demonstrations need the parent's attempts too."""
    is_bootstrap = "demos" in operator.needs and recipe.demo_pick == "bootstrap"
    return operator.needs | ({"attempts"} if is_bootstrap else set())
