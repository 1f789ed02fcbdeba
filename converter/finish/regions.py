"""Parts of a graph with one value going in and one coming out, and what they compute.

What a layer computes can be spelled out in many ways: `0.5 * x * (1 + erf(x / sqrt(2)))` has a dozen orders
of its factors, and every exporter has its own. So a region is not matched against spellings but run, in
float64, on numbers that tell functions apart, with weights replaced by random ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converter.finish.graphs import constant_of, main_domain

__all__ = ["Region", "regions_ending_at"]

Array = npt.NDArray[np.float64]
_LIMIT = 24  # nodes; a LayerNormalization with all that Keras spells out has 13


def _axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].as_ints())
    axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return tuple(range(rank)) if axes is None else tuple(int(axis) for axis in axes.reshape(-1))


def _mean(node: ir.Node, x: Array, *_: Array) -> Array:
    return np.asarray(
        np.mean(x, axis=_axes(node, x.ndim), keepdims=bool(node.attributes.get_int("keepdims", 1)))
    )


def _clip(node: ir.Node, x: Array, *rest: Array) -> Array:
    low = node.attributes.get_float("min", -math.inf)
    high = node.attributes.get_float("max", math.inf)
    bounds = [float(bound) for bound in rest] + [low, high][len(rest) :]
    return np.clip(x, bounds[0], bounds[1])


def _hard_sigmoid(node: ir.Node, x: Array) -> Array:
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return np.clip(alpha * x + beta, 0, 1)


_RUN: Mapping[str, Callable[..., Array]] = {
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": lambda _, a, b: a / b,
    "Pow": lambda _, a, b: np.power(a, b),
    "Neg": lambda _, a: -a,
    "Abs": lambda _, a: np.abs(a),
    "Exp": lambda _, a: np.exp(a),
    "Log": lambda _, a: np.log(a),
    "Sqrt": lambda _, a: np.sqrt(a),
    "Reciprocal": lambda _, a: 1 / a,
    "Erf": lambda _, a: np.vectorize(math.erf, otypes=[float])(a),
    "Tanh": lambda _, a: np.tanh(a),
    "Sigmoid": lambda _, a: 1 / (1 + np.exp(-a)),
    "Softplus": lambda _, a: np.logaddexp(0, a),
    "Relu": lambda _, a: np.maximum(a, 0),
    "Max": lambda _, *a: np.maximum.reduce(np.broadcast_arrays(*a)),
    "Min": lambda _, *a: np.minimum.reduce(np.broadcast_arrays(*a)),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "ReduceMean": _mean,
}


@dataclasses.dataclass(frozen=True)
class Region:
    """Nodes between one value and another.

    Attributes:
        entry: what goes in.
        exit: what comes out.
        nodes: the nodes, the last first.
        constants: scalar constants that they read.
        weights: other constants that they read, in the order in which they are reached.
    """

    entry: ir.Value
    exit: ir.Value
    nodes: tuple[ir.Node, ...]
    constants: tuple[float, ...]
    weights: tuple[ir.Value, ...]

    @property
    def operators(self) -> set[str]:
        return {node.op_type for node in self.nodes}

    def run(self, x: Array, weights: Mapping[ir.Value, Array]) -> Array | None:
        """What the region makes of an array, with these weights; None where that is no number."""
        known: dict[ir.Value, Array] = {self.entry: x, **weights}
        with np.errstate(all="ignore"):
            for node in reversed(self.nodes):
                inputs: list[Array] = []
                for value in node.inputs:
                    if value is None or (node.op_type == "ReduceMean" and inputs):
                        continue
                    array = known.get(value)
                    if array is None:
                        found = constant_of(value)
                        if found is None:
                            return None
                        array = found.astype(np.float64)
                    inputs.append(array)
                try:
                    known[node.outputs[0]] = _RUN[node.op_type](node, *inputs)
                except (ValueError, TypeError):  # shapes that do not go together: not what we look for
                    return None
        result = known[self.exit]
        return result if np.isfinite(result).all() else None


def regions_ending_at(
    last: ir.Node, order: Mapping[ir.Node, int], names: Collection[str]
) -> Iterator[Region]:
    """Every region that ends at a node, the smallest first.

    Args:
        last: the node.
        order: the place of each node in the order of execution.
        names: initializers that are weights, even where they hold one number.
    """
    if not _computes(last):
        return
    nodes: list[ir.Node] = []
    scalars: list[float] = []
    weights: list[ir.Value] = []
    open_: dict[ir.Value, None] = {last.outputs[0]: None}
    while open_ and len(nodes) < _LIMIT:
        value = max(open_, key=lambda v: _place(v, order))
        node = value.producer()
        if node is None or not _computes(node):
            return
        del open_[value]
        nodes.append(node)
        for index, read in enumerate(node.inputs):
            if read is None or (node.op_type == "ReduceMean" and index):
                continue
            constant = constant_of(read, 1 << 24)
            if constant is None:
                open_[read] = None
            elif constant.size == 1 and read.name not in names:
                scalars.append(float(constant.reshape(())))
            elif read not in weights:
                weights.append(read)
        if len(open_) == 1:
            entry = next(iter(open_))
            yield Region(entry, last.outputs[0], tuple(nodes), tuple(scalars), tuple(weights))


def _computes(node: ir.Node) -> bool:
    return main_domain(node) and node.op_type in _RUN and len(node.outputs) == 1


def _place(value: ir.Value, order: Mapping[ir.Node, int]) -> int:
    producer = value.producer()
    return -1 if producer is None else order.get(producer, -1)
