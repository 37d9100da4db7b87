"""Does a prompt still hold: a planted regression raises an alarm, an equal prompt none; what a new study takes over."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from optimizer import stats
from optimizer.candidate import Candidate, Demo, Part
from optimizer.config.file import load_config
from optimizer.config.keys import LM
from optimizer.errors import StudyError, UserError
from optimizer.export import EXPORTERS, export
from optimizer.proof.decay import EXIT_CODES, Standing, gain_change, judge_decay
from optimizer.records import Outcome, Verdict
from optimizer.run import run
from optimizer.study.job import open_job
from optimizer.study.saved import open_saved
from optimizer.study.warm_start import best_of, learned_from
from optimizer.verify import Check, check_prompt, model_settings, plan_check, rows_of_file
from tests.fake_server import Body, FakeServer, rate_limited
from tests.sample_study import CONFIG, PROGRAM, sample_view
from tests.test_main_job import HINT, answer, command, config, labelled_rows, optimizer, write

ROOT = Path(__file__).parent.parent
SEEDS = range(20)
N = 150
GOOD_ROWS = ("87096072caf7", "4d9fa2b1d09d", "f96f33883b4e", "2ffd68486979")  # of the quickstart's data


def outcomes(values: Any, prefix: str = "r") -> tuple[Outcome, ...]:
    return tuple(
        Outcome(example_id=f"{prefix}{i}", kind="scored", score=float(value)) for i, value in enumerate(values)
    )


def verdict(seed: Any, winner: Any, prefix: str = "r") -> Verdict:
    """The comparison that a study or a check would make of these values."""
    a, b = np.asarray(seed, dtype=np.float64), np.asarray(winner, dtype=np.float64)
    found = stats.compare(a, b, is_binary=True, confidence=0.95, rng=np.random.default_rng(0))
    return Verdict(
        decision="promote" if stats.is_significant_gain(found, 0.95) else "keep",
        reason="",
        n=found.n,
        seed_score=float(a.mean()),
        winner_score=float(b.mean()),
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        test_name=found.test_name,
        confidence=0.95,
        seed_outcomes=outcomes(seed, prefix),
        winner_outcomes=outcomes(winner, prefix),
    )


def draw(rng: np.random.Generator, hard: Any, skill: float, *, n: int = N) -> Any:
    """Answers of a prompt: right where a row is easier than its skill, with a little luck."""
    return (hard + rng.normal(0, 0.15, size=n)) < skill


def standing(seed: int, skill_now: float, *, prefix: str = "r") -> Standing:
    """A study saw a gain of about 25 points; now the prompt has another skill, on the same rows or on others."""
    rng = np.random.default_rng(seed)
    hard = rng.random(N)
    then = verdict(draw(rng, hard, 0.5), draw(rng, hard, 0.75))
    again = hard if prefix == "r" else rng.random(N)
    now = verdict(draw(rng, again, 0.5), draw(rng, again, skill_now), prefix)
    return judge_decay(now, then, rng=rng).standing


def test_a_worst_group_is_verified_as_a_worst_group() -> None:
    """Where the study judged its worst group, the gain then, the gain now and their change are those of that group."""
    groups = ["east"] * 50 + ["west"] * 100

    def worst(found: Any) -> float:
        of = {name: [each.value for each in found if groups[int(each.example_id[1:])] == name] for name in set(groups)}
        return float(min(sum(values) / len(values) for values in of.values() if values))

    seed = [i % 2 for i in range(150)]
    then = verdict(seed, [*seed[:50], *[1] * 100])  # all of the gain is in the west
    found = judge_decay(then, replace(then, decision="keep"), rng=np.random.default_rng(0), measure=worst)
    assert found.change is not None
    assert found.change.then == 0.0
    assert found.change.difference == 0.0
    assert found.change.is_paired
    lost = verdict(seed, [*[1] * 50, *seed[50:]])
    assert judge_decay(then, verdict(seed, [1] * 150), rng=np.random.default_rng(0), measure=worst).standing == "weaker"
    other = gain_change(lost, verdict(seed, [1] * 150), rng=np.random.default_rng(0), measure=worst)
    assert other.then == 0.5
    assert other.difference == -0.5
    assert other.high < 0


def test_what_was_not_proven_is_not_still_proven() -> None:
    """After `keep`, or with no verdict on this prompt, a better score in a check is not called a proof kept."""
    seed, better = [0] * 75 + [1] * 75, [1] * 150
    now = verdict(seed, better)
    for then in (None, replace(now, decision="keep")):
        assert "still" not in judge_decay(now, then, rng=np.random.default_rng(0)).reason
    assert "still proven" in judge_decay(now, now, rng=np.random.default_rng(0)).reason
    after_keep = judge_decay(now, replace(now, decision="keep"), rng=np.random.default_rng(0)).reason
    assert "the study ended in `keep`" in after_keep


def test_a_change_says_which_rows_it_is_told_from() -> None:
    """The gain then, the gain now and their change are of the rows that both occasions have, and say so; where these
    are all rows nothing is said, and where there are none, or a few among many, both samples are named."""
    then = verdict([0] * 20, [1] * 20)
    more = verdict([0] * 50, [*[0] * 20, *[1] * 30])  # lost what it gained, and gains elsewhere
    for measure in (None, lambda found: float(np.mean([each.value for each in found]))):
        change = gain_change(more, then, rng=np.random.default_rng(0), measure=measure)
        assert (change.then, change.now, change.n, change.is_paired) == (1.0, 0.0, 20, True)
        assert "the 20 rows that this check and the study's final test have in common" in change.rows
        assert gain_change(then, then, rng=np.random.default_rng(0), measure=measure).rows == ""
        others = gain_change(verdict([0] * 30, [1] * 30, "new"), then, rng=np.random.default_rng(0), measure=measure)
        assert (others.n, others.is_paired) == (30, False)
        assert others.rows == "30 rows now, and 20 others in the study's final test"
        study, check = verdict([0] * 302, [1] * 302), verdict([0] * 98, [0] * 98, "new")  # the new rows show no gain
        two = verdict([0] * 2, [1] * 2)  # of the study's rows, which show it as ever
        mixed = replace(
            check,
            n=100,
            seed_outcomes=(*two.seed_outcomes, *check.seed_outcomes),
            winner_outcomes=(*two.winner_outcomes, *check.winner_outcomes),
        )
        change = gain_change(mixed, study, rng=np.random.default_rng(0), measure=measure)
        assert (change.n, change.is_paired, change.high < 0) == (100, False, True)
        assert change.rows == "100 rows now, and 302 in the study's final test, 2 of them the same"
    weaker = judge_decay(more, then, rng=np.random.default_rng(0))
    assert weaker.reason == "Its gain on the seed was +100.0 points and is +0.0 now."


@pytest.mark.parametrize("prefix", ["r", "new"])
def test_a_planted_regression_raises_an_alarm(prefix: str) -> None:
    """Over 20 seeds, a prompt that fell below its seed is never said to hold, on the study's rows and on new ones."""
    found = [standing(seed, 0.25, prefix=prefix) for seed in SEEDS]
    assert set(found) == {"broken"}
    assert {standing(seed, 0.5, prefix=prefix) for seed in SEEDS} <= {"weaker", "broken"}


