"""Removing what does nothing, and naming what is left.

Requires: nothing. Ensures: same values; names that depend on the graph's structure alone, so that
the same model, cut and seed give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from converter.finish.graphs import main_domain, replace_uses
from converter.model import LAYER, Piece

# What may be done to a weight that stays what it is.
MOVES = frozenset(["Cast", "CastLike", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])

__all__ = ["MOVES", "canonical_names", "remove_identities", "remove_unused", "weights_keep_their_names"]


def remove_identities(model: ir.Model) -> None:
    """Drop Identity nodes, except where an output would lose its own tensor."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type != "Identity" or not main_domain(node):
            continue
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        if output.is_graph_output() and (
            source.is_graph_input()
            or source.is_initializer()
            or source.is_graph_output()
            or source.graph is not output.graph
        ):
            continue
        if output.shape is not None:
            source.shape = output.shape
            source.type = source.type or output.type
        replace_uses(output, source)
        assert node.graph is not None
        node.graph.remove(node, safe=True)


def remove_unused(model: ir.Model) -> None:
    """Drop nodes, initializers, functions and opset imports that nothing needs."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)


def weights_keep_their_names(model: ir.Model) -> set[str]:
    """Let what folding makes of a single weight bear that weight's name; the names of all weights.

    A kernel that is transposed once for all is still that layer's kernel to whoever reads the file.
    """
    graph = model.graph
    origin: dict[ir.Value, ir.Value] = {v: v for v in graph.initializers.values()}
    names = {v: v.name for v in graph.initializers.values() if v.name is not None}
    for node in graph:
        if len(node.outputs) != 1 or not main_domain(node):
            continue
        reads = [value for value in node.inputs if value is not None]
        weights = {origin[value] for value in reads if value in origin and _is_tensor(origin[value])}
        movable = node.op_type in MOVES
        if movable and reads and reads[0] in origin and len(weights) == 1:
            origin[node.outputs[0]] = origin[reads[0]]
    made: dict[ir.Value, list[ir.Value]] = {}
    for value, weight in origin.items():
        if value is not weight and any(use.node.outputs[0] not in origin for use in value.uses()):
            made.setdefault(weight, []).append(value)
    for weight, values in made.items():
        if len(values) == 1 and not any(u.node.outputs[0] not in origin for u in weight.uses()):
            name = names[weight]
            _rename_initializer(graph, weight, f"{name}#source")
            values[0].name = name
    return set(names.values())


def _is_tensor(weight: ir.Value) -> bool:
    return weight.const_value is not None and weight.const_value.size > 1


def canonical_names(model: ir.Model, keep: set[str]) -> None:
    """Name nodes by their layer and operator, values by node, constants by what reads them.

    Args:
        model: the model, changed in place.
        keep: names that stay: of graph inputs and outputs and of the source's own weights.
    """
    taken = set(keep)
    counts: Counter[str] = Counter()

    def fresh(stem: str) -> str:
        name = stem
        while name in taken:
            counts[stem] += 1
            name = f"{stem}_{counts[stem]}"
        taken.add(name)
        return name

    layers = _layers(model)
    for graph in model.graphs():
        for node in graph:
            _name_node(node, layers.get(node), fresh)
    for graph in model.graphs():
        for value in [v for v in graph.initializers.values() if v.name not in keep]:
            reader = next(iter(value.uses()), None)
            _rename_initializer(graph, value, fresh(f"{reader.node.name if reader else 'unused'}/constant"))


def by_layer(piece: Piece) -> None:
    """Name the nodes of a graph in memory by their layers; inputs, outputs and weights keep their names."""
    model = piece.graph
    assert isinstance(model, ir.Model)
    ends = {spec.name for spec in (*piece.inputs, *piece.outputs)}
    canonical_names(model, ends | set(model.graph.initializers))


def _name_node(node: ir.Node, layer: str | None, fresh: Callable[[str], str]) -> None:
    node.name = fresh(f"{layer}/{node.op_type}" if layer else node.op_type)
    if layer:
        node.metadata_props[LAYER] = layer
    for index, output in enumerate(node.outputs):
        if not output.is_graph_output():
            output.name = fresh(f"{node.name}:{index}")


def _rename_initializer(graph: ir.Graph, value: ir.Value, name: str) -> None:
    assert value.name is not None
    del graph.initializers[value.name]
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name
    graph.register_initializer(value)


def _layers(model: ir.Model) -> dict[ir.Node, str]:
    """The layer of each node; nodes that passes have made belong to whoever reads them first."""
    layers: dict[ir.Node, str] = {}
    for graph in model.graphs():
        for node in reversed(graph):
            own = node.metadata_props.get(LAYER)
            readers = (layers.get(user) for output in node.outputs for user in output.consumers())
            layer = own or next((reader for reader in readers if reader), None)
            if layer:
                layers[node] = layer
    return layers
