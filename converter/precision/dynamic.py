"""int8 with ranges that are found while the model runs: ONNX Runtime's dynamic quantization."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_ir as ir

from converter.errors import TargetError
from converter.finish.graphs import forget_shapes
from converter.precision import tools
from converter.precision.convolutions import to_integers
from converter.precision.sharing import own_sequences, turn
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
        own_sequences(model)
        turn(model)
        floats = {str(node.name) for node in model.graph if node.op_type in _BY_TOOLS} & set(leave)
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
                    nodes_to_exclude=sorted({*leave, *map(_as_product, leave)}),
                )
                model = tools.as_graph(onnx.load(path), model)
        except Exception as error:  # the tools raise whatever a model of theirs happens to meet
            raise TargetError(
                f"ONNX Runtime's quantizer fails: {type(error).__name__}: {error}",
                hint="--keep-float LAYER leaves a layer out",
            ) from error
        _expect_in_floats(model, floats)
    to_integers(model, leave)
    return model


def _expect_in_floats(model: ir.Model, names: Collection[str]) -> None:
    """Make sure that nodes stayed in float: the tools go by names, and rename what they take apart.

    Raises:
        TargetError: some did not.
    """
    there = {node.name for node in model.graph if node.op_type in _BY_TOOLS}
    lost = [name for name in sorted(names) if there.isdisjoint((name, _as_product(name)))]
    if lost:
        raise TargetError(f"ONNX Runtime's quantizer did not leave {', '.join(lost)} in float")


def _as_product(name: str) -> str:
    """What the tools call the product that they make of a Gemm."""
    return f"{name}_MatMul"
