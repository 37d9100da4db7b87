"""What the terminal border promises whatever happens inside."""

from __future__ import annotations

import io
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from optimizer.cli.terminal import EXIT_UNREAD, is_live
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


class Screen(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_are_drawn_over_in_a_terminal_alone() -> None:
    """Not in a pipe that is told to have colours, not in a terminal that cannot move its cursor, not when quiet."""
    able, dumb = {"TERM": "xterm"}, {"TERM": "dumb"}
    assert is_live(Console(file=Screen(), _environ=able))
    assert is_live(Console(file=Screen(), _environ={**able, "NO_COLOR": "1"}))
    assert not is_live(Console(file=io.StringIO(), _environ={**able, "FORCE_COLOR": "1"}))
    assert not is_live(Console(file=Screen(), _environ=dumb))
    assert not is_live(Console(file=Screen(), _environ=able, quiet=True))


@pytest.mark.parametrize("said", ["console().print('x')", "print('x')"])
def test_a_reader_that_has_left_is_no_bug(said: str) -> None:
    """`optimizer show NAME | head -3` ends without a word; the exit code is the shell's for it."""
    code = f"from optimizer.cli.terminal import console, guarded\nsays = lambda: ({said}, 0)[1]\n"
    run = [sys.executable, "-c", f"{code}raise SystemExit(guarded(says, is_debug=False))"]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == EXIT_UNREAD
