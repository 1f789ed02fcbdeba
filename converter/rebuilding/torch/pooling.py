"""Rules for pooling."""

from __future__ import annotations

from collections.abc import Sequence

from converter.rebuilding.torch.convolution import padded, pads_of, spread, unless
from converter.rebuilding.torch.step import Many, Result, Step, table
from converter.rebuilding.torch.text import call, literal

__all__: list[str] = []


class Window:
    """How a pooling operator walks over its input."""

    def __init__(self, step: Step) -> None:
        self.kernel: list[int] = list(step.attribute("kernel_shape"))
        self.count = len(self.kernel)
        ones = [1] * self.count
        self.strides: list[int] = list(step.attribute("strides") or ones)
        self.dilations: list[int] = list(step.node.attribute("dilations") or ones)
        self.pads = pads_of(step, self.kernel, self.strides, self.dilations)
        auto = step.attribute("auto_pad", "NOTSET")
        self.ceil = bool(step.attribute("ceil_mode", 0)) and auto in ("NOTSET", "")

    @property
    def even(self) -> bool:
        """Whether PyTorch can pad by itself: as much at both ends, half a window at most."""
        half = all(2 * pad <= size for pad, size in zip(self.pads, self.kernel, strict=False))
        return self.pads[: self.count] == self.pads[self.count :] and half

    def arguments(self, *, dilated: bool) -> dict[str, str | None]:
        """PyTorch's options, without padding."""
        return {
            "stride": None if self.strides == self.kernel else spread(self.strides),
            "padding": unless(self.pads[: self.count], 0) if self.even else None,
            "dilation": unless(self.dilations, 1) if dilated else None,
            "ceil_mode": "True" if self.ceil else None,
        }


@table("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(step: Step) -> Result:
    window = Window(step)
    if not 1 <= window.count <= 3:
        raise step.refuse(f"PyTorch has no pooling over {window.count} axes")
    function = f"F.max_pool{window.count}d"
    options = window.arguments(dilated=True)
    if step.used(1):
        if not window.even:
            raise step.refuse("indices with uneven padding")
        x = step.name(0)
        order = step.attribute("storage_order", 0)
        pooled = call(function, x, spread(window.kernel), **options, return_indices="True")
        return Many(call(step.helper("with_flat_indices"), x, pooled, columns="True" if order else None))
    if (step.node.dtype(0) or "float32").startswith(("int", "uint")):
        x = f"{step.atom(0)}.float()"
        text = padded(x, [] if window.even else window.pads, "-math.inf")
        return f"{call(function, text, spread(window.kernel), **options)}.to(torch.{step.node.dtype(0)})"
    text = padded(step.arg(0), [] if window.even else window.pads, "-math.inf")
    return call(function, text, spread(window.kernel), **options)


@table("AveragePool", 1, 7, 10, 11, 19, 22)
def average_pool(step: Step) -> Result:
    window = Window(step)
    include = bool(step.attribute("count_include_pad", 0))
    simple = window.even and set(window.dilations) == {1} and 1 <= window.count <= 3
    unpadded = not any(window.pads)
    if simple and (unpadded or window.count > 0) and not (window.ceil and unpadded is False and include):
        options = window.arguments(dilated=False)
        counts = None if include or (unpadded and not window.ceil) else "False"
        return call(
            f"F.avg_pool{window.count}d",
            step.arg(0),
            spread(window.kernel),
            **options,
            count_include_pad=counts,
        )
    if include and set(window.dilations) == {1} and not window.ceil and 1 <= window.count <= 3:
        text = padded(step.arg(0), window.pads)
        strides = None if window.strides == window.kernel else spread(window.strides)
        return call(f"F.avg_pool{window.count}d", text, spread(window.kernel), strides)
    return _windows(step, "average_pool", window, counted="True" if include else None)


def _windows(step: Step, helper: str, window: Window, *first: str, **options: str | None) -> Result:
    return call(
        step.helper(helper),
        step.arg(0),
        *first,
        window.kernel,
        window.strides,
        window.pads,
        window.dilations,
        ceil="True" if window.ceil else None,
        **options,
    )


@table("LpPool", 2, 11, 18, 22)
def lp_pool(step: Step) -> Result:
    return _windows(step, "lp_pool", Window(step), literal(step.attribute("p", 2)))


@table("GlobalAveragePool", 1, 22)
def global_average_pool(step: Step) -> Result:
    count = step.rank - 2
    if 1 <= count <= 3:
        return f"F.adaptive_avg_pool{count}d({step.arg(0)}, 1)"
    return f"{step.atom(0)}.mean({_spatial(step)}, keepdim=True)"


@table("GlobalMaxPool", 1, 22)
def global_max_pool(step: Step) -> Result:
    return f"{step.atom(0)}.amax({_spatial(step)}, keepdim=True)"


@table("GlobalLpPool", 2, 22)
def global_lp_pool(step: Step) -> Result:
    order = step.attribute("p", 2)
    return f"torch.linalg.vector_norm({step.arg(0)}, {order}, {_spatial(step)}, keepdim=True)"


def _spatial(step: Step) -> Sequence[int]:
    return tuple(range(2, step.rank))


@table("MaxUnpool", 9, 11, 22)
def max_unpool(step: Step) -> Result:
    window = Window(step)
    target = step.listed(2) if step.has(2) else "None"
    return call(
        step.helper("max_unpool"),
        step.arg(0),
        step.arg(1),
        target,
        window.kernel,
        window.strides,
        window.pads,
    )


@table("RoiAlign", 10, 16, 22)
def roi_align(step: Step) -> Result:
    half = (
        step.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
        and step.node.since > 10
    )
    return call(
        step.helper("roi_align"),
        step.arg(0),
        step.arg(1),
        step.arg(2),
        (step.attribute("output_height", 1), step.attribute("output_width", 1)),
        step.attribute("sampling_ratio", 0),
        step.real("spatial_scale", 1.0),
        half=None if half else "False",
        maximum="True" if step.attribute("mode", "avg") == "max" else None,
    )
