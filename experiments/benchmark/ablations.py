"""What each part of our search is worth: the same search without it, at equal calls. Entered among the methods.

A part that cannot be switched off by a setting is put out of action here: a search without memory proposes what it has
rejected again, and shows its proposer nothing of earlier trials.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from unittest.mock import patch

from experiments.benchmark.methods import Bench, Method, Step, ours
from optimizer.config.keys import OPERATORS
from optimizer.propose.memory import Memory

WORDS = ("rewrite", "clarify", "reflect", "induce", "trajectory", "decompose", "trim", "edit", "crossover")


def without(*names: str) -> Method:
    """Return our search without these operators."""
    return functools.partial(ours, operators=[name for name in OPERATORS if name not in names])


def forgetful(bench: Bench) -> list[Step]:
    with patch.object(Memory, "seen", lambda *_: False), patch.object(Memory, "history", lambda *_, **__: ()):
        return ours(bench)


ABLATIONS: Mapping[str, Method] = {
    "random recipes": functools.partial(ours, sampler="random"),
    "no races": functools.partial(ours, racing=False),
    "no memory": forgetful,
    "no demonstrations": functools.partial(ours, max_demos=0),
    "no other format": functools.partial(
        ours, formats=["plain"], operators=[name for name in OPERATORS if name != "format"]
    ),
    "no change of words": without(*WORDS),
    **{f"no {name}": without(name) for name in WORDS},
}
