"""Recurrent layers, attention, signals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


def _flipped(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence [time, batch, ...] from its own end on."""
    if lengths is None:
        return x.flip(0)
    places = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(places < lengths, lengths - 1 - places, places)
    return x[index, torch.arange(x.shape[1], device=x.device)]


def _over_time(
    cell: Callable[[Tensor, tuple[Tensor, ...], int], tuple[Tensor, ...]],
    x: Tensor,
    start: Sequence[Tensor],
    direction: str,
    lengths: Tensor | None,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """A cell run over time in each direction: outputs [time, directions, batch, hidden], last states."""
    x = x.transpose(0, 1) if batch_first else x
    outputs, last = [], []
    for place in range(2 if direction == "bidirectional" else 1):
        backward = direction == "reverse" or place == 1
        steps = _flipped(x, lengths) if backward else x
        state = tuple(part[place] for part in start)
        found = []
        for time in range(steps.shape[0]):
            new = cell(steps[time], state, place)
            if lengths is None:
                state, shown = new, new[0]
            else:
                alive = (time < lengths)[:, None]
                state = tuple(torch.where(alive, a, b) for a, b in zip(new, state, strict=True))
                shown = torch.where(alive, new[0], torch.zeros_like(new[0]))
            found.append(shown)
        output = torch.stack(found)
        outputs.append(_flipped(output, lengths) if backward else output)
        last.append(state)
    joined = torch.stack(outputs, 1)
    states = [torch.stack(parts) for parts in zip(*last, strict=True)]
    if batch_first:
        return joined.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in states]
    return joined, states


def _start(state: Tensor | None, x: Tensor, recurrent: Tensor, batch_first: bool) -> Tensor:
    """A first state [directions, batch, hidden]."""
    if state is not None:
        return state.transpose(0, 1) if batch_first else state
    batch = x.shape[0 if batch_first else 1]
    return x.new_zeros(recurrent.shape[0], batch, recurrent.shape[2])


