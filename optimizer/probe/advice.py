"""What a probe's facts mean: go, more data, another metric, or stop, with reasons. Pure.

The advice is about the night, not the prompt: whether a search can find a gain, and whether this data can prove it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from optimizer.words import percent

Decision = Literal["go", "more data", "another metric", "stop"]
PRIORITY: tuple[Decision, ...] = ("stop", "another metric", "more data", "go")
EXIT_CODES = {"go": 0, "more data": 4, "another metric": 4, "stop": 4}

MIN_READ = 0.5  # share of replies that can be read; formats and examples rarely mend more
MAX_CONTRADICTORY = 0.15
MAX_LEAKED = 0.1
NOTHING_LEFT = 0.02  # head-room below this is nothing
MAX_NOISE = 0.15  # standard deviation of the score of one and the same answer; a coin gives 0.5
MIN_EXPECTED = 0.5  # score of the expected answers below which the metric, not the model, is to blame
UNEVEN = 0.9  # share of the constant answer from which a mean of hits says little
ODDS_GAIN = 2.0  # by how much a good search multiplies the odds of a right answer: the usual size in published runs
PRIOR_SPREAD, PRIOR_ROWS = 0.5, 20.0  # belief about paired differences before any row, and how many rows it is worth
MIN_SKILL = 1.5  # standard deviations above chance; of three prompts without any, one does it in a fifth of all probes
EPSILON = 1e-9  # sums of floats in another order
POWER = 1.96 + 0.84  # 95% confidence, found four times out of five


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """A row that the model answers differently each time."""

    example_id: str
    shown: str
    answers: tuple[str, ...]


class Luck(NamedTuple):
    """Mean and standard deviation of the scores of some answers, dealt out to the rows at random again and again."""

    mean: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFacts:
    """What a probe counted. Scores and shares are in [0, 1].

    Attributes:
        with_examples: score of the seed with `n_examples`, the better of two sets; None when the study allows none.
        expected: score of the expected answers themselves; None when it cannot be had for free.
        constant: score of always giving the most frequent answer; None when it cannot be had for free.
        luck: what the seed's answers score by chance, None when it cannot be had for free; likewise `with_examples`.
        noise: mean standard deviation of one row's score when the model answers it again.
        metric_noise: the same for one and the same answer, scored again; above 0 for judges only.
        spread: standard deviation of the paired difference between the two prompts, over `n_pairs` rows.
        leaked_share: rows of which an input is the answer.
        unread_reply: the beginning of a reply that could not be read.
        overlap: rows removed because another given file has their inputs.
    """

    n_rows: int
    n_test: int
    seed: float
    with_examples: float | None
    constant: float | None
    is_mean: bool
    read_share: float
    unread_reason: str
    noise: float
    metric_noise: float
    spread: float
    n_pairs: int
    unsettled: tuple[Unsettled, ...]
    n_repeated: int
    contradictory_share: float
    leaked_share: float
    luck: Luck | None = None
    luck_with_examples: Luck | None = None
    n_examples: int = 0
    expected: float | None = None
    unread_reply: str = ""
    overlap: int = 0
    near_copies: str = ""

    @property
    def best(self) -> float:
        return max(self.seed, self.with_examples if self.with_examples is not None else 0.0)

    @property
    def ceiling(self) -> float:
        """The most that any prompt can score: of rows that contradict each other, about half are wrong."""
        return 1 - self.contradictory_share / 2

    @property
    def head_room(self) -> float:
        return max(0.0, self.ceiling - self.seed)

    @property
    def is_skilled(self) -> bool:
        """Whether the answers have to do with their rows: a prompt beat its own answers, dealt out at random.

        By more than that varies, see `MIN_SKILL`. A prompt that leans to one label is often below the constant
        answer, and still knows something.
        """
        scores = ((self.seed, self.luck), (self.with_examples, self.luck_with_examples))
        known = [(score, luck) for score, luck in scores if score is not None and luck is not None]
        return not known or any(score > luck.mean + MIN_SKILL * luck.spread + EPSILON for score, luck in known)

    @property
    def likely_gain(self) -> float:
        """What a good search may find, whichever is most: better odds, what examples gave, the constant answer.

        Odds, because a point is harder to gain near 0 and near 1 than in between. What examples gave is drawn towards 0
        as the few rows demand.
        """
        odds = ODDS_GAIN * self.seed / max(1 - self.seed, 1e-9)
        by_odds = odds / (1 + odds) if self.is_skilled else 0.0
        shown = (self.best - self.seed) * self.n_pairs / (self.n_pairs + PRIOR_ROWS)
        likely = max(by_odds, self.seed + shown, self.constant or 0.0)
        return max(0.0, min(likely, self.ceiling) - self.seed)

    @property
    def smallest_gain(self) -> float:
        """The gain that the test rows prove four times out of five, at the spread seen so far."""
        weight = self.n_pairs + PRIOR_ROWS
        variance = (self.n_pairs * self.spread**2 + PRIOR_ROWS * PRIOR_SPREAD**2) / weight
        return min(1.0, POWER * math.sqrt(variance / self.n_test))

    @property
    def n_test_wanted(self) -> int:
        """Test rows with which the likely gain could be proved."""
        return math.ceil(self.n_test * (self.smallest_gain / max(self.likely_gain, 0.01)) ** 2)


class Reason(NamedTuple):
    decision: Decision
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    decision: Decision
    reasons: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.decision]


def advise(facts: ProbeFacts) -> Advice:
    """Return the strongest objection with its reasons, or `go` with the reason why."""
    found = list(_objections(facts))
    if not found:
        return Advice(decision="go", reasons=(_why_go(facts),))
    decision = min((reason.decision for reason in found), key=PRIORITY.index)
    first = [reason.text for reason in found if reason.decision == decision]
    return Advice(decision=decision, reasons=(*first, *(r.text for r in found if r.decision != decision)))


def _objections(facts: ProbeFacts) -> Iterator[Reason]:
    if facts.read_share < MIN_READ:
        yield _why_unread(facts)
    if facts.read_share == 0:
        return  # nothing else is known
    if facts.leaked_share > MAX_LEAKED:
        yield Reason(
            "stop", f"in {percent(facts.leaked_share)} of the rows an input is the answer; leave that field out"
        )
    if facts.contradictory_share > MAX_CONTRADICTORY:
        yield Reason(
            "stop", f"{percent(facts.contradictory_share)} of the rows contradict another row; mend the labels first"
        )
    if facts.head_room < NOTHING_LEFT:
        yield Reason("stop", f"your prompt scores {percent(facts.seed)} already; there is nothing left to gain")
        return
    if facts.expected is not None and facts.expected < MIN_EXPECTED:
        said = f"the expected answers themselves score {percent(facts.expected)}"
        yield Reason("another metric", f"{said}; the metric asks for something else than they hold")
        return
    if facts.best == 0 and facts.read_share >= MIN_READ:
        yield _why_nothing_right(facts)
        return
    if not facts.is_skilled:
        yield Reason("stop", _why_unskilled(facts))
        return
    if facts.is_mean and facts.constant is not None and facts.constant > UNEVEN:
        text = f"always giving the same answer scores {percent(facts.constant)}; macro_f1 counts every answer alike"
        yield Reason("another metric", text)
    if facts.metric_noise > MAX_NOISE:
        yield Reason(
            "another metric",
            f"the same answer scored again moves by {facts.metric_noise:.2f}; a clearer rubric, a stronger judge or a "
            "metric without one is steadier",
        )
    if facts.smallest_gain > facts.likely_gain:
        yield Reason(
            "more data",
            f"{facts.n_test} test rows prove a gain of {100 * facts.smallest_gain:.0f} points, and a good search may "
            f"find {100 * facts.likely_gain:.0f}; about {facts.n_test_wanted} test rows would do",
        )


def _why_unread(facts: ProbeFacts) -> Reason:
    said = f"only {percent(facts.read_share)} of the replies can be read ({facts.unread_reason})"
    if facts.read_share == 0:
        said = (
            f"none of the first {facts.n_rows} replies can be read ({facts.unread_reason}), so no more were asked for"
        )
    said += f"; one was {facts.unread_reply!r}" if facts.unread_reply else ""
    return Reason("stop", f"{said}; raise lm.task.max_tokens, try another layout in search.formats, or another model")


def _why_nothing_right(facts: ProbeFacts) -> Reason:
    said = "every answer scores 0 although it can be read"
    if facts.expected is None:
        return Reason(
            "another metric", f"{said}; the metric may ask for more than is meant, or the model cannot do this"
        )
    said += f", and the expected ones score {percent(facts.expected)}"
    return Reason("stop", f"{said}; the model cannot do this, or the prompt does not say in what form to answer")


def _why_unskilled(facts: ProbeFacts) -> str:
    found = f"your prompt scores {percent(facts.seed)}, and {percent(facts.luck.mean if facts.luck else None)}"
    found += " with its answers swapped between the rows at random"
    if facts.with_examples is not None and facts.luck_with_examples is not None:
        by_luck = percent(facts.luck_with_examples.mean)
        found += f" (with {facts.n_examples} examples {percent(facts.with_examples)} and {by_luck})"
    return f"{found}; the inputs may not hold what decides, or the model is too weak: try a larger one on the same rows"


def _why_go(facts: ProbeFacts) -> str:
    return (
        f"a good search may find {100 * facts.likely_gain:.0f} of the {100 * facts.head_room:.0f} points that are left "
        f"above your prompt, and a gain of {100 * facts.smallest_gain:.0f} can be proved"
    )
