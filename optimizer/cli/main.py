"""The commands. Each one parses its words, calls one function of `optimizer.cli.commands`, and ends with its exit code.

Everything heavy is imported inside: `optimizer --help` must not wait for MLflow.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import click

from optimizer import __version__
from optimizer.cli import options
from optimizer.cli.options import guard
from optimizer.cli.people import add_commands
from optimizer.command_line import command_name

EXAMPLES = """\b
Examples:
  optimizer example quickstart            a ready task to try, with its data
  optimizer init tickets.csv              a configuration for your examples
  optimizer check my.yaml --probe         is the night worth it, at what cost
  optimizer run my.yaml                   search; run it again to continue
  optimizer run my.yaml --set search.trials=80
                                          change a setting for this run
  optimizer run my.yaml --detach          in the background; see status, stop
  optimizer show my                       what came of it
  optimizer report my                     the same as one HTML file
  optimizer compare my 2 8                two trials side by side
  optimizer export my --format markdown   take the prompt away
  optimizer verify my --lm openai/gpt-5   does it hold with another model
  optimizer ui my                         the whole search in a browser

\b
Exit codes: 0 done, 2 your input needs a change, 3 paused and can be
continued, 130 ended by Ctrl-C or `optimizer stop` and can be continued as
well, 1 a bug; of `check --probe` 4 advises against the run; of `verify`
4 weaker, 5 broken.
"""


FORMATS = "text, markdown, chat-json, openai, anthropic, yaml, dspy, python, promptfoo, langchain or mlflow."


@click.group(cls=options.Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="optimizer")
def app() -> None:
    """Search for a better prompt, prove it on examples that the search never saw, and show the search in MLflow."""


@app.command()
@options.config
@options.overrides
@options.runs_dir
@options.debug
@click.option("--probe", is_flag=True, help="Ask a few dozen rows and advise: go, more data, another metric, or stop.")
@click.option("--row", metavar="ID", help="Say where the row of this id stands, and show it; nothing else is done.")
@options.as_json
def check(
    config: Path, overrides: tuple[str, ...], runs_dir: Path, debug: bool, probe: bool, row: str | None, is_json: bool
) -> None:
    """Validate CONFIG and say what the study will cost.

    Shows the data and where it would be sent, calls each model once, and estimates calls, time and cost.
    """
    from optimizer.cli import commands

    if row is not None:
        from optimizer.cli.rows import show_row

        guard(debug, lambda: show_row(config, overrides, row))
    if probe or is_json:
        from optimizer.cli.probe import probe_config

        guard(debug, lambda: probe_config(config, overrides, runs_dir, is_json=is_json, is_probed=probe))
    guard(debug, lambda: commands.check_config(config, overrides, runs_dir))


@app.command()
@options.config
@options.overrides
@click.option("--warm-start", metavar="STUDY", help="Begin a new study with what another found: new model, more data.")
@options.runs_dir
@click.option("--workers", default=1, type=click.IntRange(1, 64), metavar="N", help="Processes; more want PostgreSQL.")
@click.option("--detach", is_flag=True, help="Run in the background, also when this terminal is closed.")
@click.option("--fork", metavar="NAME", help="Begin a new study with a changed CONFIG; replies paid for are reused.")
@options.debug
@options.quiet
@options.as_json
def run(
    config: Path,
    overrides: tuple[str, ...],
    warm_start: str | None,
    runs_dir: Path,
    workers: int,
    detach: bool,
    fork: str | None,
    debug: bool,
    quiet: bool,
    is_json: bool,
) -> None:
    """Search as CONFIG says; a study that exists is continued."""
    from optimizer.cli import commands
    from optimizer.unattended import background

    def run_it() -> int:
        goes_on = detach and not commands.is_study_finished(config, overrides, runs_dir, fork=fork)
        in_front = functools.partial(commands.run_study, is_quiet=quiet, is_json=is_json)
        detached = functools.partial(background.run_detached, is_json=is_json)
        chosen = detached if goes_on else in_front
        return chosen(config, overrides, runs_dir, fork=fork, warm_start=warm_start, n_workers=workers)

    guard(debug, run_it)


@app.command()
@options.study
@options.runs_dir
@options.debug
def stop(study: str, runs_dir: Path, debug: bool) -> None:
    """Stop the process that runs STUDY; `run` continues it.

    Works from any terminal of this machine.
    """
    from optimizer.unattended import background

    guard(debug, lambda: background.stop_study(study, runs_dir))


@app.command()
@options.optional_study
@options.runs_dir
@options.debug
@options.as_json
def status(study: str | None, runs_dir: Path, debug: bool, is_json: bool) -> None:
    """Show how far STUDY is; without a name, all studies."""
    from optimizer.cli import reading

    guard(debug, lambda: reading.show_status(study, runs_dir, is_json=is_json))


@app.command()
@options.study
@options.as_json
@options.runs_dir
@options.debug
def show(study: str, is_json: bool, runs_dir: Path, debug: bool) -> None:
    """Show the verdict, the trials and operators of STUDY.

    Also how its best prompt came to be, and what each step was worth.
    """
    from optimizer.cli import reading

    guard(debug, lambda: reading.show_study(study, runs_dir, is_json=is_json))


@app.command()
@options.study
@click.argument("one", required=False)
@click.argument("other", required=False)
@options.runs_dir
@options.debug
def compare(study: str, one: str | None, other: str | None, runs_dir: Path, debug: bool) -> None:
    """Compare two trials of STUDY, or STUDY with another one.

    Trials are numbers, `seed` or `best`; another study is a name.
    """
    from optimizer.cli import reading

    guard(debug, lambda: reading.compare(study, one, other, runs_dir))


@app.command()
@options.study
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Another file; not overwritten.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--browser/--no-browser", default=True, help="Open it in a browser.")
@options.runs_dir
@options.debug
def report(study: str, output: Path | None, force: bool, browser: bool, runs_dir: Path, debug: bool) -> None:
    """Write one HTML file about STUDY for those who decide.

    The proof, the prompts, what got better or worse, the search, its cost.
    """
    from optimizer.cli import reading

    guard(debug, lambda: reading.write_report(study, runs_dir, output=output, is_forced=force, opens_browser=browser))


@app.command()
@options.study
@click.option("-f", "--format", default="text", metavar="FORMAT", help=FORMATS)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--trial", metavar="N", help="Another candidate, by its trial's number in `show`; also `best`, `seed`.")
@click.option("--pareto", is_flag=True, help="Every prompt that none beats in score and length, into the folder FILE.")
@options.runs_dir
@options.debug
def export(
    study: str,
    format: str,
    output: Path | None,
    force: bool,
    trial: str | None,
    pareto: bool,
    runs_dir: Path,
    debug: bool,
) -> None:
    """Print or write the winning prompt, or the best so far."""
    from optimizer.cli import reading

    if pareto:
        if trial is not None:
            raise click.UsageError("--pareto and --trial exclude each other.")
        guard(debug, lambda: reading.export_front(study, runs_dir, format=format, output=output, is_forced=force))
    guard(
        debug,
        lambda: reading.export_study(study, runs_dir, format=format, output=output, is_forced=force, trial=trial),
    )


@app.command()
@click.argument("target", metavar="STUDY|FILE")
@click.option("--lm", "model", metavar="MODEL", help="The model to check with; default: the study's.")
@click.option("--api-base", metavar="URL", help="Endpoint of that model.")
@click.option("--price-in", type=click.FloatRange(min=0), metavar="USD", help="For a million input tokens.")
@click.option("--price-out", type=click.FloatRange(min=0), metavar="USD", help="For a million output tokens.")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="Rows; default: the study's test rows.")
@options.as_json
@options.runs_dir
@options.debug
def verify(
    target: str,
    model: str | None,
    api_base: str | None,
    price_in: float | None,
    price_out: float | None,
    data: Path | None,
    is_json: bool,
    runs_dir: Path,
    debug: bool,
) -> None:
    """Score a prompt and its seed again: does it still hold?

    STUDY may also be an exported FILE. Ends with 0 if the prompt holds, 4 if its gain is weaker than it was, 5 if it
    is broken: worse than its seed.
    """
    from optimizer.cli import verify as commands_verify

    call = functools.partial(commands_verify.verify_prompt, target, runs_dir, prices=(price_in, price_out), data=data)
    guard(debug, lambda: call(model=model, api_base=api_base, is_json=is_json))


@app.command()
@options.study
@options.runs_dir
@options.debug
def track(study: str, runs_dir: Path, debug: bool) -> None:
    """Write STUDY to MLflow again from its database.

    What is there already is not repeated.
    """
    from optimizer.cli import commands

    guard(debug, lambda: commands.track_study(study, runs_dir))


@app.command()
@options.optional_study
@click.option("--port", default=5000, type=click.IntRange(1, 65535), help="Port; another one if it is taken.")
@click.option("--browser/--no-browser", default=True, help="Open a browser.")
@options.runs_dir
@options.debug
def ui(study: str | None, port: int, browser: bool, runs_dir: Path, debug: bool) -> None:
    """Open the search in MLflow, for this machine only."""
    from optimizer.cli import commands

    guard(debug, lambda: commands.serve_ui(study, runs_dir, port=port, opens_browser=browser))


add_commands(app)


def main() -> None:
    """Run the command line. Usage errors are one line, too."""
    try:
        app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        of = error.ctx.command_path.partition(" ")[2] if isinstance(error, click.UsageError) and error.ctx else ""
        words = " ".join(word for word in (command_name(), of, "--help") if word)
        click.echo(f"error: {error.format_message()} See: {words}", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
