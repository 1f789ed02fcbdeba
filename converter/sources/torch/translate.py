"""From a traced program to a layered ONNX graph, by PyTorch's own exporter without its optimizer."""

from __future__ import annotations

import ast
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from converter.errors import SourceError
from converter.model import LAYER, Boundary, LayeredModel
from converter.sources.torch import backend
from converter.sources.torch.operator import tap
from converter.sources.torch.trace import Trace

__all__ = ["translate"]

# The lowest opset that PyTorch's exporter writes; finishing converts to a lower one that was asked for.
_LOWEST = 18
_SCOPES = "pkg.torch.onnx.name_scopes"
# What PyTorch's exporter calls the module of an operator that is in none.
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"


def translate(traced: Trace, opset: int | None = None) -> LayeredModel:
    """Translate a traced model, once for each opset.

    Args:
        traced: the traced model.
        opset: the wanted opset; the result has this one or the exporter's lowest. None: any will do.

    Raises:
        SourceError: an operator has no translation to ONNX.
    """
    made = traced.translations
    number = next(iter(made), _LOWEST) if opset is None else max(opset, _LOWEST)
    if number not in made:
        made[number] = _translated(traced, number)
    return made[number]


def _translated(traced: Trace, opset: int) -> LayeredModel:
    model = _exported(traced.program, opset)
    common.InlinePass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.TopologicalSortPass()(model)
    _drop_empty_biases(model)
    _specify(model, traced)
    _read_through_taps(model, traced)
    return LayeredModel(model, traced.inputs, traced.outputs, traced.layers)


def _exported(program: Any, opset: int) -> ir.Model:
    """PyTorch's own export of a program.

    Without gradients, as the trace was made: the exporter runs the program again, and where gradients are
    wanted attention takes another way, whose memory the traced views do not fit.
    """
    torch = backend.torch()
    try:
        with backend.quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                custom_translation_table={tap(): _tapped},
            )
    except Exception as error:
        reason = _innermost(error)
        raise SourceError(
            f"PyTorch's exporter cannot translate this model: {type(reason).__name__}: "
            f"{' '.join(str(reason).split())[:400]}"
        ) from error
    model: ir.Model = exported.model
    return model


def _tapped(x: Any, number: int) -> Any:  # noqa: ARG001  # the schema's
    from onnxscript import opset18 as op

    return op.Identity(x)


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _drop_empty_biases(model: ir.Model) -> None:
    """Take zeros that the exporter expands for the missing bias of a convolution away.

    Its conv3d makes them of shape (channels, 2), where ONNX wants one axis.
    """
    for node in model.graph:
        if node.op_type != "Conv" or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        value = node.inputs[2]
        while (maker := value.producer()) is not None and maker.op_type in ("Expand", "CastLike", "Cast"):
            assert maker.inputs[0] is not None
            value = maker.inputs[0]
        constant = ir.convenience.get_const_tensor(value)
        if value is not node.inputs[2] and constant is not None and not constant.numpy().any():
            node.resize_inputs(2)


def _specify(model: ir.Model, traced: Trace) -> None:
    """Give inputs their author's names, boundaries their shapes, and every node its layer."""
    graph = model.graph
    for value, spec in zip(graph.inputs, traced.inputs, strict=True):
        value.name, value.shape = spec.name, ir.Shape(spec.shape)
        value.metadata_props.clear()
    boundaries: dict[str, Boundary] = {b.value: b for layer in traced.layers for b in layer.boundaries}
    boundaries |= {b.value: b for b in traced.outputs}
    for output, tapped in zip(graph.outputs, traced.taps, strict=True):
        boundary = boundaries[tapped]
        output.name = boundary.value
        output.shape, output.type = ir.Shape(boundary.spec.shape), boundary.spec.onnx_type
    for node in ir.traversal.RecursiveGraphIterator(graph):
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        # What the exporter notes besides (stack traces, class names) speaks of this machine.
        node.metadata_props.clear()
        node.doc_string = None
        modules = [scope for scope in scopes[:-1] if scope and scope != _NO_MODULE]
        if modules:
            node.metadata_props[LAYER] = modules[-1]
        for output in node.outputs:
            output.metadata_props.clear()
    for value in graph.initializers.values():
        value.metadata_props.clear()
    graph.metadata_props.clear()


def _read_through_taps(model: ir.Model, traced: Trace) -> None:
    """Let whatever reads a tapped tensor after its tap read the tap; then the graph parts there."""
    graph = model.graph
    # Nodes of inner graphs come right after the node that they stand in.
    position = {node: number for number, node in enumerate(ir.traversal.RecursiveGraphIterator(graph))}
    tapped = set(traced.taps)
    for node in list(graph):
        if node.op_type != "Identity" or node.outputs[0].name not in tapped:
            continue
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        for user, index in list(source.uses()):
            if position[user] > position[node]:
                user.replace_input_with(index, output)
