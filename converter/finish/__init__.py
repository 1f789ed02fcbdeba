"""From a piece as it was cut to the graph that ships: same values, fewer nodes."""

from converter.finish.passes import OPSETS, finish

__all__ = ["OPSETS", "finish"]
