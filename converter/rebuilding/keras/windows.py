"""Windows that slide over a tensor: their borders in ONNX's terms and in Keras's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from keras import layers, ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder
from converter.rebuilding.keras.operands import batched

__all__ = ["Windows", "first_and_last", "shifted", "windows", "zero_padded"]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows over the inner axes of a channels-last tensor.

    Attributes:
        kernel: their sizes.
        strides: their distances.
        dilations: the distances of the elements in one.
        pads: what is put before and behind each axis; behind it also what `ceil_mode` asks for.
        stated: the same without what `ceil_mode` asks for.
        same: whether these are the borders of TensorFlow's SAME.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    stated: tuple[tuple[int, int], ...]
    same: bool

    @property
    def padding(self) -> str:
        """Keras's word, where it has one."""
        return "same" if self.same and any(map(any, self.pads)) else "valid"

    def counts(self, sizes: Sequence[int | None]) -> list[int]:
        """How many windows there are along each axis of known size."""
        return [
            (int(n or 0) + lo + hi - (k - 1) * d - 1) // s + 1
            for n, (lo, hi), k, d, s in zip(
                sizes, self.pads, self.kernel, self.dilations, self.strides, strict=True
            )
        ]


def _same(n: int | None, extent: int, stride: int) -> tuple[int, int] | None:
    """TensorFlow's borders for SAME; None where they depend on a size that is not known."""
    if n is None and stride > 1:
        return None
    total = max(extent - 1 if n is None else (-(-n // stride) - 1) * stride + extent - n, 0)
    return total // 2, total - total // 2


def windows(node: Node, sizes: Sequence[int | None], kernel: Sequence[int]) -> Windows:
    """The windows that a node's attributes describe.

    Args:
        node: a convolution or pooling.
        sizes: of the inner axes.
        kernel: the windows' sizes.

    Raises:
        Unsupported: its borders depend on sizes that are not known.
    """
    rank = len(kernel)
    strides = tuple(int(n) for n in node.attribute("strides", None) or [1] * rank)
    dilations = tuple(int(n) for n in node.attribute("dilations", None) or [1] * rank)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = str(node.attribute("auto_pad", "NOTSET") or "NOTSET")
    tensorflows = [_same(n, e, s) for n, e, s in zip(sizes, extents, strides, strict=True)]
    if auto == "SAME_UPPER":
        pads = [(0, 0) if pair is None else pair for pair in tensorflows]
        if None in tensorflows:  # the word says it, whatever the size
            pads = [(0, 1)] * rank
        return Windows(tuple(kernel), strides, dilations, tuple(pads), tuple(pads), True)
    if auto == "SAME_LOWER":
        if None in tensorflows:
            raise Unsupported(node, "SAME_LOWER over axes of unknown size")
        pads = [(hi, lo) for lo, hi in tensorflows]  # type: ignore[misc]
    elif auto == "VALID":
        pads = [(0, 0)] * rank
    else:
        flat = [int(n) for n in node.attribute("pads", None) or [0] * (2 * rank)]
        pads = list(zip(flat[:rank], flat[rank:], strict=True))
    stated = tuple(pads)
    if node.attribute("ceil_mode", 0):
        pads = [
            _ceiled(node, n, pair, e, s) for n, pair, e, s in zip(sizes, pads, extents, strides, strict=True)
        ]
    same = pads == tensorflows
    return Windows(tuple(kernel), strides, dilations, tuple(pads), stated, same)


def _ceiled(node: Node, n: int | None, pair: tuple[int, int], extent: int, stride: int) -> tuple[int, int]:
    """The borders with which the last window that starts on data, or before it, is whole."""
    lo, hi = pair
    if n is None:
        if stride == 1:
            return pair
        raise Unsupported(node, "ceil_mode over an axis of unknown size")
    count = -(-(n + lo + hi - extent) // stride) + 1
    if (count - 1) * stride >= n + lo:
        count -= 1
    return lo, max((count - 1) * stride + extent - n - lo, hi)


def zero_padded(builder: Builder, node: Node, x: Any, pads: Sequence[tuple[int, int]]) -> Any:
    """x with zeros around its inner axes."""
    if not any(map(any, pads)):
        return x
    if any(n < 0 for pair in pads for n in pair):
        raise Unsupported(node, f"its pads are negative: {list(pads)}")
    if not batched(x):
        return ops.pad(x, [(0, 0), *pads, (0, 0)])
    make = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)[len(pads) - 1]
    padding = tuple(pads[0]) if len(pads) == 1 else tuple(map(tuple, pads))
    return builder.simple(node, make, x, suffix="pad", padding=padding)


def shifted(x: Any, w: Windows) -> Iterator[Any]:
    """For each place in a window: that element of all windows of a padded channels-last tensor."""
    counts = [
        (int(n) - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(x.shape[1:-1], w.kernel, w.dilations, w.strides, strict=True)
    ]
    for place in product(*map(range, w.kernel)):
        cuts = [
            slice(p * d, p * d + (c - 1) * s + 1, s)
            for p, d, c, s in zip(place, w.dilations, counts, w.strides, strict=True)
        ]
        yield ops.get_item(x, (slice(None), *cuts))


def first_and_last(node: Node, x: Any) -> tuple[Any, bool]:
    """x with its channels last, and whether the answer has to be turned back."""
    if node.channels_last:
        return x, False
    rank = len(x.shape)
    return ops.transpose(x, (0, *range(2, rank), 1)), True