@pytest.mark.parametrize("prefix", ["r", "new"])
def test_an_equal_prompt_raises_none(prefix: str) -> None:
    """Over 20 seeds, a prompt as good as it was holds, on the study's rows and on new ones."""
    assert {standing(seed, 0.75, prefix=prefix) for seed in SEEDS} == {"holds"}


def test_a_prompt_that_never_gained_is_not_blamed_for_it() -> None:
    """Where the study kept the seed, or there is no verdict to compare with, only a loss is an alarm."""
    rng = np.random.default_rng(3)
    hard = rng.random(N)
    equal = verdict(draw(rng, hard, 0.5), draw(rng, hard, 0.5))
    for then in (equal, None):
        assert judge_decay(equal, then, rng=rng).standing == "holds"
    worse = verdict(draw(rng, hard, 0.5), draw(rng, hard, 0.2))
    assert judge_decay(worse, None, rng=rng).standing == "broken"
    assert judge_decay(worse, None, rng=rng).change is None


def test_exit_codes_tell_verdicts_apart_from_mistakes() -> None:
    """0 holds; 4 and 5 are neither a bug, nor a user's mistake, nor a pause."""
    assert EXIT_CODES == {"holds": 0, "weaker": 4, "broken": 5}


def test_endpoint_and_key_stay_with_their_provider() -> None:
    """Another model of the same provider keeps both; a model of another one gets neither, nor old prices."""
    known = LM(model="openai/a", api_base="http://x/v1", api_key_env="KEY", price_in=1.0, guided="vllm")
    same = model_settings(known, "openai/b", None)
    assert (same.model, same.api_base, same.api_key_env, same.price_in) == ("openai/b", "http://x/v1", "KEY", None)
    other = model_settings(known, "embedded", None)
    assert (other.api_base, other.api_key_env, other.guided) == (None, None, "off")
    by_file = LM(model="openai/a", api_key_file="~/.openai", api_key_command="pass openai")
    other = model_settings(by_file, "anthropic/b", None)
    assert (other.api_key_file, other.api_key_command) == (None, None)
    assert model_settings(known, None, None) == known
    assert model_settings(known, "openai/b", "http://y/v1").api_base == "http://y/v1"


