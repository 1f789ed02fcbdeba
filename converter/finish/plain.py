"""A piece drawn as the author of a model would draw it, for models of another framework.

What `converter.finish.passes` does to make a graph fast, folding weights into one another, would leave
nothing to train. Here constants are folded, transposes cancelled and names kept, and what exporters spell
out (a LayerNormalization, a Dense with its bias, a GELU) is put together again.

Requires: a valid graph; layer boundaries may still be tensors of their own. Ensures: the same values up to
rounding; weights are the source's own, moved or reshaped at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common

from converter.finish.absorb import absorb_flatten, bias_into_convolutions
from converter.finish.channels import shuffles_as_choices, spread_channels_last, turn_ends
from converter.finish.cleanup import (
    MOVES,
    by_layer,
    remove_identities,
    remove_unused,
    weights_keep_their_names,
)
from converter.finish.expand import expand
from converter.finish.graphs import main_domain
from converter.finish.groups import lift_group_norms
from converter.finish.layout import cancel_transposes
from converter.finish.lift import lift
from converter.finish.recurrent import settle_recurrent
from converter.finish.sizes import fold_sizes, foldable
from converter.finish.weights import names_of_origin, origin_of
from converter.model import Piece, Plain
from converter.onnxfile import FROM_FILE
from converter.schemas import since

__all__ = ["plain"]

_NO_LIMIT = 1 << 62


def plain(
    piece: Piece,
    weights: Collection[str] | None,
    trainable: Collection[str] | None = None,
    known: Callable[[tuple[str, str, int]], bool] | None = None,
    *,
    channels_last: bool = False,
    native_layout: bool = False,
) -> Plain:
    """Draw a piece plainly; the piece itself is left alone.

    Args:
        piece: a piece with a graph in memory, unfinished where the source is a framework.
        weights: names of the initializers that are weights; None for all floats of more than one element.
        trainable: those of them that the source trains; None for all.
        known: whether an operator, as (domain, operator, since-version), is left as it is; others are
            written out as ONNX defines them, where it does. None leaves all.
        channels_last: for a framework whose layers take channels last.
        native_layout: leave out transposes at the model's inputs and outputs; `turned` says which they were.
    """
    assert isinstance(piece.graph, ir.Model)
    model = piece.graph.clone()
    for value in list(model.graph.inputs):
        if value.is_initializer():  # before IR version 4 weights stood among the inputs, too
            model.graph.inputs.remove(value)
    _own_tensors(model)
    common.CommonSubexpressionEliminationPass()(
        model
    )  # a weight that is turned for each reader is turned once
    own = _weights(model) if weights is None else set(weights) & set(model.graph.initializers)
    if known is not None:
        expand(model, lambda node: not known(_key(model, node)))
    remove_identities(model)
    weights_keep_their_names(model)
    _fold(model, own)
    own |= settle_recurrent(model, own)
    lift(model, own)
    lift_group_norms(model)
    fold_sizes(model)
    bias_into_convolutions(model)
    remove_unused(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if channels_last:
        shuffles_as_choices(model)
        remove_unused(model)
        spread_channels_last(model)
    cancel_transposes(model, outward=True)
    absorb_flatten(model)
    inputs, outputs = piece.inputs, piece.outputs
    turned: dict[str, tuple[int, ...]] = {}
    if native_layout:
        inputs, outputs, turned = turn_ends(model, inputs, outputs)
    common.CommonSubexpressionEliminationPass()(model)
    remove_identities(model)
    remove_unused(model)
    common.TopologicalSortPass()(model)
    names_of_origin(model)
    if not piece.graph.meta.get(FROM_FILE):  # whose author's names are good enough
        by_layer(dataclasses.replace(piece, graph=model))
    initializers = model.graph.initializers
    kept = frozenset(n for n, value in initializers.items() if n in own or origin_of(value) in own)
    frozen = frozenset() if trainable is None else kept - set(trainable)
    return Plain(piece.role, model, inputs, outputs, kept, frozen, turned)


def _key(model: ir.Model, node: ir.Node) -> tuple[str, str, int]:
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = node.version or model.opset_imports.get(node.domain, 1)
    return domain, node.op_type, since(domain, node.op_type, opset)


def _weights(model: ir.Model) -> set[str]:
    found = model.graph.initializers.items()
    tensors = ((name, value.const_value) for name, value in found)
    return {name for name, t in tensors if t is not None and t.dtype.is_floating_point() and t.size > 1}


def _own_tensors(model: ir.Model) -> None:
    """Give the initializers tensors that may be renamed, and read the piece's own when they are asked."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            shape = ir.Shape(tensor.shape.numpy())
            value.const_value = ir.LazyTensor(partial(_same, tensor), tensor.dtype, shape, name=name)


def _same(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return tensor


def _fold(model: ir.Model, weights: Collection[str]) -> None:
    """Fold constants, but nothing that computes something new from a weight."""
    made: set[ir.Value] = set()

    def should_fold(node: ir.Node) -> bool | None:
        read = [v for v in node.inputs if v is not None]
        of_weights = [v for v in read if v.name in weights or v in made]
        # A weight that is read in two ways stays one weight, and its readers move it each for themselves.
        moves = main_domain(node) and node.op_type in MOVES and all(len(v.uses()) == 1 for v in of_weights)
        if of_weights and not moves:
            made.update(node.outputs)
            return False
        return foldable(node)

    onnxscript.optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=_NO_LIMIT,
        output_size_limit=_NO_LIMIT,
        should_fold=should_fold,
    )
