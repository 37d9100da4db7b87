"""The Markdown description of a study's parent run: verdict, scores, prompts, next commands. Pure."""

from __future__ import annotations

import re

from optimizer.command_line import command_name
from optimizer.proof import earlier, labels
from optimizer.proof.aim import scored_by, which_worst
from optimizer.proof.ending import stopped_words, time_notes
from optimizer.records import DevEstimate, StudyView
from optimizer.track.projection import Projection
from optimizer.words import number_of, state_words, trial_counts

NOTE_CHARS = 7900  # the store cuts tags at 8000 without an error
PROMPT_CHARS = 2600


def study_note(view: StudyView, projection: Projection) -> str:
    """Return the description. Long prompts are cut here and whole in the artifacts."""
    seed = _prompt("Seed prompt", view, projection, is_seed=True)
    trial = view.trial_of(view.best)
    winner_title = "Best prompt so far" if view.verdict is None else "Winning prompt"
    if view.chosen != view.best:
        winner_title = "Best candidate, not proven to be better"
    winner_title += f": trial {trial.number + 1}, {trial.recipe.operator}" if trial else ""
    winner = _prompt(winner_title, view, projection, is_seed=False)
    parts = [headline(view), _scores(view), _bill(view), winner, seed, _commands(view, projection)]
    note = "\n\n".join(projection.clean(part) for part in parts if part)
    return note if len(note) <= NOTE_CHARS else note[: NOTE_CHARS - 1] + "…"


def headline(view: StudyView) -> str:
    """Return the verdict in one sentence, or how far the study is."""
    if view.verdict is not None:
        reason = " ".join(view.verdict.reason.split())[:1000]
        warned = "".join(f"\n\n**Warning:** {each}" for each in labels.warnings(view))
        return f"**Verdict: {view.verdict.decision}.** {reason}{warned}"
    n_done = sum(trial.state != "running" for trial in view.trials)
    reason = view.stop_reason or "no reason given"
    if view.state == "paused":
        how = state_words(view.state, view.stop_reason)
        return f"**{how[:1].upper()}{how[1:]}** after {number_of(n_done, 'trial')}. It continues where it stopped."
    if view.state == "finished":
        return f"**Finished without a verdict ({reason})** after {number_of(n_done, 'trial')}."
    return f"**Running:** {number_of(n_done, 'trial')} so far, no verdict yet."


def _dev_seed(dev: DevEstimate) -> str:
    """The seed's score, and on how many rows it rests where it has seen others than the winner."""
    if dev.seed is None:
        return "-"
    return f"{dev.seed:.3f}" + ("" if dev.n_seed == dev.n_winner else f" on {dev.n_seed}")


def _scores(view: StudyView) -> str:
    rows = []
    if view.dev is not None:
        dev = view.dev
        rows.append(
            f"| dev | {dev.n if dev.n_winner is None else dev.n_winner} | {_dev_seed(dev)} | {dev.winner:.3f} "
            f"| {'-' if dev.difference is None else f'{dev.difference:+.3f}'} "
            f"| winner {dev.low:.3f} to {dev.high:.3f}, corrected for having been chosen |"
        )
    if view.verdict is not None:
        test = view.verdict
        label = earlier.label(seen) if (seen := earlier.of_test(view)) else "test"
        label += f", {measure}" if (measure := scored_by(view)) else ""
        rows.append(
            f"| {label} | {test.n} | {test.seed_score:.3f} | {test.winner_score:.3f} | {test.difference:+.3f} "
            f"| difference {test.low:+.3f} to {test.high:+.3f} ({test.confidence:.0%}), "
            f"p = {test.p_value:.2g} ({test.test_name}) |"
        )
    head = ["| split | rows | seed | winner | difference | interval |", "|---|---|---|---|---|---|"]
    said = f"\n\n{earlier.warning(seen)}" if view.verdict and (seen := earlier.of_test(view)) else ""
    which = which_worst(view)
    said += f"\n\nThe test score is {which}." if which else ""
    return "\n".join(head + rows) + said if rows else ""


def _bill(view: StudyView) -> str:
    states = trial_counts(trial.state for trial in view.trials)
    trials = ", ".join(f"{count} {state}" for state, count in states.items() if count) or "none"
    calls = ", ".join(f"{count} {role}" for role, count in sorted(view.spend.calls.items())) or "none"
    usd = view.spend.usd
    bill = f"{view.spend.tokens} tokens, {'price unknown' if usd is None else f'{usd:.4f} USD'}, {view.wall_s:.0f} s"
    ended = [f"{stopped_words(view)[:1].upper()}{stopped_words(view)[1:]}."] if view.state == "finished" else []
    return " ".join([f"Trials: {trials}. Calls: {calls}; {bill}.", *ended, *time_notes(view)])


def _prompt(title: str, view: StudyView, projection: Projection, *, is_seed: bool) -> str:
    candidate, file = (view.seed, "seed_prompt.txt") if is_seed else (view.best, "winner_prompt.txt")
    if not is_seed and view.best.id == view.seed.id:
        return f"### {title}\n\nThe seed prompt."
    text = projection.clean(projection.render(candidate))
    cut = f"\n\nCut here; the whole text is in `{file}`." if len(text) > PROMPT_CHARS else ""
    return f"### {title}\n\n{fenced(text[:PROMPT_CHARS])}{cut}"


def fenced(text: str) -> str:
    """Return `text` as a code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _commands(view: StudyView, projection: Projection) -> str:
    commands = [
        f"{command_name()} show {view.name}",
        f"{command_name()} report {view.name}",
        f"{command_name()} export {view.name} --format text",
    ]
    files = "`report.html` and the plots are among the artifacts."
    if projection.hides_rows:
        files = "The plots are among the artifacts; the report is not, as rows are not shown here."
    return "\n\n".join(["### Next", fenced("\n".join(commands)), *([files] if view.state == "finished" else [])])
