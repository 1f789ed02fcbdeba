"""All commands: the app with each of them added to it."""

from converter.cli import cache, compare, convert, drift, fit, layers, plan, profile, rank, verify  # noqa: F401  # each adds its command to the app
from converter.cli.program import app

__all__ = ["app"]
