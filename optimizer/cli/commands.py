"""What the commands do, once their words are parsed: open, call one stage, print."""

from __future__ import annotations

import os
import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from optimizer.cli.terminal import EXIT_USER, console, hold_logs, is_live, log_to, print_command, stop_on_signals
from optimizer.command_line import with_overrides
from optimizer.config.file import load_config
from optimizer.config.keys import config_folder
from optimizer.errors import ConfigError, StudyError
from optimizer.storage.files import make_private_folder, private_files
from optimizer.unattended.background import runs_flag
from optimizer.words import duration

if TYPE_CHECKING:
    from optimizer.records import StudyView
    from optimizer.study.job import Job

N_LOOKS = 2400  # a quarter of a second apart: a busy machine takes minutes to start MLflow's server

LOOKS_PER_WORD = 20  # five seconds


def check_config(config_path: Path, overrides: Sequence[str], runs_dir: Path) -> int:
    """Print what a run would find and take."""
    from optimizer.cli.data_table import print_data
    from optimizer.cli.privacy import print_privacy
    from optimizer.cli.probe import bill_words
    from optimizer.privacy.local import unused_notes
    from optimizer.probe.bill import estimate
    from optimizer.probe.check import concerns, metric_notes, must_mend, probes
    from optimizer.study.job import open_job
    from optimizer.unattended.notify import webhook_url

    config = load_config(config_path, overrides)
    hold_logs()
    webhook_url(config)  # a run refuses what is wrong with it, so a check does
    out = console()
    job = open_job(config, folder=config_folder(config_path), runs_dir=runs_dir)
    try:
        print_data(out, job)
        print_privacy(out, job)
        notes = [*unused_notes(config), *metric_notes(job)]  # before anything is sent
        found = list(probes(job))
        for probe in found:
            reply = " ".join(probe.reply.split())[:40]
            out.print(
                f"lm.{probe.role}: {probe.model} answers {reply!r} in {probe.seconds:.2f} s.",
                highlight=False,
                markup=False,
            )
        out.print(f"A run takes {bill_words(job, estimate(job, found[0]))}.", highlight=False)
        notes += concerns(job, found[0])
    finally:
        job.close()
    for note in notes:
        out.print(f"[yellow]warning:[/yellow] {escape(note)}", highlight=False)
    ready = "It can run, but look at the warnings first. Then:" if notes else "Everything is in place. Next:"
    is_broken = must_mend(job, found[0])
    out.print("Mend this first, then:" if is_broken else ready, highlight=False)
    print_command(out, f"{'check' if is_broken else 'run'} {with_overrides(config_path, overrides)}")
    return EXIT_USER if is_broken else 0


@private_files()
def run_study(
    config_path: Path,
    overrides: Sequence[str],
    runs_dir: Path,
    *,
    fork: str | None = None,
    warm_start: str | None = None,
    is_quiet: bool = False,
    is_json: bool = False,
    is_worker: bool = False,
    n_workers: int = 1,
) -> int:
    """Carry out a study and print what came of it: everything, one line, or JSON alone.

    As a fork it is a new one that may use the replies of the old. With several workers the others are processes of
    their own that join it.
    """
    config = load_config(config_path, overrides)
    source = None
    if fork is not None:
        source, config = config.name, load_config(config_path, [*overrides, f"name={fork}"])
        if fork == source:
            raise ConfigError(f"--fork: {fork!r} is the study itself; give the new study another name")
    hold_logs()
    out = console(is_silent=is_quiet or is_json)
    with out.status("opening data and models") if is_live(out) else out:
        from optimizer.cli.progress import Progress
        from optimizer.cli.summary import one_line, print_json
        from optimizer.prompts.render import prompts_of
        from optimizer.storage.database import storage_errors
        from optimizer.study.job import open_job
        from optimizer.study.saved import forked, open_saved
        from optimizer.workers import Team, require_server, run_joining

        if is_worker or n_workers > 1:
            require_server(config.storage)

        def opened() -> Job:
            job = open_job(config, folder=config_folder(config_path), runs_dir=runs_dir)
            if source is not None:
                job = forked(job, source)
            if warm_start is not None:
                from optimizer.study.warm_start import learned_from

                job = replace(job, warm_starts=learned_from(warm_start, runs_dir, job.program, job.config.name))
                job = job.built_on(open_saved(runs_dir, warm_start).view(), takes_prompts=True)
            return job

        first: list[Job] = [opened()]  # mistakes are found before anything is written
    run_dir = first[0].run_dir
    stop_on_signals()
    flags = [flag for override in overrides for flag in ("--set", override)] + ["--runs-dir", str(runs_dir)]
    flags += ["--set", f"name={fork}"] if fork else []
    team = Team([str(config_path), *flags], n_workers - 1, run_dir / "workers.txt")
    with storage_errors():
        make_private_folder(run_dir)
        log_to(run_dir / "log.txt")
    is_finished = False
    try:
        with Progress(out) as progress:
            view, job = run_joining(lambda: first.pop() if first else opened(), progress, team.start)
        is_finished = True
    finally:
        team.end(is_finished=is_finished)
    if is_json:
        print_json(view, prompts_of(job.program, view))
    elif is_quiet:
        print(one_line(view))
    else:
        _print_summary(view, job, runs_dir)
    return 0


