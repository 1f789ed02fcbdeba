"""The user's own rewrite of a piece, as an `onnx_graphsurgeon.Graph`.

What graphsurgeon leaves behind is put back: the metadata and doc strings of nodes that are still there, the
model's own, and the types of values; what it cannot carry is refused before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir

from converter.errors import TargetError
from converter.model import Dim, TensorSpec

__all__ = ["rewritten"]

_Node = onnx.NodeProto


def rewritten(model: ir.Model, function: Callable[[gs.Graph], gs.Graph | None], role: str) -> ir.Model:
    """The model as a function of the user's leaves it.

    Args:
        model: the piece's graph; it is not changed.
        function: takes the graph, and returns one or changes the one it was given.
        role: what the piece is called, for messages.

    Raises:
        TargetError: values that graphsurgeon cannot carry, or a result that is no valid model.
    """
    before = ir.to_proto(model)
    _refuse_what_is_lost(before)
    given = gs.import_onnx(before)
    result = function(given)
    graph = given if result is None else result
    if not isinstance(graph, gs.Graph):
        raise TargetError(
            f"the rewrite returns a {type(graph).__name__}, expected an onnx_graphsurgeon.Graph"
        )
    try:
        after = gs.export_onnx(graph.cleanup().toposort())
        _put_back(before, after)
        onnx.checker.check_model(after)
        after = onnx.shape_inference.infer_shapes(after, strict_mode=True, data_prop=True)
    except Exception as error:
        raise TargetError(f"what the rewrite leaves of the {role} is no valid model: {error}") from error
    unknown = [value.name for value in after.graph.output if not value.type.tensor_type.HasField("shape")]
    if unknown:
        raise TargetError(f"nothing says of what shape {', '.join(unknown)} is after the rewrite")
    return ir.from_proto(after)


def specs_of(values: Any) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a graph."""
    specs = []
    for value in values:
        shape: tuple[Dim, ...] = tuple(
            size if isinstance(size, int) else (size.value or f"{value.name}_dim{axis}")
            for axis, size in enumerate(value.shape or ())
        )
        specs.append(TensorSpec(value.name or "", shape, ir.DataType(value.dtype).numpy().name))
    return tuple(specs)


def _refuse_what_is_lost(model: onnx.ModelProto) -> None:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    strange = [v.name for v in values if v.type.WhichOneof("value") not in (None, "tensor_type")]
    if strange or model.graph.sparse_initializer:
        what = ", ".join(strange[:3]) or "sparse initializers"
        raise TargetError(
            f"onnx_graphsurgeon carries tensors alone, and the piece has {what}",
            hint="cut behind or before them, or leave --surgery out",
        )


def _put_back(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Restore what graphsurgeon drops of what is still there."""
    after.ir_version = before.ir_version
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    after.doc_string, after.graph.doc_string = before.doc_string, before.graph.doc_string
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    nodes = {node.name: node for node in before.graph.node if node.name}
    for node in after.graph.node:
        old = nodes.get(node.name)
        if old is not None and old.op_type == node.op_type:
            node.doc_string = old.doc_string
            del node.metadata_props[:]
            node.metadata_props.extend(old.metadata_props)
    types = {value.name: value for value in (*before.graph.input, *before.graph.output)}
    for value in (*after.graph.input, *after.graph.output):
        if value.name in types and not value.type.tensor_type.elem_type:
            value.type.CopyFrom(types[value.name].type)
    for name, old in ((p.domain, p) for p in before.opset_import):
        if name not in {p.domain for p in after.opset_import}:
            after.opset_import.add().CopyFrom(old)
