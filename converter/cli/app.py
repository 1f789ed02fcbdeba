"""The command line: arguments to the pipeline, errors to exit codes. The only place that prints."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from converter import __version__
from converter.errors import ConverterError, TargetError

__all__ = ["app", "explain", "fail"]

app = typer.Typer(
    name="converter",
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


def explain(error: ConverterError, terminal: Any, folder: str, *, as_json: bool) -> NoReturn:
    """Print what a run found out before it failed, then the error, and leave with its exit code."""
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
    console = Console(stderr=True)
    console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(error.exit_code)
