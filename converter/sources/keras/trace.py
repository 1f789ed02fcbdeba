"""A Keras model as a TensorFlow graph: weights as arguments, a fence after every layer call.

The *fence* is an Identity through which a layer's output passes on to whatever uses it, so that
each boundary is one tensor of its own in every path, and no rewriting can reach across it.
Weights are placeholders: the graph stays a few KB however large the model is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from converter.errors import SourceError
from converter.model import Boundary, Dim, Layer, TensorSpec
from converter.sources.keras import backend
from converter.sources.keras.inline import inlined
from converter.sources.keras.lowering import lowered
from converter.sources.keras.recorder import LayerCall, Reached, calls_until, operations, recording
from converter.sources.keras.signature import Signature, flatten_named

__all__ = ["Trace", "trace", "weights_by_name"]


@dataclasses.dataclass
class Trace:
    """A traced model.

    Attributes:
        graph_def: the TensorFlow graph, functions inlined.
        inputs: the model's inputs; `input_values` are their tensors in the graph.
        outputs: the model's outputs as boundaries of the graph.
        layers: every layer call, in order, with its boundaries.
        weights: graph tensor → (name, Keras variable or TensorFlow tensor).
        tensors: `Boundary.value` → graph tensor. Values are names of our own making, the same in every
            trace of a model, whatever part of it was traced.
    """

    graph_def: Any
    inputs: tuple[TensorSpec, ...]
    input_values: tuple[str, ...]
    outputs: tuple[Boundary, ...]
    layers: tuple[Layer, ...]
    weights: dict[str, tuple[str, Any]]
    tensors: dict[str, str]


class _Fences:
    """Puts an Identity behind every tensor that a layer call returns, and keeps the list."""

    def __init__(self, graph: Any, until: frozenset[str]) -> None:
        self.graph = graph
        self._missing = set(until)
        self.calls: list[tuple[LayerCall, list[tuple[str, Any]]]] = []

    def __call__(self, call: LayerCall, proceed: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        tf, keras = backend.tensorflow(), backend.keras()
        outputs = (lowered(call.operation) or proceed)(*args, **kwargs)
        # Bodies of loops and branches are graphs of their own; nothing outside can see into them.
        if tf.compat.v1.get_default_graph() is not self.graph:
            return outputs
        # Keras calls a recurrent layer's cell once before the loop, to learn its shapes.
        if any(isinstance(parent, keras.layers.RNN) for parent in call.parents):
            return outputs

        def fence(value: Any) -> Any:
            if not _is_boundary(value):
                return value
            fenced = tf.identity(value, name="fence")
            mask = keras.src.backend.get_keras_mask(value)
            if mask is not None:
                keras.src.backend.set_keras_mask(fenced, mask)
            return fenced

        outputs = keras.tree.map_structure(fence, outputs)
        tensors = [(key, value) for key, value in flatten_named(outputs) if _is_boundary(value)]
        if tensors:
            self.calls.append((call, tensors))
        if call.path in self._missing:
            self._missing.remove(call.path)
            if not self._missing:
                raise Reached
        return outputs


def _is_boundary(value: Any) -> bool:
    """Whether a layer's output is a dense tensor, and no handle to something else."""
    tf = backend.tensorflow()
    return isinstance(value, tf.Tensor) and value.dtype not in (tf.resource, tf.variant)


