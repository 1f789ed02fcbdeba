"""Modules, normalizations and activations that PyTorch has no word for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Block(nn.Module):  # type: ignore[misc]
    """Layers and tensors under one name."""

    def __init__(self, **members: nn.Module | Tensor) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)

    def __getitem__(self, name: int) -> nn.Module:
        return getattr(self, str(name))


def fixed(module: nn.Module, *names: str, persistent: bool = False) -> nn.Module:
    """The module with tensors that are no weights: training leaves them as they are."""
    for name in names:
        value = getattr(module, name).detach()
        delattr(module, name)
        module.register_buffer(name, value, persistent=persistent)
    return module


def shrink(x: Tensor, limit: float, bias: float) -> Tensor:
    """Zero between -limit and limit, elsewhere nearer to zero by the bias."""
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


def layer_norm_over(x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float) -> Tensor:
    """Layer normalization over the axes from one on, with weights that broadcast."""
    return layer_norm_with_statistics(x, scale, bias, axis, eps)[0]


def layer_norm_with_statistics(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalization, the means and the inverse deviations."""
    over = list(range(axis, 0))
    mean = x.mean(over, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(over, keepdim=True) + eps)
    y = (x - mean) * inverse * scale
    return y if bias is None else y + bias, mean, inverse


def rms_norm_over(x: Tensor, scale: Tensor, axis: int, eps: float) -> Tensor:
    """Division by the root of the mean square over the axes from one on."""
    return x * torch.rsqrt(x.square().mean(list(range(axis, 0)), keepdim=True) + eps) * scale


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Local response normalization with the longer half of an even window after each channel."""
    channels = x.shape[1]
    before = (size - 1) // 2
    padded = F.pad(x.square(), (0, 0) * (x.ndim - 2) + (before, size - 1 - before))
    total = sum(padded[:, i : i + channels] for i in range(size))
    return x / (k + alpha / size * total) ** beta


def mean_variance_norm(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Zero mean and unit variance along axes."""
    mean = x.mean(axes, keepdim=True)
    variance = x.square().mean(axes, keepdim=True) - mean.square()
    return (x - mean) / (variance.sqrt() + 1e-9)


def lp_norm(x: Tensor, order: int, axis: int) -> Tensor:
    """Division by the norm along an axis; zeros stay zeros."""
    norm = torch.linalg.vector_norm(x, order, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first largest element along an axis, else zero."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, activate: bool = False
) -> tuple[Tensor, Tensor]:
    """A convolution of each channel that sees the past alone, and what it needs of it next."""
    width = weight.shape[2] - 1
    x = F.pad(x, (width, 0)) if past is None else torch.cat([past, x], 2)
    y = F.conv1d(x, weight, bias, groups=weight.shape[0])
    return F.silu(y) if activate else y, x[:, :, x.shape[2] - width :]


def deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """A convolution that reads at places that are computed (Dai et al. 2017, arXiv:1703.06211)."""
    count, channels, height, width = x.shape
    rows, columns = weight.shape[2:]
    out_h, out_w = offset.shape[2:]
    offset = offset.reshape(count * offset_groups, rows * columns, 2, out_h, out_w)
    grid_y = torch.arange(rows, device=x.device).repeat_interleave(columns) * dilations[0] - pads[0]
    grid_x = torch.arange(columns, device=x.device).repeat(rows) * dilations[1] - pads[1]
    start_y = torch.arange(out_h, device=x.device) * strides[0]
    start_x = torch.arange(out_w, device=x.device) * strides[1]
    place_y = grid_y[:, None, None] + start_y[:, None] + offset[:, :, 0]
    place_x = grid_x[:, None, None] + start_x + offset[:, :, 1]
    grid = torch.stack([(2 * place_x + 1) / width - 1, (2 * place_y + 1) / height - 1], -1)
    parts = x.reshape(count * offset_groups, channels // offset_groups, height, width)
    read = F.grid_sample(parts, grid.flatten(1, 2), align_corners=False)
    read = read.reshape(count, offset_groups, channels // offset_groups, rows * columns, out_h, out_w)
    if mask is not None:
        read = read * mask.reshape(count, offset_groups, 1, rows * columns, out_h, out_w)
    read = read.reshape(count, groups, channels // groups, rows * columns, out_h, out_w)
    kernel = weight.reshape(groups, -1, channels // groups, rows * columns)
    y = torch.einsum("ngckhw,gock->ngohw", read, kernel).flatten(1, 2)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def col2im(
    x: Tensor,
    image: Sequence[int],
    block: Sequence[int],
    pads: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Tensor:
    """Blocks put back where they were taken from, and added up where they overlap."""
    count = len(image)
    whole = [size + pads[i] + pads[i + count] for i, size in enumerate(image)]
    index = torch.zeros(1, 1, dtype=torch.long, device=x.device)
    for i in range(count):
        steps = (whole[i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        places = torch.arange(block[i], device=x.device)[:, None] * dilations[i]
        places = places + torch.arange(steps, device=x.device) * strides[i]
        index = index[:, None, :, None] * whole[i] + places[None, :, None, :]
        index = index.flatten(2, 3).flatten(0, 1)
    values = x.reshape(x.shape[0], -1, *index.shape).flatten(2)
    total = 1
    for size in whole:
        total *= size
    y = torch.zeros(*values.shape[:2], total, dtype=x.dtype, device=x.device)
    y = y.index_add(2, index.flatten(), values).reshape(*values.shape[:2], *whole)
    for i, size in enumerate(image):
        y = y.narrow(i + 2, pads[i], size)
    return y
