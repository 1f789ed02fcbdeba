"""From a traced TensorFlow graph to a layered ONNX graph, through tf2onnx's operator mappings.

tf2onnx sees only what the asked-for boundaries need and no weight values, so its cost is that of
the graph alone; the weights are attached to the result afterwards, as lazy initializers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from converter.errors import SourceError
from converter.model import LAYER, LayeredModel
from converter.quiet import quiet
from converter.sources.keras import backend
from converter.sources.keras.trace import Trace

__all__ = ["lazy_weight", "translate"]

# tf2onnx's newest; finishing converts to a newer one that was asked for.
_NEWEST = 18


def translate(traced: Trace, sinks: Sequence[str], opset: int) -> LayeredModel:
    """Translate what the boundaries `sinks` depend on.

    Args:
        traced: the traced model.
        sinks: values of boundaries.
        opset: the wanted opset; the result has this one or tf2onnx's newest.

    Raises:
        SourceError: an operator has no translation to ONNX; the layers that use it are named.
    """
    tf = backend.tensorflow()
    ends = list(dict.fromkeys(traced.tensors[sink] for sink in sinks))
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(
        traced.graph_def, sorted({end.partition(":")[0] for end in ends})
    )
    kept = {node.name for node in graph_def.node}

    def is_kept(tensor: str) -> bool:
        return tensor.partition(":")[0] in kept

    boundaries = {value for value, tensor in traced.tensors.items() if is_kept(tensor)}
    layers = tuple(la for la in traced.layers if any(b.value in boundaries for b in la.boundaries))
    outputs = tuple(boundary for boundary in traced.outputs if boundary.value in boundaries)
    weights = {tensor: weight for tensor, weight in traced.weights.items() if is_kept(tensor)}
    inputs = [tensor for tensor in traced.input_values if is_kept(tensor)]

    proto = _process(graph_def, inputs + list(weights), _drains(graph_def, ends), opset)
    graph = ir.serde.deserialize_model(proto)
    common.TopologicalSortPass()(graph)
    _fill_gaps(graph)
    _attach(graph, weights)
    _specify(graph, traced)
    return LayeredModel(graph, traced.inputs, outputs, layers)


def _drains(graph_def: Any, ends: Sequence[str]) -> list[str]:
    """Hang an Identity on each end, to be the output in its place.

    tf2onnx renames what an output's readers read, and an end may have readers of its own.
    """
    types = {node.name: node.attr["T"] for node in graph_def.node if "T" in node.attr}
    drains = []
    for number, end in enumerate(ends):
        node = graph_def.node.add(name=f"drain_{number}", op="Identity", input=[end])
        node.attr["T"].CopyFrom(types[end.partition(":")[0]])
        drains.append(f"{node.name}:0")
    return drains


def _process(graph_def: Any, inputs: list[str], outputs: list[str], opset: int) -> Any:
    tf, tfonnx = backend.tensorflow(), backend.tf2onnx()
    with quiet(), tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        try:
            translated = tfonnx.process_tf_graph(
                graph, opset=min(opset, _NEWEST), input_names=inputs, output_names=outputs
            )
        except Exception as error:
            raise SourceError(
                f"tf2onnx cannot translate this graph: {type(error).__name__}: {error}"
            ) from error
    proto = translated.make_model("converter")
    proto.graph.ClearField("doc_string")
    missing = sorted(
        {
            f"{node.op_type} ({node.name})"
            for node in proto.graph.node
            if not onnx.defs.has(node.op_type, domain=node.domain) and node.op_type not in _GAPS
        }
    )
    if missing:
        raise SourceError(f"these operators have no translation to ONNX: {', '.join(missing[:8])}")
    return proto


def _erfc(node: ir.Node) -> list[ir.Node]:
    one = ir.node("Constant", [], {"value": ir.tensor(np.array(1, np.float32))})
    kind = ir.node("CastLike", [one.outputs[0], node.inputs[0]])
    erf = ir.node("Erf", node.inputs)
    return [one, kind, erf, ir.node("Sub", [kind.outputs[0], erf.outputs[0]])]


# TensorFlow operators that tf2onnx leaves as they are, in terms of ONNX's own.
_GAPS = {"Erfc": _erfc}


def _fill_gaps(graph: ir.Model) -> None:
    for inner in graph.graphs():
        for node in [node for node in inner if node.op_type in _GAPS and not node.domain]:
            new = _GAPS[node.op_type](node)
            inner.insert_before(node, new)
            ir.convenience.replace_nodes_and_values(inner, node, [node], [], node.outputs, new[-1].outputs)


def _attach(graph: ir.Model, weights: dict[str, tuple[str, Any]]) -> None:
    """Make the graph inputs that stand for weights initializers with lazily read values."""
    main = graph.graph
    for value in [value for value in main.inputs if value.name in weights]:
        assert value.name is not None
        name, variable = weights[value.name]
        main.inputs.remove(value)
        value.name = name
        value.const_value = lazy_weight(name, variable)
        value.shape, value.dtype = ir.Shape(value.const_value.shape), value.const_value.dtype
        main.register_initializer(value)
    named = {name for name, _ in weights.values()}
    for value in [value for value in main.initializers.values() if value.name not in named]:
        _as_node(main, value)


def _as_node(graph: ir.Graph, value: ir.Value) -> None:
    """Make a constant a node: initializers keep their names, and tf2onnx numbers those of constants."""
    assert value.name is not None
    assert value.const_value is not None
    del graph.initializers[value.name]
    node = ir.node("Constant", [], {"value": value.const_value})
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = value.name, value.shape, value.type
    value.name = None
    value.replace_all_uses_with(node.outputs[0])
    graph.insert_before(graph[0], node)


def lazy_weight(name: str, variable: Any) -> ir.LazyTensor:
    """A Keras variable or TensorFlow tensor as a tensor of ONNX, read when it is asked for."""
    dtype = ir.DataType.from_numpy(
        np.dtype(variable.dtype if isinstance(variable.dtype, str) else variable.dtype.as_numpy_dtype)
    )
    shape = ir.Shape([int(d) for d in variable.shape])

    def read() -> ir.TensorProtocol:
        raw = variable.value if hasattr(variable, "value") else variable
        return ir.Tensor(np.asarray(raw), name=name)

    return ir.LazyTensor(read, dtype=dtype, shape=shape, name=name)


def _specify(graph: ir.Model, traced: Trace) -> None:
    """Give inputs their author's names, boundaries their shapes, and every node its layer."""
    specs = dict(zip(traced.input_values, traced.inputs, strict=True))
    for value in graph.graph.inputs:
        assert value.name is not None
        spec = specs[value.name]
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)
    fences = {traced.tensors[b.value]: (layer.name, b) for layer in traced.layers for b in layer.boundaries}
    fences |= {traced.tensors[b.value]: ("", b) for b in traced.outputs}
    for node in reversed(graph.graph):
        layer = ""
        for output in node.outputs:
            if output.name in fences:
                layer, boundary = fences[output.name]
                output.name = boundary.value
                output.shape, output.type = ir.Shape(boundary.spec.shape), boundary.spec.onnx_type
        readers = (user.metadata_props.get(LAYER) for o in node.outputs for user in o.consumers())
        layer = layer or next((reader for reader in readers if reader), "")
        if layer:
            node.metadata_props[LAYER] = layer
