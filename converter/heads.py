"""New heads, in words that every framework understands: `flatten,dense(128,relu),dense(5,softmax)`.

A head is plain data: its layers, and their weights as arrays. Each framework builds its own layers from it;
`Head.run` computes it in NumPy, and is what the others are held to.

    head       = layer { "," layer }
    layer      = "flatten" | pool | "dense(" units [ "," activation ] ")"
               | "conv1x1(" channels [ "," activation ] ")" | "dropout(" rate ")" | "batchnorm" | activation
    pool       = ( "gap" | "gmp" )           mean or maximum over all positions
    activation = "relu" | "gelu" | "sigmoid" | "tanh" | "softmax"
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.errors import UsageError

if TYPE_CHECKING:
    from converter.model import Array

__all__ = ["ACTIVATIONS", "EPSILON", "Head", "Unit"]

# Of batchnorm, in every framework: Keras's default is 1e-3, PyTorch's 1e-5.
EPSILON = 1e-3

_WORD = re.compile(r"\s*([a-z][a-z0-9]*)\s*(?:\(([^()]*)\))?\s*")
_SIZED = ("dense", "conv1x1")
_POOLS: Mapping[str, Callable[..., Array]] = {"gap": np.mean, "gmp": np.max}
_EXPECTED = (
    "layers are flatten, gap, gmp, dense(units[,activation]), conv1x1(channels[,activation]), dropout(rate), "
    "batchnorm, relu, gelu, sigmoid, tanh, softmax"
)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One layer of a head.

    Attributes:
        name: its name in the head (`dense`, `dense_1`).
        kind: the word for it.
        size: units of `dense`, channels of `conv1x1`; 0 for the others.
        rate: share of elements that `dropout` sets to 0 in training.
        activation: what follows `dense` and `conv1x1`; `linear` for nothing.
    """

    name: str
    kind: str
    size: int = 0
    rate: float = 0.0
    activation: str = "linear"

    def __str__(self) -> str:
        if self.kind == "dropout":
            return f"dropout({self.rate:g})"
        if not self.size:
            return self.kind
        return f"{self.kind}({self.size}{'' if self.activation == 'linear' else f',{self.activation}'})"


