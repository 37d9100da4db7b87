"""The Optuna edge: which recipe to try next, and the durable list of trials.

Optuna decides how to mutate; nothing here knows prompts or models. A trial that a killed process left running is
taken up again under its own number, so a resumed study has the same trials as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from optimizer.candidate import JsonValue, Reasoning, content_hash
from optimizer.config.keys import Search
from optimizer.errors import Paused
from optimizer.machines.crew import Alone
from optimizer.records import DEMO_PICKS, PARENTS, DemoPick, Recipe
from optimizer.search.race import FloatArray, RaceRule
from optimizer.search.sampler import LatestTPE, LatestTrials
from optimizer.search.trial_storage import open_storage, storage_of
from optimizer.storage.journal import Journal

Lookup = Callable[[int], tuple[FloatArray, FloatArray] | None]
EXAMPLES = "demos"  # the operator that changes the worked examples of a prompt; all others change its words
PERSON = "person"  # how the names of starts begin that a person gave
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One trial to carry out: either a named start, or a recipe.

    Attributes:
        steps: those that a value was reported for, perhaps by a process that was killed.
    """

    number: int
    start: str | None
    recipe: Recipe
    trial: Trial
    steps: set[int]


class RacePruner(optuna.pruners.BasePruner):
    """Optuna's view of the race: prunes a trial when `RaceRule` says drop.

    Optuna hands over one number a step; the rule needs the paired values, which `lookup` finds by trial number.
    """

    def __init__(self, rule: RaceRule, lookup: Lookup) -> None:
        self._rule = rule
        self._lookup = lookup
        self.reasons: dict[int, str] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        del study  # the incumbent is ours, not Optuna's best trial
        return self.drops(trial.number)

    def drops(self, number: int) -> bool:
        """Whether the trial of this number should end here; why is kept in `reasons`."""
        pair = self._lookup(number)
        if pair is None:
            return False
        decision = self._rule.decide(*pair)
        self.reasons[number] = decision.reason
        return decision.action == "drop"


