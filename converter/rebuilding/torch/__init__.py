"""PyTorch models from plain graphs: source that a person could have written, and weights."""

from __future__ import annotations

from converter.rebuilding.torch import (  # noqa: F401  (importing them registers their rules)
    arithmetic,
    attention,
    convolution,
    dense,
    indexing,
    normalization,
    pooling,
    recurrent,
    reductions,
    resizing,
    shapes,
    signal,
)
from converter.rebuilding.torch.rebuilt import Rebuilt, rebuild
from converter.rebuilding.torch.step import table

__all__ = ["Rebuilt", "rebuild", "table"]
