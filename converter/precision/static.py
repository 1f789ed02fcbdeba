"""int8 with measured ranges: ONNX Runtime's QDQ quantizer, weights by channel, activations by tensor.

Activations are uint8 and weights int8, which CPUs multiply fastest and which has the same levels as int8 for
both (onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import onnx
import onnx_ir as ir

from converter.errors import TargetError
from converter.precision import tools
from converter.precision.ranges import Range
from converter.precision.sharing import part

__all__ = ["Static"]


class Static:
    """Quantizes a float model again and again, with other ranges or other nodes left out.

    Attributes:
        proto: the float model, with shapes and types of inner values.
    """

    def __init__(self, model: ir.Model) -> None:
        quant_utils = tools.module("quant_utils")
        part(model)
        with tools.silent():
            self.proto: onnx.ModelProto = quant_utils.save_and_reload_model_with_shape_infer(
                tools.as_proto(model)
            )
        self._like = model

    @cached_property
    def known(self) -> list[str]:
        """The operators that the tools quantize."""
        return tools.quantizable()

    @cached_property
    def coarse(self) -> set[str]:
        """Nodes that int8 is too coarse for: the tools give Softmax steps of 1/256, and where there are
        hundreds of classes nearly all of them round to nothing."""
        return {node.name for node in self.proto.graph.node if node.op_type == "Softmax"}

    @cached_property
    def behind(self) -> set[str]:
        """Nodes that cut off what an output keeps: the tools give what a Relu or Clip reads the range of what
        it puts out, and outputs are no exception."""
        outputs = {value.name for value in self.proto.graph.output}
        cutting = (node for node in self.proto.graph.node if node.op_type in ("Relu", "Clip"))
        return {node.name for node in cutting if node.input[0] in outputs}

    def quantized(self, ranges: Mapping[str, Range], leave: Collection[str]) -> ir.Model:
        """The model with the nodes quantized that can be, except some.

        Args:
            ranges: of values, by name.
            leave: names of nodes to leave in float.

        Raises:
            TargetError: ONNX Runtime's quantizer fails.
        """
        calibrate, quant_utils = tools.module("calibrate"), tools.module("quant_utils")
        kind = quant_utils.QuantType
        data = calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, dict(ranges))
        try:
            with tools.silent():
                quantizer: Any = tools.module("qdq_quantizer").QDQQuantizer(
                    copy.deepcopy(self.proto),
                    per_channel=True,
                    reduce_range=False,
                    weight_qType=kind.QInt8,
                    activation_qType=kind.QUInt8,
                    tensors_range=data,
                    nodes_to_quantize=[],
                    nodes_to_exclude=sorted({*leave, *self.coarse, *self.behind}),
                    op_types_to_quantize=self.known,
                    extra_options={},
                )
                quantizer.quantize_model()
        except Exception as error:  # the tools raise whatever a model of theirs happens to meet
            raise TargetError(
                f"ONNX Runtime's quantizer fails: {type(error).__name__}: {error}",
                hint="--keep-float LAYER leaves a layer out",
            ) from error
        return tools.as_graph(quantizer.model.model, self._like)