@dataclasses.dataclass(frozen=True)
class Head:
    """Layers to put onto a tensor.

    Attributes:
        units: the layers in order.
        weights: their weights by name, float32: `<unit>.kernel` of (inputs, outputs), `<unit>.bias` of
            (outputs,); of batchnorm `<unit>.gamma`, `.beta`, `.mean`, `.variance`, each of (channels,). Empty
            until sizes are known.
        channels_last: whether channels are the last axis of what the head takes; else they are axis 1, of
            images and volumes, and the last axis of sequences and vectors all the same.
    """

    units: tuple[Unit, ...]
    weights: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    channels_last: bool = True

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read a head.

        Raises:
            UsageError: a word or number that is none of a head's.
        """
        units: list[Unit] = []
        for word, inside in _words(text):
            count = sum(unit.kind == word for unit in units)
            name = f"{word}_{count}" if count else word
            units.append(_unit(text, name, word, inside))
        return cls(tuple(units))

    def __str__(self) -> str:
        return ",".join(map(str, self.units))

    def channel_axis(self, rank: int) -> int:
        """The axis of channels in a tensor of this rank."""
        return rank - 1 if self.channels_last or rank < 4 else 1

    def shapes(self, shape: Sequence[int | str]) -> list[tuple[int | str, ...]]:
        """The shape before each unit, and at last the one after all of them.

        Args:
            shape: of what the head takes; axis 0 is the batch, sizes may be symbolic.

        Raises:
            UsageError: a unit that does not take such a tensor.
        """
        shapes = [tuple(shape)]
        for unit in self.units:
            shapes.append(self._after(unit, shapes[-1]))
        return shapes

    def _after(self, unit: Unit, shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
        rank = len(shape)
        axis = self.channel_axis(rank)
        if unit.kind == "flatten":
            sizes = shape[1:]
            if not all(isinstance(size, int) for size in sizes):
                raise UsageError(
                    f"flatten takes fixed sizes, got {_shown(shape)}",
                    hint="gap takes images and sequences of any size",
                )
            return (shape[0], math.prod(size for size in sizes if isinstance(size, int)))
        if unit.kind in _POOLS:
            if rank < 3:
                raise UsageError(f"{unit.kind} takes images or sequences, got {_shown(shape)}")
            return (shape[0], shape[axis])
        if unit.kind == "dense":
            if rank > 3 and not self.channels_last:
                raise UsageError(
                    f"dense takes features, got {_shown(shape)} with its channels first",
                    hint="flatten or gap before it, or conv1x1 instead",
                )
            axis = rank - 1
        elif unit.kind == "conv1x1" and rank < 3:
            raise UsageError(f"conv1x1 takes images or sequences, got {_shown(shape)}", hint="dense instead")
        if (unit.size or unit.kind == "batchnorm") and not isinstance(shape[axis], int):
            raise UsageError(f"{unit} takes a fixed number of channels, got {_shown(shape)}")
        return tuple(unit.size if unit.size and i == axis else size for i, size in enumerate(shape))

    def onto(
        self, shape: Sequence[int | str], *, channels_last: bool | None, usual: bool, seed: int = 0
    ) -> Head:
        """This head for a tensor of this shape: with initial weights if it has none, else laid out for it.

        Initial kernels are drawn uniformly as Glorot and Bengio have it (2010, "Understanding the difficulty
        of training deep feedforward neural networks", eq. 16), the same in every framework; biases are 0.

        Args:
            shape: of what the head takes; axis 0 is the batch.
            channels_last: where the channels are; None for where they usually are.
            usual: where the source's framework has them.
            seed: of the initial weights.

        Raises:
            UsageError: a unit that does not take such a tensor, weights that do not fit, or a shape that
                looks as if the channels were not where they usually are.
        """
        last = usual if channels_last is None else channels_last
        if channels_last is None and len(shape) == 4 and _looks_otherwise(shape, usual):
            raise UsageError(
                f"{_shown(shape)} looks as if its channels were {'first' if usual else 'last'}, "
                f"and in models of this kind they are {'last' if usual else 'first'} as a rule",
                hint="--channels first or --channels last says where they are",
            )
        if not self.weights:
            return dataclasses.replace(self, channels_last=last)._initialised(shape, seed)
        head = self
        if last != self.channels_last and len(shape) > 3:
            own = (
                (shape[0], *shape[2:], shape[1])
                if self.channels_last
                else (shape[0], shape[-1], *shape[1:-1])
            )
            head = self.laid_out(own, channels_last=last)
        for name, inputs in head._inputs(shape):
            if name in head.weights and len(head.weights[name]) != inputs:
                raise UsageError(
                    f"{name} of the head takes {len(head.weights[name])} features, and here are {inputs}"
                )
        return dataclasses.replace(head, channels_last=last)

    def _inputs(self, shape: Sequence[int | str]) -> list[tuple[str, int]]:
        """The kernels, and how many features each takes."""
        found = []
        for unit, before in zip(self.units, self.shapes(shape), strict=False):
            if unit.size:
                axis = len(before) - 1 if unit.kind == "dense" else self.channel_axis(len(before))
                found.append((f"{unit.name}.kernel", int(before[axis])))
            elif unit.kind == "batchnorm":
                found.append((f"{unit.name}.gamma", int(before[self.channel_axis(len(before))])))
        return found

    def _initialised(self, shape: Sequence[int | str], seed: int) -> Head:
        rng = np.random.default_rng(seed)
        sizes = {unit.name: unit.size for unit in self.units}
        weights: dict[str, Array] = {}
        for name, inputs in self._inputs(shape):
            unit, _, part = name.rpartition(".")
            if part == "gamma":
                for field, value in (("gamma", 1), ("beta", 0), ("mean", 0), ("variance", 1)):
                    weights[f"{unit}.{field}"] = np.full(inputs, value, np.float32)
                continue
            limit = math.sqrt(6 / (inputs + sizes[unit]))
            weights[name] = rng.uniform(-limit, limit, (inputs, sizes[unit])).astype(np.float32)
            weights[f"{unit}.bias"] = np.zeros(sizes[unit], np.float32)
        return dataclasses.replace(self, weights=weights)

    def laid_out(self, shape: Sequence[int | str], *, channels_last: bool) -> Head:
        """The same function for a tensor whose channels stand elsewhere.

        Rows of the kernel that reads a flattened tensor are put in the order in which the other layout has
        its features; nothing else changes.

        Args:
            shape: of the tensor as this head takes it now.
            channels_last: how it stands then.
        """
        head = dataclasses.replace(self, channels_last=channels_last)
        if channels_last == self.channels_last or len(shape) < 4:
            return head
        weights = dict(self.weights)
        for number, (unit, before) in enumerate(zip(self.units, self.shapes(shape), strict=False)):
            if unit.kind != "flatten" or len(before) < 4:
                continue
            places = np.arange(math.prod(int(size) for size in before[1:]))
            here = places.reshape([int(size) for size in before[1:]])
            order = np.moveaxis(here, 0, -1) if channels_last else np.moveaxis(here, -1, 0)
            for reader in self.units[number + 1 :]:
                for name in (
                    f"{reader.name}.{part}" for part in ("kernel", "gamma", "beta", "mean", "variance")
                ):
                    if name in weights:
                        weights[name] = weights[name][order.ravel()]
                if reader.size:
                    break
            break
        return dataclasses.replace(head, weights=weights)

    def run(self, x: Array) -> Array:
        """What the head makes of an array, computed in float64, as float32."""
        value = np.asarray(x, np.float64)
        for unit in self.units:
            value = self._run(unit, value)
        return value.astype(np.float32)

    def _run(self, unit: Unit, x: Array) -> Array:
        axis = self.channel_axis(x.ndim)
        if unit.kind == "flatten":
            return x.reshape(len(x), -1)
        if unit.kind in _POOLS:
            return np.asarray(_POOLS[unit.kind](x, axis=tuple(i for i in range(1, x.ndim) if i != axis)))
        if unit.kind == "batchnorm":
            gamma, beta, mean, variance = (
                self.weights[f"{unit.name}.{part}"] for part in ("gamma", "beta", "mean", "variance")
            )
            last = np.moveaxis(x, axis, -1)
            scaled = (last - mean) / np.sqrt(variance.astype(np.float64) + EPSILON) * gamma + beta
            return np.moveaxis(scaled, -1, axis)
        if unit.size:
            if unit.kind == "dense":
                axis = x.ndim - 1
            kernel, bias = (self.weights[f"{unit.name}.{part}"] for part in ("kernel", "bias"))
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ kernel.astype(np.float64) + bias, -1, axis)
        name = unit.activation if unit.size else unit.kind
        return ACTIVATIONS[name](x, axis) if name in ACTIVATIONS else x


def _relu(x: Array, axis: int) -> Array:  # noqa: ARG001  # an activation's arguments
    return np.maximum(x, 0)


def _gelu(x: Array, axis: int) -> Array:  # noqa: ARG001
    return np.asarray(x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))) / 2)


def _sigmoid(x: Array, axis: int) -> Array:  # noqa: ARG001
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def _tanh(x: Array, axis: int) -> Array:  # noqa: ARG001
    return np.asarray(np.tanh(x))


def _softmax(x: Array, axis: int) -> Array:
    exp = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(exp / exp.sum(axis=axis, keepdims=True))


# Activation → what it computes of (array, axis of channels).
ACTIVATIONS: Mapping[str, Callable[[Array, int], Array]] = {
    "relu": _relu,
    "gelu": _gelu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softmax": _softmax,
}


def _words(text: str) -> list[tuple[str, str | None]]:
    """The words of a head with what stands in their parentheses."""
    words = []
    place = 0
    while True:
        found = _WORD.match(text, place)
        if found is None:
            raise UsageError(f"head {text!r}: expected a layer at {text[place:][:20]!r}", hint=_EXPECTED)
        words.append((found[1], found[2]))
        place = found.end()
        if place == len(text):
            return words
        if text[place] != ",":
            raise UsageError(f"head {text!r}: expected a comma at {text[place:][:20]!r}", hint=_EXPECTED)
        place += 1


def _unit(text: str, name: str, word: str, inside: str | None) -> Unit:
    given = [] if inside is None else [part.strip() for part in inside.split(",")]
    if word in _SIZED and 1 <= len(given) <= 2:
        activation = given[1] if len(given) == 2 else "linear"
        if given[0].isascii() and given[0].isdigit() and 0 < int(given[0]) < 1 << 31:
            if activation in (*ACTIVATIONS, "linear"):
                return Unit(name, word, size=int(given[0]), activation=activation)
            raise UsageError(f"head {text!r}: no activation {activation!r}", hint=_EXPECTED)
    elif word == "dropout" and len(given) == 1 and re.fullmatch(r"0|0?\.\d+", given[0]):
        return Unit(name, word, rate=float(given[0]))
    elif word in ("flatten", "batchnorm", *_POOLS, *ACTIVATIONS) and inside is None:
        return Unit(name, word)
    said = word if inside is None else f"{word}({inside})"
    raise UsageError(f"head {text!r}: {said!r} is no layer", hint=_EXPECTED)


def _looks_otherwise(shape: Sequence[int | str], channels_last: bool) -> bool:
    """Whether it is the other two of the three axes that are alike, as height and width are as a rule."""
    first, second, third = shape[1:]
    return first != second == third if channels_last else first == second != third


def _shown(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
