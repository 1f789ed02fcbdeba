"""Rules for reductions along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from converter.rebuilding.torch.step import Result, Step, table
from converter.rebuilding.torch.text import call

__all__: list[str] = []

# Operator → the versions with axes as an attribute, those with axes as an input, the helper.
_REDUCED: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "ReduceMean": ((1, 11, 13), (18,), "mean"),
    "ReduceSum": ((1, 11), (13,), "sum"),
    "ReduceMax": ((1, 11, 12, 13), (18, 20), "amax"),
    "ReduceMin": ((1, 11, 12, 13), (18, 20), "amin"),
    "ReduceProd": ((1, 11, 13), (18,), "product"),
    "ReduceL1": ((1, 11, 13), (18,), "norm_1"),
    "ReduceL2": ((1, 11, 13), (18,), "norm_2"),
    "ReduceLogSum": ((1, 11, 13), (18, 28), "log_sum"),
    "ReduceLogSumExp": ((1, 11, 13), (18, 28), "logsumexp"),
    "ReduceSumSquare": ((1, 11, 13), (18,), "sum_square"),
}


def _by_attribute(kind: str) -> Callable[[Step], Result]:
    def rule(step: Step) -> Result:
        axes = step.node.attribute("axes")
        return _reduced(step, kind, None if axes is None else list(axes))

    return rule


def _by_input(kind: str) -> Callable[[Step], Result]:
    def rule(step: Step) -> Result:
        axes = step.fixed(1, "axes") if step.has(1) else []
        if not axes and step.attribute("noop_with_empty_axes", 0):
            # Elements are still taken one by one: a norm of one element is its absolute value.
            return _reduced(step, kind, [])
        return _reduced(step, kind, axes or None)

    return rule


for _op, (_old, _new, _kind) in _REDUCED.items():
    table(_op, *_old)(_by_attribute(_kind))
    table(_op, *_new)(_by_input(_kind))

_EACH = {
    "norm_1": "torch.abs({})",
    "norm_2": "torch.abs({})",
    "log_sum": "torch.log({})",
    "sum_square": "torch.square({})",
}


def _reduced(step: Step, kind: str, axes: Sequence[int] | None) -> Result:
    keep = "True" if step.attribute("keepdims", 1) else None
    if axes is not None and not axes:
        return _EACH.get(kind, "{}").format(step.arg(0))
    rank = step.rank
    if rank == 0:
        return _EACH.get(kind, "{}").format(step.arg(0))
    places: Sequence[int] = list(range(rank)) if axes is None else axes
    over = str(places[0]) if len(places) == 1 else f"({', '.join(map(str, places))})"
    name = step.node.dtype(0) or "float32"
    if kind in ("amax", "amin") and name == "bool":
        return (
            f"{step.atom(0)}.{'any' if kind == 'amax' else 'all'}({over}{', keepdim=True' if keep else ''})"
        )
    if kind in ("mean", "sum", "amax", "amin", "logsumexp"):
        typed = f"torch.{name}" if kind == "sum" and name == "int32" else None
        if kind in ("amax", "amin") and _empty(step, places):
            return call(step.helper("extreme"), step.arg(0), f"[{over}]", f'"{kind}"', keep)
        return call(f"{step.atom(0)}.{kind}", over, keepdim=keep, dtype=typed)
    if kind == "product":
        return call(step.helper("product"), step.arg(0), list(places), keepdim=keep)
    if kind in ("norm_1", "norm_2"):
        return call("torch.linalg.vector_norm", step.arg(0), kind[-1], over, keepdim=keep)
    if kind == "sum_square":
        return call(f"torch.square({step.arg(0)}).sum", over, keepdim=keep)
    return f"torch.log({call(f'{step.atom(0)}.sum', over, keepdim=keep)})"


def _empty(step: Step, axes: Sequence[int]) -> bool:
    shape = step.node.shape(0)
    return shape is not None and any(shape[axis] == 0 for axis in axes)


@table("ArgMax ArgMin", 1, 11)
def arg_extreme_first(step: Step) -> Result:
    return _argument(step, False)


@table("ArgMax ArgMin", 12, 13)
def arg_extreme(step: Step) -> Result:
    return _argument(step, bool(step.attribute("select_last_index", 0)))


def _argument(step: Step, last: bool) -> Result:
    function = "argmax" if step.node.op == "ArgMax" else "argmin"
    axis, keep = step.attribute("axis", 0), "True" if step.attribute("keepdims", 1) else None
    if not last:
        return call(f"{step.atom(0)}.{function}", axis, keepdim=keep)
    x = step.name(0)
    return f"{x}.shape[{axis}] - 1 - {call(f'{x}.flip({axis}).{function}', axis, keepdim=keep)}"


@table("CumSum", 11, 14)
def cum_sum(step: Step) -> Result:
    return _cumulative(step, "cumsum")


@table("CumProd", 26)
def cum_prod(step: Step) -> Result:
    return _cumulative(step, "cumprod")


def _cumulative(step: Step, function: str) -> Result:
    axis = step.number(1)
    exclusive, reverse = step.attribute("exclusive", 0), step.attribute("reverse", 0)
    if not exclusive and not reverse:
        return f"{step.atom(0)}.{function}({axis})"
    return call(
        step.helper("cumulative"),
        step.arg(0),
        axis,
        f"torch.{function}",
        exclusive="True" if exclusive else None,
        reverse="True" if reverse else None,
    )
