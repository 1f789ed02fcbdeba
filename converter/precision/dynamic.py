"""int8 with ranges that are found while the model runs: ONNX Runtime's dynamic quantization."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
import onnx_ir as ir

from converter.errors import TargetError
from converter.precision import tools

__all__ = ["dynamic"]


def dynamic(model: ir.Model, leave: Collection[str]) -> ir.Model:
    """The model with matrix products, LSTMs and convolutions in int8.

    Weights of matrix products are int8 by channel; ONNX Runtime's kernel for convolutions (ConvInteger) takes
    uint8 by tensor alone, so there are two passes.

    Args:
        model: the float model.
        leave: names of nodes to leave in float.

    Raises:
        TargetError: ONNX Runtime's quantizer fails.
    """
    quantize, quant_utils = tools.module("quantize"), tools.module("quant_utils")
    kind = quant_utils.QuantType
    proto = tools.as_proto(model)
    passes = [
        (["MatMul", "Gemm", "Attention", "LSTM"], kind.QInt8, True),
        (["Conv"], kind.QUInt8, False),
    ]
    for kinds, weight, by_channel in passes:
        if not any(node.op_type in kinds for node in proto.graph.node):
            continue
        try:
            with tempfile.TemporaryDirectory() as folder, tools.silent():
                path = Path(folder) / "dynamic.onnx"
                quantize.quantize_dynamic(
                    proto,
                    path,
                    op_types_to_quantize=kinds,
                    per_channel=by_channel,
                    weight_type=weight,
                    nodes_to_exclude=sorted(leave),
                )
                proto = onnx.load(path)
        except Exception as error:  # the tools raise whatever a model of theirs happens to meet
            raise TargetError(
                f"ONNX Runtime's quantizer fails: {type(error).__name__}: {error}",
                hint="--keep-float LAYER leaves a layer out",
            ) from error
    return tools.as_graph(proto, model)