def trace(model: Any, signature: Signature, until: frozenset[str] = frozenset()) -> Trace:
    """Trace a built model in inference mode.

    Args:
        model: the model.
        signature: how to call it.
        until: paths of layers, each called once: stop when all of them were called. The trace then has
            neither the layers after them nor the model's outputs.

    Raises:
        SourceError: Keras or TensorFlow could not run the model on symbolic inputs.
    """
    tf, keras = backend.tensorflow(), backend.keras()
    variables = _variables(calls_until(model, until) or [model])
    named_weights = {id(v): name for name, v in weights_by_name(model, signature).items()}
    arguments = [v for v in variables if id(v) in named_weights]
    embedded = [(v, v.numpy()) for v in variables if id(v) not in named_weights]
    graph = tf.__internal__.FuncGraph("trace")
    fences = _Fences(graph, until)
    try:
        with graph.as_default():
            weights = [_placeholder(v.dtype, v.shape) for v in arguments]
            feeds = [
                _placeholder(s.dtype, [d if isinstance(d, int) else None for d in s.shape])
                for s in signature.inputs
            ]
            mapping = list(zip(arguments, weights, strict=True))
            mapping += [(variable, tf.constant(array)) for variable, array in embedded]
            with keras.StatelessScope(state_mapping=mapping), recording(model, fences):
                named = signature.name_outputs(model, signature.call(model, feeds))
            ends = [(name, tf.identity(value, name="model_output")) for name, value in named]
        if not ends:
            raise SourceError(f"the model {model.name!r} returns no tensor")
    except Reached:
        ends = []
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(
            f"Keras cannot run the model {model.name!r} on symbolic inputs: {type(error).__name__}: {error}"
        ) from error
    known = {t.name: (named_weights[id(v)], v) for t, v in zip(weights, arguments, strict=True)}
    known |= {
        inner.name: (f"captured/{inner.op.name}", outer)
        for outer, inner in graph.captures
        if outer is not None
    }
    return _collect(graph, fences, ends, [f.name for f in feeds], known, signature)


def weights_by_name(model: Any, signature: Signature) -> dict[str, Any]:
    """The variables that graphs of the model read as weights, by their names there."""
    constant, names = _variables_to_embed(model), names_of_variables(model, signature)
    return {names[id(v)]: v for v in _variables([model]) if id(v) not in constant}


def names_of_variables(model: Any, signature: Signature) -> dict[int, str]:
    """id of a variable → its name; of those, too, that graphs hold as constants."""
    variables = _variables([model])
    names = _unique_names([v.path for v in variables], {s.name for s in signature.inputs})
    return {id(v): name for name, v in zip(names, variables, strict=True)}


def _placeholder(dtype: Any, shape: Any) -> Any:
    return backend.tensorflow().compat.v1.placeholder(dtype, shape)


def _collect(
    graph: Any,
    fences: _Fences,
    ends: list[tuple[str, Any]],
    inputs: list[str],
    weights: dict[str, tuple[str, Any]],
    signature: Signature,
) -> Trace:
    kept = [value for _, tensors in fences.calls for _, value in tensors] + [end for _, end in ends]
    graph_def = inlined(graph, [*inputs, *weights, *(value.name for value in kept)])
    _read_captured_variables(graph_def, weights)
    batch = _BatchSizes(graph_def, inputs, signature.inputs)
    layers = _layers(fences.calls, batch)
    outputs = tuple(Boundary(batch.spec(name, end), f"output:{name}") for name, end in ends)
    tensors = {f"output:{name}": end.name for name, end in ends}
    for call, values in fences.calls:
        for key, value in values:
            tensors[_value(call, key)] = value.name
    return Trace(graph_def, signature.inputs, tuple(inputs), outputs, layers, weights, tensors)


def _value(call: LayerCall, key: str) -> str:
    return Boundary.value_at((call.path, call.index, key))


def _layers(
    calls: Sequence[tuple[LayerCall, list[tuple[str, Any]]]], batch: _BatchSizes
) -> tuple[Layer, ...]:
    """Name the calls: `name@k` for those of a path that is called more than once."""
    times: dict[str, int] = {}
    for call, _ in calls:
        times[call.path] = max(times.get(call.path, 0), call.index + 1)
    layers = []
    for call, tensors in calls:
        name = f"{call.path}@{call.index}" if times[call.path] > 1 else call.path
        single = len(tensors) == 1
        boundaries = tuple(
            Boundary(batch.spec(name if single else f"{name}:{key}", value), _value(call, key))
            for key, value in tensors
        )
        weights = getattr(call.operation, "weights", ())
        trainable = getattr(call.operation, "trainable_weights", ())
        layers.append(
            Layer(
                name=name,
                kind=type(call.operation).__name__,
                boundaries=boundaries,
                parameters=sum(math.prod(w.shape) for w in weights),
                trainable=sum(math.prod(w.shape) for w in trainable),
                depth=len(call.parents),
            )
        )
    return tuple(layers)


def _variables(owners: Sequence[Any]) -> list[Any]:
    """The variables of layers, each once; bare operations have none."""
    return list({id(v): v for owner in owners for v in getattr(owner, "variables", ())}.values())


