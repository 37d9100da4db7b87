"""A small part of the fault suite; `experiments/faults.py` runs all of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import faults


@pytest.mark.slow
def test_a_study_that_is_killed_at_every_named_point_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, what was in flight is paid twice at most, and the study is the same."""
    figures = faults.kills(tmp_path, faults.named_kills(1, random.Random(3)), concurrency=1)
    assert figures["kills"] >= 5


@pytest.mark.slow
def test_a_study_that_is_killed_at_random_moments_goes_on(tmp_path: Path) -> None:
    """The same with eight calls in flight."""
    figures = faults.kills(tmp_path, faults.random_kills(5, random.Random(4)), concurrency=8)
    assert figures["kills"] >= 3


@pytest.mark.slow
def test_bad_replies_of_all_kinds_change_no_score(tmp_path: Path) -> None:
    """Rate limits, errors, resets, timeouts and replies that are no replies: the study is that of a quiet night."""
    assert faults.storm(tmp_path, list(faults.STORMS))["same scores"]


@pytest.mark.slow
def test_a_provider_that_is_away_for_a_while_costs_time_only(tmp_path: Path) -> None:
    """The calls pause, one probe looks, and the study goes on by itself."""
    assert faults.outage(tmp_path, seconds=3)["calls during it"] < 25


@pytest.mark.slow
def test_a_cap_holds_with_many_calls_in_flight(tmp_path: Path) -> None:
    """The server never sees a call more than the cap, and there is a verdict."""
    assert faults.budget(tmp_path, task_calls=100)["calls at the server"] <= 100
