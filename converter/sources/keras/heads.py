"""Heads as Keras layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from converter.heads import EPSILON, Head, Unit
from converter.sources.keras import backend

__all__ = ["head_of", "layers_of", "put_weights"]

_PARTS = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "mean": "moving_mean",
    "variance": "moving_variance",
}


def layers_of(head: Head, rank: int, names: Mapping[str, str]) -> list[Any]:
    """The head's layers, in order, which take a tensor of this rank.

    Args:
        head: the head.
        rank: of what it takes, the batch counted.
        names: name of each unit → name of the layer.
    """
    layers = []
    for unit in head.units:
        layers.append(_layer(head, unit, rank, names[unit.name]))
        rank = 2 if unit.kind in ("flatten", "gap", "gmp") else rank
    return layers


def put_weights(head: Head, layers: list[Any]) -> None:
    """Give layers, which have been called, the head's weights."""
    layer = dict(zip((unit.name for unit in head.units), layers, strict=True))
    for name, array in head.weights.items():
        unit, _, part = name.rpartition(".")
        variable = getattr(layer[unit], _PARTS[part])
        variable.assign(array.reshape(variable.shape))


def head_of(head: Head, layers: list[Any]) -> Head:
    """The head with the weights that the layers made of it have now."""
    layer = dict(zip((unit.name for unit in head.units), layers, strict=True))
    to_numpy = backend.keras().ops.convert_to_numpy
    weights = {}
    for name, array in head.weights.items():
        unit, _, part = name.rpartition(".")
        weights[name] = to_numpy(getattr(layer[unit], _PARTS[part])).reshape(array.shape).copy()
    return dataclasses.replace(head, weights=weights)


def _layer(head: Head, unit: Unit, rank: int, name: str) -> Any:
    layers = backend.keras().layers
    axis = head.channel_axis(rank)
    layout = "channels_last" if axis == rank - 1 else "channels_first"
    activation = None if unit.activation == "linear" else unit.activation
    if unit.kind == "flatten":
        return layers.Flatten(name=name)
    if unit.kind in ("gap", "gmp"):
        pool = f"Global{'Average' if unit.kind == 'gap' else 'Max'}Pooling{rank - 2}D"
        return getattr(layers, pool)(data_format=layout, name=name)
    if unit.kind == "dense":
        return layers.Dense(unit.size, activation=activation, name=name)
    if unit.kind == "conv1x1":
        conv = getattr(layers, f"Conv{rank - 2}D")
        return conv(unit.size, 1, activation=activation, data_format=layout, name=name)
    if unit.kind == "dropout":
        return layers.Dropout(unit.rate, name=name)
    if unit.kind == "batchnorm":
        return layers.BatchNormalization(axis=axis, epsilon=EPSILON, name=name)
    return layers.Activation(unit.kind, name=name)
