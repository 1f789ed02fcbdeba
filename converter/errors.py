"""Everything that can go wrong, as one tree.

    ConverterError          anything this package raises on purpose
    ├── UsageError          arguments that contradict each other          exit code 2
    ├── SourceError         a model that cannot be found, read or traced   exit code 3
    │   └── UnknownModelError   no model of this name, or no package that would have it
    ├── CutError            a layer that is not there, a cut that is not legal   4
    ├── ValidationError     the piece does not compute what the source computes  5
    └── TargetError         an artifact that cannot be made or written           6

A message says what was got, what was expected, and a hint where there is one.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConverterError",
    "CutError",
    "SourceError",
    "TargetError",
    "UnknownModelError",
    "UsageError",
    "ValidationError",
]


class ConverterError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: what was got and what was expected, in one or a few lines.
        hint: how to go on; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(ConverterError):
    """Arguments that contradict each other or name nothing."""

    exit_code = 2


class SourceError(ConverterError):
    """A source model that cannot be found, opened, trusted or traced."""

    exit_code = 3


class UnknownModelError(SourceError):
    """No model of this name, or the package that would have it is missing."""


class CutError(ConverterError):
    """A layer name that matches nothing or too much, or a cut that parts nothing."""

    exit_code = 4


class ValidationError(ConverterError):
    """A piece whose numbers are not the source framework's, or cannot be compared.

    Attributes:
        report: the `converter.report.Document` of the run, where the comparisons were made.
    """

    exit_code = 5

    def __init__(self, message: str, *, hint: str | None = None, report: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class TargetError(ConverterError):
    """An artifact that cannot be built from this piece, or not written to this place.

    Attributes:
        report: the `converter.report.Document` of the run, where others of its artifacts were written.
    """

    exit_code = 6

    def __init__(self, message: str, *, hint: str | None = None, report: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report