def _halves(bias: Tensor | None, place: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The bias of the input's and of the recurrent kernel."""
    if bias is None:
        return like.new_zeros(like.shape[1]), like.new_zeros(like.shape[1])
    first, second = bias[place].chunk(2)
    return first, second


def _clipped(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)


def lstm(
    x: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    memory: Tensor | None,
    activations: Sequence[Function],
    direction: str = "forward",
    batch_first: bool = False,
    lengths: Tensor | None = None,
    peepholes: Tensor | None = None,
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """ONNX's LSTM, its gates in the order input, output, forget, cell."""

    def cell(now: Tensor, state: tuple[Tensor, ...], place: int) -> tuple[Tensor, ...]:
        h, c = state
        f, g, k = activations[3 * place : 3 * place + 3]
        b, rb = _halves(bias, place, recurrent)
        gates = now @ kernel[place].T + h @ recurrent[place].T + b + rb
        i, o, forget, new = gates.chunk(4, -1)
        pi, po, pf = (0, 0, 0) if peepholes is None else peepholes[place].chunk(3)
        i, forget = f(_clipped(i + pi * c, clip)), f(_clipped(forget + pf * c, clip))
        c = forget * c + i * g(_clipped(new, clip))
        return f(_clipped(o + po * c, clip)) * k(c), c

    first = [_start(state, x, recurrent, batch_first) for state in (hidden, memory)]
    y, (h, c) = _over_time(cell, x, first, direction, lengths, batch_first)
    return y, h, c


def gru(
    x: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    activations: Sequence[Function],
    direction: str = "forward",
    batch_first: bool = False,
    lengths: Tensor | None = None,
    reset_after: bool = False,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """ONNX's GRU, its gates in the order update, reset, hidden."""

    def cell(now: Tensor, state: tuple[Tensor, ...], place: int) -> tuple[Tensor, ...]:
        (h,) = state
        f, g = activations[2 * place : 2 * place + 2]
        b, rb = _halves(bias, place, recurrent)
        size = h.shape[-1]
        xz, xr, xh = (now @ kernel[place].T + b).chunk(3, -1)
        gates = h @ recurrent[place][: 2 * size].T + rb[: 2 * size]
        z, r = f(_clipped(xz + gates[:, :size], clip)), f(_clipped(xr + gates[:, size:], clip))
        weight, offset = recurrent[place][2 * size :], rb[2 * size :]
        past = r * (h @ weight.T + offset) if reset_after else (r * h) @ weight.T + offset
        return ((1 - z) * g(_clipped(xh + past, clip)) + z * h,)

    first = [_start(hidden, x, recurrent, batch_first)]
    y, (h,) = _over_time(cell, x, first, direction, lengths, batch_first)
    return y, h


def rnn(
    x: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    activations: Sequence[Function],
    direction: str = "forward",
    batch_first: bool = False,
    lengths: Tensor | None = None,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """ONNX's RNN."""

    def cell(now: Tensor, state: tuple[Tensor, ...], place: int) -> tuple[Tensor, ...]:
        b, rb = _halves(bias, place, recurrent)
        new = now @ kernel[place].T + state[0] @ recurrent[place].T + b + rb
        return (activations[place](_clipped(new, clip)),)

    first = [_start(hidden, x, recurrent, batch_first)]
    y, (h,) = _over_time(cell, x, first, direction, lengths, batch_first)
    return y, h


def _run_layer(
    layer: nn.Module,
    x: Tensor,
    state: Tensor | tuple[Tensor, Tensor] | None,
    direction: str,
    batch_first: bool,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
    """A layer's outputs [time, directions, batch, hidden] and its last states."""
    time = 1 if batch_first else 0
    if direction == "reverse":
        x = x.flip(time)
    if lengths is not None:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first, enforce_sorted=False)
        y, last = layer(packed, state)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first, total_length=x.shape[time])
    else:
        y, last = layer(x, state)
    y = y.unflatten(-1, (2 if direction == "bidirectional" else 1, -1))
    y = y.flip(time) if direction == "reverse" else y
    return y if batch_first else y.transpose(1, 2), last


def _state(state: Tensor | None, batch_first: bool) -> Tensor | None:
    return state.transpose(0, 1).contiguous() if batch_first and state is not None else state


def run_lstm(
    layer: nn.LSTM,
    x: Tensor,
    hidden: Tensor | None,
    memory: Tensor | None,
    direction: str = "forward",
    batch_first: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """An nn.LSTM with the directions on an axis of their own, as ONNX has them."""
    first = None
    if hidden is not None or memory is not None:
        one, other = _state(hidden, batch_first), _state(memory, batch_first)
        like = one if one is not None else other
        first = tuple(torch.zeros_like(like) if part is None else part for part in (one, other))
    y, (h, c) = _run_layer(layer, x, first, direction, batch_first, lengths)
    return (y, h.transpose(0, 1), c.transpose(0, 1)) if batch_first else (y, h, c)


def run_gru(
    layer: nn.GRU,
    x: Tensor,
    hidden: Tensor | None,
    direction: str = "forward",
    batch_first: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """An nn.GRU with the directions on an axis of their own, as ONNX has them."""
    y, h = _run_layer(layer, x, _state(hidden, batch_first), direction, batch_first, lengths)
    return y, h.transpose(0, 1) if batch_first else h  # type: ignore[union-attr]


def run_rnn(
    layer: nn.RNN,
    x: Tensor,
    hidden: Tensor | None,
    direction: str = "forward",
    batch_first: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """An nn.RNN with the directions on an axis of their own, as ONNX has them."""
    y, h = _run_layer(layer, x, _state(hidden, batch_first), direction, batch_first, lengths)
    return y, h.transpose(0, 1) if batch_first else h  # type: ignore[union-attr]


def _heads(x: Tensor, count: int | None) -> Tensor:
    """[batch, time, heads × size] as [batch, heads, time, size]."""
    if x.ndim == 4:
        return x
    assert count is not None
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _allowed(bias: Tensor, offset: int | Tensor, causal: bool, window: tuple[int, int]) -> Tensor:
    """The bias with -inf where a query may not look: later than itself, or out of its window."""
    rows = torch.arange(bias.shape[-2], device=bias.device)[:, None]
    ahead = torch.arange(bias.shape[-1], device=bias.device) - rows
    if isinstance(offset, Tensor):
        offset = offset.reshape(-1, 1, 1, 1)
    ahead = ahead - offset
    ok = torch.ones_like(ahead, dtype=torch.bool)
    if causal:
        ok = ok & (ahead <= 0)
    if window[0] >= 0:
        ok = ok & (ahead >= -window[0])
    if window[1] >= 0:
        ok = ok & (ahead <= window[1])
    return bias + torch.where(ok, 0.0, -math.inf).to(bias.dtype)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    heads: int | None = None,
    kv_heads: int | None = None,
    softcap: float = 0.0,
    precision: torch.dtype | None = None,
    window: tuple[int, int] = (-1, -1),
    mode: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ONNX's attention: the output, keys and values with those of the past, and scores."""
    flat = query.ndim == 3
    query, key, value = _heads(query, heads), _heads(key, kv_heads), _heads(value, kv_heads)
    offset: int | Tensor = 0
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        offset = past_key.shape[2]
    elif lengths is not None:
        offset = lengths - query.shape[2]
    present = key, value
    bias = query.new_zeros(query.shape[2], key.shape[2])
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, -math.inf).to(query.dtype)
        missing = key.shape[2] - mask.shape[-1]
        mask = torch.nn.functional.pad(mask, (0, missing), value=-math.inf) if missing > 0 else mask
        bias = bias + mask
    if causal or max(window) >= 0:
        bias = _allowed(bias, offset, causal, window)
    if lengths is not None:
        alive = torch.arange(key.shape[2], device=key.device) < lengths[:, None]
        bias = bias + torch.where(alive, 0.0, -math.inf).to(bias.dtype)[:, None, None]
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, 1) if repeats > 1 else x for x in present)
    root = math.sqrt(query.shape[-1] ** -0.5 if scale is None else scale)
    scores = shown = (query * root) @ (key * root).transpose(-1, -2)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
        shown = scores if mode == 1 else shown
    scores = scores + bias
    shown = scores if mode == 2 else shown
    weights = torch.softmax(scores if precision is None else scores.to(precision), -1)
    # A query that may look nowhere sees nothing.
    blind = bias.amax(-1, keepdim=True) == -math.inf
    weights = torch.where(blind, torch.zeros_like(weights), weights).to(query.dtype)
    shown = weights if mode == 3 else shown
    y = weights @ value
    return y.transpose(1, 2).flatten(2) if flat else y, *present, shown


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    kv_heads: int,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention as a state that is updated at each time; with decay gated, with beta by the delta rule."""
    kind = query.dtype
    q, k, v = (
        x.unflatten(-1, (n, -1)).transpose(1, 2).float()
        for x, n in ((query, heads), (key, kv_heads), (value, kv_heads))
    )
    state = q.new_zeros(q.shape[0], kv_heads, k.shape[-1], v.shape[-1]) if past is None else past.float()
    gates = None if decay is None else decay.unflatten(-1, (kv_heads, -1)).transpose(1, 2).float().exp()
    rates = None if beta is None else beta.transpose(1, 2).float()
    found = []
    for time in range(q.shape[2]):
        if gates is not None:
            state = state * gates[:, :, time, :, None]
        new = v[:, :, time]
        if rates is not None:
            new = rates[:, :, time, None] * (new - torch.einsum("bhdm,bhd->bhm", state, k[:, :, time]))
        state = state + k[:, :, time, :, None] * new[:, :, None]
        read = state.repeat_interleave(heads // kv_heads, 1)
        found.append(torch.einsum("bhd,bhdm->bhm", q[:, :, time], read))
    y = torch.stack(found, 1).flatten(2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return y.to(kind), state.to(kind if past is None else past.dtype)


def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    heads: int | None = None,
    rotated: int | None = None,
    interleaved: bool = False,
) -> Tensor:
    """Rotation of pairs of features by position (Su et al. 2021, arXiv:2104.09864)."""
    y = x.transpose(1, 2) if x.ndim == 4 else x.unflatten(-1, (heads or 1, -1))
    size = rotated or y.shape[-1]
    turned, rest = y[..., :size], y[..., size:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    turned = (
        torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    )
    y = torch.cat([turned, rest], -1)
    return y.transpose(1, 2) if x.ndim == 4 else y.flatten(2)


def dft(
    x: Tensor, axis: int, length: int | None = None, inverse: bool = False, onesided: bool = False
) -> Tensor:
    """The discrete Fourier transform of numbers whose parts are on the last axis."""
    if inverse and onesided:
        return torch.fft.irfft(torch.view_as_complex(x.contiguous()), length, axis).unsqueeze(-1)
    z = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0].to(torch.complex64)
    if x.dtype == torch.float64:
        z = z.to(torch.complex128)
    if onesided and x.shape[-1] == 1:
        return torch.view_as_real(torch.fft.rfft(x[..., 0], length, axis))
    y = torch.fft.ifft(z, length, axis) if inverse else torch.fft.fft(z, length, axis)
    if onesided:
        y = y.narrow(axis, 0, y.shape[axis] // 2 + 1)
    return torch.view_as_real(y)


def stft(
    x: Tensor, step: int, window: Tensor | None = None, length: int | None = None, onesided: bool = True
) -> Tensor:
    """Fourier transforms of frames of a signal [batch, time, parts]."""
    size = length if length is not None else window.shape[0] if window is not None else x.shape[1]
    frames = x.unfold(1, size, step)
    if window is not None:
        frames = frames * window
    z = torch.complex(
        frames[:, :, 0], frames[:, :, 1] if x.shape[2] == 2 else torch.zeros_like(frames[:, :, 0])
    )
    y = torch.fft.fft(z)
    return torch.view_as_real(y[..., : size // 2 + 1] if onesided else y)
