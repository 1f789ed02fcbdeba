"""Rules for convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converter.rebuilding.torch.step import Result, Step, table
from converter.rebuilding.torch.text import call, tuple_of

__all__ = ["padded", "pads_of", "spread"]


def spread(values: Sequence[Any]) -> str | None:
    """Numbers by axis as PyTorch takes them: one where all are the same."""
    return str(values[0]) if len(set(values)) == 1 else tuple_of(values)


def unless(values: Sequence[Any], default: int) -> str | None:
    """The same; None where all are the default."""
    return None if all(value == default for value in values) else spread(values)


def pads_of(step: Step, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The padding: of all axes at their start, then at their end.

    Raises:
        Unsupported: it depends on a size that is not known.
    """
    auto, count = step.attribute("auto_pad", "NOTSET"), len(kernel)
    if auto in ("NOTSET", ""):
        return list(step.attribute("pads") or [0] * 2 * count)
    if auto == "VALID":
        return [0] * 2 * count
    starts, ends = [], []
    sizes = (step.node.shape(0) or [None] * (count + 2))[2:]
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        if isinstance(size, int):
            whole = max((-(-size // stride) - 1) * stride + reach - size, 0)
        elif stride == 1:
            whole = reach - 1
        else:
            raise step.refuse(f"auto_pad {auto} with stride {stride} on a size that is not fixed")
        less = whole // 2
        starts.append(less if auto == "SAME_UPPER" else whole - less)
        ends.append(whole - starts[-1])
    return starts + ends


def padded(x: str, pads: Sequence[int], value: str | None = None) -> str:
    """An expression padded along its last axes."""
    count = len(pads) // 2
    pairs = [pad for axis in reversed(range(count)) for pad in (pads[axis], pads[axis + count])]
    while pairs and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    return call("F.pad", x, tuple_of(pairs), value=value) if pairs else x


@table("Conv", 1, 11, 22)
def conv(step: Step) -> Result:
    shape = step.node.shape(1)
    if shape is None or not all(isinstance(size, int) for size in shape):
        raise step.refuse("the shape of its kernel is not known")
    outputs, inputs, *kernel = (int(size) for size in shape if isinstance(size, int))
    count, group = len(kernel), step.attribute("group", 1)
    if not 1 <= count <= 3:
        raise step.refuse(f"PyTorch has no convolution over {count} axes")
    strides = list(step.attribute("strides") or [1] * count)
    dilations = list(step.attribute("dilations") or [1] * count)
    pads, even, data = _padding(step, kernel, strides, dilations)
    options = {
        "stride": unless(strides, 1),
        "padding": unless(pads[:count], 0) if even else None,
        "dilation": unless(dilations, 1),
        "groups": None if group == 1 else group,
    }
    array, bias = step.array(1), step.array(2)
    if array is not None and step.free(1, 2):
        made = call(
            f"nn.Conv{count}d",
            inputs * group,
            outputs,
            tuple_of(kernel) if len(set(kernel)) > 1 else kernel[0],
            **options,
            bias=None if bias is not None else False,
            **_kind(array),
        )
        tensors = {"weight": (1, array)} | ({"bias": (2, bias)} if bias is not None else {})
        layer = step.layer(made, tensors)
        if layer is not None:
            return f"{layer}({data})"
    return call(f"F.conv{count}d", data, step.arg(1), step.optional(2), **options)


def _padding(
    step: Step, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], bool, str]:
    """The padding that the layer does itself, whether it is the same on both sides, and the padded data."""
    auto, count = str(step.attribute("auto_pad", "NOTSET")), len(kernel)
    sizes = (step.node.shape(0) or [None] * (count + 2))[2:]
    open_ = [not isinstance(n, int) and stride > 1 for n, stride in zip(sizes, strides, strict=True)]
    if auto.startswith("SAME") and any(open_):
        late = None if auto == "SAME_UPPER" else False
        data = call(
            step.helper("pad_same"),
            step.arg(0),
            tuple_of(kernel),
            tuple_of(strides),
            tuple_of(dilations),
            upper=late,
        )
        return [0] * 2 * count, True, data
    pads = pads_of(step, kernel, strides, dilations)
    even = pads[:count] == pads[count:]
    return pads, even, step.arg(0) if even else padded(step.arg(0), pads)


def _kind(array: Any) -> dict[str, str]:
    return {} if array.dtype.name == "float32" else {"dtype": f"torch.{array.dtype.name}"}


@table("ConvTranspose", 1, 11, 22)
def conv_transpose(step: Step) -> Result:
    shape, sizes = step.node.shape(1), step.node.shape(0)
    if shape is None or not all(isinstance(size, int) for size in shape):
        raise step.refuse("the shape of its kernel is not known")
    inputs, per_group, *kernel = (int(size) for size in shape if isinstance(size, int))
    count, group = len(kernel), step.attribute("group", 1)
    if not 1 <= count <= 3:
        raise step.refuse(f"PyTorch has no convolution over {count} axes")
    strides = list(step.attribute("strides") or [1] * count)
    dilations = list(step.attribute("dilations") or [1] * count)
    extra = list(step.attribute("output_padding") or [0] * count)
    pads = _transposed_pads(step, kernel, strides, dilations, extra, sizes)
    even = pads[:count] == pads[count:] and min(pads) >= 0
    fits = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    options = {
        "stride": unless(strides, 1),
        "padding": unless(pads[:count], 0) if even else None,
        "output_padding": unless(extra, 0) if even and fits else None,
        "groups": None if group == 1 else group,
        "dilation": unless(dilations, 1),
    }
    text = None
    array, bias = step.array(1), step.array(2)
    if array is not None and step.free(1, 2) and ((even and fits) or bias is None or max(extra) == 0):
        made = call(
            f"nn.ConvTranspose{count}d",
            inputs,
            per_group * group,
            tuple_of(kernel) if len(set(kernel)) > 1 else kernel[0],
            **options,
            bias=None if bias is not None else False,
            **_kind(array),
        )
        tensors = {"weight": (1, array)} | ({"bias": (2, bias)} if bias is not None else {})
        layer = step.layer(made, tensors)
        text = None if layer is None else f"{layer}({step.arg(0)})"
    cut = not (even and fits)
    if text is None:
        late = cut and max(extra) > 0 and step.has(2)
        text = call(
            f"F.conv_transpose{count}d",
            step.arg(0),
            step.arg(1),
            None if late else step.optional(2),
            **options,
        )
        text = _cut(text, pads, extra) if cut else text
        return f"{text} + {step.atom(2)}.reshape(-1{', 1' * count})" if late else text
    return _cut(text, pads, extra) if cut else text


def _cut(text: str, pads: Sequence[int], extra: Sequence[int]) -> str:
    """Cut off the padding afterwards; add what belongs to the output besides."""
    count = len(extra)
    return padded(
        text, [-p for p in pads[:count]] + [e - p for p, e in zip(pads[count:], extra, strict=True)]
    )


def _transposed_pads(
    step: Step,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
    sizes: Sequence[int | str | None] | None,
) -> list[int]:
    count, auto, wanted = len(kernel), step.attribute("auto_pad", "NOTSET"), step.attribute("output_shape")
    if wanted is None and auto in ("NOTSET", ""):
        return list(step.attribute("pads") or [0] * 2 * count)
    if wanted is None and auto == "VALID":
        return [0] * 2 * count
    starts, ends = [], []
    for axis in range(count):
        size = None if sizes is None else sizes[axis + 2]
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        if wanted is None:
            # Output size = input size × stride, which needs no size.
            whole = reach + extra[axis] - strides[axis]
        elif isinstance(size, int):
            whole = strides[axis] * (size - 1) + extra[axis] + reach - wanted[-count:][axis]
        else:
            raise step.refuse("output_shape on a size that is not fixed")
        less = whole // 2
        starts.append(less if auto == "SAME_UPPER" else whole - less)
        ends.append(whole - starts[-1])
    return starts + ends


@table("DeformConv", 19, 22)
def deform_conv(step: Step) -> Result:
    shape = step.node.shape(1)
    if shape is None or len(shape) != 4:
        raise step.refuse("deformable convolutions have rules for images alone")
    count = 2
    options = {
        "strides": list(step.attribute("strides") or [1] * count),
        "pads": list(step.attribute("pads") or [0] * 2 * count),
        "dilations": list(step.attribute("dilations") or [1] * count),
        "groups": step.attribute("group", 1),
        "offset_groups": step.attribute("offset_group", 1),
    }
    return call(
        step.helper("deform_conv2d"),
        step.arg(0),
        step.arg(1),
        step.arg(2),
        step.optional(3) or "None",
        step.optional(4) or "None",
        **options,
    )


@table("CausalConvWithState", 27)
def causal_conv(step: Step) -> Result:
    from converter.rebuilding.torch.step import Many

    kind = step.attribute("activation", "none")
    activate = "True" if kind in ("silu", "swish") else None
    return Many(
        call(
            step.helper("causal_conv"),
            step.arg(0),
            step.arg(1),
            step.optional(2) or "None",
            step.optional(3) or "None",
            activate=activate,
        )
    )


@table("Col2Im", 18)
def col2im(step: Step) -> Result:
    image, block = step.fixed(1, "image's size"), step.fixed(2, "block's size")
    count = len(image)
    pads = list(step.attribute("pads") or [0] * 2 * count)
    strides = list(step.attribute("strides") or [1] * count)
    dilations = list(step.attribute("dilations") or [1] * count)
    if count == 2 and pads[:2] == pads[2:]:
        sizes = (
            tuple_of(image),
            tuple_of(block),
            unless_or(dilations, 1),
            tuple_of(pads[:2]),
            tuple_of(strides),
        )
        return call("F.fold", step.arg(0), *sizes)
    return call(step.helper("col2im"), step.arg(0), image, block, pads, strides, dilations)


def unless_or(values: Sequence[int], default: int) -> str:
    """Numbers by axis as PyTorch takes them."""
    return unless(values, default) or str(default)
