"""From a plain graph to a functional Keras model, a node at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
from keras import layers

from converter.model import Array, Plain
from converter.rebuilding.graph import Node, Unsupported, nodes_of
from converter.rebuilding.keras import (
    activations,
    arithmetic,
    attention,
    convolution,
    indexing,
    normalization,
    pooling,
    recurrent,
    reductions,
    resize,
    scattering,
    shapes,
)
from converter.rebuilding.keras.builder import BATCH, INLINE, Builder, is_tensor, legal
from converter.rebuilding.keras.rules import table
from converter.rebuilding.keras.sizes import is_sizes

__all__ = ["rebuild", "table"]

# The modules register their rules when they are imported.
FAMILIES = (
    activations,
    arithmetic,
    attention,
    convolution,
    indexing,
    normalization,
    pooling,
    recurrent,
    reductions,
    resize,
    scattering,
    shapes,
)


def rebuild(plain: Plain) -> Any:
    """A functional `keras.Model` that computes what a plain graph does.

    Raises:
        Unsupported: an operator that layers and operations of Keras cannot express.
    """
    builder = Builder(plain)
    by_name = {value.name: value for value in plain.graph.graph.inputs}
    for spec in plain.inputs:
        shape = tuple(size if isinstance(size, int) else None for size in spec.shape)
        tensor = keras.Input(batch_shape=shape, dtype=spec.dtype, name=builder.names.fresh(legal(spec.name)))
        builder.inputs.append(tensor)
        builder.values[by_name[spec.name]] = tensor
        if spec.shape[:1] == plain.inputs[0].shape[:1]:
            builder.begins_with_batch(tensor)
    for node in nodes_of(plain):
        _follow(builder, node)
    outputs = _outputs(builder)
    return keras.Model(_one_or_all(builder.inputs), _one_or_all(outputs), name=legal(plain.role))


def _one_or_all(tensors: list[Any]) -> Any:
    """What Keras calls the structure of a model's ends: a lone tensor is no list of one."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


def _follow(builder: Builder, node: Node) -> None:
    """Compute a node's outputs."""
    results = _known(builder, node)
    if results is None:
        make = table.rule(node)
        try:
            results = make(builder, node)
        except Unsupported:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise Unsupported(node, f"Keras refuses it: {problem}") from error
        builder.name_operations(node, results)
    outputs = results if isinstance(results, tuple) else (results,)
    for value, result in zip(node.outputs, outputs, strict=False):
        builder.values[value] = result
    if _keeps_batch(builder, node):
        builder.begins_with_batch(*outputs)
    for value in node.outputs[len(outputs) :]:
        if value.uses() or value.is_graph_output():
            raise Unsupported(node, f"its output {value.name!r} has no counterpart in Keras")


# What may put something else on the first axis, although its inputs have the batch there.
_MOVES = frozenset(
    "Compress Einsum Flatten Gather GatherND NonZero Range Shape Squeeze Tile Unsqueeze Unique".split()
)
_SIZED = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}


def _keeps_batch(builder: Builder, node: Node) -> bool:
    """Whether the first axis of what a node puts out is certainly the batch."""
    if node.op in _SIZED:
        target = builder.get(node, _SIZED[node.op])
        first = None if is_tensor(target) or target is None or not len(target) else target[0]
        return getattr(first, "symbol", None) == BATCH
    if node.op == "Transpose":
        perm = node.attribute("perm", None)
        return bool(perm) and perm[0] == 0 and builder.has_batch(builder.get(node, 0))
    if node.op in ("Gather", "Unsqueeze", "Squeeze") and node.op in _MOVES:
        axes = [node.attribute("axis", 0)] if node.op == "Gather" else builder.get(node, 1)
        if axes is None or is_tensor(axes) or any(int(a) <= 0 for a in np.asarray(axes).reshape(-1)):
            return False
    elif node.op in _MOVES:
        return False
    read = [builder.get(node, i) for i in range(len(node.inputs))]
    unknown = [x for x in read if is_tensor(x) and x.shape and x.shape[0] is None]
    rank = max((len(x.shape) for x in unknown), default=0)
    axes = node.attribute("axis", None)
    if axes == 0 and node.op in ("Concat", "Split", "Softmax"):
        return False
    return bool(unknown) and all(builder.has_batch(x) and len(x.shape) == rank for x in unknown)


def _known(builder: Builder, node: Node) -> Any:
    """What a node puts out where all it reads is known now and no weight."""
    inputs = [(i, v) for i, v in enumerate(node.inputs) if v is not None]
    arrays = [builder.get(node, i) for i, _ in inputs]
    if any(is_tensor(a) or is_sizes(a) or a is None for a in arrays) or not inputs:
        return None
    if any(node.weight(i) is not None for i, _ in inputs) or node.domain:
        return None
    if node.op in ("ConstantOfShape", "Expand", "Tile", "Range") and builder.inputs:
        return None  # short to say, long to write
    if node.op == "GatherElements":  # of more than 32 columns onnx's own evaluator fails
        return np.take_along_axis(arrays[0], arrays[1], int(node.attribute("axis", 0)))
    return _evaluated(node, inputs, arrays)


def _evaluated(
    node: Node, inputs: Sequence[tuple[int, ir.Value]], arrays: Sequence[Array]
) -> tuple[Any, ...]:
    """What a node makes of arrays, by onnx's reference."""
    from onnx.reference import ReferenceEvaluator

    names = [str(v.name) for _, v in inputs]
    by_value = dict(zip((v for _, v in inputs), names, strict=True))
    proto = ir.to_proto(node.raw)
    proto.input[:] = [by_value[v] if v is not None else "" for v in node.inputs]
    types = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in dict(zip(names, arrays, strict=True)).items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "known", types, results)
    imports = [onnx.helper.make_opsetid("", node.opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    found = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    by_name = dict(zip((n for n in proto.output if n), found, strict=True))
    return tuple(np.asarray(by_name[n]) if n else None for n in proto.output)


def _outputs(builder: Builder) -> list[Any]:
    """The model's outputs, each a tensor of its own."""
    found: list[Any] = []
    for value in builder.plain.graph.graph.outputs:
        name = legal(str(value.name))
        result = builder.values.get(value)
        if result is None and value.const_value is not None:
            result = np.asarray(value.const_value.numpy())
            if result.size > INLINE:
                result = builder.held(name, result, name in builder.plain.weights)
        producer = value.producer()
        if is_sizes(result):
            assert producer is not None
            result = builder.measured(Node(producer, builder.plain), np.asarray(result))
        if not is_tensor(result):
            result = builder.lifted(np.asarray(result))
        assert result is not None
        if any(result is other for other in (*builder.inputs, *found)):
            result = layers.Identity(name=builder.names.fresh(name), dtype=result.dtype)(result)
        if producer is not None:
            builder.name_operations(Node(producer, builder.plain), result)
        found.append(result)
    return found
