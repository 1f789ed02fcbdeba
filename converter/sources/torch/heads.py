"""Heads as PyTorch modules."""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from converter.errors import UsageError
from converter.heads import EPSILON, Head, Unit
from converter.sources.torch import backend

__all__ = ["head_of", "module_of"]

_PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}


def module_of(head: Head, shape: Sequence[int | str]) -> Any:
    """An `nn.Sequential` of the head's layers under their names, with its weights, in evaluation mode.

    Args:
        head: with weights for a tensor of this shape.
        shape: of what it takes.
    """
    modules: OrderedDict[str, Any] = OrderedDict()
    for unit, before in zip(head.units, head.shapes(shape), strict=False):
        for suffix, module in _modules(head, unit, before):
            modules[unit.name + suffix] = module
    sequence = backend.torch().nn.Sequential(modules)
    sequence.load_state_dict(_state(head, sequence), strict=False)
    return sequence.eval()


def _state(head: Head, sequence: Any) -> dict[str, Any]:
    """The head's weights as entries of the module's state_dict."""
    torch = backend.torch()
    state = {}
    for name, array in head.weights.items():
        key, part = _key(name), name.rpartition(".")[2]
        value = torch.from_numpy(array.T.copy() if part == "kernel" else array.copy())
        state[key] = value.reshape(sequence.state_dict()[key].shape)
    return state


def head_of(head: Head, sequence: Any) -> Head:
    """The head with the weights that the module made of it has now."""
    state = sequence.state_dict()
    weights = {}
    for name, array in head.weights.items():
        plain = state[_key(name)].detach().cpu().numpy()
        weights[name] = plain.reshape(array.T.shape).T.copy() if name.endswith(".kernel") else plain.copy()
    return dataclasses.replace(head, weights=weights)


def _key(name: str) -> str:
    """PyTorch's name of a weight of the head."""
    unit, _, part = name.rpartition(".")
    return f"{unit}.{_PARTS.get(part, part)}"


def _modules(head: Head, unit: Unit, shape: Sequence[int | str]) -> list[tuple[str, Any]]:
    """The modules that make up one unit, each with what its name ends in."""
    nn = backend.torch().nn
    rank = len(shape)
    axis = head.channel_axis(rank)
    if unit.kind == "flatten":
        return [("", nn.Flatten())]
    if unit.kind in ("gap", "gmp"):
        largest = unit.kind == "gmp"
        if rank > 3 and axis == 1:
            pool = getattr(nn, f"Adaptive{'Max' if largest else 'Avg'}Pool{rank - 2}d")
            return [("", pool(1)), ("_flatten", nn.Flatten())]
        return [("", _pool()(tuple(i for i in range(1, rank) if i != axis), largest))]
    if unit.kind == "dropout":
        return [("", nn.Dropout(unit.rate))]
    if unit.kind == "batchnorm":
        if rank == 3 or (rank > 3 and axis != 1):
            raise UsageError("PyTorch has no batchnorm for channels that come last", hint="gap before it")
        return [("", getattr(nn, f"BatchNorm{max(rank - 2, 1)}d")(int(shape[axis]), eps=EPSILON))]
    if not unit.size:
        return [("", _activation(unit.kind, axis))]
    if unit.kind == "dense" or axis == rank - 1:
        layer = nn.Linear(int(shape[-1]), unit.size)
    else:
        layer = getattr(nn, f"Conv{rank - 2}d")(int(shape[1]), unit.size, 1)
    if unit.activation == "linear":
        return [("", layer)]
    return [("", layer), (f"_{unit.activation}", _activation(unit.activation, axis))]


def _activation(name: str, axis: int) -> Any:
    nn = backend.torch().nn
    if name == "softmax":
        return nn.Softmax(dim=axis)
    return {"relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[name]()


@functools.cache
def _pool() -> Any:
    """A module that PyTorch lacks: the mean or the maximum over some axes."""

    class Pool(backend.torch().nn.Module):  # type: ignore[misc]
        """The mean or the maximum over some axes."""

        def __init__(self, axes: tuple[int, ...], largest: bool) -> None:
            super().__init__()
            self.axes = axes
            self.largest = largest

        def forward(self, x: Any) -> Any:
            return x.amax(self.axes) if self.largest else x.mean(self.axes)

        def extra_repr(self) -> str:
            return f"{self.axes}, largest={self.largest}"

    return Pool