def test_rows_of_a_file_are_checked(tmp_path: Path) -> None:
    """A bad row and too few rows are one line each."""
    path = tmp_path / "new.jsonl"
    good = [{"message": f"where is parcel {i}", "team": "parcels"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in good))
    assert len(rows_of_file(CONFIG, path)) == 12
    path.write_text("".join(json.dumps(row) + "\n" for row in [*good, {"message": "x", "team": "nobody"}]))
    with pytest.raises(UserError, match=r"new.jsonl:13: team"):
        rows_of_file(CONFIG, path)
    path.write_text("".join(json.dumps(row) + "\n" for row in good[:3]))
    with pytest.raises(UserError, match="3 different rows; at least 10"):
        rows_of_file(CONFIG, path)


def moods(body: Body) -> str:
    """`worse` is a model on which the hint does harm: with it every answer is wrong."""
    if body["model"] != "worse":
        return answer(body)
    right = answer({**body, "model": "task"})
    text = "\n".join(str(message["content"]) for message in body["messages"])
    return {"red": "green", "green": "blue", "blue": "red"}[right] if "apple is red" in text else right


@pytest.fixture
def finished(tmp_path: Path) -> Iterator[tuple[Path, FakeServer]]:
    """A finished study whose winner holds the hint."""
    with FakeServer(moods) as server:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
        write(tmp_path, config(server.url, tracking={"enabled": False}))
        optimizer(tmp_path, "run", "study.yaml")
        yield tmp_path, server


