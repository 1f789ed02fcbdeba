"""The command line: arguments to the pipeline, errors to exit codes. The only place that prints."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from converter import __version__
from converter.cli.console import Screen
from converter.errors import ConverterError, TargetError
from converter.supervision import channel

__all__ = ["app", "explain", "fail", "heeding", "show"]

_INTERRUPTED = 130  # 128 and the number of the signal, as shells have it


class _Group(TyperGroup):
    """The commands, which Ctrl-C ends with one line and exit code 130, whatever a library made of it."""

    interrupted = False

    def invoke(self, ctx: Any) -> Any:
        group = type(self)
        group.interrupted = False
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT) if main else None

        def interrupt(number: int, frame: FrameType | None) -> None:
            group.interrupted = True
            if not callable(before):
                raise KeyboardInterrupt
            before(number, frame)

        if main:
            signal.signal(signal.SIGINT, interrupt)
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if not (group.interrupted or isinstance(error, KeyboardInterrupt)):
                raise
            if channel.supervised():  # the parent says so
                raise KeyboardInterrupt from None
            Screen(stderr=True).print("interrupted", style="red")
            raise typer.Exit(_INTERRUPTED) from None
        finally:
            if before is not None:
                signal.signal(signal.SIGINT, before)


app = typer.Typer(
    name="converter",
    cls=_Group,
    help="Cut a pretrained model at a layer named as its author named it, prove numerically that the "
    "piece computes what the original computes there, and hand it on as ONNX or as a native model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"converter {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def heeding(progress: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Progress that stops where Ctrl-C was pressed and a library has made something else of it."""

    def tell(stage: str, detail: str) -> None:
        _heed()
        progress(stage, detail)

    return tell


def _heed() -> None:
    if _Group.interrupted:
        raise KeyboardInterrupt


def explain(error: ConverterError, terminal: Any, folder: str, *, as_json: bool) -> NoReturn:
    """Print what a run found out before it failed, then the error, and leave with its exit code."""
    _heed()
    report = getattr(error, "report", None)
    if report is not None:
        if isinstance(error, TargetError):  # others were written
            terminal.report(report, folder)
        else:
            terminal.comparisons(report)
            for facts in report.precision:
                terminal.precision(facts)
        if as_json:
            print(report.as_json(), end="")
    fail(error)


def fail(error: ConverterError) -> NoReturn:
    """Print an error and leave with its exit code."""
    _heed()
    show(error)
    raise typer.Exit(error.exit_code)


def show(error: ConverterError) -> None:
    """Print an error."""
    console = Screen(stderr=True)
    console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
