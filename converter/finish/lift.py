"""Put together again what exporters spell out: activations, normalizations, dense layers.

Requires: constants folded, weights left as they are. Ensures: the same values up to rounding; weights keep
their names, and each of these layers is one node.

The formulas are those of ONNX's own definitions (LayerNormalization, RMSNormalization, Gelu, HardSwish, Mish,
Swish) and of batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167); how regions are told is said
in `converter.finish.regions`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converter.finish.dense import lift_dense
from converter.finish.graphs import constant_of, make_constant, replace_uses, static_sizes
from converter.finish.regions import Region, regions_ending_at
from converter.finish.weights import reshaped

__all__ = ["lift"]

Array = npt.NDArray[np.float64]
_SAME = 1e-6


def lift(model: ir.Model, weights: set[str]) -> None:
    """Lift what is spelled out in the main graph, in place.

    Args:
        model: the model.
        weights: names of initializers that are weights.
    """
    graph = model.graph
    order = {node: place for place, node in enumerate(graph)}
    for node in reversed(list(graph)):
        if node.graph is not graph or not any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue
        best: tuple[Region, Callable[[Region], ir.Value]] | None = None
        for region in regions_ending_at(node, order, weights):
            make = _recognised(region)
            best = (region, make) if make is not None else best
        if best is not None:
            region, make = best
            made = make(region)
            _put(graph, region, made)
    lift_dense(model)


def _put(graph: ir.Graph, region: Region, made: ir.Value) -> None:
    """Let a value that was made stand for what a region puts out."""
    nodes: list[ir.Node] = []
    pending = [made.producer()]
    while pending:
        node = pending.pop()
        if node is None or node.graph is not None or node in nodes:
            continue
        nodes.append(node)
        pending += [value.producer() for value in node.inputs if value is not None]
    last = region.exit.producer()
    assert last is not None
    for node in reversed(nodes):
        node.metadata_props.update(last.metadata_props)
        for output in node.outputs:
            output.type = region.exit.type
        graph.insert_before(last, node)
    made.shape = region.exit.shape
    replace_uses(region.exit, made)
    for node in region.nodes:  # the last first: what others still read stays
        if not any(o.uses() or o.is_graph_output() for o in node.outputs):
            graph.remove(node, safe=True)


def _recognised(region: Region) -> Callable[[Region], ir.Value] | None:
    if len(region.nodes) > 1 and region.operators & _CURVED and not region.weights:
        return _activation(region)
    if region.operators & {"Sqrt", "Pow"} and region.operators <= _LINEAR:
        return _layer_norm(region) if "ReduceMean" in region.operators else _batch_norm(region)
    return None


# What normalizations are made of.
_LINEAR = frozenset("Add Sub Mul Div Pow Neg Sqrt Reciprocal ReduceMean".split())


# ---------------------------------------------------------------- activations

_CURVED = frozenset("Erf Tanh Sigmoid Softplus Clip HardSigmoid Relu Max Min Exp".split())


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu(x: Array) -> Array:
    return np.asarray(x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))) / 2)


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


# Operator, the opset that defines it, its attributes → what it computes.
_ACTIVATIONS: Sequence[tuple[str, int, Mapping[str, float | str], Callable[[Array], Array]]] = (
    ("Gelu", 20, {"approximate": "none"}, _gelu),
    ("Gelu", 20, {"approximate": "tanh"}, _gelu_tanh),
    ("Swish", 24, {"alpha": 1.0}, lambda x: x * _sigmoid(x)),
    ("Swish", 24, {"alpha": 1.702}, lambda x: x * _sigmoid(1.702 * x)),
    ("HardSwish", 22, {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("HardSigmoid", 22, {"alpha": 1 / 6, "beta": 0.5}, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    ("Mish", 22, {}, lambda x: x * np.tanh(np.logaddexp(0, x))),
    ("Sigmoid", 13, {}, _sigmoid),
    ("Softplus", 22, {}, lambda x: np.logaddexp(0, x)),
)
# Far out as well: what limits a function does so where it is large.
_POINTS = np.concatenate(
    [np.linspace(-9, 9, 61), [0.1234, -0.777, 2.999, -3.001], np.outer([1, -1], [12, 30, 1e3]).ravel()]
)
# What limits is taken for part of a function that is made of straight lines, and of no other.
_LIMITS = frozenset(["Clip", "HardSigmoid", "Max", "Min", "Relu"])
_LIMITED = frozenset(["HardSigmoid", "HardSwish"])


def _activation(region: Region) -> Callable[[Region], ir.Value] | None:
    got = region.run(_POINTS, {})
    if got is None or got.shape != _POINTS.shape:
        return None
    for op, version, attributes, function in _ACTIVATIONS:
        if bool(region.operators & _LIMITS) != (op in _LIMITED):
            continue
        # Constants such as sqrt(2) are float32 in the graph, and so good to 1e-7.
        if (np.abs(got - function(_POINTS)) <= _SAME * (1 + np.abs(_POINTS))).all():
            return lambda region, op=op, version=version, attributes=attributes: ir.node(  # type: ignore[misc]
                op, [region.entry], attributes, version=version
            ).outputs[0]
    return None


# ---------------------------------------------------------------- normalizations


def _layer_norm(region: Region) -> Callable[[Region], ir.Value] | None:
    """LayerNormalization or RMSNormalization over the last axes, with or without scale and offset."""
    shape = region.entry.shape
    if shape is None or len(region.weights) > 2 or not region.constants:
        return None
    rank = len(shape)
    axes = {axes for node in region.nodes if (axes := _reduced(node, rank)) is not None}
    if len(axes) != 1:
        return None
    over = next(iter(axes))
    trial = static_sizes([shape[axis] for axis in over])
    if over != tuple(range(over[0], rank)) or trial is None:
        return None
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1, (*(2,) * over[0], *trial))
    weights = {value: rng.normal(1, 1, _shape(value)) for value in region.weights}
    if any(array.size != math.prod(trial) for array in weights.values()):
        return None
    got = region.run(x, weights)
    if got is None or got.shape != x.shape:
        return None
    for centred, epsilon, (scale, offset) in itertools.product(
        (True, False), set(region.constants), _roles(region.weights)
    ):
        if not 0 < epsilon < 0.1:
            continue
        wanted = x - x.mean(axis=over, keepdims=True) if centred else x
        wanted = wanted / np.sqrt((wanted**2).mean(axis=over, keepdims=True) + epsilon)
        wanted = wanted * (weights[scale].reshape(trial) if scale else 1)
        wanted = wanted + (weights[offset].reshape(trial) if offset else 0)
        if np.abs(got - wanted).max() <= _SAME * np.abs(wanted).max() and (centred or offset is None):
            return lambda region, c=centred, e=epsilon, s=scale, o=offset: _make_layer_norm(  # type: ignore[misc]
                region, over[0] - rank, trial, c, e, s, o
            )
    return None


def _make_layer_norm(
    region: Region,
    axis: int,
    sizes: Sequence[int],
    centred: bool,
    epsilon: float,
    scale: ir.Value | None,
    offset: ir.Value | None,
) -> ir.Value:
    near = region.nodes[0]
    gamma = (
        reshaped(near, scale, sizes) if scale else make_constant(near, np.ones(sizes, _dtype(region)), "ones")
    )
    inputs = [region.entry, gamma] + ([reshaped(near, offset, sizes)] if offset else [])
    op, version = ("LayerNormalization", 17) if centred else ("RMSNormalization", 23)
    attributes = {"axis": axis, "epsilon": epsilon}
    return ir.node(op, inputs, attributes, version=version).outputs[0]


def _batch_norm(region: Region) -> Callable[[Region], ir.Value] | None:
    """x * s + t with s = gamma / sqrt(variance + epsilon), t = beta - mean * s, by channel on one axis."""
    shape = region.entry.shape
    if shape is None or not 2 <= len(region.weights) <= 4 or not region.constants:
        return None
    rank = len(shape)
    sizes = {int(np.prod(_shape(value))) for value in region.weights}
    if len(sizes) != 1 or (channels := sizes.pop()) < 2:
        return None
    for axis in [rank - 1, 1] if rank > 2 else [rank - 1]:
        along = [channels if place == axis else 1 for place in range(rank)]
        if any(_padded(_shape(value), rank) != along for value in region.weights):
            continue
        rng = np.random.default_rng(0)
        x = rng.normal(size=[channels if place == axis else 2 for place in range(rank)])
        weights = {value: rng.uniform(0.5, 2, _shape(value)) for value in region.weights}
        got = region.run(x, weights)
        roles = None if got is None else _batch_roles(region, x, got, weights, along)
        if roles is not None:
            return lambda region, axis=axis, roles=roles: _make_batch_norm(  # type: ignore[misc]
                region, axis, rank, channels, *roles
            )
    return None


def _batch_roles(
    region: Region, x: Array, got: Array, weights: Mapping[ir.Value, Array], along: Sequence[int]
) -> tuple[float, ir.Value | None, ir.Value | None, ir.Value, ir.Value] | None:
    """(epsilon, gamma, beta, mean, variance) that make of x what the region makes of it."""
    values = {value: array.reshape(along) for value, array in weights.items()}
    for mean, variance, *rest in itertools.permutations(region.weights):
        for epsilon in set(region.constants):
            inverse = 1 / np.sqrt(values[variance] + epsilon)
            for gamma, beta in _roles(tuple(rest)):
                scale = inverse * (values[gamma] if gamma else 1)
                wanted = (x - values[mean]) * scale + (values[beta] if beta else 0)
                if np.abs(got - wanted).max() <= _SAME * np.abs(wanted).max():
                    return epsilon, gamma, beta, mean, variance
    return None


def _vector(near: ir.Node, value: ir.Value | None, default: float, channels: int, dtype: Any) -> ir.Value:
    if value is not None:
        return reshaped(near, value, [channels])
    return make_constant(near, np.full(channels, default, dtype), "constant")


def _make_batch_norm(
    region: Region,
    axis: int,
    rank: int,
    channels: int,
    epsilon: float,
    gamma: ir.Value | None,
    beta: ir.Value | None,
    mean: ir.Value,
    variance: ir.Value,
) -> ir.Value:
    near = region.nodes[0]
    dtype = _dtype(region)
    vectors = [
        _vector(near, value, default, channels, dtype)
        for value, default in ((gamma, 1), (beta, 0), (mean, 0), (variance, 1))
    ]
    x = region.entry
    turned = rank > 2 and axis != 1
    if turned:
        x = _transposed(x, (0, rank - 1, *range(1, rank - 1)))
    made = ir.node("BatchNormalization", [x, *vectors], {"epsilon": epsilon}, version=15).outputs[0]
    made.shape = x.shape
    return _transposed(made, (0, *range(2, rank), 1)) if turned else made


def _transposed(value: ir.Value, perm: tuple[int, ...]) -> ir.Value:
    output = ir.node("Transpose", [value], {"perm": perm}).outputs[0]
    output.shape = None if value.shape is None else ir.Shape([value.shape[axis] for axis in perm])
    output.type = value.type
    return output


def _roles(weights: Sequence[ir.Value]) -> Iterator[tuple[ir.Value | None, ir.Value | None]]:
    """Which of at most two weights is the scale, and which the offset."""
    if not weights:
        yield None, None
    elif len(weights) == 1:
        yield weights[0], None
        yield None, weights[0]
    else:
        yield weights[0], weights[1]
        yield weights[1], weights[0]


def _reduced(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    if node.op_type != "ReduceMean":
        return None
    axes = node.attributes.get_ints("axes") if "axes" in node.attributes else None
    if axes is None and len(node.inputs) > 1:
        found = constant_of(node.inputs[1])
        axes = None if found is None else [int(axis) for axis in found.reshape(-1)]
    return None if not axes else tuple(sorted(axis % rank for axis in axes))


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def _padded(shape: Sequence[int], rank: int) -> list[int]:
    return [*[1] * (rank - len(shape)), *shape]


def _dtype(region: Region) -> np.dtype[np.generic]:
    dtype = region.exit.dtype or region.entry.dtype or ir.DataType.FLOAT
    return dtype.numpy()
