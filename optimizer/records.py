"""What a study produces, as plain frozen records: recipes, outcomes, trials, the verdict, the bill.

Everything that shows or exports a study (terminal, MLflow, report, exports) reads a `StudyView` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from optimizer.candidate import Candidate, Fields, JsonValue, Reasoning

OutcomeKind = Literal["scored", "unparsed", "refused", "failed"]
TrialState = Literal["running", "complete", "pruned", "rejected", "failed", "unfinished"]
StudyState = Literal["running", "paused", "finished"]
DemoPick = Literal["fresh", "swap", "add", "drop", "shuffle", "bootstrap"]
Role = Literal["task", "proposer", "judge"]

DEMO_PICKS: tuple[DemoPick, ...] = ("fresh", "swap", "add", "drop", "shuffle", "bootstrap")
PARENTS = ("best", "second", "third", "pareto", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What Optuna decided for one trial: how to mutate. What the prompt then says is the proposer's part.

    `n_demos` and `demo_pick` matter to `demos`; `format`, `reasoning` and `temperature` to `format`; other
    operators inherit them from the parent.
    """

    operator: str
    parent: str = "best"
    predictor: str = ""
    n_demos: int = 0
    demo_pick: DemoPick = "fresh"
    format: str = "plain"
    reasoning: Reasoning = "predict"
    temperature: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one candidate made of one example.

    Attributes:
        kind: `scored`; `unparsed` (a reply that cannot be read as an answer) and `refused` count as a score of 0,
            because the prompt is to blame; `failed` is the fault of infrastructure, metric or program and has no value.
        score: the metric's number in [0, 1]; None unless `scored`.
        answer: the parsed output fields, and `reasoning` if the model gave any; empty unless `scored`.
        text: the raw reply of the (last) model call.
        feedback: the metric's remark, which `reflect` reads.
        error: why there is no score, in one line.
    """

    example_id: str
    kind: OutcomeKind
    score: float | None = None
    answer: Fields = field(default_factory=dict)
    text: str = ""
    feedback: str | None = None
    error: str | None = None

    @property
    def value(self) -> float | None:
        """The number that enters comparisons, or None when there is nothing to compare."""
        return self.score if self.kind == "scored" else (None if self.kind == "failed" else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One candidate's evaluation.

    Attributes:
        parents: ids of the candidates that it was made from.
        reason: one line: why it was pruned, rejected or failed; empty for a complete trial.
        cost_usd: None where the price of its calls is unknown.
        outcomes: on dev rows, in the order in which they were scored.
        difference: mean paired difference to the incumbent of that time, in score units; None for the first.
    """

    number: int
    recipe: Recipe
    state: TrialState
    candidate: Candidate | None = None
    parents: tuple[str, ...] = ()
    reason: str = ""
    outcomes: tuple[Outcome, ...] = field(default=(), repr=False)
    difference: float | None = None
    started_s: float = 0.0
    duration_s: float = 0.0
    task_calls: int = 0
    proposer_calls: int = 0
    tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def score(self) -> float | None:
        """Mean value over the dev rows scored so far, or None when there is none."""
        values = [value for outcome in self.outcomes if (value := outcome.value) is not None]
        return sum(values) / len(values) if values else None

    @property
    def n_scored(self) -> int:
        return sum(outcome.value is not None for outcome in self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceScore:
    """What one group of the test rows, or one class, scores with the seed and with the winner, in [0, 1].

    Attributes:
        holds: of `other`, the values that were taken together, with the number of their test rows.
        decides: whether the group can be the worst one; too small ones cannot.
    """

    name: str
    n: int
    seed: float
    winner: float
    holds: tuple[str, ...] = ()
    decides: bool = True

    @property
    def difference(self) -> float:
        return self.winner - self.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """What needs no prompt: the same label for every test row. And how near the winner comes to that.

    Attributes:
        label: the one that scores most when it is always given; `score` by the study's own metric.
        is_beaten: the winner is proven to score more than that.
        said: the label that the winner gives most often; `n_said` times, of `n` test rows.
    """

    label: str
    score: float
    is_beaten: bool
    said: str
    n_said: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The one comparison on test rows. Scores and differences are in [0, 1] and [-1, 1].

    Attributes:
        difference: winner minus seed; `low` and `high` bound it at `confidence`.
        p_value: two-sided; from the test named `test_name`.
        seed_outcomes: on test rows, in the same order as `winner_outcomes`.
        slices: groups of the rows, the one with the worst difference first; empty unless the study has some.
        broken_rules: why a proven gain is not promoted after all.
        shortfall: how many of the test rows it rests on and why not on all, in words; empty when on all.
        classes: where the output is a label, the test rows by expected label, the worst difference first.
        constant: likewise, what always giving the best one label would score.
    """

    decision: Literal["promote", "keep"]
    reason: str
    n: int
    seed_score: float
    winner_score: float
    difference: float
    low: float
    high: float
    p_value: float
    test_name: str
    confidence: float
    seed_outcomes: tuple[Outcome, ...] = field(default=(), repr=False)
    winner_outcomes: tuple[Outcome, ...] = field(default=(), repr=False)
    slices: tuple[SliceScore, ...] = ()
    broken_rules: tuple[str, ...] = ()
    shortfall: str = ""
    classes: tuple[SliceScore, ...] = ()
    constant: Constant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Calls by role (replies taken from the journal are not calls), tokens and money.

    Attributes:
        cost_usd: what calls of known price have cost; compared with caps. `usd` is what to tell people.
        unpriced: roles whose calls have no known price.
    """

    calls: Mapping[Role, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    unpriced: frozenset[Role] = frozenset()

    @property
    def usd(self) -> float | None:
        """What it has cost; None where calls were made whose price is unknown."""
        return None if any(self.calls.get(role) for role in self.unpriced) else self.cost_usd

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, slots=True, kw_only=True)
class DevEstimate:
    """What the search believes of the winner on dev, corrected for having been chosen.

    Attributes:
        n: all dev rows; `winner`, `low` and `high` are about their mean.
        seed: mean over the `n_seed` rows that the seed was scored on, none of it estimated; None without any.
        raw: mean over the `n_winner` rows that the winner was scored on.
        n_seed, n_winner: None in studies of earlier versions, where they are not known.
    """

    n: int
    seed: float | None
    winner: float
    low: float
    high: float
    raw: float
    n_seed: int | None = None
    n_winner: int | None = None

    @property
    def difference(self) -> float | None:
        """Winner less seed; None where they rest on different rows."""
        return self.winner - self.seed if self.seed is not None and self.n_seed == self.n_winner else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What became of a limit on time; all in seconds.

    Attributes:
        key: the setting that ends the study first, `wall_clock` or `finish_by`.
        n_wanted: trials that the settings allowed.
        limit_s: from the beginning of the study to that end, pauses not counted.
        kept_s: what was left when the search ended, for finalists and final test.
        expected_s: what these two were expected to take then, at `row_s` a row (calls in flight together counted once).
        final_s: what they took.
        over_s: by how much the end was passed; 0 in time.
    """

    key: Literal["wall_clock", "finish_by"]
    n_wanted: int
    limit_s: float
    kept_s: float
    expected_s: float
    row_s: float
    final_s: float = 0.0
    over_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBefore:
    """Ids of the test rows that an earlier study opened in its final test, and of those that it searched on."""

    study: str
    opened: tuple[str, ...]
    searched: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """Everything that is known of a study, read from its database.

    Attributes:
        config: the configuration as plain JSON.
        facts: environment, data counts, class balance, fingerprints; for people, not for decisions.
        identity: versions of data, program, metric and models, as a continued study must have them.
        best: the best candidate so far; once the study is finished the one that the final test was about.
        wall_s: seconds spent running, pauses between sessions not counted.
        timing: of a finished study with a limit on time.
        seen_before: the test rows that studies which it builds on, or others of the runs folder, had before; empty
            when the test is fresh.
        dev_scores: of a finished study, by candidate id, mean value and number of all dev rows with a value.
        dev_outcomes: of a finished study, by candidate id, all dev rows where these are more than its trial's.
    """

    name: str
    state: StudyState
    stop_reason: str
    config: Mapping[str, JsonValue]
    facts: Mapping[str, JsonValue]
    seed: Candidate
    best: Candidate
    trials: tuple[TrialRecord, ...]
    dev: DevEstimate | None
    verdict: Verdict | None
    spend: Spend
    wall_s: float
    timing: Timing | None = None
    seen_before: tuple[SeenBefore, ...] = ()
    dev_scores: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    dev_outcomes: Mapping[str, tuple[Outcome, ...]] = field(default_factory=dict)
    identity: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def chosen(self) -> Candidate:
        """The prompt to use: the best one, unless the final test could not show that it is better than the seed."""
        return self.seed if self.verdict is not None and self.verdict.decision == "keep" else self.best

    def dev_score(self, trial: TrialRecord | None) -> tuple[float | None, int]:
        """Mean value and number of dev rows of a trial; once the study is finished, of all that its prompt has."""
        if trial is None or not trial.outcomes:
            return None, 0
        later = self.dev_scores.get(trial.candidate.id) if trial.candidate else None
        return later or (trial.score, trial.n_scored)

    def dev_rows(self, trial: TrialRecord | None) -> tuple[Outcome, ...]:
        """The outcomes that `dev_score` is about."""
        own = trial.outcomes if trial else ()
        return self.dev_outcomes.get(trial.candidate.id, own) if own and trial and trial.candidate else own

    def trial_of(self, candidate: Candidate) -> TrialRecord | None:
        """The first trial that evaluated this candidate."""
        return next((trial for trial in self.trials if trial.candidate and trial.candidate.id == candidate.id), None)