@pytest.mark.slow
def test_a_prompt_is_checked_from_the_command_line(finished: tuple[Path, FakeServer]) -> None:
    """The same model: holds, exit code 0. One that the prompt misleads: broken, exit code 5. New calls each time."""
    folder, server = finished
    n_calls = len(server.calls)
    said = json.loads(optimizer(folder, "verify", "fruit", "--json"))
    assert (said["verdict"], said["prompt"], said["gain_change"]["difference"]) == ("holds", 1.0, 0.0)
    assert said["cost_usd"] is None
    assert len(server.calls) - n_calls == said["calls"]["task"] == 2 * said["n"]

    optimizer(folder, "export", "fruit", "-f", "chat-json", "-o", "prompt.json")
    printed = optimizer(folder, "verify", "prompt.json", "--lm", "openai/worse", code=5)
    priced = ("--lm", "openai/worse", "--price-in", "1", "--price-out", "2", "--json")
    cost = json.loads(optimizer(folder, "verify", "prompt.json", *priced, code=5))
    assert cost["cost_usd"] == pytest.approx(cost["calls"]["task"] * (11 * 1 + 3 * 2) / 1e6)
    assert printed.startswith("broken:")
    assert "tokens, price unknown" in printed
    new = folder / "new.jsonl"
    new.write_text("".join(json.dumps({**row, "note": f"New. {row['note']}"}) + "\n" for row in labelled_rows()[:60]))
    check = plan_check(str(folder / "prompt.json"), folder / "runs", model=None, api_base=None, data=new)
    decay, spend = check_prompt(check)
    assert (decay.standing, decay.now.n, spend.calls) == ("holds", 60, {"task": 120})
    assert decay.change is not None
    assert not decay.change.is_paired

    changed = json.loads((folder / "prompt.json").read_text())
    changed["messages"][0]["content"] += " Be kind."
    (folder / "prompt.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="are not those of candidate"):
        plan_check(str(folder / "prompt.json"), folder / "runs", model=None, api_base=None, data=None)

    settings = config(server.url, name="again", search={"trials": 3}, tracking={"enabled": False})
    (folder / "again.yaml").write_text(yaml.safe_dump(settings))
    optimizer(folder, "run", "again.yaml", "--warm-start", "fruit")
    optimizer(folder, "run", "again.yaml")  # a study remembers what it started from
    optimizer(folder, "run", "again.yaml", "--warm-start", "fruit")  # the same line goes on, too
    words = command("run", "study.yaml", "--warm-start", "again")
    refused = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=240)
    assert refused.returncode == 2
    assert "study 'fruit' exists and began without it" in " ".join(refused.stderr.split())
    assert HINT in (folder / "runs/again/best_prompt.txt").read_text()


def test_rows_of_a_file_are_read_in_the_encoding_of_the_study(tmp_path: Path) -> None:
    """A table from the same program as the study's is read like it; one in UTF-8 needs nobody's word for that."""
    rows = "".join(f"Käse {chr(97 + i)} fehlt,{('billing', 'parcels')[i % 2]}\n" for i in range(12))
    settings = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"encoding": "cp1252"})})
    for encoding in ("cp1252", "utf-8"):
        path = tmp_path / f"{encoding}.csv"
        path.write_bytes(f"message,team\n{rows}".encode(encoding))
        assert {str(row.inputs["message"])[:4] for row in rows_of_file(settings, path)} == {"Käse"}


@pytest.mark.slow
def test_another_trial_is_checked_without_a_change(finished: tuple[Path, FakeServer]) -> None:
    """The final test was of the winner: for another prompt it is said that nobody knows what it gained then."""
    folder, _ = finished
    view = open_saved(folder / "runs", "fruit").view()
    other = next(each for each in view.trials if each.candidate and each.candidate not in (view.best, view.seed))
    optimizer(folder, "export", "fruit", "-f", "chat-json", "--trial", str(other.number + 1), "-o", "other.json")
    printed = " ".join(optimizer(folder, "verify", "other.json").split())
    assert "final test was of another prompt: what this one gained then is not known" in printed
    assert "the gain was" not in printed
    assert "final test was" not in optimizer(folder, "verify", "fruit")


@pytest.mark.slow
def test_every_export_that_names_its_study_is_checked(finished: tuple[Path, FakeServer]) -> None:
    """All forms but those that name neither are taken, and refused once their words have changed."""
    folder, _ = finished
    view, program = (saved := open_saved(folder / "runs", "fruit")).view(), saved.program()
    path = folder / "prompt.any"

    def planned() -> Check:
        return plan_check(str(path), folder / "runs", model=None, api_base=None, data=None)

    for form in EXPORTERS:
        path.write_text(text := export(view, program, form))
        if form in ("text", "langchain"):
            with pytest.raises(UserError, match=r"says neither its study nor its candidate|cannot be read"):
                planned()
            continue
        assert planned().candidate == view.best, form
        path.write_text(text.replace("apple is red", "apple is blue"))
        with pytest.raises(UserError, match="are not those of candidate"):
            planned()
    assert plan_check(
        str(folder / "runs/fruit/best_prompt.json"), folder / "runs", model=None, api_base=None, data=None
    )