def _variables_to_embed(model: Any) -> set[int]:
    """Weights of recurrent layers: tf2onnx's LSTM and GRU rewriters must see their values."""
    keras = backend.keras()
    return {
        id(variable)
        for layer in operations(model)
        if isinstance(layer, keras.layers.RNN)
        for variable in layer.variables
    }


def _unique_names(names: list[str], taken: set[str]) -> list[str]:
    unique = []
    for name in names:
        candidate, copy = name, 1
        while candidate in taken:
            copy += 1
            candidate = f"{name}~{copy}"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def _read_captured_variables(graph_def: Any, weights: dict[str, tuple[str, Any]]) -> None:
    """Turn reads of captured `tf.Variable`s into placeholders of their values, in place."""
    tf = backend.tensorflow()
    resources = {
        tensor.partition(":")[0]: value
        for tensor, (_, value) in weights.items()
        if getattr(value, "dtype", None) == tf.resource
    }
    if not resources:
        return
    for name in resources:
        del weights[f"{name}:0"]
    for node in graph_def.node:
        if node.op == "ReadVariableOp" and node.input[0] in resources:
            dtype = tf.as_dtype(node.attr["dtype"].type)
            value = tf.raw_ops.ReadVariableOp(resource=resources[node.input[0]], dtype=dtype)
            weights[f"{node.name}:0"] = (f"captured/{node.input[0]}/{node.name}", value)
            node.op = "Placeholder"
            del node.input[:]
            for key in [key for key in node.attr if key != "dtype"]:
                del node.attr[key]
            node.attr["shape"].shape.CopyFrom(value.shape.as_proto())


# Operators that leave the first axis of what they compute the batch, whatever their attributes.
_BATCH_FIRST = frozenset(
    "Placeholder Const Identity Conv2D DepthwiseConv2dNative BiasAdd FusedBatchNormV3 MaxPool AvgPool "
    "Relu Relu6 LeakyRelu Elu Sigmoid Tanh Softmax AddV2 Mul Sub Maximum Minimum Pad".split()
)


class _BatchSizes:
    """Tells which unknown sizes are the batch, by shape inference with the batch fixed at a prime.

    A first dimension of None may as well be batch x windows; TensorFlow's static shapes do not say.
    Importing the graph with a batch that no model has by chance does.
    """

    PRIME = 10_007  # times a large image it still fits the int32 of TensorFlow's shapes

    def __init__(self, graph_def: Any, values: list[str], inputs: Sequence[TensorSpec]) -> None:
        self._graph: Any = None
        self._has_batch = any(spec.shape[:1] == ("batch",) for spec in inputs)
        if not self._has_batch or all(node.op in _BATCH_FIRST for node in graph_def.node):
            return
        tf = backend.tensorflow()
        with tf.Graph().as_default() as self._graph:
            replaced = {}
            for value, spec in zip(values, inputs, strict=True):
                shape = [
                    self.PRIME if d == "batch" else d if isinstance(d, int) else None for d in spec.shape
                ]
                replaced[value] = tf.compat.v1.placeholder(spec.dtype, shape)
            tf.import_graph_def(graph_def, input_map=replaced, name="")

    def spec(self, name: str, tensor: Any) -> TensorSpec:
        """The tensor's spec; sizes that are neither fixed nor the batch get names of their own."""
        if tensor.shape.rank is None:
            raise SourceError(f"the rank of {name!r} is not known before the model runs")
        shape: list[Dim] = []
        for axis, size in enumerate(tensor.shape.as_list()):
            if size is not None:
                shape.append(size)
            elif self._is_batch(tensor, axis):
                shape.append("batch")
            else:
                shape.append(f"{name}_dim{axis}")
        return TensorSpec(name, tuple(shape), tensor.dtype.name)

    def _is_batch(self, tensor: Any, axis: int) -> bool:
        if self._graph is None:
            return self._has_batch and axis == 0
        shape = self._graph.get_tensor_by_name(tensor.name).shape
        # Shapes are lost in loops; what nothing contradicts there is Keras's rule, batch first.
        if shape.rank is None or shape[axis] is None:
            return axis == 0
        return bool(shape[axis] == self.PRIME)
