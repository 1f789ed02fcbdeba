"""The order of the passes, in one place."""

from __future__ import annotations

import functools
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
from onnx_ir.passes import common

from converter.finish import OPSETS
from converter.finish.affine import fold_affine
from converter.finish.cleanup import (
    canonical_names,
    remove_identities,
    remove_unused,
    weights_keep_their_names,
)
from converter.finish.graphs import forget_shapes
from converter.finish.layout import cancel_transposes
from converter.finish.opset import lowest_ir_version, restate, to_opset
from converter.finish.sizes import fold_sizes, foldable
from converter.model import LAYER, Piece
from converter.onnxfile import Excerpt

__all__ = ["opened", "run_passes"]

_NO_LIMIT = 1 << 62


def opened(piece: Piece, opset: int | None) -> None:
    """Make a piece of an ONNX file a graph in memory that can be finished; each node is a layer of its own.

    Operators older than the oldest opset that is written are restated in it.
    """
    assert isinstance(piece.graph, Excerpt)
    file = piece.graph.file
    restate(piece, None)
    model = piece.graph
    assert isinstance(model, ir.Model)
    common.ShapeInferencePass(data_prop=file.followed)(model)
    layers: dict[str, str] = {}
    for node in model.graph:
        own = node.name or str(node.outputs[0].name)
        layer = node.metadata_props.get(LAYER, own.removesuffix(f"/{node.op_type}") or own)
        layers |= {str(output.name): layer for output in node.outputs}
    found = model.opset_imports.get("", model.opset_imports.get("ai.onnx", OPSETS.start))
    to_opset(model, max(found, opset or OPSETS.start))
    for node in model.graph:  # restating makes nodes anew, whose tensors keep their names
        known = [layers[str(output.name)] for output in node.outputs if output.name in layers]
        if known:
            node.metadata_props[LAYER] = known[0]


@functools.cache
def _rules() -> tuple[Any, ...]:
    """onnxscript's rules, but those that take 1e-9 for 0 and 1.00001 for 1: an epsilon that keeps a divisor
    from zero is no zero. (`fold_affine` and ONNX Runtime drop exact ones.)"""
    from onnxscript.rewriter.rules.common import _no_op

    inexact = set(map(id, _no_op.rules))
    rules = [rule for rule in onnxscript.rewriter._DEFAULT_REWRITE_RULES if id(rule) not in inexact]
    return (*rules, _no_op.dropout_zero_rule, _no_op.dropout_inference_rule)


def run_passes(piece: Piece, opset: int) -> None:
    """Optimise a piece's graph in place for inference.

    Requires: a valid graph; layer boundaries may still be tensors of their own.
    Ensures: the same inputs and outputs by name, shape and dtype; values equal up to rounding; names and
    bytes that depend on the graph alone; the asked-for opset and the lowest IR version that it allows.

    Raises:
        TargetError: the graph cannot be expressed in this opset.
    """
    model = piece.graph
    assert isinstance(model, ir.Model)
    remove_identities(model)
    weights = weights_keep_their_names(model)
    onnxscript.optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=_NO_LIMIT,
        output_size_limit=_NO_LIMIT,
        should_fold=foldable,
    )
    fold_sizes(model)
    remove_unused(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    cancel_transposes(model)
    fold_affine(model)
    onnxscript.rewriter.rewrite(model, _rules())
    to_opset(model, opset)
    lowest_ir_version(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    remove_identities(model)
    remove_unused(model)
    common.TopologicalSortPass()(model)
    ends = {spec.name for spec in (*piece.inputs, *piece.outputs)}
    canonical_names(model, ends | weights)
    forget_shapes(model)
