"""Where a study's random numbers come from: a seed and what they are for, never an order of calls."""

from __future__ import annotations

import numpy as np

from optimizer.candidate import content_hash

FINAL_TEST = "final test"  # what the generator of its interval is for


def generator_of(seed: int, *identity: str | int) -> np.random.Generator:
    """Return the generator that a study of this seed has for a purpose."""
    return np.random.default_rng(int(content_hash([seed, *identity], n_chars=16), 16))
