"""The command line, a module a command."""

from converter.cli import cache, compare, convert, drift, fit, layers, plan, profile, rank  # noqa: F401  # each adds its command to the app
from converter.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script."""
    app()