class Study:
    """Ask, report, tell; and read back.

    Args:
        examples_first: begin with half of the recipes exchanging half of the best prompt's examples, and let examples
            weigh as much as all operators for words in the others. For proposers that continue patterns: what they
            write is seldom better than what they were given, and a good set half exchanged stays above the average
            (`experiments/search_simulation.py`).
    """

    def __init__(
        self,
        *,
        url: str,
        name: str,
        journal: Journal,
        search: Search,
        operators: Sequence[str],
        predictors: Sequence[str],
        pruner: RacePruner,
        examples_first: bool = False,
        crew: Alone | None = None,
    ) -> None:
        self._search = search
        self._operators = tuple(operators)
        self._predictors = tuple(predictors)
        self._has_refining = examples_first and EXAMPLES in operators and len(operators) > 1
        self.pruner = pruner
        self._crew = crew or Alone()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._journal, self._turn = journal, cast("int | None", None)
        self._backend = open_storage(url)
        plain = optuna.create_study(storage=self._backend, study_name=name, direction="maximize", load_if_exists=True)
        self._storage = storage_of(self._backend, journal, study_id=plain._study_id)
        self._study = optuna.Study(name, self._storage, pruner=pruner)
        self._n_settled = 0  # so many trials from the first on have ended

    def enqueue_starts(self, names: Sequence[str], *, induced: bool = False) -> None:
        """Queue the first candidates, each once, also when a kill came between two of them.

        Args:
            induced: end with instructions that the proposer finds by itself, from examples alone.
        """
        known = {trial.user_attrs.get("start") for trial in self.trials()}
        if None not in known:  # all trials so far are starts, or there are none
            for name in names:
                if name not in known:
                    self._study.enqueue_trial({}, user_attrs={"start": name})
            if induced and "induce" in self._operators:
                self._study.enqueue_trial(self._fixed("induce") | {"parent": "seed"})
            self._share()

    def report(self, ticket: Ticket, value: float, step: int) -> None:
        """Enter a trial's value after so many examples; what was entered for a step stays."""
        if step not in ticket.steps:
            ticket.trial.report(value, step=step)
            ticket.steps.add(step)

    def should_prune(self, ticket: Ticket) -> bool:
        """Ask the pruner. It has its own values: what was reported is not read back from the database for it."""
        return self.pruner.drops(ticket.number)

    def put_first(self, name: str) -> None:
        """Let the next trial be this start, once, ahead of all that are queued: it looks like one that was cut off."""
        if not any(trial.user_attrs.get("start") == name for trial in self.trials()):
            state = TrialState.RUNNING
            self._study.add_trial(optuna.trial.create_trial(state=state, user_attrs={"start": name}))
            self._share()

    def enqueue_operator(self, name: str) -> None:
        """Let the next recipe have this operator."""
        if not any(trial.state == TrialState.WAITING for trial in self._open(self.trials())):
            self._study.enqueue_trial(self._fixed(name))
            self._share()

    def _fixed(self, operator: str) -> dict[str, str]:
        """Return the parameters of a recipe with this operator; the others are drawn."""
        return {"aim": "explore", "change": "examples" if operator == EXAMPLES else "words", "operator": operator}

    def ask(self) -> Ticket:
        """Return the next trial: one left running by a dead process, a queued start, or a new recipe."""
        orphan = next(iter(self.orphans()), None)
        number = orphan.number if orphan else self.n_started()
        self._study.sampler = self._sampler(number)
        if orphan:
            self._storage.take(orphan._trial_id)
        trial = Trial(self._study, orphan._trial_id) if orphan else self._study.ask()
        self._crew.take(trial.number)
        start = cast("str | None", trial.user_attrs.get("start"))
        made_by = PERSON if start and start.startswith(PERSON) else "start"
        recipe = Recipe(operator=made_by) if start else self._recipe(trial)
        trial.set_user_attr("recipe", json.dumps(asdict(recipe)))
        self._share()
        steps = set(self._storage.get_trial(trial._trial_id).intermediate_values)
        return Ticket(number=trial.number, start=start, recipe=recipe, trial=trial, steps=steps)

    def tell(self, ticket: Ticket, state: TrialState, value: float | None, facts: Mapping[str, JsonValue]) -> None:
        """Finish a trial. `facts` are kept with it."""
        for key, fact in facts.items():
            ticket.trial.set_user_attr(key, fact)
        self._study.tell(ticket.number, value if state == TrialState.COMPLETE else None, state=state)
        self._share()

    def has_ended(self, ticket: Ticket) -> bool:
        """Whether somebody else has ended the trial: the leader of the workers, when it closed the search."""
        return self._crew.is_shared and self.trials()[ticket.number].state.is_finished()

    def abandon(self, number: int, facts: Mapping[str, JsonValue]) -> None:
        """End a trial that nobody carries out any more; `facts` are kept with it."""
        trial_id = self.trials()[number]._trial_id
        for key, fact in facts.items():
            self._storage.set_trial_user_attr(trial_id, key, fact)
        self._study.tell(number, state=TrialState.FAIL)
        self._share()

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in order of number; what other processes do is looked up once in each decision."""
        if self._crew.is_shared and (self._turn != (turn := self._crew.turn) or turn is None):
            self._storage.refresh()
            self._turn = turn
        return self._storage.get_all_trials(self._study._study_id, deepcopy=False)

    def close(self) -> None:
        """Enter what has gathered, and close the connections to the database."""
        with contextlib.suppress(Paused):
            self._journal.flush()
        self._backend.remove_session()
        self._backend.engine.dispose()

    def _share(self) -> None:
        """Let other processes know of a change before one of them may decide; alone, the next call brings it along."""
        if self._crew.is_shared:
            self._journal.flush()

    def n_started(self) -> int:
        trials = self.trials()
        return len(trials) - sum(trial.state == TrialState.WAITING for trial in self._open(trials))

    def n_finished(self) -> int:
        return sum(trial.state in FINISHED for trial in self.trials())

    def running(self) -> list[FrozenTrial]:
        """Return the trials that have begun and not ended."""
        return [trial for trial in self._open(self.trials()) if trial.state == TrialState.RUNNING]

    def orphans(self) -> list[FrozenTrial]:
        """Return the running trials that nobody has in hand: a dead process left them, or a person suggested them."""
        running = self.running()
        held = self._crew.held() if running else ()
        return [trial for trial in running if trial.number not in held]

    def _open(self, trials: Sequence[FrozenTrial]) -> Iterator[FrozenTrial]:
        """Yield the trials that have not ended, without a look at all that have."""
        n = self._n_settled
        while n < len(trials) and trials[n].state.is_finished():
            n += 1
        self._n_settled = n
        return (trial for trial in trials[n:] if not trial.state.is_finished())

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A fresh sampler for each trial, seeded by its number, so that a resumed study draws the same."""
        seed = int(content_hash([self._search.seed, number], n_chars=8), 16)
        if self._search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        is_side_by_side = self._search.in_flight > 1 or self._crew.is_shared
        return LatestTPE(LatestTrials(self._study, self.trials()), seed=seed, constant_liar=is_side_by_side)

    def _recipe(self, trial: Trial) -> Recipe:
        """Draw a recipe. Distributions are static, so that the sampler can learn; settings hang on the operator."""
        search = self._search
        predictor = self._predictors[0]
        if len(self._predictors) > 1:
            predictor = str(trial.suggest_categorical("predictor", self._predictors))
        if self._has_refining and trial.suggest_categorical("aim", ("refine", "explore")) == "refine":
            n_demos = trial.suggest_categorical("n_demos", demo_sizes(search.max_demos))
            return Recipe(operator=EXAMPLES, predictor=predictor, n_demos=n_demos, demo_pick="swap")
        operator = self._operator(trial)
        parent = str(trial.suggest_categorical("parent", PARENTS))
        recipe = Recipe(operator=operator, parent=parent, predictor=predictor)
        if operator == EXAMPLES:
            n_demos = trial.suggest_categorical("n_demos", demo_sizes(search.max_demos))
            pick = cast(DemoPick, trial.suggest_categorical("demo_pick", DEMO_PICKS))
            return replace(recipe, n_demos=n_demos, demo_pick=pick)
        if operator in ("format", "decompose"):
            return replace(
                recipe,
                format=str(trial.suggest_categorical("format", search.formats)),
                reasoning=cast(Reasoning, trial.suggest_categorical("reasoning", search.reasoning)),
                temperature=trial.suggest_categorical("temperature", search.temperatures),
            )
        return recipe

    def _operator(self, trial: Trial) -> str:
        """Draw the operator; with `examples_first`, whether to change examples or words comes before."""
        if not self._has_refining:
            return str(trial.suggest_categorical("operator", self._operators))
        if trial.suggest_categorical("change", ("examples", "words")) == "examples":
            return EXAMPLES
        return str(trial.suggest_categorical("operator", [name for name in self._operators if name != EXAMPLES]))


def demo_sizes(max_demos: int) -> tuple[int, ...]:
    """Return the sizes of fresh sets of demonstrations: few enough that a sampler can learn which one pays.

    All, half and a quarter of what is allowed: of 4, 8 and 16, four were best by far on one task of seven, 16 on three.
    """
    return tuple(sorted({max(1, max_demos // share) for share in (1, 2, 4)}))