@pytest.mark.slow
def test_a_model_that_never_answers_is_given_up_at_once(finished: tuple[Path, FakeServer]) -> None:
    """A dead endpoint is one line and exit code 3; one that only limits the rate is waited for, and that is said."""
    folder, server = finished
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    done = subprocess.run(
        command("verify", "fruit", "--lm", "openai/x", "--api-base", dead, "--json"),
        cwd=folder, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert "gave up after 1 try" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - began < 100  # a study's patience is ten minutes

    waits: list[str] = []
    server.script(*[rate_limited(retry_after=0.1)] * 2)
    check = plan_check("fruit", folder / "runs", model=None, api_base=None, data=None)
    decay, spend = check_prompt(check, waits.append)
    assert (decay.standing, spend.usd) == ("holds", None)
    assert any("Rate limit reached" in line for line in waits)


def test_a_new_study_starts_from_the_best_of_an_old_one() -> None:
    """The winner comes first, then what scored highest over a whole race; the seed is there anyway."""
    view = sample_view(13)
    learned = best_of(view)
    assert learned[0] == view.best
    assert view.seed not in learned
    assert len({each.id for each in learned}) == len(learned) == 4


def test_another_task_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study about other fields, or the study itself, is refused."""
    other = Demo(example_id="x", inputs={"text": "a"}, outputs={"label": "b"})
    view = replace(sample_view(1), best=Candidate(parts=(Part(predictor="answer", instructions="", demos=(other,)),)))
    monkeypatch.setattr(
        "optimizer.study.warm_start.open_saved", lambda *_: type("Saved", (), {"view": lambda _: view})()
    )
    with pytest.raises(StudyError, match="is about label, text, this one about message, team"):
        learned_from("old", tmp_path, PROGRAM, "new")
    with pytest.raises(StudyError, match="this study itself"):
        learned_from("new", tmp_path, PROGRAM, "new")


@pytest.mark.slow
def test_a_prompt_made_worse_is_caught_on_a_real_model(tmp_path: Path) -> None:
    """On the embedded model good examples hold; a copy whose examples all name one team is broken."""
    small = [
        "search.trials=1",
        "data.seed=0",
        "data.max_rows.dev=10",
        "data.max_rows.test=10",
        "tracking.enabled=false",
    ]
    path = ROOT / "configs/quickstart.yaml"
    job = open_job(load_config(path, small), folder=path.parent, runs_dir=tmp_path)
    shown = {row.id: Demo.from_example(row) for row in job.splits.train}
    demos = tuple(shown[row_id] for row_id in GOOD_ROWS)
    try:
        seed = run(job).seed
    finally:
        job.close()
    saved = open_saved(tmp_path, "quickstart")
    (tmp_path / "seed.json").write_text(export(saved.view(), saved.program(), "chat-json", seed))
    check = plan_check(
        str(tmp_path / "seed.json"), tmp_path, model=None, api_base=None, data=path.parent / "data/support.jsonl"
    )
    rows = [row for row in check.rows if row.id not in shown]
    good = replace(check, candidate=seed.with_demos("answer", demos), rows=tuple(rows[:40]))
    decay, spend = check_prompt(good)
    assert (decay.standing, spend.calls) == ("holds", {"task": 80})
    assert decay.now.difference > 0
    wrong = tuple(replace(demo, outputs={"team": "billing"}) for demo in demos)
    others = tuple(row for row in rows if row.outputs["team"] != "billing")[:60]
    decay, _ = check_prompt(replace(good, candidate=seed.with_demos("answer", wrong), rows=others))
    assert decay.standing == "broken", decay
