"""Layers folded by the blocks that their names tell of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from converter.report.chart import ChartLayer

__all__ = ["Block", "fold"]

# What the name of a layer begins with in a block that has a number: `block1_` of `block1_conv1`,
# `conv2_`, then `conv2_block1_`, of `conv2_block1_1_conv`, `block_3_` of `block_3_expand`.
_NUMBERED = re.compile(r"[^\W\d]+\d+[^\W_]{0,2}_|[^\W\d_]+_\d+_")

# Blocks inside one another at most: a hostile name is one letter and a thousand slashes.
_DEEPEST = 12


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers that hang together by their names and follow one another.

    Attributes:
        name: what they have in common.
        parts: blocks, and places of layers in the chart.
        own: the place of the layer that holds the others, where the source has one.
    """

    name: str
    parts: tuple[Block | int, ...]
    own: int | None = None

    def places(self) -> Iterator[int]:
        """The places of all layers inside, without those that hold others."""
        for part in self.parts:
            if isinstance(part, Block):
                yield from part.places()
            else:
                yield part


def fold(layers: Sequence[ChartLayer]) -> tuple[Block | int, ...]:
    """The layers in their order, those of a block that follow one another as one."""
    paths = [(*_around(layer), layer.name) for layer in layers]
    return _folded(paths, range(len(layers)), 0)


def _folded(paths: Sequence[tuple[str, ...]], places: Sequence[int], level: int) -> tuple[Block | int, ...]:
    parts: list[Block | int] = []
    for name, run in groupby(places, key=lambda place: paths[place][level]):
        some = list(run)
        inner = [place for place in some if len(paths[place]) > level + 1]
        if not inner:
            parts += some
            continue
        own = [place for place in some if len(paths[place]) == level + 1]
        inside = _folded(paths, inner, level + 1)
        if len(inside) == 1 and not own:
            parts += inside  # a block of one part says nothing that the part does not
        else:
            label = name if own else name.removesuffix("_")
            parts.append(Block(label, (*inside, *own[:-1]), own[-1] if own else None))
    return tuple(parts)


def _around(layer: ChartLayer) -> tuple[str, ...]:
    """Names of the blocks that a layer is in, outermost first."""
    if layer.around:
        return layer.around[:_DEEPEST]
    ends = [end for end, letter in enumerate(layer.name) if letter in "/." and end][:_DEEPEST]
    found = [layer.name[:end] for end in ends]
    start = ends[-1] + 1 if ends else 0
    while True:
        match = _NUMBERED.match(layer.name, start)
        if match is None or match.end() == len(layer.name) or len(found) >= _DEEPEST:
            return tuple(found)
        start = match.end()
        found.append(layer.name[:start])  # not the name of a layer `block1`, which would not hold the others
