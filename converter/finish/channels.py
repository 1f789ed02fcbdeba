"""Channels-last graphs, and models that take and put out what their layers take.

ONNX's convolutions have their channels on axis 1. A framework whose layers have them last gets a graph in
which each such operator stands between two Transposes and is marked; `converter.finish.layout` then stores
everything between them channels-last, as it does the reverse for sources that have them last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import main_domain, make_constant, replace_uses, static_sizes
from converter.finish.layout import perm_of
from converter.model import CHANNELS_LAST, TensorSpec

__all__ = ["shuffles_as_choices", "spread_channels_last", "turn_ends"]

# Operators whose data have their channels on axis 1; their first input and first output are data.
_BY_CHANNEL = frozenset(
    "AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool "
    "GlobalMaxPool GridSample GroupNormalization InstanceNormalization LRN LpPool MaxPool Resize RoiAlign "
    "SpaceToDepth Upsample".split()
)


def spread_channels_last(model: ir.Model) -> None:
    """Put each operator with channels on axis 1 between Transposes, in place, marked `CHANNELS_LAST`."""
    for node in list(model.graph):
        data = node.inputs[0] if node.inputs else None
        if not main_domain(node) or node.op_type not in _BY_CHANNEL or data is None or data.shape is None:
            continue
        rank = len(data.shape)
        others = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
        if rank < 3 or others:
            continue
        last, first = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))
        before = _transposed(data, last)
        model.graph.insert_before(node, before)
        node.replace_input_with(0, before.outputs[0])
        node.metadata_props[CHANNELS_LAST] = "1"
        output = node.outputs[0]
        after = _transposed(output, first)
        turned = after.outputs[0]
        turned.shape = output.shape
        if output.shape is not None:
            output.shape = ir.Shape([output.shape[axis] for axis in last])
        model.graph.insert_after(node, after)
        replaced = [use for use in output.uses() if use.node is not after]
        for use in replaced:
            use.node.replace_input_with(use.idx, turned)
        for place, value in enumerate(model.graph.outputs):
            if value is output:
                model.graph.outputs[place] = turned
                turned.name, output.name = output.name, f"{output.name}#channels_last"


def shuffles_as_choices(model: ir.Model) -> None:
    """Write channel shuffles (Zhang et al. 2018, arXiv:1707.01083), in place, as a Gather along the channels.

    Spelled out, they part axis 1 in two, swap these and join them again, which ties the axes down.
    """
    for last in list(model.graph):
        middle = _maker(last, "Transpose") if last.op_type == "Reshape" and main_domain(last) else None
        first = None if middle is None else _maker(middle, "Reshape")
        if middle is None or first is None or first.inputs[0] is None:
            continue
        whole, parted, joined = (v.shape for v in (first.inputs[0], first.outputs[0], last.outputs[0]))
        if whole is None or parted is None or joined is None or len(parted) != len(whole) + 1 < 4:
            continue
        sizes = static_sizes(parted[1:3])
        if len(joined) != len(whole) or perm_of(middle) != (0, 2, 1, *range(3, len(parted))) or sizes is None:
            continue
        inner = [list(shape) for shape in (whole[1:], joined[1:], [sizes[0] * sizes[1], *parted[3:]])]
        if static_sizes(inner[0]) is None or not inner[0] == inner[1] == inner[2]:
            continue
        places = np.arange(sizes[0] * sizes[1]).reshape(sizes).T.reshape(-1)
        choice = ir.node("Gather", [first.inputs[0], make_constant(last, places)], {"axis": 1})
        choice.metadata_props.update(last.metadata_props)
        choice.outputs[0].type, choice.outputs[0].shape = last.outputs[0].type, whole
        model.graph.insert_before(last, choice)
        replace_uses(last.outputs[0], choice.outputs[0])


def _maker(node: ir.Node, op: str) -> ir.Node | None:
    """What makes a node's first input, where it is this operator."""
    value = node.inputs[0]
    maker = None if value is None else value.producer()
    return maker if maker is not None and maker.op_type == op and main_domain(maker) else None


def _transposed(value: ir.Value, perm: tuple[int, ...]) -> ir.Node:
    node = ir.node("Transpose", [value], {"perm": perm})
    node.outputs[0].type = value.type
    if value.shape is not None:
        node.outputs[0].shape = ir.Shape([value.shape[axis] for axis in perm])
    producer = value.producer()
    if producer is not None:
        node.metadata_props.update(producer.metadata_props)
        node.metadata_props.pop(CHANNELS_LAST, None)
    return node


def _sizes_in_order(shape: ir.Node, perm: tuple[int, ...]) -> None:
    """Let what reads the sizes of a tensor that is turned read them in the old order."""
    assert isinstance(shape.graph, ir.Graph)
    old = [perm.index(axis) for axis in range(len(perm))]
    start, end = shape.attributes.get_int("start", 0), shape.attributes.get_int("end", len(perm))
    whole = ir.node("Shape", [shape.inputs[0]])
    picked = ir.node(
        "Gather", [whole.outputs[0], make_constant(shape, np.array(old[slice(start, end)], np.int64))]
    )
    for node in (whole, picked):
        node.metadata_props.update(shape.metadata_props)
        node.outputs[0].type = shape.outputs[0].type
        shape.graph.insert_before(shape, node)
    picked.outputs[0].shape = shape.outputs[0].shape
    replace_uses(shape.outputs[0], picked.outputs[0])
    shape.graph.remove(shape, safe=True)


def turn_ends(
    model: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, tuple[int, ...]]]:
    """Leave out the Transposes that stand at a graph's inputs and outputs, in place.

    Returns:
        What the graph takes and puts out then, and the permutation that takes each of these tensors there.
    """
    turned: dict[str, tuple[int, ...]] = {}
    specs = {spec.name: spec for spec in (*inputs, *outputs)}
    for value in list(model.graph.inputs):
        sized = [use.node for use in value.uses() if use.node.op_type == "Shape" and main_domain(use.node)]
        readers = {use.node for use in value.uses()} - set(sized)
        perms = {perm_of(node) for node in readers}
        perm = next(iter(perms), None)
        if len(perms) != 1 or perm is None or value.is_graph_output():
            continue
        if any(node.outputs[0].is_graph_output() for node in readers):
            continue
        assert value.name is not None
        turned[value.name] = perm
        for node in sized:
            _sizes_in_order(node, perm)
        for node in readers:
            replace_uses(node.outputs[0], value)
            model.graph.remove(node, safe=True)
        value.shape = None if value.shape is None else ir.Shape([value.shape[axis] for axis in perm])
    for place, value in enumerate(model.graph.outputs):
        last = value.producer()
        perm = perm_of(last)
        source = None if last is None or perm is None else last.inputs[0]
        if last is None or perm is None or source is None or value.uses():
            continue
        if source.is_graph_input() or source.is_graph_output() or source.is_initializer():
            continue
        assert value.name is not None
        turned[value.name] = tuple(perm.index(axis) for axis in range(len(perm)))
        name, value.name = value.name, None
        model.graph.outputs[place] = source
        model.graph.remove(last, safe=True)
        source.name = name
    for name, perm in turned.items():
        spec = specs[name]
        specs[name] = dataclasses.replace(spec, shape=tuple(spec.shape[axis] for axis in perm))
    return tuple(specs[s.name] for s in inputs), tuple(specs[s.name] for s in outputs), turned
