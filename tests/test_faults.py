"""A small part of the fault suite; `experiments/faults.py` runs all of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import fault_disk, fault_kills, faults


@pytest.mark.slow
def test_a_study_that_is_killed_at_every_named_point_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, what was in flight is paid twice at most, and the study is the same."""
    figures = fault_kills.kills(tmp_path, fault_kills.named_kills(1, random.Random(3)), concurrency=1)
    assert figures["kills"] >= len(fault_kills.MOST)


@pytest.mark.slow
def test_a_study_that_is_killed_at_random_moments_goes_on(tmp_path: Path) -> None:
    """The same with eight calls in flight."""
    figures = fault_kills.kills(tmp_path, fault_kills.random_kills(5, random.Random(4)), concurrency=8)
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
def test_a_cap_holds_with_many_calls_in_flight_while_connections_break(tmp_path: Path) -> None:
    """The server never sees a call more than the cap, and there is a verdict."""
    figures = faults.budget(tmp_path, caps=[100], breaks=True)
    assert figures["by cap"]["100"]["calls at the server"] <= 100


@pytest.mark.slow
def test_a_file_that_cannot_grow_pauses_the_study_and_damages_nothing(tmp_path: Path) -> None:
    """The first writer and a later one meet a limit: one line, and with space the study is as if undisturbed."""
    figures = fault_disk.limited_files(tmp_path, limits=(900, 33_000))
    assert figures["paused with one line"] == 2


@pytest.mark.slow
def test_a_metric_that_raises_returns_nan_or_hangs_never_scores(tmp_path: Path) -> None:
    """The rows have the outcome `failed` and no number, and the study goes on to its verdict."""
    assert faults.odd_metric(tmp_path)["scores from a failure"] == 0
