"""The terminal border: consoles, error lines, exit codes, and a log file for what libraries have to say."""

from __future__ import annotations

import io
import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from logging.handlers import MemoryHandler
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from optimizer.command_line import command_name, run_command
from optimizer.errors import Paused, UserError
from optimizer.privacy.redaction import RedactingFormatter, redact

EXIT_BUG, EXIT_USER, EXIT_PAUSED = 1, 2, 3
EXIT_UNREAD = 141  # 128 + SIGPIPE, as the shell says of a program whose reader has left
PIPED_WIDTH = 200


class Stopped(KeyboardInterrupt):
    """The process was told to stop; the exit code follows the shell's custom."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Turn the first Ctrl-C or SIGTERM into `Stopped`, so that state is written; the second one ends at once.

    Python drops what is raised while an object is being deleted; a stop that was lost so is raised again.
    """
    usual_hook = sys.unraisablehook

    def stop(number: int, _frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, Stopped):
            usual_hook(lost)
            return
        number = lost.exc_value.exit_code - 128
        signal.signal(number, stop)
        threading.Timer(0.05, signal.raise_signal, [number]).start()

    sys.unraisablehook = raise_again
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


class _Console(Console):
    """A console that leaves it to the border what comes of a reader that has left, such as `head`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(*, is_error: bool = False, is_silent: bool = False) -> Console:
    return _Console(stderr=is_error, soft_wrap=False, quiet=is_silent)


def is_live(out: Console) -> bool:
    """Whether lines can be drawn over: in a terminal that moves its cursor, whatever FORCE_COLOR says of a pipe."""
    return out.is_terminal and out.file.isatty() and not out.is_dumb_terminal and not out.quiet


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, and wide enough for every column where there is none."""
    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return _Console(width=PIPED_WIDTH if is_piped else None)


def print_command(out: Console, words: str) -> None:
    """Print a command of this program on a line of its own that is never broken, so that it can be copied."""
    out.print(f"  {command_name()} {words}", highlight=False, markup=False, soft_wrap=True)


def guarded(command: Callable[[], int], *, is_debug: bool) -> int:
    """Run a command and turn what it raises into one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a letter shows a question mark
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        return _say(error, "error", EXIT_USER, is_debug=is_debug)
    except Paused as error:
        return _say(error, "paused", EXIT_PAUSED, is_debug=is_debug)
    except KeyboardInterrupt as error:
        console(is_error=True).print(
            f"stopped; run the same command again to continue{_as_typed()}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return error.exit_code if isinstance(error, Stopped) else 130
    except BrokenPipeError as error:
        if _is_read():
            return _say(error, "bug: BrokenPipeError", EXIT_BUG, is_debug=is_debug)
        return EXIT_UNREAD
    except Exception as error:  # border: a bug of ours; the type and the message are shown, the traceback with --debug
        return _say(error, f"bug: {type(error).__name__}", EXIT_BUG, is_debug=is_debug)


def _is_read() -> bool:
    """Whether standard output still has a reader; what is left for one that has gone is thrown away."""
    if hasattr(select, "poll"):  # not on Windows
        (looked := select.poll()).register(sys.stdout.fileno(), 0)
        if not any(state & select.POLLERR for _, state in looked.poll(0)):
            return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return False


def _as_typed() -> str:
    """The line to copy, where it is a study that was stopped."""
    return f": {run_command()}" if sys.argv[1:2] == ["run"] else ""


def hold_logs() -> None:
    """Keep what all libraries log and warn in memory; nothing of theirs reaches the terminal."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if isinstance(handler, LogFile):
            handler.close()
    _unhook_libraries()
    root.addHandler(MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False))
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("default")


def _unhook_libraries() -> None:
    """Let what libraries log reach the root alone; some set up an output of their own when they are imported."""
    for logger in [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.propagate = True


class LogFile(logging.FileHandler):
    """A log file of which a full disk costs lines and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the run's own writers find the disk full, too, and pause the study."""


def log_to(path: Path) -> None:
    """Send log records to a file from now on, those that were held included."""
    file = LogFile(path, encoding="utf-8")
    file.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    _unhook_libraries()
    root = logging.getLogger()
    held = [handler for handler in root.handlers if isinstance(handler, MemoryHandler)]
    root.addHandler(file)
    for handler in held:
        handler.setTarget(file)
        handler.close()
        root.removeHandler(handler)


def _say(error: BaseException, kind: str, code: int, *, is_debug: bool) -> int:
    if is_debug:
        with (err := console(is_error=True)).capture() as captured:
            err.print_exception()
        sys.stderr.write(redact(captured.get()))
    text = redact(" ".join(str(error).split()))
    Console(stderr=True, soft_wrap=True).print(f"[bold red]{kind}:[/] {escape(text)}", highlight=False)
    sys.stderr.flush()
    return code
