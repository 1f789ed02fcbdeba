"""GroupNormalization (Wu and He 2018, arXiv:1803.08494) as PyTorch's exporter spells it out.

Reshape to [batch, groups, …], InstanceNormalization with ones and zeros, Reshape back, Mul and Add a channel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import constant_of, main_domain, replace_uses, sole_reader
from converter.finish.weights import reshaped

__all__ = ["lift_group_norms"]

_NO_LIMIT = 1 << 62


def lift_group_norms(model: ir.Model) -> None:
    """Make one node of each group normalization of the main graph, in place."""
    for node in list(model.graph):
        if not main_domain(node) or node.op_type != "InstanceNormalization":
            continue
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        after = _reader(node, "Reshape")
        scale = None if after is None else _reader(after, "Mul")
        shift = None if scale is None else _reader(scale, "Add")
        if before is None or before.op_type != "Reshape" or after is None or scale is None or shift is None:
            continue
        x, parted = before.inputs[0], node.inputs[0].shape if node.inputs[0] is not None else None
        gamma, beta = _other(scale, after.outputs[0]), _other(shift, scale.outputs[0])
        if x is None or x.shape is None or parted is None or gamma is None or beta is None:
            continue
        channels, groups = x.shape[1], parted[1]
        if not isinstance(channels, int) or not isinstance(groups, int) or not _neutral(node):
            continue
        rank = len(x.shape)
        if not (_by_channel(gamma, channels, rank) and _by_channel(beta, channels, rank)):
            continue
        made = ir.node(
            "GroupNormalization",
            [x, reshaped(shift, gamma, [channels]), reshaped(shift, beta, [channels])],
            {"num_groups": groups, "epsilon": node.attributes.get_float("epsilon", 1e-5)},
            version=21,
        )
        made.metadata_props.update(shift.metadata_props)
        made.outputs[0].type, made.outputs[0].shape = shift.outputs[0].type, x.shape
        model.graph.insert_before(shift, made)
        replace_uses(shift.outputs[0], made.outputs[0])
        for gone in (shift, scale, after, node):
            model.graph.remove(gone, safe=True)


def _reader(node: ir.Node, op: str) -> ir.Node | None:
    reader = sole_reader(node.outputs[0])
    return reader if reader is not None and reader.op_type == op and main_domain(reader) else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _neutral(norm: ir.Node) -> bool:
    """Whether the instances are normalized to ones and zeros."""
    scale, shift = (constant_of(value) for value in norm.inputs[1:3])
    return scale is not None and shift is not None and bool((scale == 1).all() and (shift == 0).all())


def _by_channel(weight: ir.Value, channels: int, rank: int) -> bool:
    """Whether a constant has one number for each index of axis 1."""
    array = constant_of(weight, _NO_LIMIT)
    if array is None or array.ndim > rank:
        return False
    full = np.array((1,) * (rank - array.ndim) + array.shape)
    return bool((full == [channels if axis == 1 else 1 for axis in range(rank)]).all())
