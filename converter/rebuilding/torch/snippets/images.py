"""Pooling, resizing and sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def pad_same(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], upper: bool = True
) -> Tensor:
    """Zeros around an image, so that a convolution puts out ceil(size / stride) places."""
    pairs: list[int] = []
    for size, width, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        whole = (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size
        whole = max(whole, 0)
        less = whole // 2
        pairs = [less, whole - less, *pairs] if upper else [whole - less, less, *pairs]
    return F.pad(x, pairs)


def windows(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil: bool,
    value: float,
) -> Tensor:
    """What each window sees: [batch, channels, *places, *kernel]; beyond the padding there are zeros."""
    count = len(kernel)
    pairs: list[int] = []
    beyond: list[int] = []
    for i in reversed(range(count)):
        before, after = pads[i], pads[i + count]
        reach = dilations[i] * (kernel[i] - 1) + 1
        if ceil:
            left = (x.shape[i + 2] + before + after - reach) % strides[i]
            last = x.shape[i + 2] + before + after - left - reach + strides[i]
            beyond += [0, strides[i] - left if left and last < x.shape[i + 2] + before else 0]
        pairs += [before, after]
    x = F.pad(F.pad(x, pairs, value=value), beyond)
    for i in range(count):
        x = x.unfold(i + 2, dilations[i] * (kernel[i] - 1) + 1, strides[i])[..., :: dilations[i]]
    return x


def average_pool(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil: bool = False,
    counted: bool = False,
) -> Tensor:
    """The mean of each window, of its padding too where that is counted."""
    over = list(range(-len(kernel), 0))
    total = windows(x, kernel, strides, pads, dilations, ceil, 0.0).sum(over)
    ones = torch.ones_like(x[:1, :1])
    return total / windows(ones, kernel, strides, pads, dilations, ceil, float(counted)).sum(over)


def lp_pool(
    x: Tensor,
    order: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil: bool = False,
) -> Tensor:
    """The norm of each window."""
    seen = windows(x, kernel, strides, pads, dilations, ceil, 0.0)
    return torch.linalg.vector_norm(seen, order, list(range(-len(kernel), 0)))


def with_flat_indices(
    x: Tensor, pooled: tuple[Tensor, Tensor], columns: bool = False
) -> tuple[Tensor, Tensor]:
    """Pooled values with places that count through the whole input; by columns where asked for."""
    values, places = pooled
    size = math.prod(x.shape[2:])
    if columns:
        height, width = x.shape[2:]
        places = places // width + places % width * height
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * size
    return values, places + planes.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def max_unpool(
    x: Tensor,
    places: Tensor,
    shape: Sequence[int] | None,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
) -> Tensor:
    """Values put back where max-pooling found them, and zeros elsewhere."""
    count = len(kernel)
    inner = [(x.shape[i + 2] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + count] for i in range(count)]
    sizes = [*x.shape[:2], *inner]
    flat = torch.zeros(math.prod(sizes), dtype=x.dtype, device=x.device)
    y = flat.scatter(0, places.flatten(), x.flatten()).reshape(sizes)
    if shape is not None and list(shape) != sizes:
        pairs = [
            p for have, want in zip(reversed(sizes), reversed(shape), strict=True) for p in (0, want - have)
        ]
        y = F.pad(y, pairs)
    return y


def roi_align(
    x: Tensor,
    rois: Tensor,
    batches: Tensor,
    size: tuple[int, int],
    samples: int,
    scale: float,
    half: bool = True,
    maximum: bool = False,
) -> Tensor:
    """Each region of interest at one size (He et al. 2017, arXiv:1703.06870)."""
    found = []
    for roi, batch in zip(rois, batches, strict=True):
        x1, y1, x2, y2 = (float(edge) * scale - (0.5 if half else 0.0) for edge in roi)
        extents = (y2 - y1, x2 - x1) if half else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        rows, columns = (
            _bins(start, extent, count, samples, x)
            for start, extent, count in zip((y1, x1), extents, size, strict=True)
        )
        (row_low, row_high, row_part, row_in), (low, high, part, inside) = (
            _neighbours(places, length) for places, length in zip((rows, columns), x.shape[2:], strict=True)
        )
        image = x[int(batch)]
        corners = [
            (image[:, a][:, :, b] * p[:, None] * q)
            for a, p in ((row_low, 1 - row_part), (row_high, row_part))
            for b, q in ((low, 1 - part), (high, part))
        ]
        mask = (row_in[:, None] & inside).to(x.dtype)
        shape = (x.shape[1], size[0], len(rows) // size[0], size[1], len(columns) // size[1])
        parts = torch.stack([(corner * mask).reshape(shape) for corner in corners])
        found.append(parts.amax(0).amax((2, 4)) if maximum else parts.sum(0).mean((2, 4)))
    return torch.stack(found) if found else x.new_zeros(0, x.shape[1], *size)


def _bins(start: float, extent: float, count: int, samples: int, x: Tensor) -> Tensor:
    """Places at which the bins of an axis are sampled."""
    width = extent / count
    each = samples if samples > 0 else math.ceil(width)
    places = torch.arange(count * each, device=x.device, dtype=x.dtype)
    return start + (places // each) * width + (places % each + 0.5) * width / each


def _neighbours(places: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels beside places, how near the later one is, and whether the place is in the image."""
    inside = (places >= -1) & (places <= size)
    places = places.clamp(0, size - 1)
    low = places.floor().long()
    return low, (low + 1).clamp(max=size - 1), places - low, inside


