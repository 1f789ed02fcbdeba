"""Arithmetic with sizes that a symbolic batch leaves behind.

Requires: inferred shapes; nodes in topological order. Ensures: same values; a Reshape whose target has at
most one unknown size has a constant target; heads are split off and put back by one Transpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import constant_of, main_domain, make_constant, replace_uses

__all__ = ["fold_sizes", "foldable"]

# A size: None where it is not known.
_Size = int | None
_Sizes = list[_Size]

# Elements up to which a constant made out of nothing is worth its place in the file.
_SMALL = 1 << 16


def foldable(node: ir.Node) -> bool | None:
    """Whether to compute a node whose inputs are constants once for all; None leaves it to the folder.

    What would make the file grow, as a mask written out at length does, stays an expression.
    """
    if not main_domain(node) or len(node.outputs) != 1:
        return None
    if node.op_type == "ConstantOfShape":
        sizes = constant_of(node.inputs[0])
        return sizes is not None and math.prod(map(int, sizes)) <= _SMALL
    shape = node.outputs[0].shape
    if shape is None or not shape.is_static():
        return None
    read = sum(v.const_value.size for v in node.inputs if v is not None and v.const_value is not None)
    return None if math.prod(map(int, shape.numpy())) <= max(_SMALL, 2 * read) else False


def fold_sizes(model: ir.Model) -> None:
    """Write sizes that are known as constants, and join what then lies together."""
    known: dict[ir.Value, _Sizes] = {}
    for node in model.graph:
        if not main_domain(node):
            continue
        if node.op_type == "Reshape" and node.inputs[0] in known:
            if len(known[node.inputs[0]]) == 1:
                known[node.outputs[0]] = known[node.inputs[0]]
        elif node.op_type == "Reshape":
            _fix_target(node, known)
        elif node.op_type in _EVALUATE and len(node.outputs) == 1:
            sizes = _evaluate(node, known)
            if sizes is not None:
                known[node.outputs[0]] = sizes
    for node in list(model.graph):
        if main_domain(node) and node.op_type == "Reshape":
            _join_transpose(node)


def _fix_target(node: ir.Node, known: dict[ir.Value, _Sizes]) -> None:
    target = node.inputs[1]
    sizes = known.get(target) if target is not None else None
    if sizes is None:
        return
    wanted = np.array([-1 if size is None else size for size in sizes], np.int64)
    if (wanted == -1).sum() > 1 or (node.attributes.get_int("allowzero", 0) and 0 in wanted):
        return
    node.attributes.pop("allowzero", None)
    node.replace_input_with(1, make_constant(node, wanted))
    if 0 not in wanted:
        node.outputs[0].shape = ir.Shape([int(size) if size > 0 else None for size in wanted])


def _evaluate(node: ir.Node, known: dict[ir.Value, _Sizes]) -> _Sizes | None:
    """The sizes that a node puts out, where it puts out sizes; a scalar is a list of one."""
    first = node.inputs[0]
    if node.op_type == "Shape":
        shape = None if first is None else _dims(first)
        if shape is None:
            return None
        return shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(shape))]
    if node.op_type in ("Gather", "Slice"):
        data = _sizes(first, known)
        others = [constant_of(value) for value in node.inputs[1:]]
        if data is None or any(other is None for other in others):
            return None
        return _EVALUATE[node.op_type](data, [np.asarray(o).reshape(-1).tolist() for o in others])
    if node.op_type == "Cast" and node.attributes.get_int("to") not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    if node.op_type in ("Squeeze", "Unsqueeze"):
        data = _sizes(first, known)
        return data if data is not None and len(data) == 1 else None
    inputs = [sizes for value in node.inputs if (sizes := _sizes(value, known)) is not None]
    return _EVALUATE[node.op_type](inputs, []) if len(inputs) == len(node.inputs) else None


def _sizes(value: ir.Value | None, known: dict[ir.Value, _Sizes]) -> _Sizes | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    constant = constant_of(value, 64)
    if constant is None or constant.ndim > 1 or constant.dtype not in (np.int64, np.int32):
        return None
    return [int(size) for size in constant.reshape(-1)]


def _slice(data: _Sizes, others: Sequence[list[int]]) -> _Sizes:
    start, end, *rest = others
    return data[start[0] : end[0] : rest[1][0] if len(rest) > 1 else 1]


def _elementwise(combine: Callable[[int, int], int]) -> Callable[..., _Sizes | None]:
    def evaluate(inputs: Sequence[_Sizes], _others: Sequence[list[int]]) -> _Sizes | None:
        left, right = inputs
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            return None
        count = max(len(left), len(right))
        pairs = zip(left * (count // len(left)), right * (count // len(right)), strict=True)
        return [None if a is None or b is None else combine(a, b) for a, b in pairs]

    return evaluate


_EVALUATE: dict[str, Callable[..., _Sizes | None]] = {
    "Shape": lambda *_: None,  # reads a shape, not sizes
    "Gather": lambda data, others: [data[i] for i in others[0]],
    "Slice": _slice,
    "Concat": lambda inputs, _: [size for sizes in inputs for size in sizes],
    "Cast": lambda inputs, _: inputs[0],
    "Squeeze": lambda *_: None,
    "Unsqueeze": lambda *_: None,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
}


def _join_transpose(last: ir.Node) -> None:
    """Reshape (leading axes to one), Transpose, Reshape (back again): one Transpose."""
    middle = _only_reader(last)
    first = None if middle is None or middle.op_type != "Transpose" else _only_reader(middle)
    if middle is None or first is None or first.op_type != "Reshape" or first.inputs[0] is None:
        return
    shapes = [_dims(value) for value in (first.inputs[0], first.outputs[0], last.outputs[0])]
    if any(shape is None for shape in shapes):
        return
    source, flat, result = (shape for shape in shapes if shape is not None)
    leading = len(source) - len(flat) + 1
    perm = list(middle.attributes.get_ints("perm", range(len(flat))[::-1]))
    if leading < 1 or perm[0] != 0:
        return
    moved = [*range(leading), *(axis + leading - 1 for axis in perm[1:])]
    wanted = [source[axis] for axis in moved]
    unsure = [a for a, b in zip(wanted, result, strict=False) if a is None or b is None]
    if (
        None in source[leading:]
        or source[leading:] != flat[1:]
        or len(result) != len(wanted)
        or len(unsure) > 1
        or any(a != b for a, b in zip(wanted, result, strict=True) if a is not None and b is not None)
    ):
        return
    joined = ir.node("Transpose", [first.inputs[0]], {"perm": moved})
    joined.metadata_props.update(last.metadata_props)
    joined.outputs[0].shape, joined.outputs[0].type = last.outputs[0].shape, last.outputs[0].type
    assert isinstance(last.graph, ir.Graph)
    last.graph.insert_before(last, joined)
    replace_uses(last.outputs[0], joined.outputs[0])
    for node in (last, middle, first):
        assert node.graph is not None
        node.graph.remove(node, safe=True)


def _only_reader(node: ir.Node) -> ir.Node | None:
    """What makes the first input of a node, where nothing else reads it."""
    value = node.inputs[0]
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    maker = value.producer()
    return maker if maker is not None and main_domain(maker) else None


def _dims(value: ir.Value) -> _Sizes | None:
    if value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape.dims]
