"""A finished study made by hand, of any length, with rows and texts that a careless page would trip over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optimizer.candidate import Candidate, Demo, Example, Part
from optimizer.config.keys import Config
from optimizer.prompts.program import TaskProgram
from optimizer.prompts.spec import spec_of_task
from optimizer.records import DevEstimate, Outcome, Recipe, Spend, StudyView, TrialRecord, Verdict

N_DEV, N_TEST = 40, 30
TEAMS = ("billing", "returns", "parcels")
OPERATORS = ("rewrite", "reflect", "demos", "trim")
EVIL = "<script>alert('x')</script> & {{ 7 * 7 }} <b>\"bold\"</b>"
CONFIG = Config.model_validate(
    {
        "name": "mail-routing",
        "task": {
            "goal": f"Send each message to the right team. {EVIL}",
            "inputs": {"message": "what the customer wrote"},
            "outputs": {"team": {"kind": "label", "choices": list(TEAMS)}},
        },
        "data": {"source": "mail.jsonl"},
        "metric": "accuracy",
        "lm": {"task": {"model": "embedded", "max_tokens": 8}},
    }
)
PROGRAM = TaskProgram(spec_of_task(CONFIG.task), max_tokens=8)


def example(split: str, i: int) -> Example:
    return Example(
        id=f"{split}{i}",
        inputs={"message": f"Message {i} of {split}: {EVIL if i % 7 == 3 else 'where is it?'}"},
        outputs={"team": TEAMS[i % 3]},
        extras={"channel": ("web", "phone")[i % 2], "note": f"a column without groups {i}"},
    )


ROWS: Mapping[str, Example] = {
    row.id: row for split, n in (("dev", N_DEV), ("test", N_TEST)) for row in (example(split, i) for i in range(n))
}
SEED = Candidate(parts=(Part(predictor="answer", instructions=f"Which team? {EVIL}"),))


def candidate(i: int) -> Candidate:
    demo = Demo(example_id="train7", inputs={"message": f"Broken again {i}"}, outputs={"team": "returns"})
    text = f"Which team answers this? Way {i}. {EVIL} " + "Be exact. " * (i % 9)
    return Candidate(parts=(Part(predictor="answer", instructions=text, demos=(demo,) * (i % 2)),))


def outcomes(split: str, n: int, share: float, *, seed: int) -> tuple[Outcome, ...]:
    """Outcomes of which about `share` are right."""
    right = np.random.default_rng(seed).random(n) < share
    return tuple(
        Outcome(
            example_id=f"{split}{i}",
            kind="scored",
            score=float(right[i]),
            answer={"team": TEAMS[(i + (not right[i])) % 3]},
            text=TEAMS[i % 3],
        )
        for i in range(n)
    )


def trial(i: int) -> TrialRecord:
    """Every third candidate runs its whole race, every sixth is rejected, the rest are dropped."""
    parent = SEED if i < 4 else candidate(3 * ((i - 1) // 3))
    common: dict[str, Any] = {"number": i, "recipe": Recipe(operator=OPERATORS[i % 4]), "started_s": 1.79e9 + 3 * i}
    if i % 6 == 5:
        return TrialRecord(**common, state="rejected", reason=f"copies a row {EVIL}", proposer_calls=1)
    is_whole = i % 3 == 0
    return TrialRecord(
        **common,
        state="complete" if is_whole else "pruned",
        candidate=candidate(i) if i else SEED,
        parents=(parent.id,) if i else (),
        reason="" if is_whole else "-20.0 after 10 examples",
        outcomes=outcomes("dev", N_DEV if is_whole else 10, min(0.9, 0.4 + 0.01 * i), seed=i),
        difference=None if i == 0 else (0.02 if is_whole else -0.2),
        duration_s=2.0,
        task_calls=N_DEV if is_whole else 10,
        proposer_calls=1,
        tokens=900,
        cost_usd=0.001,
    )


def sample_view(n_trials: int = 13, **changes: Any) -> StudyView:
    trials = tuple(trial(i) for i in range(n_trials))
    best = next(each.candidate for each in reversed(trials) if each.state == "complete" and each.candidate)
    seed, winner = outcomes("test", N_TEST, 0.4, seed=1), outcomes("test", N_TEST, 0.8, seed=2)
    scores = [sum(each.value or 0.0 for each in side) / N_TEST for side in (seed, winner)]
    view = StudyView(
        name="mail-routing",
        state="finished",
        stop_reason="trials",
        config=CONFIG.model_dump(mode="json"),
        facts={
            "n_rows": {"train": 30, "dev": N_DEV, "test": N_TEST},
            "class_counts": {"test": {"billing": 10, "returns": 10, "parcels": 10}},
            "fingerprints": {"train": "a1" * 32, "dev": "b2" * 32, "test": "c3" * 32},
            "warnings": ["class 'returns' makes up 21% of test and 33% of dev"],
        },
        seed=SEED,
        best=best,
        trials=trials,
        dev=DevEstimate(n=N_DEV, seed=0.4, winner=0.7, low=0.6, high=0.8, raw=0.75),
        verdict=Verdict(
            decision="promote",
            reason="The new prompt is better on examples that the search never saw.",
            n=N_TEST,
            seed_score=scores[0],
            winner_score=scores[1],
            difference=scores[1] - scores[0],
            low=0.1,
            high=0.6,
            p_value=0.003,
            test_name="exact McNemar",
            confidence=0.95,
            seed_outcomes=seed,
            winner_outcomes=winner,
        ),
        spend=Spend(calls={"task": 500, "proposer": 12}, tokens_in=9000, tokens_out=900, cost_usd=0.12),
        wall_s=125.0,
    )
    return replace(view, **changes)
