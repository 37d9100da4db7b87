"""`optimizer verify` as people see it: what the check came to, in a few lines or as JSON, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

from rich.markup import escape

from optimizer.cli.terminal import console, hold_logs, is_live
from optimizer.words import count, percent, points, price


def verify_prompt(
    target: str,
    runs_dir: Path,
    *,
    model: str | None,
    api_base: str | None,
    data: Path | None,
    prices: tuple[float | None, float | None],
    is_json: bool,
) -> int:
    """Score a prompt and its seed again, and end with the exit code of the verdict."""
    from optimizer.proof.aim import worst_of
    from optimizer.track.projection import shown_uri
    from optimizer.verify import check_prompt, plan_check, result_json

    hold_logs()
    check = plan_check(target, runs_dir, model=model, api_base=api_base, data=data, prices=prices)
    out, err = console(), console(is_error=True)

    def waits(why: str) -> None:
        if why:
            err.print(f"waiting: {why}", highlight=False, markup=False)

    n_calls = 2 * len(check.rows) * len(check.candidate.parts)
    with err.status(f"about {n_calls} calls of {check.lm.model}") if is_live(err) else err:
        decay, spend = check_prompt(check, waits)
    now, view = decay.now, check.saved.view()
    worst = worst_of(view)
    whose = escape(f"{worst}: ") if worst else ""
    if is_json:
        print(json.dumps(result_json(check, decay, spend), indent=2, ensure_ascii=False))
        return decay.exit_code
    at = f" at {escape(shown_uri(check.lm.api_base))}" if check.lm.api_base else ""
    style = {"holds": "bold green", "weaker": "bold yellow", "broken": "bold red"}[decay.standing]
    out.print(f"[{style}]{decay.standing}[/]: {escape(decay.reason)}", highlight=False)
    out.print(
        f"{whose}seed {percent(now.seed_score)}, prompt {percent(now.winner_score)} on {now.n} rows "
        f"of {escape(check.source)} "
        f"with {escape(check.lm.model)}{at}: {points(now.difference)} points ({100 * now.confidence:.0f}% interval "
        f"{points(now.low)} to {points(now.high)}, p = {now.p_value:.2g})",
        highlight=False,
    )
    if change := decay.change:
        on = f" on {change.rows}" if change.rows else ""
        out.print(
            f"the gain was {points(change.then)} points when the study ended; change {points(change.difference)} "
            f"(99% interval {points(change.low)} to {points(change.high)}){on}",
            highlight=False,
        )
    elif check.candidate not in (view.best, view.seed):
        out.print("the study's final test was of another prompt: what this one gained then is not known")
    out.print(f"{count(sum(spend.calls.values()))} calls, {count(spend.tokens)} tokens, {price(spend.usd)}")
    return decay.exit_code