def is_study_finished(config_path: Path, overrides: Sequence[str], runs_dir: Path, *, fork: str | None) -> bool:
    """Whether the study that a run would continue has its verdict, so that there is nothing to do in the background."""
    from optimizer.study.saved import open_saved

    name = fork or load_config(config_path, overrides).name
    try:
        return open_saved(runs_dir, name).view().state == "finished"
    except StudyError:
        return False  # it has not begun


@private_files()
def track_study(name: str, runs_dir: Path) -> int:
    """Write a study to MLflow from its database."""
    from optimizer.privacy.local import require_local
    from optimizer.study.saved import open_saved
    from optimizer.study.tracking import saved_projection
    from optimizer.track import rebuild

    saved = open_saved(runs_dir, name)
    require_local(saved.config)
    hold_logs()
    log_to(saved.run_dir / "log.txt")
    run_id = rebuild(saved.view(), saved_projection(saved))
    console().print(f"study {name} is in MLflow as run {run_id}", highlight=False)
    return 0


@private_files()
def serve_ui(name: str | None, runs_dir: Path, *, port: int, opens_browser: bool) -> int:
    """Start MLflow's UI on loopback and wait for it to end."""
    from optimizer.study.saved import open_saved
    from optimizer.study.tracking import saved_projection
    from optimizer.track import free_port, study_url, ui_command
    from optimizer.track.projection import is_server

    saved = open_saved(runs_dir, name)
    projection = saved_projection(saved)
    if is_server(projection.uri):
        console().print(f"open {study_url(projection.uri, saved.view(), projection) or projection.uri}")
        return 0
    free = free_port(preferred=port)
    command, extra = ui_command(projection.uri, port=free, artifact_root=projection.artifact_root)
    base = f"http://127.0.0.1:{free}"
    link = study_url(base, saved.view(), projection)
    log = (runs_dir / "ui.log").open("ab")
    stop_on_signals()  # the server must not outlive this process
    server = subprocess.Popen(command, env={**os.environ, **extra}, stdout=log, stderr=log)
    try:
        _wait_until_up(base, server, runs_dir / "ui.log")
        print(f"study {saved.config.name}: {link or base}\nCtrl-C stops the server", flush=True)
        if opens_browser and sys.stdout.isatty():
            webbrowser.open(link or base)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def _wait_until_up(base: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import time
    import urllib.error
    import urllib.request

    console(is_error=True).print("starting MLflow's server ...", style="dim", highlight=False)
    started = time.monotonic()
    for look in range(1, N_LOOKS + 1):
        if look % LOOKS_PER_WORD == 0:
            waited = f"still starting, {duration(time.monotonic() - started)} ..."
            console(is_error=True).print(waited, style="dim", highlight=False)
        if server.poll() is not None:
            raise StudyError(f"MLflow's server ended at once; {log} says why")
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise StudyError(f"MLflow's server does not answer at {base}; {log} says why")


def _print_summary(view: StudyView, job: Job, runs_dir: Path) -> None:
    from optimizer.cli.summary import print_summary
    from optimizer.prompts.render import prompts_of

    print_summary(console(), view, prompts_of(job.program, view), runs_flag=runs_flag(runs_dir))
