"""Starts workers in processes that can be killed. Imports everything once and forks, so that a start takes no time.

Reads one JSON object a line: `start` with the words of a command line and the file that its output goes to, or `wait`
with a process id. Writes the process id, or the exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

from optimizer.cli import commands, terminal
from optimizer.machines import sign_of_life
from optimizer.storage import database

BEAT_S, TAKE_OVER_S = 0.3, 2.0
OURS = ("study.job", "cli.progress", "prompts.render", "run", "cli.summary", "workers")
SLOW = ("mlflow", *(f"optimizer.{name}" for name in OURS))


def main() -> None:
    for name in SLOW:  # before the forks, once
        importlib.import_module(name)
    sign_of_life.BEAT_S, sign_of_life.TAKE_OVER_S = BEAT_S, TAKE_OVER_S
    database.IDLE_S = TAKE_OVER_S
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            config, runs_dir = request["start"]
            os._exit(work(config, runs_dir, Path(request["output"])))
        print(pid, flush=True)


def work(config: str, runs_dir: str, output: Path) -> int:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    return terminal.guarded(
        lambda: commands.run_study(Path(config), [], Path(runs_dir), is_quiet=True, is_worker=True), is_debug=True
    )


if __name__ == "__main__":
    main()
