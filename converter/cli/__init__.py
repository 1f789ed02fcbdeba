"""The command line, a module a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from converter.supervision import supervise

if TYPE_CHECKING:
    from converter.cli.commands import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    # The parent of a supervised run does without the commands, and so without typer and rich.
    if name == "app":
        from converter.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Entry point of the console script: the command runs in a child process, which this one watches."""
    end = supervise(_command)
    if end.error is not None:
        from converter.cli.program import show

        show(end.error)
    elif end.stopped:
        print(f"stopped by {end.stopped}", file=sys.stderr)
    sys.exit(end.code)


def _command() -> int:
    """Run the command that the arguments name; its exit code."""
    from converter.cli.commands import app

    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
