"""Rules for resizing and sampling images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converter.rebuilding.torch.step import Result, Step, table
from converter.rebuilding.torch.text import call, literal, tuple_of

__all__: list[str] = []


@table("Upsample", 7)
def upsample_by_attribute(step: Step) -> Result:
    return _upsampled(step, [float(f) for f in step.attribute("scales")])


@table("Upsample", 9, 10)
def upsample(step: Step) -> Result:
    return _upsampled(step, step.floats(1, "scales"))


def _upsampled(step: Step, scales: Sequence[float]) -> Result:
    mode = step.attribute("mode", "nearest")
    return _resized(step, scales, None, mode, "asymmetric", {"nearest_mode": '"floor"'})


@table("Resize", 10)
def resize_by_scales(step: Step) -> Result:
    mode = step.attribute("mode", "nearest")
    return _resized(step, step.floats(1, "scales"), None, mode, "asymmetric", {"nearest_mode": '"floor"'})


@table("Resize", 11, 13, 18, 19)
def resize(step: Step) -> Result:
    rank = step.rank
    if step.attribute("antialias", 0) and (step.node.dtype(0) or "").startswith(("int", "uint")):
        raise step.refuse(
            "it resizes pixels of 8 bits with antialias, which each framework rounds in its own way"
        )
    axes = [axis % rank for axis in step.node.attribute("axes") or range(rank)]
    has_scales = step.has(2) and step.node.shape(2) != (0,)
    scales: list[float] | None = None
    sizes: list[Any] | None = None
    if has_scales:
        scales = [1.0] * rank
        for axis, scale in zip(axes, step.floats(2, "scales"), strict=True):
            scales[axis] = scale
    else:
        wanted = step.ints(3)
        if wanted is None:
            raise step.refuse("its sizes are computed, expected constants")
        sizes = [None] * rank
        for axis, size in zip(axes, wanted, strict=True):
            sizes[axis] = size
    transform = step.attribute("coordinate_transformation_mode", "half_pixel")
    options = _options(step, axes, rank, transform)
    return _resized(step, scales, sizes, step.attribute("mode", "nearest"), transform, options)


def _options(step: Step, axes: Sequence[int], rank: int, transform: str) -> dict[str, str]:
    """The options of `resize_axis` that are not its own defaults."""
    found = {}
    nearest = step.attribute("nearest_mode", "round_prefer_floor")
    if step.attribute("mode", "nearest") == "nearest":
        found["nearest_mode"] = f'"{nearest}"'
    if step.attribute("cubic_coeff_a", -0.75) != -0.75:
        found["a"] = step.real("cubic_coeff_a")
    if step.attribute("exclude_outside", 0):
        found["exclude_outside"] = "True"
    if step.attribute("antialias", 0):
        found["antialias"] = "True"
    policy = step.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        found["policy"] = f'"{policy}"'
    if transform == "tf_crop_and_resize":
        roi = step.floats(1, "region of interest")
        full = [0.0] * rank + [1.0] * rank
        for place, axis in enumerate(axes):
            full[axis], full[axis + rank] = roi[place], roi[place + len(axes)]
        found["roi"] = str(full)
        found["extrapolation"] = step.real("extrapolation_value")
    return found


def _resized(
    step: Step,
    scales: Sequence[float] | None,
    sizes: Sequence[Any] | None,
    mode: str,
    transform: str,
    options: dict[str, str],
) -> Result:
    known, rank = step.node.shape(0), step.rank
    assert known is not None
    if scales is not None:
        moved = [axis for axis in range(rank) if scales[axis] != 1 or transform == "tf_crop_and_resize"]
    else:
        assert sizes is not None
        moved = [axis for axis in range(rank) if sizes[axis] is not None and sizes[axis] != known[axis]]
    if not moved:
        return step.arg(0)
    image = 3 <= rank <= 5 and min(moved) >= 2
    word = _interpolated(mode, transform, scales, sizes, known, options) if image else None
    if word is not None:
        return _interpolate(step, word, transform, scales, sizes, known)
    given = (
        {"scales": tuple_of(literal(scales[axis]) for axis in moved)}
        if scales is not None
        else {"sizes": tuple_of(sizes[axis] for axis in moved)}  # type: ignore[index]
    )
    policy = options.pop("policy", None)
    if policy is not None and sizes is not None:
        moved = [axis for axis in range(rank) if sizes[axis] is not None]
        given = {"sizes": tuple_of(sizes[axis] for axis in moved)}
        options["policy"] = policy
    roi = options.pop("roi", None)
    if roi is not None:
        full = [float(n) for n in roi.strip("[]").split(",")]
        options["roi"] = str([(full[axis], full[axis + rank]) for axis in moved])
    name = step.helper("resize")
    return call(name, step.arg(0), tuple_of(moved), f'"{mode}"', f'"{transform}"', **given, **options)


def _interpolated(
    mode: str,
    transform: str,
    scales: Sequence[float] | None,
    sizes: Sequence[Any] | None,
    known: Sequence[Any],
    options: dict[str, str],
) -> str | None:
    """The mode of `F.interpolate` that computes the same."""
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(known) - 2]
    if set(options) - {"nearest_mode"}:
        return None
    if mode == "nearest":
        return _nearest(transform, scales, sizes, known, options["nearest_mode"].strip('"'))
    if transform not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return None
    ones = sizes is not None and any(s == 1 for s in sizes[2:])
    if transform != "half_pixel" and (ones or scales is not None):
        if transform == "pytorch_half_pixel" or ones:
            return None
        if not all(float(s).is_integer() for s in scales or ()):
            return None
    return linear if mode == "linear" else "bicubic" if len(known) == 4 else None


def _nearest(
    transform: str,
    scales: Sequence[float] | None,
    sizes: Sequence[Any] | None,
    known: Sequence[Any],
    rounding: str,
) -> str | None:
    if transform == "asymmetric" and rounding == "floor":
        return "nearest"
    if scales is not None:
        whole = [float(s).is_integer() for s in scales[2:]]
    else:
        pairs = zip((sizes or ())[2:], known[2:], strict=True)
        whole = [isinstance(s, int) and isinstance(k, int) and s % k == 0 for s, k in pairs]
    # A whole factor has no position halfway between two pixels, so all ways of rounding agree.
    if transform in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round") and all(whole):
        return "nearest"
    return None


def _interpolate(
    step: Step,
    word: str,
    transform: str,
    scales: Sequence[float] | None,
    sizes: Sequence[Any] | None,
    known: Sequence[Any],
) -> Result:
    options: dict[str, str | None] = {}
    if scales is not None:
        options["scale_factor"] = tuple_of(
            literal(int(s) if float(s).is_integer() else s) for s in scales[2:]
        )
    else:
        assert sizes is not None
        wanted = [step.size(0, axis) if sizes[axis] is None else sizes[axis] for axis in range(2, len(known))]
        options["size"] = tuple_of(wanted)
    options["mode"] = f'"{word}"'
    if word != "nearest":
        options["align_corners"] = str(transform == "align_corners")
    return call("F.interpolate", step.arg(0), **options)


@table("GridSample", 16, 20, 22)
def grid_sample(step: Step) -> Result:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(m := step.attribute("mode", "linear"), m)
    padding = step.attribute("padding_mode", "zeros")
    corners = bool(step.attribute("align_corners", 0))
    if mode == "bicubic" and step.rank != 4:
        raise step.refuse("cubic sampling of volumes")
    return call(
        "F.grid_sample", step.arg(0), step.arg(1), f'"{mode}"', f'"{padding}"', align_corners=str(corners)
    )


@table("AffineGrid", 20)
def affine_grid(step: Step) -> Result:
    corners = bool(step.attribute("align_corners", 0))
    return call("F.affine_grid", step.arg(0), step.listed(1), align_corners=str(corners))
