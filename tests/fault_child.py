"""Runs studies in processes that can be killed. Imports everything once and forks, so that a start takes no time.

Reads one JSON object a line: `config` and `runs_dir`, and perhaps `crash`, a point and a number; `max_bytes`, to which
no file may grow; `floor`, the free bytes that a disk must have; `said`, a file for the line of a pause. Writes the
process id, and when the process has ended its exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from optimizer.cli.terminal import stop_on_signals
from optimizer.config.file import load_config
from optimizer.errors import OptimizerError
from optimizer.run import run
from optimizer.storage import crash_points, database
from optimizer.study.job import open_job


def main() -> None:
    importlib.import_module("mlflow")  # the slowest one, before the forks
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(carry_out(request))
        say(pid)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def carry_out(request: dict[str, Any]) -> int:
    """Run one study to its end; 3 is a pause."""
    stop_on_signals()
    if request.get("crash"):
        crash_points.crash_at(*request["crash"])
    if "floor" in request:
        database.MIN_FREE_BYTES = request["floor"]
    path = Path(request["config"])
    if "max_bytes" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_bytes"], resource.RLIM_INFINITY))
    try:
        job = open_job(load_config(path), folder=path.parent, runs_dir=Path(request["runs_dir"]))
        try:
            run(job)
        finally:
            job.close()
    except OptimizerError as error:
        if "max_bytes" in request:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if "said" in request:
            Path(request["said"]).write_text(f"{error}\n")
        else:
            print(error, file=sys.stderr)
        return 3
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def say(number: int) -> None:
    print(number, flush=True)


if __name__ == "__main__":
    main()
