"""Is what a study reports true? Complete studies of a model whose true scores are known.

    uv run python -m experiments.honest_estimates --studies 100

The model is simulated, everything else is the real program: Optuna, journal, operators, races, verdict. Each line of a
prompt helps or harms by a fixed amount, rows differ in difficulty, and prompt and row together have luck of their own,
so a prompt's true score, the mean over all the rows that there could be, is known exactly. Three worlds: lines matter
much, little, not at all. Asked is how often the interval of the test difference holds the true difference, how far the
dev score that is printed for the winner is off, and how many studies promote a prompt that is no better than the seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from experiments.benchmark.studies import job_of
from experiments.benchmark.tasks import ROOT
from optimizer.candidate import Candidate
from optimizer.config.keys import Config
from optimizer.data.loading import splits_from_rows
from optimizer.lm.backend import CallRequest, Reply
from optimizer.run import run
from optimizer.stats import wilson
from optimizer.study.job import Job

WORLDS = {"lines matter much": 0.5, "lines matter little": 0.15, "nothing matters": 0.0}
LABELS = ("yes", "no")
BASE = 0.0  # skill of an empty prompt, in standard deviations: half of the rows come out right
LUCK = 0.8  # share of the spread between rows that each prompt draws anew
N_ROWS = {"train": 100, "dev": 80, "test": 150}
N_TRIALS = 30


class KnownModel:
    """Answers rows rightly with a known chance. Asked for a prompt, it writes one of a few words."""

    identity = "simulated"
    style: Literal["completion", "chat"] = "completion"
    is_local = True
    n_lanes = 1

    def __init__(self, effect: float, seed: int) -> None:
        self._effect, self._seed = effect, seed

    def complete(self, request: CallRequest) -> Reply:
        said = "\n".join(message.content for message in request.messages)
        text = self._answer(said) if request.constraint else self._prompt(said, request.sample)
        return Reply(text=text, finish_reason="stop", tokens_in=len(said) // 4, tokens_out=2)

    def use_lane(self, lane: int) -> None:
        """There is one."""

    def abandon(self, after_s: float) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def true_score(self, job: Job, candidate: Candidate) -> float:
        """Share of all possible rows that come out right: row and luck together are one normal deviate."""
        said: list[str] = []

        def heard(request: CallRequest) -> Reply:
            said.append("\n".join(message.content for message in request.messages))
            return self.complete(request)

        job.program.run(candidate, job.splits.test[0].inputs, heard)
        return NormalDist().cdf(self.skill(said[0].rpartition("case ")[0]))

    def skill(self, head: str) -> float:
        """Sum of what the lines of a prompt do, in standard deviations."""
        return BASE + self._effect * sum(self._normal("line", line) for line in sorted({*head.splitlines()} - {""})) / 2

    def _answer(self, said: str) -> str:
        head, _, row = said.rpartition("case ")
        number = row.split()[0]
        hardness = (1 - LUCK) ** 0.5 * self._normal("row", number) + LUCK**0.5 * self._normal("luck", head, number)
        is_right = hardness < self.skill(head)
        right = label_of(number)
        return f" {right if is_right else LABELS[1 - LABELS.index(right)]}"

    def _prompt(self, said: str, sample: int) -> str:
        words = ("read", "weigh", "sort", "check", "judge", "compare", "name", "find", "trust", "hint", "sign", "mark")
        rng = np.random.default_rng(_hash(self._seed, said, sample))
        return " ".join(["Look:", *rng.choice(words, size=6)]).capitalize() + "."

    def _normal(self, *parts: object) -> float:
        return NormalDist().inv_cdf((_hash(self._seed, *parts) % 999_983 + 0.5) / 999_983)


def label_of(number: str) -> str:
    return LABELS[_hash("label", number) % 2]


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def rows(start: int, n: int) -> list[dict[str, str]]:
    return [{"text": f"case {number:06}", "label": label_of(f"{number:06}")} for number in range(start, start + n)]


def study(effect: float, seed: int, runs_dir: Path) -> dict[str, Any]:
    """Run one study and compare what it reports with what is true."""
    config = Config.model_validate(
        {
            "name": f"known-{seed}",
            "task": {
                "goal": "Say yes or no to the case.",
                "inputs": {"text": ""},
                "outputs": {"label": {"kind": "label", "choices": list(LABELS)}},
            },
            "prompt": "Answer the case.",
            "data": {"source": "rows"},
            "metric": "accuracy",
            "search": {"trials": N_TRIALS, "seed": seed, "formats": ["plain"]},
            "tracking": {"enabled": False},
        }
    )
    model, starts = KnownModel(effect, seed), np.cumsum([seed * 10_000, *N_ROWS.values()])
    given = {name: rows(int(start), n) for (name, n), start in zip(N_ROWS.items(), starts, strict=False)}
    splits = splits_from_rows(given["train"], given["dev"], given["test"], task=config.task, seed=0)
    job = job_of(config, splits, model, folder=ROOT, runs_dir=runs_dir)
    view = run(job)
    shutil.rmtree(job.run_dir)
    true_seed, true_winner = model.true_score(job, view.seed), model.true_score(job, view.best)
    verdict, dev = view.verdict, view.dev
    assert verdict is not None
    assert dev is not None
    return {
        "seed": seed,
        "decision": verdict.decision,
        "is_seed": view.best == view.seed,
        "difference": verdict.difference,
        "low": verdict.low,
        "high": verdict.high,
        "true_difference": true_winner - true_seed,
        "dev": dev.winner,
        "dev_low": dev.low,
        "dev_high": dev.high,
        "dev_raw": dev.raw,
        "true_winner": true_winner,
        "calls": view.spend.calls["task"],
    }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage, bias and false promotions of one world, with 95% Wilson intervals where they are shares."""
    chosen = [each for each in found if not each["is_seed"]]
    bias = {key: 100 * float(np.mean([e[key] - e["true_winner"] for e in found])) for key in ("dev", "dev_raw")}
    covered = sum(each["low"] <= each["true_difference"] <= each["high"] for each in chosen)
    dev_covered = sum(each["dev_low"] <= each["true_winner"] <= each["dev_high"] for each in found)
    wrong = sum(each["decision"] == "promote" and each["true_difference"] <= 0 for each in found)
    n = len(found)
    return {
        "studies": n,
        "winner is not the seed": len(chosen),
        "test interval covers": [covered, *(round(x, 3) for x in wilson(covered, len(chosen), 0.95))],
        "dev interval covers": [dev_covered, *(round(x, 3) for x in wilson(dev_covered, n, 0.95))],
        "dev bias, points": round(bias["dev"], 2),
        "uncorrected dev bias, points": round(bias["dev_raw"], 2),
        "promoted": sum(each["decision"] == "promote" for each in found),
        "promoted though no better": [wrong, *(round(x, 3) for x in wilson(wrong, n, 0.95))],
        "mean true gain, points": round(100 * float(np.mean([e["true_difference"] for e in found])), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100, help="studies in each world, seeds 0 to STUDIES - 1")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/honest_estimates.json")
    args = parser.parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, effect in WORLDS.items():
            found = [study(effect, seed, Path(folder)) for seed in range(args.studies)]
            report[name] = {"summary": summary(found), "studies": found}
            print(name, json.dumps(report[name]["summary"], indent=2), flush=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
