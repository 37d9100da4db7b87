"""Beyond one number: groups of rows, several metrics with weights, and limits that a winner must keep to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.candidate import Candidate, Example, Part
from optimizer.config.keys import Config, Constraints
from optimizer.config.metric import Slices
from optimizer.errors import ConfigError
from optimizer.metrics import Metric, open_metric
from optimizer.proof.rules import Facts, held_to
from optimizer.proof.slices import OTHER, WorstSlice, by_worst_slice, group_notes, group_rows, slice_scores
from optimizer.proof.verdict import judge
from optimizer.records import Outcome, SliceScore, Verdict
from optimizer.search.elite import Elite
from optimizer.stats import compare
from optimizer.study.job import open_job


def config(metric: object, **more: object) -> Config:
    return Config.model_validate(
        {
            "name": "s",
            "task": {"inputs": {"text": "t"}, "outputs": {"answer": {}, "note": {}}},
            "data": {"source": "rows.jsonl"},
            "metric": metric,
            **more,
        }
    )


def example(i: int, group: str | None, answer: str = "yes", **inputs: str) -> Example:
    extras = {} if group is None else {"region": group}
    return Example(id=f"e{i}", inputs=inputs or {"text": "?"}, outputs={"answer": answer}, extras=extras)


ROWS = [example(i, ("north", "south", "far")[0 if i < 12 else 1 if i < 22 else 2]) for i in range(25)]


def outcomes(right: set[int]) -> list[Outcome]:
    return [
        Outcome(
            example_id=row.id, kind="scored", score=float(i in right), answer={"answer": "yes" if i in right else "no"}
        )
        for i, row in enumerate(ROWS)
    ]


def test_small_groups_are_taken_together() -> None:
    """A group with few test rows proves nothing by itself, so it joins the others; unknown rows do, too."""
    groups = group_rows(Slices(by="region", min_rows=10), ROWS, [example(99, "far"), example(98, None)])
    assert [groups.name(row) for row in (ROWS[0], ROWS[12], ROWS[24])] == ["north", "south", OTHER]
    assert groups.of["e99"] == groups.of["e98"] == OTHER


def test_a_group_that_is_called_other_is_not_mixed_with_the_small_ones() -> None:
    """The small ones then have another name, under which the list and the notes speak of them."""
    rows = [
        replace(row, extras={"region": {"south": "other"}.get(str(row.extras["region"]), row.extras["region"])})
        for row in ROWS
    ]
    groups = group_rows(Slices(by="region", min_rows=10), rows, [])
    assert [groups.name(row) for row in (rows[0], rows[12], rows[24])] == ["north", "other", "all other"]
    metric = open_metric(config("accuracy"))
    scores = slice_scores(metric, groups, rows, outcomes({*range(12, 22)}), outcomes({*range(12), *range(12, 17)}))
    assert {each.name: (each.n, each.holds) for each in scores} == {
        "north": (12, ()), "other": (10, ()), "all other": (3, ("far 3",)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("by", "min_rows", "said"),
    [
        ("regoin", 10, "no column 'regoin'.*Did you mean 'region'"),
        ("region", 20, "one group only .*north 12, south 10"),
    ],
)
def test_groups_that_cannot_be_made_are_refused(by: str, min_rows: int, said: str) -> None:
    """A misspelt column and groups that are all too small are one line each."""
    with pytest.raises(ConfigError, match=said):
        group_rows(Slices(by=by, min_rows=min_rows), ROWS, [])


def test_each_group_is_compared_and_the_worst_difference_comes_first() -> None:
    """A winner that is better on the whole can be worse for a group; the list says which and by how much."""
    groups = group_rows(Slices(by="region", min_rows=3), ROWS, [])
    metric = open_metric(config("accuracy"))
    scores = slice_scores(metric, groups, ROWS, outcomes({*range(12, 22)}), outcomes({*range(12), *range(12, 17)}))
    assert [(each.name, each.n, round(each.difference, 2)) for each in scores] == [
        ("south", 10, -0.5), ("far", 3, 0.0), ("north", 12, 1.0),
    ]  # fmt: skip


def test_the_worst_group_can_be_the_score() -> None:
    """With `aim: worst` a set of rows is worth what its worst group is, and the verdict compares that."""
    groups = group_rows(Slices(by="region", min_rows=3), ROWS, [])
    metric: Metric = WorstSlice.of(open_metric(config("accuracy")), groups, "region")
    seed, winner = outcomes({*range(12)}), outcomes({*range(12), *range(12, 22, 2), 23, 24})
    verdict = judge(
        metric, ROWS, seed=seed, winner=winner, is_same=False, confidence=0.95, rng=np.random.default_rng(1)
    )
    assert (verdict.seed_score, verdict.winner_score) == (0.0, 0.5)
    assert verdict.test_name == "paired bootstrap"
    assert metric.version != open_metric(config("accuracy")).version


@pytest.mark.parametrize(("n_unread", "is_same", "said"), [(2, False, ""), (20, False, "the new"), (25, True, "your")])
def test_a_verdict_says_when_replies_are_no_answers(n_unread: int, is_same: bool, said: str) -> None:
    """A low score means something else when the replies could not be read; a few unread ones are not worth a word."""
    unread = [Outcome(example_id=row.id, kind="unparsed", error="no 'team' in the reply") for row in ROWS[:n_unread]]
    answered = [*unread, *outcomes(set())[n_unread:]]
    verdict = judge(
        open_metric(config("accuracy")), ROWS, seed=answered, winner=answered, is_same=is_same, confidence=0.95,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    told = (
        f"But {n_unread} of {len(ROWS)} replies to {said} prompt cannot be read as an answer (no 'team' in the reply)"
    )
    assert (told in verdict.reason) == bool(said)


def candidate(text: str) -> Candidate:
    return Candidate(parts=(Part(predictor="answer", instructions=text),))


def test_finalists_are_ranked_by_their_worst_group() -> None:
    """The candidate that lifts the worst group leads, though another has the better mean."""
    names = ["a"] * 30 + ["b"] * 30
    elite = Elite([f"e{i}" for i in range(60)])
    table = {"seed": (0.5, 0.2), "mean": (1.0, 0.2), "fair": (0.5, 0.6)}
    for name, (a, b) in table.items():
        values = [float(i % 30 < 30 * share) for i in range(60) for share in [a if i < 30 else b]]
        elite.add(candidate(name), {f"e{i}": value for i, value in enumerate(values)})
    elite.challenge(candidate("seed"))
    ranked = by_worst_slice(elite, [candidate(name) for name in table], names)
    assert [each.parts[0].instructions for each in ranked] == ["fair", "seed", "mean"]


def verdict_of(**changes: Any) -> Verdict:
    base: dict[str, Any] = {
        "decision": "promote", "reason": "better", "n": 25, "seed_score": 0.4, "winner_score": 0.6, "difference": 0.2,
        "low": 0.1, "high": 0.3, "p_value": 0.001, "test_name": "exact McNemar", "confidence": 0.95,
    }  # fmt: skip
    return Verdict(**{**base, **changes})


WORSE = SliceScore(name="south", n=40, seed=0.7, winner=0.6)


@pytest.mark.parametrize(
    ("facts", "limits", "max_loss", "rule"),
    [
        (Facts(slices=(WORSE,)), Constraints(), 0.05, "group 'south' gets worse by -10.0 points on 40 rows"),
        (Facts(slices=(WORSE,)), Constraints(), 0.1, None),
        (Facts(slices=(WORSE,)), Constraints(), None, None),
        (Facts(), Constraints(parse_rate=0.99), None, "only 96.0% of its replies can be read"),
        (Facts(), Constraints(parse_rate=0.95), None, None),
        (Facts(n_chars=(100, 301)), Constraints(prompt_growth=3.0), None, "it has 301 characters, yours 100"),
        (Facts(usd_per_row=0.002), Constraints(usd_per_row=0.001), None, "one row costs \\$0.002"),
        (Facts(usd_per_row=None), Constraints(usd_per_row=0.001), None, None),
    ],
)
def test_a_broken_rule_turns_promote_into_keep(
    facts: Facts, limits: Constraints, max_loss: float | None, rule: str | None
) -> None:
    """Better on the whole is not enough when a group is harmed, replies break or the price is too high."""
    read = [Outcome(example_id="x", kind="scored", score=1.0)] * 24
    verdict = verdict_of(winner_outcomes=(*read, Outcome(example_id="y", kind="unparsed")))
    held = held_to(verdict, facts, limits, max_loss=max_loss)
    if rule is None:
        assert (held.decision, held.broken_rules) == ("promote", ())
    else:
        assert held.decision == "keep"
        assert len(held.broken_rules) == 1
        with pytest.raises(AssertionError, match=rule):
            raise AssertionError(held.reason)


def test_rules_never_promote() -> None:
    """A verdict of `keep` stays one, with its own reason."""
    held = held_to(verdict_of(decision="keep", reason="not proven"), Facts(slices=(WORSE,)), Constraints(), max_loss=0)
    assert (held.decision, held.reason, held.slices) == ("keep", "not proven", (WORSE,))


PARTS = {
    "parts": {
        "right": {"name": "exact_match", "weight": 3},
        "kept": {"name": "supported", "context": "text", "weight": 1},
    }
}


def test_metrics_are_weighed() -> None:
    """The score is the weighted mean, and the remark says which part asked for what."""
    metric = open_metric(config({"name": "weighted", **PARTS}))
    row = example(1, None, "Tuesday", text="The office is closed on Tuesday and opens at 9.")
    assert metric(row, {"answer": "tuesday"}).value == 1.0
    score = metric(row, {"answer": "Tuesday, probably"})
    assert score.value == pytest.approx((3 * 0 + 1 * 0.5) / 4)
    assert score.feedback is not None
    assert "right: expected" in score.feedback
    assert "kept: not in the text: 'probably'" in score.feedback


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("It opens at 9.", 1.0),
        ("It opened at nine", 0.5),
        ("It opens at 10.", 0.0),
        ("", 1.0),
        ("office", 1.0),
    ],
)
def test_supported_asks_whether_the_context_says_it(answer: str, value: float) -> None:
    """Words in other forms count, invented words cost their share, an invented number costs all."""
    metric = open_metric(config({"name": "supported", "context": "text"}))
    row = example(1, None, text="The office is closed on Tuesday and opens at 9.")
    assert metric(row, {"answer": answer}).value == pytest.approx(value)


def test_supported_reads_japanese() -> None:
    """Without spaces between words, runs of characters are looked up."""
    metric = open_metric(config({"name": "supported", "context": "text"}))
    row = example(1, None, text="配達は火曜日です。")
    assert metric(row, {"answer": "火曜日"}).value == 1.0
    assert metric(row, {"answer": "水曜日"}).value == 0.0


@pytest.mark.parametrize(
    ("limits", "answer", "remark"),
    [
        ({"max_chars": 10}, "eleven char", "has 11 characters, at most 10"),
        ({"max_words": 2}, "three whole words", "has 3 words, at most 2"),
        ({"forbidden": ["sorry"]}, "We are SORRY.", "contains 'sorry'"),
        ({"forbidden": ["as an AI"]}, "As an  ai, yes", "contains 'as an AI'"),
        ({"forbidden": ["申し訳"]}, "申し訳ありません", "contains"),
        ({"forbidden": ["art"], "max_words": 3}, "yes", None),
        ({"forbidden": ["art"]}, "a party", None),
    ],
)
def test_answers_outside_their_limits_score_nothing(limits: dict[str, object], answer: str, remark: str | None) -> None:
    """Too long or with a forbidden word: 0, and the remark says so; a word inside another does not count."""
    metric = open_metric(config("contains", constraints=limits))
    score = metric(example(1, None, answer), {"answer": answer})
    assert (score.value, remark is None) == (float(remark is None), score.feedback is None)
    assert remark is None or (score.feedback is not None and remark in score.feedback)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ({"name": "weighted"}, "go together"),
        ({"name": "accuracy", **PARTS}, "go together"),
        ({"name": "weighted", "parts": {"a": {"name": "macro_f1"}}}, "row by row"),
        ({"name": "supported", "context": "page"}, "metric.context: 'page' is no input; inputs: text"),
        ({"name": "weighted", "parts": {"a": {"name": "judge", "output": "x"}}}, "'x' is no output"),
    ],
)
def test_wrong_settings_are_refused(metric: object, said: str) -> None:
    """Parts without weights' metric, macro F1 as a part, and unknown fields are told by their place."""
    with pytest.raises(ValueError, match=said):
        config(metric)


