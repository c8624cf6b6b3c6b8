"""The command ``taut``: its commands, errors and exit codes.

Each command is a function of ``fit``, ``use`` or ``audit``. Results go to stdout, progress and
messages to stderr; only this room prints. Every error that the user can fix is one line and an exit
code: 2 usage, 3 data refused, 4 diverged, 5 reading or writing failed, 6 out of memory, 7 a process
was lost, 130 and 143 stopped with the state saved; 1 is a bug of ours. Of several processes
(``torchrun``) the first one prints, and all end with the same code. torch is imported by a command
that has begun, so that help, a typo and TAB need not wait for it.
"""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from taut.cli import (
    audit,
    compare,
    curve,
    differential,
    disentangle,
    explore,
    export,
    fit,
    hub,
    loop,
    picture,
    score,
    terminal,
    use,
)
from taut.cli.options import Command, Group
from taut.system import launch, signals
from taut.system.errors import OutOfMemoryError, ParallelError, TautError, TautWarning, shown
from taut.system.signals import Terminated

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train": (fit.check, fit.fit, fit.resume, loop.choose),
    "Use a run": (
        *(use.sample, use.impute, score.score, use.encode, use.decode, use.reconstruct),
        differential.differential,
        picture.picture,
        *(export.export, hub.push, hub.pull),
        explore.explore,
    ),
    "Judge and improve a run": (
        *(audit.audit, compare.compare, fit.tighten, fit.refit, audit.gradients, audit.report),
        *(loop.improve, disentangle.disentangle, curve.curve),
    ),
}
# what several processes share; the rest is for one
TOGETHER = (
    *("fit", "resume", "tighten", "refit", "audit"),
    *("sample", "score", "encode", "impute", "decode", "reconstruct"),
)
PRINTING = (typer.echo.__code__, terminal.answer.__code__)  # what prints results
LOST = "another process was lost; what was saved is kept: go on with `taut resume RUN`"


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Returns a command whose errors end as one line and an exit code."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        with signals.watched(command=True), _warnings_in_a_line():
            if function.__name__ not in TOGETHER:
                if not launch.launched():
                    _run(function, given)
                return
            # joined until the error has been said: the others end when this process goes
            with ExitStack() as joined:
                _run(function, given, joined)

    return command


def _run(
    function: Callable[..., None], given: dict[str, Any], joined: ExitStack | None = None
) -> None:
    try:
        if joined is not None and launch.is_launched():
            from taut.system import parallel

            joined.enter_context(parallel.ranks())
        function(**given)
    except (KeyboardInterrupt, Terminated) as stop:
        _stopped(stop)
    except (typer.Exit, SystemExit):
        raise
    except TautError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # the reader of the pipe went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except BaseException as error:  # a library in Rust has one of its own
        _unforeseen(error)
    finally:
        if locks := sys.modules.get("taut.system.locks"):
            locks.release_all()


def _unforeseen(error: BaseException) -> None:
    """Ends a command by an error that is none of ours, as what it says or as a bug."""
    from taut.system.memory import out_of_memory

    if signals.came():
        _stopped(error)
    if _lost(error):
        _fail(LOST, ParallelError.exit_code)
    if out_of_memory(error):
        _fail(
            "out of memory: use a smaller batch size or fewer rows, or a machine with more",
            OutOfMemoryError.exit_code,
        )
    if isinstance(error, OSError):
        _fail(f"{_place_of(error)}: {error.strerror or error}", 5)
    raise _bug() from error


def _place_of(error: OSError) -> str:
    """Returns what could not be read or written: a file, or what an answer is printed to."""
    if error.filename:
        return shown(error.filename)
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code in PRINTING:
            return "standard output"
        frame = frame.tb_next
    return "a file"


def _claim(code: int) -> tuple[bool, int]:
    """Returns whether this process is the one to print an error, and the exit code of all."""
    if not launch.is_launched():
        return True, code
    from taut.system import parallel

    return parallel.claim(code)


def _lost(error: BaseException) -> bool:
    if not launch.is_launched():
        return False
    from taut.system import parallel

    return parallel.lost(error)


def _fail(message: str, code: int) -> None:
    first, code = _claim(code)
    if first:
        with _speaking():
            for line in message.split("\n"):
                terminal.message(f"taut: {line}")
    raise typer.Exit(code)


@contextmanager
def _speaking() -> Iterator[None]:
    """Lets a process that is silent speak, for an error that it alone has."""
    silent = sys.stderr
    if launch.launched() and sys.__stderr__ is not None:
        sys.stderr = sys.__stderr__
    try:
        yield
    finally:
        sys.stderr = silent


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: Any = None,
            line: Any = None,
        ) -> None:
            if issubclass(category, TautWarning):
                terminal.message(f"taut: {message}")
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", TautWarning)
        warnings.showwarning = show
        yield


def _stopped(stop: BaseException) -> None:
    """Ends a command that a signal stopped, whatever C++ has made of the signal on its way."""
    terminated = isinstance(stop, Terminated) or signals.came() == signal.SIGTERM
    if terminated and _lost(stop):  # torchrun ends those that are left
        _fail(LOST, ParallelError.exit_code)
    said = ""
    if isinstance(stop, KeyboardInterrupt | Terminated):
        said = str(stop)
    if terminated:
        _fail(said or "terminated", 143)
    _fail(said or "stopped", 130)


def _bug() -> typer.Exit:
    import traceback

    first, code = _claim(1)
    if first:
        with _speaking():
            traceback.print_exc()
            terminal.message("taut: this is a bug of ours; please report it with the lines above")
    return typer.Exit(code)


def _print_version(value: bool) -> bool:
    if value:
        from importlib.metadata import version

        typer.echo(f"taut {version('taut')}")
        raise typer.Exit
    return value  # the option takes what its callback returns


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Learns what is normal in your table, images or counts: fills gaps, finds odd rows, makes new
    ones, and says how far to trust it.

    `taut help COMMAND` or `taut COMMAND -h` explains a command.

    Examples:
        taut fit table.csv
        taut fit digits --minutes 1
    """


for _panel, _functions in COMMANDS.items():
    for _function in _functions:
        app.command(cls=Command, rich_help_panel=_panel)(guarded(_function))


def main() -> None:
    """Runs the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal of another encoding shows a question mark, and no traceback
            stream.reconfigure(errors="replace")
    if launch.launched():  # one process speaks for all
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (until the end)
    code: Any = 0
    with signals.watched(command=True):
        try:
            app()
        except SystemExit as end:
            code = end.code
        except Terminated:
            code = 143
        signals.ending()
    # a signal before the command had begun
    if signals.came() and code == 1:
        code = 128 + signals.came()
    if not launch.is_launched():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    # threads of gloo that outlive the interpreter would abort the process
    os._exit(code if isinstance(code, int) else 0)
