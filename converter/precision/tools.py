"""ONNX Runtime's quantization tools, without what they print and log. No other module imports them."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator
from types import ModuleType

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from converter.errors import TargetError
from converter.onnxfile import ONE_FILE_LIMIT

__all__ = ["as_graph", "as_proto", "module", "quantizable", "silent"]


def module(name: str) -> ModuleType:
    """A module of `onnxruntime.quantization`.

    Raises:
        TargetError: ONNX Runtime is missing, or has no such tools.
    """
    try:
        return importlib.import_module(f"onnxruntime.quantization.{name}")
    except ImportError as error:
        raise TargetError(
            f"quantization needs ONNX Runtime's tools, which do not import: {error}",
            hint="pip install 'converter[cpu]'",
        ) from error


def quantizable() -> list[str]:
    """The operators that the tools quantize with measured ranges."""
    registry = module("registry")
    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hold back what the tools print, and the warnings that they log for their own defaults."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


def as_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as the tools take it, with all weights inside.

    Raises:
        TargetError: it is larger than a protobuf may be.
    """
    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    if size > ONE_FILE_LIMIT:
        raise TargetError(
            f"the weights have {size / 1e9:.1f} GB: ONNX Runtime's quantization tools take 1.5 GB at most",
            hint="cut the model in two, or --precision fp16",
        )
    return ir.to_proto(model)


def as_graph(proto: onnx.ModelProto, like: ir.Model) -> ir.Model:
    """What a tool made, with the notes of the model that it was made of."""
    model = ir.from_proto(proto)
    model.meta.update(like.meta)
    common.TopologicalSortPass()(model)  # the tools append what they make
    return model
