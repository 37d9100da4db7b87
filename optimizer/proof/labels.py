"""Whether a winner does more than give one label, and which classes it loses; said wherever the verdict is shown. Pure.

Where one class is large, always answering it scores well, and so does a prompt that ignores what it is shown. The mean
does not tell such a prompt from a good one; these figures do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from optimizer import stats
from optimizer.candidate import Example, JsonValue
from optimizer.errors import MetricError
from optimizer.metrics import Metric, score
from optimizer.proof.verdict import compared, score_of
from optimizer.records import Constant, Outcome, SliceScore, StudyView, Verdict
from optimizer.words import percent, points, visible

ONE_LABEL = 0.95  # share of the answers that are the same, from which a prompt is said to give one label
FEWEST = 10  # answers that say whether a candidate gives one label
N_TRIED = 5  # labels, the most frequent first, that are tried as the constant answer
MAX_CLASSES = 6  # named in a sentence


def label_of(value: JsonValue) -> str:
    return str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())


def class_scores(
    output: str, examples: Sequence[Example], seed: Sequence[Outcome], winner: Sequence[Outcome]
) -> tuple[SliceScore, ...]:
    """Return the mean value in each expected class, worst difference first. Failed outcomes must have been left out."""
    places: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        places.setdefault(label_of(example.outputs.get(output)), []).append(i)
    found = [
        SliceScore(name=name, n=len(where), seed=_mean(seed, where), winner=_mean(winner, where))
        for name, where in places.items()
    ]
    return tuple(sorted(found, key=lambda each: (each.difference, each.name)))


def constant_of(
    metric: Metric,
    output: str,
    examples: Sequence[Example],
    winner: Sequence[Outcome],
    *,
    confidence: float,
    rng: np.random.Generator,
) -> Constant | None:
    """Return what always giving one label scores on these rows; None where the metric refuses such answers.

    Args:
        winner: outcomes[n] on the same examples, none of them failed.
    """
    said, n_said = most_said(output, winner)
    try:
        options = [_always(metric, output, value, examples) for value in _frequent(output, examples)]
    except MetricError:
        return None
    best = max(options, key=lambda each: score_of(metric, examples, each))
    comparison = compared(metric, examples, best, winner, confidence=confidence, rng=rng)
    return Constant(
        label=label_of(best[0].answer[output]),
        score=score_of(metric, examples, best),
        is_beaten=stats.is_significant_gain(comparison, confidence),
        said=said,
        n_said=n_said,
        n=len(winner),
    )


def most_said(output: str, outcomes: Sequence[Outcome]) -> tuple[str, int]:
    """Return the label that is answered most often, and how often; an empty one where nothing could be read."""
    said = Counter(label_of(each.answer[output]) for each in outcomes if output in each.answer)
    return said.most_common(1)[0] if said else ("", 0)


def is_collapsed(constant: Constant, score: float) -> bool:
    """Whether a prompt of that score gives one label to nearly all rows, and gains nothing by the few others."""
    return constant.n >= FEWEST and constant.n_said >= ONE_LABEL * constant.n and score <= constant.score + 1e-9


def gives_one_label(metric: Metric, output: str, examples: Sequence[Example], outcomes: Sequence[Outcome]) -> bool:
    """Whether a candidate gives one label to nearly all rows, and scores no more than that label does. For finalists.

    Args:
        outcomes: of the examples, in their order; failures must have been left out.
    """
    said, n_said = most_said(output, outcomes)
    if len(outcomes) < FEWEST or n_said < ONE_LABEL * len(outcomes):
        return False
    value = next(
        each.answer[output] for each in outcomes if output in each.answer and label_of(each.answer[output]) == said
    )
    try:
        always = _always(metric, output, value, examples)
    except MetricError:
        return False
    return score_of(metric, examples, outcomes) <= score_of(metric, examples, always) + 1e-9


def warnings(view: StudyView) -> list[str]:
    """Return sentences that belong directly under the verdict; none where there is nothing to say."""
    verdict = view.verdict
    if verdict is None:
        return []
    whose = "Your" if view.best == view.seed else "The new"
    return [each for each in (constant_words(verdict, whose), lost_words(verdict)) if each]


def constant_words(verdict: Verdict, whose: str = "The new") -> str:
    """Say how the winner compares with always giving the same answer; empty when it is proven to be better."""
    found = verdict.constant
    if found is None:
        return ""
    always = f"always answering {visible(found.label)!r} ({percent(found.score)})"
    is_no_better = verdict.winner_score <= found.score + 1e-9
    what = "" if found.is_beaten else f"is {'no better' if is_no_better else 'not proven to be better'} than {always}"
    if found.n >= FEWEST and found.n_said >= ONE_LABEL * found.n:
        what = f"answers {visible(found.said)!r} to {found.n_said} of {found.n} test rows" + (
            f" and {what}" if what else ""
        )
    return f"{whose} prompt {what}." if what else ""


def lost_words(verdict: Verdict) -> str:
    """Name the classes that the winner loses, worst first; empty when there is none."""
    lost = [each for each in verdict.classes if each.difference < 0]
    if not lost:
        return ""
    named = [
        f"{visible(each.name)} {percent(each.seed)} to {percent(each.winner)} ({points(each.difference)} on {each.n})"
        for each in lost[:MAX_CLASSES]
    ]
    more = f" and {len(lost) - MAX_CLASSES} more" if len(lost) > MAX_CLASSES else ""
    return f"Worse in {len(lost)} of {len(verdict.classes)} classes (points, rows): {', '.join(named)}{more}."


def _mean(outcomes: Sequence[Outcome], where: Sequence[int]) -> float:
    return sum(outcomes[i].value or 0.0 for i in where) / len(where)


def _frequent(output: str, examples: Sequence[Example]) -> list[JsonValue]:
    """The expected values, the most frequent first."""
    values: dict[str, JsonValue] = {
        label_of(value): value for example in examples if (value := example.outputs.get(output)) is not None
    }
    counts = Counter(label_of(example.outputs.get(output)) for example in examples)
    return [values[name] for name, _ in counts.most_common() if name in values][:N_TRIED]


def _always(metric: Metric, output: str, value: JsonValue, examples: Sequence[Example]) -> list[Outcome]:
    answer = {output: value}
    return [
        Outcome(example_id=row.id, kind="scored", score=score(metric, row, answer).value, answer=answer)
        for row in examples
    ]
