"""Studies that run without a terminal: started in the background, seen and stopped from any terminal of the machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from optimizer.budget.limits import expected_in_all
from optimizer.command_line import command_name
from optimizer.config.file import load_config
from optimizer.config.keys import Budget
from optimizer.errors import ConfigError, StudyError
from optimizer.records import StudyView
from optimizer.storage.files import PRIVATE_FILE, is_claimed, make_private_folder
from optimizer.unattended.heartbeat import Live, read_live
from optimizer.words import count, duration, money, number_of, state_words

OUTPUT = "output.txt"
START_S = 300.0  # opening a large local model from a slow disk takes a while
STOP_S = 60.0  # a run promises to be gone 30 s after the first signal
POLL_S = 0.1


def live(run_dir: Path) -> Live | None:
    """Return the sign of life of the process that runs a study now, None when none does."""
    return read_live(run_dir) if is_claimed(run_dir) else None


def until_now(view: StudyView, found: Live | None) -> StudyView:
    """Return the study with the time up to its last sign of life; its record has it up to the last trial's end."""
    return view if found is None else replace(view, wall_s=max(view.wall_s, found.elapsed_s))


def detach(arguments: Sequence[str], run_dir: Path) -> tuple[int, str]:
    """Run the command line again in a session of its own, which no terminal ends; wait until the study is open.

    Returns:
        0 and a line to print, or the exit code of a process that ended at once and what it had to say.

    Raises:
        StudyError: another process runs the study.
    """
    make_private_folder(run_dir)
    if is_claimed(run_dir):
        raise StudyError(
            f"study {run_dir.name!r} is being run by another process; see: {command_name()} status {run_dir.name}"
        )
    path = run_dir / OUTPUT
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE), "ab") as output:
        begins_at = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "optimizer", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    ends_at = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < ends_at:
        found = read_live(run_dir)
        if found is not None and found.pid == process.pid:
            break
        time.sleep(POLL_S)
    if process.poll() is not None:
        return process.returncode, path.read_bytes()[begins_at:].decode(errors="replace").strip()
    process.returncode = 0  # it outlives us: nobody waits for it
    return 0, f"study {run_dir.name} runs in the background as process {process.pid}; its output goes to {path}"


def lines(view: StudyView, n_failed: int, found: Live | None, *, budget: Budget, pause: str = "") -> list[str]:
    """Say in a few lines what a study is doing, or how it goes on.

    Args:
        n_failed: attempts of calls that failed.
        budget: what may be spent.
        pause: why it paused, in one line.
    """
    errors = "no call has failed"
    if n_failed:
        errors = f"{number_of(n_failed, 'call')} ended without a reply: failed, or under way when a run was killed"
    if found is None:
        if view.state == "finished":
            return [errors]
        how = state_words(view.state, view.stop_reason)
        why = [pause] if pause and view.state == "paused" else []
        return [f"{how}; the same `optimizer run` continues it", *why, errors]
    silent_s = time.time() - found.moved_at
    ends = "no pace yet" if found.ends_at is None else f"{datetime.fromtimestamp(found.ends_at):%a %H:%M}"
    told = [
        f"process {found.pid} on {found.host}, since {datetime.fromtimestamp(found.started_at):%a %H:%M}",
        f"{found.phase}; something moved {duration(silent_s)} ago",
        f"verdict expected: {ends}{_in_all(view, found, budget)}",
        errors,
    ]
    return [*told, f"waiting: {found.waiting}"] if found.waiting else told


def _in_all(view: StudyView, found: Live, budget: Budget) -> str:
    left_s = None if found.ends_at is None else max(0.0, found.ends_at - time.time())
    in_all = expected_in_all(view.spend, budget, elapsed_s=view.wall_s, left_s=left_s)
    if in_all is None:
        return ""
    has_price = in_all.usd and view.spend.usd is not None
    return f", after about {count(in_all.calls)} calls" + (f" and {money(in_all.usd)}" if has_price else "") + " in all"


def stop(run_dir: Path) -> bool:
    """Ask the process that runs a study to stop, wait for it, and return whether there was one.

    Raises:
        StudyError: it runs on another machine, is another user's, or does not end in time.
    """
    if not is_claimed(run_dir):
        return False
    found = _known_process(run_dir)
    try:
        os.kill(found.pid, signal.SIGINT)
    except ProcessLookupError:
        pass  # it ended by itself
    except PermissionError as error:
        raise StudyError(f"study {run_dir.name!r} is run by another user, as process {found.pid}") from error
    if not _wait_until_free(run_dir):
        raise StudyError(
            f"study {run_dir.name!r}: process {found.pid} was asked to stop {STOP_S:.0f} s ago and still works; "
            f"`kill -9 {found.pid}` ends it, and nothing that was paid for is lost"
        )
    return True


def _known_process(run_dir: Path) -> Live:
    ends_at = time.monotonic() + STOP_S
    while (found := read_live(run_dir)) is None and is_claimed(run_dir) and time.monotonic() < ends_at:
        time.sleep(POLL_S)  # it is opening
    if found is None:
        raise StudyError(f"study {run_dir.name!r}: the process that runs it has left no sign of life")
    if found.host != socket.gethostname():
        raise StudyError(f"study {run_dir.name!r} runs on {found.host!r} as process {found.pid}; stop it there")
    return found


def _wait_until_free(run_dir: Path) -> bool:
    ends_at = time.monotonic() + STOP_S
    while is_claimed(run_dir):
        if time.monotonic() > ends_at:
            return False
        time.sleep(POLL_S)
    return True


def run_detached(
    config_path: Path,
    overrides: Sequence[str],
    runs_dir: Path,
    *,
    fork: str | None = None,
    warm_start: str | None = None,
    n_workers: int = 1,
    is_json: bool = False,
) -> int:
    """Start a study in the background and say how to follow and end it.

    Raises:
        ConfigError: JSON is asked for, and the background prints none.
    """
    if is_json:
        raise ConfigError("--detach: a run in the background prints no JSON; leave --json away, ask `status --json`")
    config = load_config(config_path, [*overrides, f"name={fork}"] if fork else overrides)
    flags = [flag for override in overrides for flag in ("--set", override)]
    flags += ["--fork", fork] if fork else []
    flags += ["--warm-start", warm_start] if warm_start else []
    flags += ["--workers", str(n_workers)] if n_workers > 1 else []
    arguments = ["run", str(config_path), *flags, "--runs-dir", str(runs_dir)]
    code, said = detach(arguments, runs_dir / config.name)
    if code:
        print(said, file=sys.stderr)
        return code
    name = config.name + runs_flag(runs_dir)
    print(f"{said}\nsee how far it is: {command_name()} status {name}\nend it: {command_name()} stop {name}")
    return 0


def stop_study(name: str, runs_dir: Path) -> int:
    """Ask the process that runs a study to stop, wait for it, and say how the study stands."""
    from optimizer.study.saved import open_saved

    was_running = stop(runs_dir / name)
    view = open_saved(runs_dir, name).view()
    what = "stopped" if was_running else "is not running"
    n_trials, n_calls = len(view.trials), sum(view.spend.calls.values())
    print(f"study {name} {what}: {view.state}, {number_of(n_trials, 'trial')}, {number_of(n_calls, 'call')}")
    if view.state != "finished":
        print("the same `optimizer run` continues it; nothing that was paid for is paid for again")
    return 0


def runs_flag(runs_dir: Path) -> str:
    """Return what a command needs after the name of a study to find it."""
    return "" if runs_dir == Path("runs") else f" --runs-dir {runs_dir}"
