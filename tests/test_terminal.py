"""What the terminal border promises whatever happens inside."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from optimizer.command_line import run_command, with_overrides

LOST_STOP = """
import os, signal, sys, time
from optimizer.command_line import run_command, with_overrides
from optimizer.cli.terminal import guarded, stop_on_signals

class Deleted:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass  # the handler runs between two of these, inside the deletion

def command():
    stop_on_signals()
    gone = Deleted()
    del gone
    time.sleep(20)
    return 0

raise SystemExit(guarded(command, is_debug=False))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_arrives_while_an_object_is_deleted_is_not_lost(number: signal.Signals) -> None:
    """Python drops exceptions of destructors; the command ends all the same, with the shell's exit code."""
    run = [sys.executable, "-c", LOST_STOP, str(int(number))]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + number, done.stderr
    assert "run the same command again" in done.stderr


def test_commands_to_copy_keep_what_was_typed() -> None:
    """`--set` stays; how a run was shown, and the name that a fork had, go."""
    typed = ["optimizer", "run", "my.yaml", "--set", "search.trials=9", "--fork", "old", "-q"]
    assert run_command("--fork", "new", argv=typed).endswith("run my.yaml --set search.trials=9 --fork new")
    assert run_command(argv=["optimizer", "show", "my"]).endswith("run CONFIG")
    assert with_overrides("a b.yaml", ["budget.usd=1"]) == "'a b.yaml' --set budget.usd=1"
