"""Numbers as people read them: shares, durations, money, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

STOP_WORDS = {
    "trials": "all trials done",
    "budget": "the budget is used up",
    "time": "the time is used up",
    "patience": "no new best for a while",
    "unlikely": "the trials left were unlikely to find a better prompt",
    "perfect": "a perfect score on dev",
}
REFUSED = "refused"  # the stop reason of a study whose input must be changed before it can go on
PAUSE_WORDS = {
    "user": "paused by you",
    REFUSED: "refused",
    "provider": "paused: model out of reach",
    "provider_auth": "paused: key rejected",
    "provider_quota": "paused: account empty",
    "error_rate": "paused: too many failures",
    "storage": "paused: disk or database",
}
TRIAL_WORDS = ("complete", "pruned", "rejected", "failed")
SHOWN_AS = {"pruned": "dropped"}  # states that people read in other words than programs
UNFINISHED = "unfinished"
OPERATOR_WORDS = {
    "start": "one of the first candidates: your prompt or plain words, with or without examples, in each layout",
    "person": "written by a person",
    "rewrite": "the same instruction in other words",
    "reflect": "reads wrong answers, names the flaw, mends it",
    "induce": "an instruction written from examples alone",
    "trajectory": "continues from the prompts tried so far and their scores",
    "crossover": "merges two prompts",
    "decompose": "asks for steps before the answer",
    "clarify": "says what the instruction left unsaid",
    "trim": "a shorter prompt",
    "edit": "drops, moves or repeats a phrase",
    "demos": "other worked examples",
    "format": "another layout of the same prompt",
}


def operator_words(operators: Iterable[str]) -> dict[str, str]:
    """Say what these operators do, each once, in their order; a user's own have no words here."""
    return {name: OPERATOR_WORDS[name] for name in dict.fromkeys(operators) if name in OPERATOR_WORDS}


def state_words(state: str, stop_reason: str) -> str:
    """Say in two or three words how a study stands that nobody works on."""
    if state == "running":
        return "interrupted"
    return PAUSE_WORDS.get(stop_reason, f"paused: {stop_reason}") if state == "paused" else state


def code_parts(text: str) -> list[tuple[bool, str]]:
    """Split a sentence at its backticks: (is it code, the piece)."""
    return [(i % 2 == 1, piece) for i, piece in enumerate(text.split("`")) if piece]


def percent(share: float | None) -> str:
    """`0.5` becomes `50.0%`; nothing becomes a dash."""
    return "-" if share is None else f"{100 * share:.1f}%"


def points(difference: float) -> str:
    """A difference of scores in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def duration(seconds: float) -> str:
    """`75` becomes `1:15`, `3700` becomes `1:01:40`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def money(usd: float | None, *, is_free: bool = False) -> str:
    """Dollars with as many digits as small sums need; None is a sum that nobody knows."""
    if is_free:
        return "free"
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"


def price(usd: float | None) -> str:
    """Dollars in a list of other amounts, where a bare `unknown` would not say of what."""
    return "price unknown" if usd is None else money(usd)


def trial_counts(states: Iterable[str]) -> dict[str, int]:
    """Count trials by their state, in a fixed order; one that is open, as a cap leaves it, is `unfinished`."""
    found = Counter(UNFINISHED if state == "running" else state for state in states)
    return {state: found[state] for state in (*TRIAL_WORDS, UNFINISHED)}


def trial_word(state: str) -> str:
    """What became of a trial, in a word for people."""
    return SHOWN_AS.get(state, state)


def trials_words(counts: Mapping[str, int]) -> str:
    """`8 complete, 20 dropped`."""
    return ", ".join(f"{n} {trial_word(state)}" for state, n in counts.items() if n)


def tries(n: int) -> str:
    return "1 try" if n == 1 else f"{n} tries"


def number_of(n: int, word: str) -> str:
    """`1 trial`, `1,200 trials`."""
    return f"{count(n)} {word}{'' if n == 1 else 's'}"


def count(n: int) -> str:
    return f"{n:,}"


def visible(text: str) -> str:
    """Replace what would steer a terminal or turn the reading direction around; emoji and all scripts stay."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(char) else char for char in text)


def _steers(char: str) -> bool:
    is_control = (char < " " and char not in "\n\t") or "\x7f" <= char <= "\x9f"
    return is_control or "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"
