"""Commands for people who have examples and a goal: `init`, and later steps in which a person decides.

`add_commands` enters them into the command line. Like `cli`, everything heavy is imported inside.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import click

from optimizer.cli import options
from optimizer.cli.options import guard


@click.command()
@click.argument("data", required=False)
@click.option("--goal", metavar="TEXT", help="What the prompt is for, in one or two sentences (or @FILE).")
@click.option("--input", "inputs", multiple=True, metavar="COLUMN", help="A column that is read; may be repeated.")
@click.option("--output", "outputs", multiple=True, metavar="COLUMN", help="The column of the answer.")
@click.option("--prompt", metavar="TEXT", help="Your present prompt (or @FILE).")
@click.option("--name", metavar="NAME", help="Name of the study.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="File to write; default: NAME.yaml.")
@click.option("--model", metavar="MODEL", help="Model that the prompt is for; default: embedded.")
@click.option("--api-base", metavar="URL", help="Address of an OpenAI-compatible server.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the key.")
@click.option("--sheet", metavar="NAME", help="Sheet of a spreadsheet; default: the first.")
@click.option(
    "--private/--no-private",
    default=None,
    help="Nothing may leave this machine, and MLflow shows no rows.",
)
@click.option("--consent", metavar="COLUMN", help="Show as examples only rows with a yes in this column.")
@click.option("--refusal", metavar="COLUMN", help="Never show rows with a yes in this column as examples.")
@click.option("--no-consent", is_flag=True, help="No column says which rows may be shown: any may.")
@click.option("--yes", is_flag=True, help="Ask nothing, take every proposal.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@options.debug
def init(
    data: str | None,
    goal: str | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    prompt: str | None,
    name: str | None,
    config: Path | None,
    model: str | None,
    api_base: str | None,
    api_key_env: str | None,
    sheet: str | None,
    private: bool | None,
    consent: str | None,
    refusal: str | None,
    no_consent: bool,
    yes: bool,
    force: bool,
    debug: bool,
) -> None:
    """Look at DATA and write a configuration for it.

    DATA is a .csv, .xlsx, .jsonl or .parquet file, or hub:owner/name.
    """
    from optimizer.cli.init import init_study
    from optimizer.init.wishes import Wishes

    wishes = Wishes(
        data=data,
        goal=goal,
        inputs=inputs,
        outputs=outputs,
        prompt=prompt,
        name=name,
        config=config,
        model=model,
        api_base=api_base,
        api_key_env=api_key_env,
        sheet=sheet,
        is_private=private,
        consent=consent or "",
        refusal=refusal or "",
        shows_all=no_consent,
    )

    def ask(question: str, proposal: str) -> str:
        return str(click.prompt(question, default=proposal, show_default=bool(proposal), type=str))

    guard(debug, lambda: init_study(wishes, None if yes else ask, is_forced=force))


@click.command()
@click.argument("name", required=False, shell_complete=options.example_names)
@click.option("--into", type=click.Path(path_type=Path), default=Path(), metavar="DIR", help="Folder; default: here.")
@options.debug
def example(name: str | None, into: Path, debug: bool) -> None:
    """Copy a ready configuration NAME with its data; list them without.

    There is one for each usual kind of task.
    """
    from optimizer.cli.init import show_example

    guard(debug, lambda: show_example(name, into))


@click.command()
@options.study
@click.argument("text")
@click.option("--like", default="seed", metavar="SEED", help="Layout and examples: of `seed`, `best`, or a trial N.")
@click.option("--predictor", metavar="NAME", help="Which prompt of a program with several.")
@options.runs_dir
@options.debug
def suggest(study: str, text: str, like: str, predictor: str | None, runs_dir: Path, debug: bool) -> None:
    """Add your own prompt TEXT (or @FILE) to STUDY.

    It is the next trial of a running or paused study.
    """
    from optimizer.cli.review import suggest_prompt

    guard(debug, lambda: suggest_prompt(study, text, runs_dir, like=like, predictor=predictor))


@click.command()
@options.study
@click.option("--veto", "vetoed", type=int, multiple=True, metavar="N", help="A trial that must not win; repeatable.")
@click.option("--edit", "edited", type=int, metavar="N", help="Edit the prompt of a trial and race the result.")
@click.option("--predictor", metavar="NAME", help="With --edit: which prompt of a program with several.")
@click.option("--text", metavar="TEXT", help="With --edit: the new prompt (or @FILE) instead of an editor.")
@options.as_json
@options.runs_dir
@options.debug
def review(
    study: str,
    vetoed: tuple[int, ...],
    edited: int | None,
    predictor: str | None,
    text: str | None,
    is_json: bool,
    runs_dir: Path,
    debug: bool,
) -> None:
    """Show the finalists of STUDY; veto or edit one.

    They stand side by side, with the dev rows on which they differ. In a terminal it then asks what should become of
    them; an edited prompt is raced like any other.
    """
    from optimizer.cli.review import review_study

    is_seen = sys.stdin.isatty() and sys.stdout.isatty()

    def edit(old: str) -> str | None:
        from optimizer.errors import ConfigError

        if not is_seen:
            raise ConfigError("--edit: there is no terminal for an editor; give the new prompt with --text @FILE")
        try:
            return click.edit(old, extension=".txt")
        except click.ClickException as error:
            said = error.format_message().removesuffix(".")
            raise ConfigError(f"--edit: {said}; set EDITOR, or give the new prompt with --text @FILE") from error

    def ask(question: str) -> str:
        return str(click.prompt(question, default="", show_default=False))

    call = functools.partial(
        review_study, study, runs_dir, vetoed=vetoed, edited=edited, text=text, is_json=is_json, edit=edit
    )
    guard(debug, lambda: call(predictor=predictor, ask=ask if is_seen else None))


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("-q", "--quiet", is_flag=True, help="Print one line when it is done, nothing before.")
@options.runs_dir
@options.debug
def worker(config: Path, overrides: tuple[str, ...], quiet: bool, runs_dir: Path, debug: bool) -> None:
    """Join the study of CONFIG from any machine.

    Its `storage` is a PostgreSQL server that all workers reach.
    """
    from optimizer.cli import commands

    guard(debug, lambda: commands.run_study(config, overrides, runs_dir, is_quiet=quiet, is_worker=True))


def add_commands(app: click.Group) -> None:
    """Enter the commands of this module."""
    for command in (init, example, worker, suggest, review):
        app.add_command(command)