def resize(
    x: Tensor,
    axes: Sequence[int],
    mode: str,
    transform: str,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    nearest_mode: str = "round_prefer_floor",
    a: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
    roi: Sequence[tuple[float, float]] | None = None,
    extrapolation: float = 0.0,
    policy: str = "stretch",
) -> Tensor:
    """Interpolation along axes, one after the other, by ONNX's rules."""
    have = [x.shape[axis] for axis in axes]
    if sizes is not None and policy != "stretch":
        ratios = [want / size for want, size in zip(sizes, have, strict=True)]
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        sizes, scales = [math.floor(ratio * size + 0.5) for size in have], [ratio] * len(have)
    elif sizes is not None:
        scales = [want / size for want, size in zip(sizes, have, strict=True)]
    else:
        assert scales is not None
        edges = roi if roi is not None else [(0.0, 1.0)] * len(axes)
        spans = [e - s if transform == "tf_crop_and_resize" else 1.0 for s, e in edges]
        sizes = [math.floor(n * f * p) for n, f, p in zip(have, scales, spans, strict=True)]
    assert scales is not None
    y, outside = x, []
    for i, axis in enumerate(axes):
        start, end = roi[i] if roi is not None else (0.0, 1.0)
        places = _places(have[i], sizes[i], scales[i], transform, start, end).to(x.device)
        if mode == "nearest":
            weights = _nearest(places, have[i], nearest_mode)
        else:
            weights = _weights(places, have[i], scales[i], mode, a, exclude_outside, antialias)
        y = (y.movedim(axis, -1) @ weights.to(x.dtype).T).movedim(-1, axis)
        shape = [1] * x.ndim
        shape[axis] = -1
        outside.append(((places < 0) | (places > have[i] - 1)).reshape(shape))
    if transform == "tf_crop_and_resize":
        for mask in outside:
            y = torch.where(mask, torch.full_like(y, extrapolation), y)
    return y


def _places(have: int, want: int, scale: float, transform: str, start: float, end: float) -> Tensor:
    """Where each new element lies among the old ones."""
    new = torch.arange(want, dtype=torch.float64)
    if transform == "align_corners":
        length = scale * have
        return new * (have - 1) / (length - 1) if length > 1 else new * 0
    if transform == "asymmetric":
        return new / scale
    if transform == "tf_crop_and_resize":
        if want > 1:
            return start * (have - 1) + new * (end - start) * (have - 1) / (want - 1)
        return new * 0 + (start + end) * (have - 1) / 2
    if transform == "pytorch_half_pixel" and scale * have <= 1:
        return new * 0 - 0.5
    if transform == "half_pixel_symmetric":
        adjusted = want / (scale * have)
        return have / 2 * (1 - adjusted) + (new + 0.5) / scale - 0.5
    return (new + 0.5) / scale - 0.5


def _nearest(places: Tensor, have: int, rounding: str) -> Tensor:
    """The matrix that takes the nearest element."""
    index = {
        "floor": torch.floor(places),
        "ceil": torch.ceil(places),
        "round_prefer_floor": torch.ceil(places - 0.5),
        "round_prefer_ceil": torch.floor(places + 0.5),
    }[rounding]
    return F.one_hot(index.long().clamp(0, have - 1), have).to(places.dtype)


def _weights(
    places: Tensor, have: int, scale: float, mode: str, a: float, exclude: bool, antialias: bool
) -> Tensor:
    """The matrix that interpolates."""
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / stretch)
    taps = torch.floor(places)[:, None] + torch.arange(1 - reach, reach + 1, device=places.device)
    t = ((places[:, None] - taps) * stretch).abs()
    if mode == "linear":
        values = (1 - t).clamp(min=0)
    else:
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        values = torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    if exclude:
        values = torch.where((taps < 0) | (taps > have - 1), torch.zeros_like(values), values)
    if exclude or antialias:
        values = values / values.sum(1, keepdim=True)
    matrix = torch.zeros(len(places), have, dtype=values.dtype, device=places.device)
    return matrix.scatter_add(1, taps.long().clamp(0, have - 1), values)