def test_supported_needs_its_context(tmp_path: Path) -> None:
    """Which input the answer must keep to is not guessed."""
    with pytest.raises(ConfigError, match=r"metric\.context"):
        open_metric(config("supported"), folder=tmp_path)


def test_the_worst_group_is_compared_by_resampling() -> None:
    """The interval of a worst-group difference holds the difference and widens with few rows."""
    groups = group_rows(Slices(by="region", min_rows=3), ROWS, [])
    metric = WorstSlice.of(open_metric(config("accuracy")), groups, "region")
    old, new = outcomes({*range(12)}), outcomes({*range(25)})
    values = [np.array([each.value or 0.0 for each in found]) for found in (old, new)]

    def difference(indices: np.ndarray[Any, np.dtype[np.int64]]) -> float:
        rows = [ROWS[i] for i in indices]
        return metric.aggregate(rows, [{}] * len(rows), values[1][indices]) - metric.aggregate(
            rows, [{}] * len(rows), values[0][indices]
        )

    found = compare(*values, is_binary=True, confidence=0.95, rng=np.random.default_rng(3), statistic=difference)
    assert found.low <= found.difference == 1.0 <= found.high


def test_rules_are_part_of_what_a_study_is(tmp_path: Path) -> None:
    """A rule that is loosened after a look at the search would be no rule: such a study is another one."""
    rows = [
        {"text": f"{word} {i}", "answer": "yes" if i % 2 else "no", "note": "n"}
        for i, word in enumerate(["ash", "elm"] * 40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lm = {"task": {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1"}}
    found = []
    for constraints in ({}, {"parse_rate": 0.9}, {"parse_rate": 0.5}):
        job = open_job(config("exact_match", lm=lm, constraints=constraints), folder=tmp_path, runs_dir=tmp_path)
        found.append(job.identity()["rules"])
        job.close()
    assert found == [None, {"parse_rate": 0.9}, {"parse_rate": 0.5}]


SETTINGS = Slices(by="region", min_rows=10, aim="worst", max_loss=0.05)


def test_a_group_of_few_rows_does_not_decide_which_one_is_the_worst() -> None:
    """`other` of three rows is compared, held to the rule and named, and neither dev nor test take it for the worst."""
    groups = group_rows(SETTINGS, ROWS, [])
    assert groups.small == {OTHER}
    assert groups.joined == ("far 3",)
    metric: Metric = WorstSlice.of(open_metric(config("accuracy")), groups, "region")
    right = outcomes({*range(6), *range(12, 22)})
    answers = [each.answer for each in right]
    assert metric.aggregate(ROWS, answers, np.array([each.score for each in right])) == 0.5
    scores = {each.name: each for each in slice_scores(metric, groups, ROWS, right, right)}
    assert (scores[OTHER].n, scores[OTHER].holds, scores[OTHER].decides) == (3, ("far 3",), False)
    assert scores["north"].decides
    elite = Elite([f"e{i}" for i in range(4)])
    for name, values in {
        "seed": (1.0, 0.0, 0.0, 0.0),
        "fair": (1.0, 1.0, 0.0, 0.0),
        "far": (1.0, 0.0, 1.0, 1.0),
    }.items():
        elite.add(candidate(name), {f"e{i}": value for i, value in enumerate(values)})
    elite.challenge(candidate("seed"))
    ranked = by_worst_slice(elite, [candidate("far"), candidate("fair")], ["a", "b", OTHER, OTHER], {OTHER})
    assert ranked[0] == candidate("fair")


def test_groups_are_counted_in_the_rows_that_the_test_can_pay_for() -> None:
    """A cap on calls shortens the final test, and a group that was large enough may be no longer."""
    assert group_rows(SETTINGS, ROWS, [], n_tested=15).small == {"south", OTHER}
    assert group_rows(SETTINGS, ROWS, [], n_tested=8).small == {OTHER}  # none is large enough: the rest count


def test_check_says_which_groups_are_too_small() -> None:
    """Before a run: what is not counted as the worst, and where one answer breaks the rule; nothing without groups."""
    aim, loss = group_notes(SETTINGS, group_rows(SETTINGS, ROWS, []), ROWS)
    assert "not counted as the worst group: other (3) ('other' holds far 3)" in aim
    assert "max_loss: 0.05 is less than one row of north (12: 8 points), other (3: 33 points), south (10: 10" in loss
    assert "20 rows are needed" in loss
    large = Slices(by="region", min_rows=3, max_loss=0.5)
    assert group_notes(large, group_rows(large, ROWS, []), ROWS) == []
    assert group_notes(None, None, ROWS) == []
