"""int8 with ranges that are found while the model runs: ONNX Runtime's dynamic quantization."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir

from converter.errors import TargetError
from converter.finish.graphs import forget_shapes, make_constant
from converter.precision import tools
from converter.precision.convolutions import to_integers
from converter.scratch import Scratch

__all__ = ["dynamic"]

_BY_TOOLS = ("MatMul", "Gemm", "Attention", "LSTM")


def dynamic(model: ir.Model, leave: Collection[str]) -> ir.Model:
    """The model with matrix products, LSTMs and convolutions in int8.

    Matrix products and LSTMs by ONNX Runtime's tools; for convolutions these know one scale for all channels.

    Args:
        model: the float model.
        leave: names of nodes to leave in float.

    Raises:
        TargetError: ONNX Runtime's quantizer fails.
    """
    quantize, quant_utils = tools.module("quantize"), tools.module("quant_utils")
    kind = quant_utils.QuantType
    if any(node.op_type in _BY_TOOLS for node in model.graph):
        _turn_shared(model)
        forget_shapes(model)  # the tools transpose weights, and old shapes would contradict the new ones
        for weight in model.graph.initializers.values():
            weight.shape = None
        try:
            with Scratch() as folder, tools.silent():
                path = folder / "dynamic.onnx"
                quantize.quantize_dynamic(
                    tools.as_proto(model),
                    path,
                    op_types_to_quantize=list(_BY_TOOLS),
                    per_channel=True,
                    weight_type=kind.QInt8,
                    nodes_to_exclude=sorted(leave),
                )
                model = tools.as_graph(onnx.load(path), model)
        except Exception as error:  # the tools raise whatever a model of theirs happens to meet
            raise TargetError(
                f"ONNX Runtime's quantizer fails: {type(error).__name__}: {error}",
                hint="--keep-float LAYER leaves a layer out",
            ) from error
    to_integers(model, leave)
    return model


def _turn_shared(model: ir.Model) -> None:
    """Give products of transposed weights that others read as well a turned copy, one for all of them.

    The tools turn such weights in place for each product, whoever else reads them: those that two products
    share come out as they were, and a table that is looked up, too, comes out turned.
    """
    turned: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph.all_nodes()):
        if node.op_type != "Gemm" or not node.attributes.get_int("transB", 0):
            continue
        weight = node.inputs[1]
        if weight is None or not weight.is_initializer() or weight.const_value is None:
            continue
        if weight in turned or len(list(weight.uses())) > 1:
            if weight not in turned:
                array = np.ascontiguousarray(weight.const_value.numpy().T)
                turned[weight] = make_constant(node, array, f"{weight.name}_turned")
            node.replace_input_with(1, turned[weight])
            node.attributes["transB"] = ir.AttrInt64("transB", 0)
