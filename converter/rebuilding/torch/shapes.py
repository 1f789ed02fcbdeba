"""Rules for what moves elements and computes with sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from converter.rebuilding.torch.arithmetic import _type
from converter.rebuilding.torch.counts import Number, Numbers
from converter.rebuilding.torch.step import Many, Result, Step, table
from converter.rebuilding.torch.text import call, dtype, literal, tuple_of

__all__: list[str] = []


@table("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape(step: Step) -> Result:
    known = step.node.shape(0)
    start, end = step.attribute("start", 0) or 0, step.node.attribute("end")
    if known is None:
        cut = "" if not start and end is None else f"[{start}:{'' if end is None else end}]"
        return f"torch.tensor({step.atom(0)}.shape{cut}, dtype=torch.int64)"
    axes = range(len(known))[slice(start, end)]
    return Numbers(tuple(step.size(0, axis) for axis in axes), False, "int64")


@table("Size", 1, 13, 19, 21, 23, 24, 25)
def size(step: Step) -> Result:
    known = step.node.shape(0)
    if known is not None and all(isinstance(n, int) for n in known):
        sizes: list[int] = [n for n in known if isinstance(n, int)]
        return Numbers((math.prod(sizes),), True, "int64")
    return Numbers((f"{step.name(0)}.numel()",), True, "int64")


@table("Reshape", 1)
def reshape_by_attribute(step: Step) -> Result:
    return _reshaped(step, list(step.attribute("shape")), False)


@table("Reshape", 5, 13, 14, 19, 21, 23, 24, 25)
def reshape(step: Step) -> Result:
    target = step.ints(1)
    allow = bool(step.attribute("allowzero", 0))
    if target is None:
        if allow:
            return f"{step.atom(0)}.reshape({step.atom(1)}.tolist())"
        x = step.name(0)
        return call(f"{x}.reshape", call(step.helper("target_shape"), x, step.arg(1)))
    return _reshaped(step, target, allow)


def _reshaped(step: Step, target: list[Number], allow: bool) -> Result:
    known = step.node.shape(0)
    if not allow:
        target = [step.size(0, place) if item == 0 else item for place, item in enumerate(target)]
    if known is not None and len(target) >= 2 and len(known) > len(target) - 1 and not allow:
        kept = len(target) - 1
        same = all(
            _same(a, b, step, place) for place, (a, b) in enumerate(zip(known, target[:-1], strict=False))
        )
        rest = known[kept:]
        whole = _product(rest)
        if same and target[-1] in (-1, whole) and len(known) > kept + 1:
            return f"{step.atom(0)}.flatten({kept})"
    if len(target) == 2 and target[0] == -1 and known is not None and len(known) > 2:
        rest = known[1:]
        if target[1] == _product(rest):
            return f"{step.atom(0)}.flatten(1)"
    return call(f"{step.atom(0)}.reshape", *([str(item) for item in target] or ["()"]))


def _product(sizes: Sequence[int | str | None]) -> int | None:
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _same(size: int | str | None, item: Number, step: Step, place: int) -> bool:
    if isinstance(size, int):
        return size == item
    value = step.values[0]
    assert value is not None
    return isinstance(item, str) and step.writer._sizes.get((value, place)) == item


@table("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def flatten(step: Step) -> Result:
    axis, rank = step.attribute("axis", 1), step.rank
    axis = axis + rank if axis < 0 else axis
    if axis == 1 and rank > 1:
        return step.arg(0) if rank == 2 else f"{step.atom(0)}.flatten(1)"
    sizes = [str(step.size(0, place)) for place in range(rank)]
    first, second = " * ".join(sizes[:axis]) or "1", " * ".join(sizes[axis:]) or "1"
    if "0" in sizes:
        return f"{step.atom(0)}.reshape({first}, {second})"
    shorter = ("-1", second) if axis >= rank - axis else (first, "-1")
    return f"{step.atom(0)}.reshape({shorter[0]}, {shorter[1]})"


@table("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(step: Step) -> Result:
    perm = list(step.attribute("perm") or range(step.rank)[::-1])
    moved = [place for place, axis in enumerate(perm) if place != axis]
    if not moved:
        return step.arg(0)
    if len(moved) == 2:
        return f"{step.atom(0)}.transpose({moved[0]}, {moved[1]})"
    return f"{step.atom(0)}.permute({', '.join(map(str, perm))})"


@table("Squeeze", 1, 11)
def squeeze_by_attribute(step: Step) -> Result:
    return _squeezed(step, step.node.attribute("axes"))


@table("Squeeze", 13, 21, 23, 24, 25)
def squeeze(step: Step) -> Result:
    return _squeezed(step, step.fixed(1, "axes") if step.has(1) else None)


def _squeezed(step: Step, axes: Sequence[int] | None) -> Result:
    if axes is None:
        return f"{step.atom(0)}.squeeze()"
    return f"{step.atom(0)}.squeeze({axes[0] if len(axes) == 1 else tuple_of(axes)})"


@table("Unsqueeze", 1, 11)
def unsqueeze_by_attribute(step: Step) -> Result:
    return _unsqueezed(step, list(step.attribute("axes")))


@table("Unsqueeze", 13, 21, 23, 24, 25)
def unsqueeze(step: Step) -> Result:
    return _unsqueezed(step, step.fixed(1, "axes"))


def _unsqueezed(step: Step, axes: Sequence[int]) -> Result:
    text = step.atom(0)
    rank = len(axes) if len(axes) == 1 else step.rank + len(axes)
    for axis in sorted(axes if len(axes) == 1 else [a % rank for a in axes]):
        text = f"{text}.unsqueeze({axis})"
    return text


@table("Concat", 1, 4, 11, 13)
def concat(step: Step) -> Result:
    items = [step.arg(i) for i in range(len(step.values))]
    axis = step.attribute("axis", 1)
    return items[0] if len(items) == 1 else f"torch.cat([{', '.join(items)}], {axis})"


@table("Split", 2, 11)
def split_by_attribute(step: Step) -> Result:
    return _split(step, step.node.attribute("split"))


@table("Split", 13, 18)
def split(step: Step) -> Result:
    if step.has(1) and step.ints(1) is None:
        return Many(f"{step.atom(0)}.split({step.atom(1)}.tolist(), {step.attribute('axis', 0)})")
    items = step.ints(1) if step.has(1) else None
    return _split(step, items)


def _split(step: Step, sizes: Sequence[Number] | None) -> Result:
    axis, count = step.attribute("axis", 0), len(step.node.outputs)
    if sizes is None:
        total = step.size(0, axis)
        # The last part is the smaller one where the axis does not divide evenly.
        part = -(-total // count) if isinstance(total, int) else f"-(-{total} // {count})"
        return Many(f"{step.atom(0)}.split({part}, {axis})")
    return Many(f"{step.atom(0)}.split([{', '.join(map(str, sizes))}], {axis})")


@table("Slice", 1)
def slice_by_attributes(step: Step) -> Result:
    starts, ends = step.attribute("starts"), step.attribute("ends")
    return _sliced(step, starts, ends, step.node.attribute("axes") or range(len(starts)), [1] * len(starts))


@table("Slice", 10, 11, 13)
def slice_(step: Step) -> Result:
    starts, ends = step.ints(1), step.ints(2)
    steps = step.fixed(4, "steps") if step.has(4) else [1] * len(starts or [])
    if starts is None or ends is None:
        raise step.refuse("its starts and ends are computed, expected constants")
    axes = step.fixed(3, "axes") if step.has(3) else list(range(len(starts)))
    return _sliced(step, starts, ends, axes, steps)


def _sliced(
    step: Step, starts: Sequence[Number], ends: Sequence[Number], axes: Sequence[int], steps: Sequence[int]
) -> Result:
    rank = step.rank
    texts, flips = [":"] * rank, []
    known = step.node.shape(0)
    assert known is not None
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        axis %= rank
        if stride < 0:
            flips.append(axis)
            size = step.size(0, axis)
            if not isinstance(size, int) or isinstance(start, str) or isinstance(end, str):
                if start == -1 and isinstance(end, int) and end < -(1 << 30):
                    start, end, stride = 0, 1 << 62, -stride
                else:
                    raise step.refuse("a slice backwards on a size that is not fixed")
            else:
                places = range(int(size))[
                    slice(int(start), None if int(end) < -int(size) else int(end), stride)
                ]
                start, end, stride = (
                    (size - 1 - places[0], size - places[-1], -stride) if len(places) else (0, 0, 1)
                )
        size_known = known[axis]
        whole = isinstance(end, int) and (
            end >= (1 << 31) - 1 or (isinstance(size_known, int) and end >= size_known)
        )
        text = f"{'' if start == 0 else start}:{'' if whole else end}"
        texts[axis] = text if stride == 1 else f"{text}:{stride}"
    while len(texts) > 1 and texts[-1] == ":":
        texts.pop()
    base = step.atom(0)
    if flips:
        base = f"{base}.flip({', '.join(map(str, flips))})"
    return base if texts == [":"] else f"{base}[{', '.join(texts)}]"


@table("Expand", 8, 13)
def expand(step: Step) -> Result:
    target = step.ints(1)
    if target is None:
        return call(step.helper("expand_to"), step.arg(0), f"{step.atom(1)}.tolist()")
    shape = step.node.shape(0)
    if shape is not None and len(target) >= len(shape):
        own = [1] * (len(target) - len(shape)) + list(shape)
        # A one in the target leaves the axis as it is, which PyTorch writes as -1.
        sizes = [-1 if t == 1 and o != 1 else t for t, o in zip(target, own, strict=True)]
        return call(f"{step.atom(0)}.expand", *(map(str, sizes)))
    return call(step.helper("expand_to"), step.arg(0), f"[{', '.join(map(str, target))}]")


@table("Tile", 6, 13)
def tile(step: Step) -> Result:
    return f"{step.atom(0)}.tile({step.listed(1)})"


@table("Pad", 1)
def pad_one(step: Step) -> Result:
    return _pad(step, list(step.attribute("paddings")), step.real("value"))


@table("Pad", 2)
def pad_by_attribute(step: Step) -> Result:
    return _pad(step, list(step.attribute("pads")), step.real("value"))


@table("Pad", 11, 13, 18, 19, 21, 23, 24, 25)
def pad(step: Step) -> Result:
    value = step.number(2) if step.has(2) else "0.0"
    pads = step.fixed(1, "padding")
    if step.has(3):
        axes, rank = step.fixed(3, "axes"), step.rank
        full = [0] * 2 * rank
        for place, axis in enumerate(axes):
            full[axis % rank], full[axis % rank + rank] = pads[place], pads[place + len(axes)]
        pads = full
    return _pad(step, pads, value)


def _pad(step: Step, pads: Sequence[int], value: str) -> Result:
    mode = step.attribute("mode", "constant")
    rank = len(pads) // 2
    pairs = [n for axis in reversed(range(rank)) for n in (pads[axis], pads[axis + rank])]
    while pairs and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    if not pairs:
        return step.arg(0)
    if mode == "constant":
        zero = value in ("0.0", "0", "False")
        return call("F.pad", step.arg(0), tuple_of(pairs), value=None if zero else value)
    word = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode]
    if len(pairs) == 2 * (rank - 2) and rank in (3, 4, 5) and min(pads) >= 0 and mode != "wrap":
        return call("F.pad", step.arg(0), tuple_of(pairs), f'"{word}"')
    return call(step.helper("pad_by_index"), step.arg(0), list(pads), f'"{mode}"')


@table("ConstantOfShape", 9, 20, 21, 23, 24, 25)
def constant_of_shape(step: Step) -> Result:
    value = step.node.attribute("value")
    number = "0.0" if value is None else literal(value)
    kind = dtype("float32" if value is None else value.dtype.name)
    return f"torch.full({step.listed(0)}, {number}, dtype={kind}{_on(step)})"


def _on(step: Step) -> str:
    device = step.writer.device()
    return f", device={device}" if device else ""


@table("Range", 11, 27)
def range_(step: Step) -> Result:
    numbers = [step.number(i) for i in range(3)]
    kind = dtype(step.node.dtype(0) or "int64")
    return f"torch.arange({', '.join(numbers)}, dtype={kind}{_on(step)})"


@table("EyeLike", 9, 22)
def eye_like(step: Step) -> Result:
    kind = step.node.attribute("dtype")
    name = dtype(_type(step, kind)) if kind else None
    return call(step.helper("eye_like"), step.arg(0), step.attribute("k", 0), name)


@table("Trilu", 14)
def trilu(step: Step) -> Result:
    diagonal = step.number(1) if step.has(1) else "0"
    function = "torch.triu" if step.attribute("upper", 1) else "torch.tril"
    return call(function, step.arg(0), None if diagonal == "0" else diagonal)


@table("DepthToSpace", 1, 11, 13, 28)
def depth_to_space(step: Step) -> Result:
    block, mode = step.attribute("blocksize"), step.attribute("mode", "DCR")
    if mode == "CRD":
        return f"F.pixel_shuffle({step.arg(0)}, {block})"
    return call(step.helper("depth_to_space"), step.arg(0), block)


@table("SpaceToDepth", 1, 13, 28)
def space_to_depth(step: Step) -> Result:
    mode = step.attribute("mode", "DCR") if step.node.since >= 28 else "DCR"
    if mode == "CRD":
        return f"F.pixel_unshuffle({step.arg(0)}, {step.attribute('blocksize')})"
    return call(step.helper("space_to_depth"), step.arg(0), step.attribute("blocksize"))


@table("CenterCropPad", 18)
def center_crop_pad(step: Step) -> Result:
    axes = step.node.attribute("axes")
    return call(
        step.helper("center_crop_pad"), step.arg(0), step.listed(1), None if axes is None else list(axes)
    )


@table("ReverseSequence", 10, 28)
def reverse_sequence(step: Step) -> Result:
    return call(
        step.helper("reverse_sequence"),
        step.arg(0),
        step.arg(1),
        step.attribute("time_axis", 0),
        step.attribute("batch_axis", 1),
    )
