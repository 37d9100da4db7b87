"""The prompt as a page for people: what it is, how it is used, what it is worth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

from optimizer.export.clients import limits
from optimizer.export.facts import PredictorPrompt, Subject, goal, model_name, predictor_prompts
from optimizer.export.template import ENCODINGS, FILL
from optimizer.proof import labels
from optimizer.records import DevEstimate
from optimizer.words import percent, points


def markdown(subject: Subject) -> str:
    """Return the page. Prompts in it are as exact as in the data formats."""
    prompts = predictor_prompts(subject)
    sections = [_head(subject), *(_prompt(prompt, n_prompts=len(prompts)) for prompt in prompts), _filling(prompts)]
    sections += [_scores(subject), _demos(subject, prompts), _settings(subject, prompts)]
    return "\n\n".join(section for section in sections if section)


def fenced(text: str) -> str:
    """Return `text` as a code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}text\n{text}\n{fence}"


def code(text: str) -> str:
    """Return `text` as code within a line."""
    mark = "`" * (1 + _longest_run(text))
    space = " " if len(mark) > 1 else ""
    return f"{mark}{space}{' '.join(text.split())}{space}{mark}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _head(subject: Subject) -> str:
    view = subject.view
    if not subject.is_chosen:
        said = "A candidate of the search, not the one that it recommends."
    elif view.verdict is None:
        said = "The best prompt so far. There is no verdict yet."
    else:
        warned = labels.warnings(view) if subject.is_best else []
        said = " ".join([f"**Verdict: {view.verdict.decision}.** {view.verdict.reason}", *warned])
    return "\n\n".join(text for text in (f"# Prompt of the study {view.name}", goal(view), said) if text)


def _prompt(prompt: PredictorPrompt, *, n_prompts: int) -> str:
    """One block a message; a single user message needs no role."""
    title = "## The prompt" if n_prompts == 1 else f"## Prompt of {code(prompt.part.predictor)}"
    messages = prompt.template.messages
    blocks = [f"{message.role}:\n\n{fenced(message.content)}" for message in messages]
    if len(messages) == 1:
        said = f"One message of the role {messages[0].role}."
        said = "One text to continue, with no chat around it (`/completions`)." if prompt.is_completion else said
        blocks = [f"{said}\n\n{fenced(messages[0].content)}"]
    return "\n\n".join([title, *blocks])


def _filling(prompts: tuple[PredictorPrompt, ...]) -> str:
    used = {slot.encoding for prompt in prompts for slot in prompt.template.slots}
    lines = [
        f"- {_of(prompt, prompts)}{code(slot.placeholder)}: the input {code(slot.name)}, as {slot.encoding}"
        for prompt in prompts
        for slot in prompt.template.slots
    ]
    legend = [f"As {name}: {text}." for name, text in ENCODINGS.items() if name in used]
    return "\n\n".join(["## Inputs", FILL, "\n".join(lines), *legend])


def _scores(subject: Subject) -> str:
    view, lines = subject.view, []
    is_new = subject.is_best and view.best != view.seed
    if is_new and (verdict := view.verdict) is not None:
        lines.append(
            f"- Test, {verdict.n} rows that the search never saw: {percent(verdict.winner_score)}; "
            f"the prompt at the start {percent(verdict.seed_score)}; difference {points(verdict.difference)} points "
            f"({100 * verdict.confidence:.0f}% interval {points(verdict.low)} to {points(verdict.high)}, "
            f"p = {verdict.p_value:.2g}, {verdict.test_name})"
        )
    elif (verdict := view.verdict) is not None and subject.candidate.id == view.seed.id:
        lines.append(f"- Test, {verdict.n} rows that the search never saw: {percent(verdict.seed_score)}")
    score, n_scored = view.dev_score(view.trial_of(subject.candidate))
    if is_new and (dev := view.dev) is not None:
        lines.append(
            f"- Dev, {dev.n if dev.n_winner is None else dev.n_winner} rows that the search chose on: "
            f"{percent(dev.winner)} ({percent(dev.low)} to {percent(dev.high)}, corrected for having been chosen); "
            f"the prompt at the start {percent(dev.seed)}{_on(dev)}"
        )
    elif score is not None:
        lines.append(f"- Dev, {n_scored} rows that the search chose on: {percent(score)}")
    return "## Scores\n\n" + "\n".join(lines) if lines else ""


def _on(dev: DevEstimate) -> str:
    """On how many rows the seed's score rests, where it has seen fewer than the winner."""
    return "" if dev.n_seed == dev.n_winner else f" on {dev.n_seed} rows"


def _demos(subject: Subject, prompts: tuple[PredictorPrompt, ...]) -> str:
    lines = [f"- {_of(prompt, prompts)}row {code(demo.example_id)}" for prompt in prompts for demo in prompt.part.demos]
    lines += [
        f"- {_of(prompt, prompts)}{prompt.n_own_demos} that came with the program"
        for prompt in prompts
        if prompt.n_own_demos
    ]
    tracking = subject.view.config.get("tracking")
    if lines and isinstance(tracking, Mapping) and tracking.get("rows") == "ids":
        lines.append(
            "\nThe prompt holds the text of these rows, because it works with them: `tracking.rows: ids` keeps rows "
            "out of MLflow and the report, not out of the prompt itself. Send this page only where the rows may go."
        )
    return "## Demonstrations\n\n" + ("\n".join(lines) or "None.")


def _settings(subject: Subject, prompts: tuple[PredictorPrompt, ...]) -> str:
    candidate = subject.candidate
    lines = [f"- model: {code(model_name(subject.view))}"]
    if any(prompt.guide for prompt in prompts):
        lines.append(
            "- replies: the model could answer in the allowed form alone, such as one of the labels. Where yours is "
            "not held to it, say the form in the prompt or in your tool; `chat-json` has the rule"
        )
    for prompt in prompts:
        sent = limits(subject, prompt)
        texts = cast("list[str]", sent.get("stop", []))
        stop = ", ".join(code(json.dumps(text, ensure_ascii=False)) for text in texts) or "none"
        length = f"at most {prompt.max_tokens} tokens"
        said = f"temperature {prompt.temperature:g}, {length}, stop: {stop}" if "temperature" in sent else length
        lines.append(f"- {_of(prompt, prompts)}{said}")
    lines += [f"- layout: {candidate.format}, {candidate.reasoning}", f"- candidate: `{candidate.id}`"]
    return "## Settings\n\n" + "\n".join(lines)


def _of(prompt: PredictorPrompt, prompts: tuple[PredictorPrompt, ...]) -> str:
    """Name the predictor where there are several."""
    return f"{code(prompt.part.predictor)}: " if len(prompts) > 1 else ""
