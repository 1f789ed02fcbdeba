"""Sizes of outputs, once those of inputs are fixed and the graph is folded."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir
from onnx_ir.passes import common

from converter.errors import TargetError
from converter.model import Piece, TensorSpec

__all__ = ["settle"]


def settle(piece: Piece) -> None:
    """Give a finished piece's outputs their sizes, in place.

    Raises:
        TargetError: all inputs have fixed sizes and an output has none.
    """
    model = piece.graph
    assert isinstance(model, ir.Model)
    open_ends = [spec for spec in piece.outputs if any(isinstance(size, str) for size in spec.shape)]
    if not open_ends:
        return
    inferred = model.clone()
    for value in inferred.graph.outputs:
        value.shape = None
    common.ShapeInferencePass(data_prop=True)(inferred)
    found = {value.name: value.shape for value in inferred.graph.outputs}
    fixed = all(isinstance(size, int) for spec in piece.inputs for size in spec.shape)

    def settled(spec: TensorSpec) -> TensorSpec:
        shape = found[spec.name]
        sizes = (
            spec.shape
            if shape is None
            else tuple(
                new if isinstance(new, int) else old for new, old in zip(shape, spec.shape, strict=True)
            )
        )
        if fixed and any(isinstance(size, str) for size in sizes):
            raise TargetError(
                f"the inputs have fixed sizes, but the size of {dataclasses.replace(spec, shape=sizes)} "
                "depends on their values",
                hint="leave --batch and --shape out",
            )
        return dataclasses.replace(spec, shape=sizes)

    piece.outputs = tuple(settled(spec) for spec in piece.outputs)
    for value, spec in zip(model.graph.outputs, piece.outputs, strict=True):
        value.shape = ir.Shape(spec.shape)
