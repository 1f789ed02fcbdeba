"""A run in a child process that a small parent watches: limits, crashes, and what is left behind."""

from converter.supervision.supervisor import End, supervise

__all__ = ["End", "supervise"]
