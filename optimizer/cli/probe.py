"""What `optimizer check --probe` and `check --json` print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from optimizer.cli.data_table import print_data
from optimizer.cli.privacy import print_privacy
from optimizer.cli.terminal import EXIT_USER, console, hold_logs, print_command
from optimizer.command_line import with_overrides
from optimizer.config.file import load_config
from optimizer.config.keys import config_folder
from optimizer.data.report import provable_gain, unquoted
from optimizer.lm.pricing import unpriced
from optimizer.privacy.local import unused_notes
from optimizer.privacy.personal_data import count_findings
from optimizer.probe.advice import Advice, Decision, ProbeFacts, advise
from optimizer.probe.bill import Estimate, estimate
from optimizer.probe.check import Probe, concerns, metric_notes, must_mend, probes
from optimizer.probe.probe import Spent, plan, probe, questions
from optimizer.study.job import Job, open_job
from optimizer.unattended.notify import webhook_url
from optimizer.words import count, duration, money, percent


def probe_config(config_path: Path, overrides: Sequence[str], runs_dir: Path, *, is_json: bool, is_probed: bool) -> int:
    """Ask a little, and say whether the night is worth it; the exit code is that of the advice."""
    config = load_config(config_path, overrides)
    hold_logs()
    webhook_url(config)
    job = open_job(config, folder=config_folder(config_path), runs_dir=runs_dir)
    try:
        notes = [*unused_notes(config), *metric_notes(job)]  # before anything is sent
        if not is_probed:
            found = list(probes(job))
            notes += concerns(job, found[0])
            print(json.dumps(_check_json(job, found, estimate(job, found[0]), notes), indent=2, ensure_ascii=False))
            return EXIT_USER if must_mend(job, found[0]) else 0
        return _probe(job, with_overrides(config_path, overrides), notes, is_json=is_json)
    finally:
        job.close()


def _probe(job: Job, words: str, notes: Sequence[str], *, is_json: bool) -> int:
    out, planned = console(is_error=is_json), plan(job)
    if not is_json:
        print_data(out, job)
        print_privacy(out, job)
        for note in notes:
            out.print(f"[yellow]warning:[/yellow] {escape(note)}", highlight=False)
    if not job.is_free:
        is_asked = job.proposer_backend.style == "chat" and job.config.tracking.rows != "ids"
        extra = " and one proposer call" if is_asked else ""
        judged = ", each judged by a further call, some twice," if job.judge_backend is not None else ""
        out.print(
            f"The probe makes {planned.n_calls} task calls{judged}{extra}; nothing else is sent.", highlight=False
        )
    else:
        out.print(f"The probe makes {planned.n_calls} calls of a model in this process.", highlight=False)
    facts, spent = probe(job, planned)
    open_questions = questions(job, facts.unsettled)
    advice = advise(facts)
    bill = estimate(job, _mean_call(job, spent))
    if is_json:
        print(json.dumps(_probe_json(facts, advice, open_questions, bill), indent=2, ensure_ascii=False))
    else:
        out.print(_table(job, facts, advice.decision, open_questions, bill, words))
        _print_advice(out, advice, words)
    return advice.exit_code


def _mean_call(job: Job, spent: Spent) -> Probe:
    n = max(1, spent.n_calls)
    return Probe(
        role="task",
        model=job.task_backend.identity,
        seconds=spent.seconds / n,
        tokens=spent.tokens // n,
        usd=spent.usd / n,
        reply="",
    )


def _table(job: Job, facts: ProbeFacts, decision: Decision, asked: Sequence[str], bill: Estimate, words: str) -> Table:
    table = Table.grid(padding=(0, 2))

    def say(what: str, text: str) -> None:
        table.add_row(what, Text(text))

    why = f" ({facts.unread_reason})" if facts.unread_reason else ""
    say("replies", f"{percent(facts.read_share)} can be read{why}")
    examples = (
        "" if facts.with_examples is None else f", with {facts.n_examples} examples {percent(facts.with_examples)}"
    )
    constant = "" if facts.constant is None else f", always the same answer {percent(facts.constant)}"
    say("scores", f"your prompt {percent(facts.seed)}{examples}{constant} (on {facts.n_rows} dev rows)")
    if facts.luck is not None:
        more = facts.luck_with_examples
        dealt = "" if more is None else f", with {facts.n_examples} examples {percent(more.mean)}"
        say("by chance", f"the same answers, swapped between the rows at random: {percent(facts.luck.mean)}{dealt}")
    say("head-room", f"{100 * facts.head_room:.0f} points up to {percent(facts.ceiling)}, the most the labels allow")
    if decision != "stop":  # its reason is that no such figure can be trusted
        say("likely", f"a good search may find {100 * facts.likely_gain:.0f} points")
    say(
        "proof",
        f"{facts.n_test} test rows prove a gain of about {100 * facts.smallest_gain:.0f} points, as answers vary here",
    )
    again = f"; scored again, the same answer moves by {100 * facts.metric_noise:.0f}" if facts.metric_noise else ""
    say("noise", f"asked again, a row's score moves by {100 * facts.noise:.0f} points on average{again}")
    labels = f"{percent(facts.contradictory_share)} of the rows contradict another"
    say("labels", f"{labels}; {percent(facts.leaked_share)} hold the answer in an input")
    if facts.near_copies:
        say("leaks", facts.near_copies)
    say("unsettled", f"{len(facts.unsettled)} of {facts.n_repeated} rows are answered differently from time to time")
    for each in facts.unsettled[:3]:
        if any(repr(each.shown) in question for question in asked):
            continue  # the question names the row
        say("", f"{each.shown!r}: {' / '.join(each.answers) or 'several answers'}")
    if facts.unsettled and job.config.tracking.rows == "ids":
        say("", f"`check {words} --row ID` shows one of them on this terminal")
    for question in asked:
        say("to settle", question)
    say("the night", bill_words(job, bill))
    return table


def bill_words(job: Job, bill: Estimate) -> str:
    """Say what a study will take, and which cap keeps it from taking more."""
    price = "an unknown sum (set price_in and price_out)" if bill.usd is None else f"about {money(bill.usd)}"
    price = "no money" if job.is_free else price
    said = f"{duration(bill.seconds)} and {price}"
    if bill.limited_by is None:
        return f"about {count(bill.n_calls)} task calls (at most {count(bill.n_calls_max)}), {said}"
    wanted = f"a whole search takes about {count(bill.n_calls_wanted)} calls"
    return f"about {count(bill.n_calls)} task calls, {said}, all that {bill.limited_by} allows ({wanted})"


def _print_advice(out: Console, advice: Advice, words: str) -> None:
    style = {"go": "bold green", "stop": "bold red"}.get(advice.decision, "bold yellow")
    out.print(f"\nAdvice: {advice.decision}", style=style, highlight=False)
    for reason in advice.reasons:
        out.print(f"- {reason}", highlight=False, markup=False)
    if advice.decision == "go":
        out.print("Next:", highlight=False)
        print_command(out, f"run {words}")


def _probe_json(facts: ProbeFacts, advice: Advice, asked: Sequence[str], bill: Estimate) -> dict[str, object]:
    derived = {"head_room": facts.head_room, "smallest_gain": facts.smallest_gain, "ceiling": facts.ceiling}
    return {
        "advice": advice.decision,
        "reasons": list(advice.reasons),
        "facts": {**asdict(facts), **derived},
        "questions": list(asked),
        "estimate": asdict(bill),
    }


def _check_json(job: Job, found: Sequence[Probe], bill: Estimate, notes: Sequence[str]) -> dict[str, object]:
    report = job.splits.report
    rows = (*job.splits.train, *job.splits.dev, *job.splits.test)
    unknown = unpriced(job.prices)
    texts = ("\n".join(str(value) for value in (*row.inputs.values(), *row.outputs.values())) for row in rows[:1000])
    return {
        "study": job.config.name,
        "rows": dict(report.n),
        "classes": {split: dict(counts) for split, counts in report.class_counts.items()},
        "constant_answer": list(report.constant_answer) if report.constant_answer else None,
        "provable_gain": provable_gain(report.n["test"]),
        "warnings": [
            *(unquoted(each) if job.config.tracking.rows == "ids" else each for each in report.warnings),
            *notes,
        ],
        "personal_data": count_findings(texts),
        "models": [asdict(each) | ({"usd": None} if each.role in unknown else {}) for each in found],
        "estimate": asdict(bill),
    }
