"""A plain graph as a functional Keras model of Keras's own layers, channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Keras and its backend take seconds to import
    from converter.model import Plain
    from converter.rebuilding.keras.rules import table

__all__ = ["extra", "rebuild", "table"]


def rebuild(plain: Plain) -> Any:
    """A `keras.Model` that computes what a plain graph does.

    Args:
        plain: a graph drawn with `channels_last=True`.

    Returns:
        A functional model; its inputs are named after the graph's, its outputs are in the graph's order.

    Raises:
        Unsupported: an operator that layers and operations of Keras cannot express.
    """
    from converter.rebuilding.keras.build import rebuild as build

    return build(plain)


def extra(model: Any) -> int:
    """Number of scalars in a rebuilt model that are constants of the graph, no weights of the source."""
    from converter.rebuilding.keras.builder import extra as count

    return count(model)


def __getattr__(name: str) -> Any:
    if name == "table":
        from converter.rebuilding.keras.build import table

        return table
    raise AttributeError(name)
