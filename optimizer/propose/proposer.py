"""Turns a recipe into a candidate: choose parents, ask the operator, ask the model, pass the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.candidate import Candidate, Example
from optimizer.config.keys import Task
from optimizer.errors import BudgetExhausted, CallError
from optimizer.lm.backend import CallRequest
from optimizer.lm.model import Model
from optimizer.prompts.spec import Message
from optimizer.propose.gate import HeldOut, check
from optimizer.propose.memory import Memory
from optimizer.propose.operator import Ask, Attempt, Context, Operator, Rejection, needs_of
from optimizer.propose.wording import placeholders
from optimizer.records import Recipe
from optimizer.search.elite import Elite

N_ATTEMPTS = 8  # train rows that the parent is tried on, for operators that read flaws
N_HISTORY = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate that passed the gate, and the ids of what it was made from."""

    candidate: Candidate
    parents: tuple[str, ...] = ()


class RejectedProposal(Rejection):
    """A candidate was made and the gate refused it; kept so that people can see it."""

    def __init__(self, reason: str, proposal: Proposal) -> None:
        super().__init__(reason)
        self.proposal = proposal


class Proposer:
    """Makes candidates for one study.

    Args:
        attempt: runs a candidate on train rows; its calls are paid like any other.
        steps: by name, what predictors read and write that write no output of the task.
        hides_rows: instructions may copy no row at all, and show nothing that points to a person.
    """

    def __init__(
        self,
        *,
        task: Task,
        seed: Candidate,
        operators: Sequence[Operator],
        model: Model,
        train: Sequence[Example],
        held_out: Sequence[Example],
        max_chars: int,
        max_demos: int,
        attempt: Callable[[Candidate, Sequence[Example], int], list[Attempt]],
        max_tokens: int,
        temperature: float,
        steps: Mapping[str, str] | None = None,
        hides_rows: bool = False,
    ) -> None:
        self._steps = steps or {}
        self._task = task
        self._seed = seed
        self._operators: Mapping[str, Operator] = {operator.name: operator for operator in operators}
        self._model = model
        self._train = train
        self._held_out = HeldOut.of_study(held_out, train=train, task=task, seed=seed, hides_rows=hides_rows)
        self._train_ids = frozenset(example.id for example in train)
        self._max_chars = max_chars
        self._max_demos = max([max_demos, *(len(part.demos) for part in seed.parts)])
        self._attempt = attempt
        self._max_tokens = max_tokens
        self._temperature = temperature

    def propose(
        self, recipe: Recipe, *, number: int, elite: Elite, memory: Memory, rng: np.random.Generator
    ) -> Proposal:
        """Return a candidate worth scoring.

        Raises:
            Rejection: nothing usable came of this recipe; no evaluation was paid.
        """
        operator = self._operators[recipe.operator]
        parent = choose_parent(recipe.parent, elite, self._seed, rng)
        needs = needs_of(operator, recipe)
        other = _second_parent(parent, elite, rng) if "other" in needs else None
        attempts = self._attempts(parent, number, rng) if "attempts" in needs else []
        context = Context(
            task=self._task,
            recipe=recipe,
            predictor=recipe.predictor,
            parent=parent,
            parent_score=elite.estimate(parent) if parent in elite else None,
            other=other,
            train=self._train,
            attempts=attempts,
            history=memory.history(N_HISTORY, predictor=recipe.predictor),
            rng=rng,
            style=self._model.backend.style,
            max_demos=self._max_demos,
            step=self._steps.get(recipe.predictor, ""),
        )
        ask = operator.request(context)
        reply = self._ask(ask, number) if ask is not None else ""
        candidate = operator.parse(reply, context)
        parents = (parent.id,) if other is None else (parent.id, other.id)
        return self.checked(
            Proposal(candidate=candidate, parents=parents), parent=parent, predictor=recipe.predictor, memory=memory
        )

    def checked(self, proposal: Proposal, *, parent: Candidate | None, predictor: str, memory: Memory) -> Proposal:
        """Pass a proposal through the gate.

        Raises:
            RejectedProposal: the gate refused it.
        """
        reason = check(
            proposal.candidate,
            parent=parent,
            predictor=predictor,
            seed_placeholders=frozenset(placeholders(self._seed.part(predictor).instructions)),
            memory=memory,
            heldout=self._held_out,
            train_ids=self._train_ids,
            max_chars=self._max_chars,
        )
        n_demos = max(len(part.demos) for part in proposal.candidate.parts)
        if reason is None and n_demos > self._max_demos:
            reason = f"too many demonstrations: {n_demos}, at most {self._max_demos} are allowed"
        if reason is not None:
            raise RejectedProposal(reason, proposal)
        return proposal

    def _attempts(self, parent: Candidate, number: int, rng: np.random.Generator) -> list[Attempt]:
        rows = rng.choice(len(self._train), size=min(N_ATTEMPTS, len(self._train)), replace=False)
        return self._attempt(parent, [self._train[i] for i in rows], number)

    def _ask(self, ask: Ask, number: int) -> str:
        is_pattern = self._model.backend.style == "completion"
        messages = tuple(Message(message.role, message.content) for message in ask.messages)
        request = CallRequest(
            messages=(Message("user", ask.prompt),) if is_pattern else messages,
            max_tokens=min(ask.max_tokens, self._max_tokens) if is_pattern else self._max_tokens,
            temperature=self._temperature if ask.temperature is None else ask.temperature,
            stop=ask.stop if is_pattern else (),
            sample=number,  # the same question in a later trial is a new draw, in a resumed trial the same one
        )
        try:
            with self._model.billed_to(number):
                reply = self._model.call(request)
        except CallError as error:
            raise Rejection(f"the proposer failed: {error}") from error
        except BudgetExhausted as error:
            raise Rejection(f"no proposer call left: {error}") from error
        if reply.finish_reason == "filtered":
            raise Rejection("the proposer's reply was filtered")
        if reply.finish_reason == "length" and not is_pattern:
            raise Rejection("the proposer's reply was cut at max_tokens")
        return reply.text


def choose_parent(parent: str, elite: Elite, seed: Candidate, rng: np.random.Generator) -> Candidate:
    """Return the candidate that a recipe's `parent` stands for now; ranks not taken yet fall back to the last one."""
    if parent == "seed":
        return seed
    ranked = elite.ranked()
    if not ranked:
        return seed
    if parent == "pareto":
        return elite.pareto_pick(rng)
    rank = {"best": 0, "second": 1, "third": 2}[parent]
    return ranked[min(rank, len(ranked) - 1)]


def _second_parent(parent: Candidate, elite: Elite, rng: np.random.Generator) -> Candidate | None:
    """Return a parent that wins on other examples, or the next best one."""
    pick = elite.pareto_pick(rng) if elite.ranked() else parent
    if pick != parent:
        return pick
    return next((candidate for candidate in elite.ranked() if candidate != parent), None)
