"""Rules for taking elements by index, and putting them."""

from __future__ import annotations

from converter.rebuilding.torch.step import Many, Result, Step, table
from converter.rebuilding.torch.text import call

__all__: list[str] = []


@table("Gather", 1, 11, 13)
def gather(step: Step) -> Result:
    data, axis = step.array(0), step.attribute("axis", 0)
    if data is not None and data.ndim == 2 and axis == 0 and step.node.weight(0) and step.array(1) is None:
        kind = {} if data.dtype.name == "float32" else {"dtype": f"torch.{data.dtype.name}"}
        layer = step.layer(call("nn.Embedding", *data.shape, **kind), {"weight": (0, data)})
        if layer is not None:
            return f"{layer}({step.arg(1)})"
    rank = step.rank
    before = ":, " * (axis % rank)
    number = step.scalar(1)
    shape = step.node.shape(1)
    if number is not None and shape == ():
        return f"{step.atom(0)}[{before}{number}]"
    items = step.known(1)
    if items is not None and items.items and all(isinstance(i, int) for i in items.items):
        first = int(items.items[0])
        run = tuple(range(first, first + len(items.items)))
        if items.items == run and first >= 0:
            return f"{step.atom(0)}[{before}{first}:{first + len(run)}]"
    index = step.arg(1)
    if rank and (step.node.dtype(1) or "int64") not in ("int64", "bool"):
        index = f"{index}.long()"
    return f"{step.atom(0)}[{before}{index}]"


@table("GatherElements", 11, 13)
def gather_elements(step: Step) -> Result:
    return call(step.helper("gather_elements"), step.arg(0), step.attribute("axis", 0), step.arg(1))


@table("GatherND", 11, 12, 13)
def gather_nd(step: Step) -> Result:
    return call(step.helper("gather_nd"), step.arg(0), step.arg(1), step.attribute("batch_dims", 0))


@table("Scatter", 9)
def scatter(step: Step) -> Result:
    return _scattered(step, "none")


@table("ScatterElements", 11, 13)
def scatter_elements_plain(step: Step) -> Result:
    return _scattered(step, "none")


@table("ScatterElements", 16, 18)
def scatter_elements(step: Step) -> Result:
    return _scattered(step, step.attribute("reduction", "none"))


def _scattered(step: Step, reduction: str) -> Result:
    axis = step.attribute("axis", 0)
    how = None if reduction == "none" else f'"{reduction}"'
    return call(step.helper("scatter_elements"), step.arg(0), axis, step.arg(1), step.arg(2), how)


@table("ScatterND", 11, 13)
def scatter_nd_plain(step: Step) -> Result:
    return call(step.helper("scatter_nd"), step.arg(0), step.arg(1), step.arg(2))


@table("ScatterND", 16, 18)
def scatter_nd(step: Step) -> Result:
    reduction = step.attribute("reduction", "none")
    how = None if reduction == "none" else f'"{reduction}"'
    return call(step.helper("scatter_nd"), step.arg(0), step.arg(1), step.arg(2), how)


@table("TensorScatter", 24)
def tensor_scatter(step: Step) -> Result:
    return call(
        step.helper("tensor_scatter"),
        step.arg(0),
        step.arg(1),
        step.optional(2) or "None",
        step.attribute("axis", -2),
        circular="True" if step.attribute("mode", "linear") == "circular" else None,
    )


@table("Compress", 9, 11, 28)
def compress(step: Step) -> Result:
    axis = step.node.attribute("axis")
    return call(step.helper("compress"), step.arg(0), step.arg(1), axis)


@table("NonZero", 9, 13)
def non_zero(step: Step) -> Result:
    return f"torch.nonzero({step.arg(0)}).T"


@table("OneHot", 9, 11, 28)
def one_hot(step: Step) -> Result:
    return call(step.helper("one_hot"), step.arg(0), step.number(1), step.arg(2), step.attribute("axis", -1))


@table("TopK", 1)
def top_k_by_attribute(step: Step) -> Result:
    return _top(step, str(step.attribute("k")))


@table("TopK", 10, 11, 24)
def top_k(step: Step) -> Result:
    return _top(step, step.number(1))


def _top(step: Step, count: str) -> Result:
    largest = None if step.attribute("largest", 1) else "False"
    axis = step.attribute("axis", -1)
    return Many(call(step.helper("top_k"), step.arg(0), count, axis, largest=largest))


@table("Unique", 11, 28)
def unique(step: Step) -> Result:
    axis = step.node.attribute("axis")
    ordered = None if step.attribute("sorted", 1) else "False"
    count = len(step.node.outputs)
    text = call(step.helper("unique"), step.arg(0), axis, ordered=ordered)
    return Many(text if count == 4 else f"{text}[:{count}]")


@table("NonMaxSuppression", 10, 11)
def non_max_suppression(step: Step) -> Result:
    most, *limits = (step.number(i) if step.has(i) else None for i in (2, 3, 4))
    return call(
        step.helper("non_max_suppression"),
        step.arg(0),
        step.arg(1),
        most or "0",
        limits[0] or "0.0",
        limits[1],
        center="True" if step.attribute("center_point_box", 0) else None,
    )
