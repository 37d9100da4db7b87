"""What the commands share: their order, arguments, options, and the way in which each one ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from optimizer.errors import did_you_mean


def study_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names that the shell completes: the studies of the runs folder."""
    del param
    folder = Path(ctx.params.get("runs_dir") or "runs")
    return sorted(path.parent.name for path in folder.glob("*/study.json") if path.parent.name.startswith(incomplete))


def example_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names that the shell completes: the ready configurations."""
    from optimizer.init.examples import examples

    del ctx, param
    return [name for name in examples() if name.startswith(incomplete)]


config = click.argument("config", type=click.Path(path_type=Path))
study = click.argument("study", shell_complete=study_names)
optional_study = click.argument("study", required=False, shell_complete=study_names)
runs_dir = click.option(
    "--runs-dir", type=click.Path(path_type=Path), default=Path("runs"), metavar="DIR", help="Folder of all studies."
)
overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, for example search.trials=80."
)
as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON with stable keys.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print one line when it is done, nothing before.")
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def guard(is_debug: bool, call: Callable[[], int]) -> None:
    """Do the work and end with its exit code; an error that the user can mend is one line."""
    from optimizer.cli.terminal import guarded

    sys.exit(guarded(call, is_debug=is_debug))


ORDER = (
    "example", "init", "check", "run", "worker", "status", "stop", "suggest", "review",
    "show", "report", "compare", "ui", "export", "verify", "track",
)  # fmt: skip


class Commands(click.Group):
    """Lists commands in the order in which they are used, and names the nearest one when one is misspelt."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(self.commands, key=ORDER.index)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            known = sorted(self.commands)
            raise click.UsageError(
                f"no command {args[0]!r}.{did_you_mean(args[0], known)} Commands: {', '.join(known)}."
            )
        return super().resolve_command(ctx, args)
