"""Taking and putting elements, shapes, reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def target_shape(x: Tensor, target: Tensor) -> list[int]:
    """Sizes in which a zero stands for the size that the tensor has there."""
    return [x.shape[i] if size == 0 else size for i, size in enumerate(target.tolist())]


def expand_to(x: Tensor, target: Sequence[int]) -> Tensor:
    """The tensor broadcast with a shape; a one leaves an axis as it is."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(target)))


def eye_like(x: Tensor, diagonal: int, dtype: torch.dtype | None = None) -> Tensor:
    """Ones on a diagonal."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == diagonal).to(dtype or x.dtype)


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """Channels to pixels, the place in a block being the slower part of a channel's number."""
    n, c, h, w = x.shape
    y = x.reshape(n, block, block, c // block**2, h, w)
    return y.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """Pixels to channels, the place in a block being the slower part of a channel's number."""
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block)
    return y.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def center_crop_pad(x: Tensor, sizes: Sequence[int], axes: Sequence[int] | None = None) -> Tensor:
    """The middle of the tensor along axes, or the tensor in the middle of zeros."""
    for axis, size in zip(range(x.ndim) if axes is None else axes, sizes, strict=True):
        have = x.shape[axis]
        if have > size:
            x = x.narrow(axis, (have - size) // 2, size)
        elif have < size:
            before = (size - have) // 2
            after = (0, 0) * (x.ndim - 1 - axis % x.ndim)
            x = F.pad(x, (*after, before, size - have - before))
    return x


def reverse_sequence(x: Tensor, lengths: Tensor, time: int, batch: int) -> Tensor:
    """The first elements of each sequence in reverse."""
    y = x.movedim((batch, time), (0, 1))
    places = torch.arange(y.shape[1], device=x.device)
    index = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    rows = torch.arange(y.shape[0], device=x.device)[:, None]
    return y[rows, index].movedim((0, 1), (batch, time))


def pad_by_index(x: Tensor, pads: Sequence[int], mode: str) -> Tensor:
    """Padding with what is in the tensor: `reflect`, `edge` or `wrap`; negative padding cuts off."""
    for axis in range(x.ndim):
        size = x.shape[axis]
        places = torch.arange(-pads[axis], size + pads[axis + x.ndim], device=x.device)
        if mode == "edge":
            places = places.clamp(0, size - 1)
        elif mode == "wrap":
            places = places % size
        else:
            period = max(2 * (size - 1), 1)
            places = places % period
            places = torch.where(places >= size, period - places, places)
        x = x.index_select(axis, places)
    return x


def gather_elements(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """Elements along an axis; a negative index counts from the end."""
    index = index.long()
    return x.gather(axis, torch.where(index < 0, index + x.shape[axis], index))


def gather_nd(x: Tensor, index: Tensor, batch_dims: int = 0) -> Tensor:
    """Slices at places given by the last axis of the index."""
    rows: list[Tensor] = []
    for axis in range(batch_dims):
        shape = [1] * (index.ndim - 1)
        shape[axis] = -1
        rows.append(torch.arange(x.shape[axis], device=x.device).reshape(shape))
    return x[(*rows, *index.long().unbind(-1))]


def scatter_elements(x: Tensor, axis: int, index: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    """Elements put along an axis; a negative index counts from the end."""
    index = index.long()
    index = torch.where(index < 0, index + x.shape[axis], index)
    if reduction == "none":
        return x.scatter(axis, index, updates)
    how = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}[reduction]
    return x.scatter_reduce(axis, index, updates, how)


def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    """Slices put at places given by the last axis of the index."""
    depth = index.shape[-1]
    places = index.long().reshape(-1, depth)
    flat = torch.zeros(places.shape[0], dtype=torch.long, device=x.device)
    for axis in range(depth):
        place = places[:, axis]
        flat = flat * x.shape[axis] + torch.where(place < 0, place + x.shape[axis], place)
    rows = x.reshape(-1, *x.shape[depth:])
    values = updates.reshape(-1, *x.shape[depth:])
    if reduction == "none":
        return rows.index_copy(0, flat, values).reshape(x.shape)
    if reduction == "add":
        return rows.index_add(0, flat, values).reshape(x.shape)
    how = {"mul": "prod", "min": "amin", "max": "amax"}[reduction]
    return rows.index_reduce(0, flat, values, how).reshape(x.shape)


def tensor_scatter(
    past: Tensor, update: Tensor, start: Tensor | None, axis: int, circular: bool = False
) -> Tensor:
    """A cache with an update written into it, for each sample from its own place on."""
    axis = axis % past.ndim
    length = update.shape[axis]
    places = torch.arange(length, device=past.device)[None].expand(past.shape[0], -1)
    if start is not None:
        places = places + start[:, None]
    if circular:
        places = places % past.shape[axis]
    shape = [1] * past.ndim
    shape[0], shape[axis] = past.shape[0], length
    return past.scatter(axis, places.reshape(shape).expand(update.shape), update)


def compress(x: Tensor, condition: Tensor, axis: int | None = None) -> Tensor:
    """The slices for which a condition holds."""
    if axis is None:
        x, axis = x.flatten(), 0
    return x.index_select(axis, condition.nonzero().flatten())


def one_hot(index: Tensor, depth: float, values: Tensor, axis: int) -> Tensor:
    """One value at each index, another one elsewhere."""
    count = int(depth)
    classes = torch.arange(count, device=index.device)
    place = axis % (index.ndim + 1)
    shape = [1] * (index.ndim + 1)
    shape[place] = count
    index = torch.where(index < 0, index + count, index).long()  # what is out of range is off everywhere
    hot = index.unsqueeze(place) == classes.reshape(shape)
    return torch.where(hot, values[1], values[0])


def top_k(x: Tensor, count: int, axis: int, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The largest or smallest elements and their places; of equal ones the first comes first."""
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def unique(x: Tensor, axis: int | None = None, ordered: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Different elements or slices: they, where each is first, which one each element is, how many."""
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    inverse = inverse.flatten()
    places = torch.arange(inverse.numel(), device=x.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if not ordered:
        order = first.argsort()
        back = torch.empty_like(order).scatter(0, order, torch.arange(order.numel(), device=x.device))
        values = values.index_select(0 if axis is None else axis, order)
        first, counts, inverse = first[order], counts[order], back[inverse]
    return values, first, inverse, counts


def product(x: Tensor, axes: Sequence[int], keepdim: bool = False) -> Tensor:
    """The product along several axes."""
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def extreme(x: Tensor, axes: Sequence[int], kind: str, keepdim: bool = False) -> Tensor:
    """The largest or smallest elements; of no elements at all, an infinity."""
    value = float("-inf") if kind == "amax" else float("inf")
    axes = [axis % x.ndim for axis in axes]
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    y = torch.full(sizes, value, dtype=x.dtype, device=x.device)
    return y if keepdim else y.reshape([size for axis, size in enumerate(x.shape) if axis not in axes])


def cumulative(x: Tensor, axis: int, function: Any, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """A running sum or product, without the element itself or from the end where asked for."""
    if reverse:
        x = x.flip(axis)
    if exclusive:
        start = torch.zeros_like if function is torch.cumsum else torch.ones_like
        x = torch.cat([start(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    y = function(x, axis)
    return y.flip(axis) if reverse else y


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: int,
    overlap: float,
    least: float | None = None,
    center: bool = False,
) -> Tensor:
    """Batch, class and box of the boxes that are kept, the best of each class first."""
    if center:
        x, y, w, h = boxes.unbind(-1)
        boxes = torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
    area = (high - low).prod(-1)
    found = []
    for batch in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            kept: list[int] = []
            for box in scores[batch, label].argsort(descending=True, stable=True).tolist():
                if len(kept) >= most or (least is not None and scores[batch, label, box] <= least):
                    break
                shared = torch.minimum(high[batch, box], high[batch, kept])
                shared = (shared - torch.maximum(low[batch, box], low[batch, kept])).clamp(min=0).prod(-1)
                ratio = shared / (area[batch, box] + area[batch, kept] - shared)
                if bool((ratio <= overlap).all()):
                    kept.append(box)
            found += [(batch, label, box) for box in kept]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)
