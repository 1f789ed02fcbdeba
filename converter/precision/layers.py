"""Which layer a node is of, and what a user means by the name of one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from converter.errors import UsageError
from converter.model import LAYER, is_glob, matches

__all__ = ["AROUND", "layers_of", "nodes_of", "note_layers"]

# What stands before and behind the model itself; it is never made less precise.
AROUND = frozenset(["preprocess", "postprocess"])


def layers_of(model: ir.Model) -> dict[str, str]:
    """Node → its layer; a node that no layer is known of is one of its own."""
    return {str(node.name): node.metadata_props.get(LAYER, str(node.name)) for node in model.graph}


def nodes_of(patterns: Sequence[str], layers: dict[str, str]) -> set[str]:
    """The nodes of layers by name or glob, layers inside included.

    Raises:
        UsageError: no such layer.
    """
    found: set[str] = set()
    for pattern in patterns:
        nodes = {node for node, layer in layers.items() if _means(pattern, layer) or node == pattern}
        if not nodes:
            near = difflib.get_close_matches(pattern, sorted(set(layers.values())), n=4, cutoff=0.4)
            raise UsageError(
                f"no layer {pattern!r} is left in the piece to be kept in float",
                hint=f"the nearest names are {', '.join(near)}" if near else None,
            )
        found |= nodes
    return found


def _means(pattern: str, layer: str) -> bool:
    if is_glob(pattern):
        return matches(layer, pattern)
    return layer == pattern or layer.startswith((f"{pattern}.", f"{pattern}/"))


def note_layers(model: ir.Model, layers: dict[str, str]) -> None:
    """Give nodes that a tool has made the layer of what they stand beside, and names of their own.

    A node that quantizes belongs to the layer that computes what it takes, one that makes floats of a
    weight to the layer that reads it.
    """
    for node in model.graph:
        own = layers.get(str(node.name))
        if own is not None:
            node.metadata_props[LAYER] = own
    for node in model.graph:
        _take_over(node, _producers(node))
    for node in reversed(model.graph):
        _take_over(node, (user for output in node.outputs for user in output.consumers()))


def _producers(node: ir.Node) -> Iterable[ir.Node]:
    return (p for p in (value.producer() for value in node.inputs if value is not None) if p is not None)


def _take_over(node: ir.Node, others: Iterable[ir.Node]) -> None:
    if LAYER not in node.metadata_props:
        layer = next((other.metadata_props[LAYER] for other in others if LAYER in other.metadata_props), None)
        if layer is not None:
            node.metadata_props[LAYER] = layer
