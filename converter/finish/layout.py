"""Cancel transposes by choosing, region by region, the layout that needs fewest of them.

A *region* is a connected set of nodes that compute the same in any layout once their axes are
renamed (elementwise operators, Concat, Pad, reductions, …). A source in NHWC arrives as NCHW
convolutions with a Transpose before and after each; between them lie such regions. Storing a region
in the convolutions' layout removes the Transposes on its rim, at the price of new ones where it
touches something that wants the old layout. A region is flipped when the count goes down, or when a
Transpose gets to the model's input by it, so the pass ends. The same idea, as local push-down
rewrites, is tf2onnx's and ONNX Runtime's transpose optimizer.

Requires: constants folded. Ensures: same values, never more Transposes than before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import constant_of, make_constant, replace_uses
from converter.finish.weights import rewritten

__all__ = ["cancel_transposes", "perm_of"]

Perm = tuple[int, ...]

_ELEMENTWISE = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu "
    "Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu "
    "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean "
    "Min Mod Mul Or PRelu Pow Sub Sum Where Xor".split()
)
_BY_AXIS = frozenset(["Concat", "Split", "Softmax", "LogSoftmax", "Hardmax"])
_REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare".split()
)


def cancel_transposes(model: ir.Model, *, outward: bool = False) -> None:
    """Remove Transposes from the main graph, in place.

    Args:
        model: the model.
        outward: move those to the model's outputs that can be moved there, at no gain in number.
    """
    graph = model.graph
    _merge_pairs(graph)
    changed = True
    rounds = len(graph)  # each round leaves fewer Transposes or one nearer to an input
    while changed and rounds > 0:
        rounds -= 1
        changed = any(_flip_regions(graph, perm, outward) for perm in _perms(graph))
        changed = _merge_pairs(graph) or changed
    _turn_into_reshapes(graph)


# ---------------------------------------------------------------- permutations


def perm_of(node: ir.Node | None) -> Perm | None:
    """The permutation of a Transpose; None of anything else."""
    if node is None or node.op_type != "Transpose" or node.domain or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def _inverse(perm: Perm) -> Perm:
    return tuple(int(i) for i in np.argsort(perm))


def _then(first: Perm, second: Perm) -> Perm:
    """The one permutation that does `first` and then `second`."""
    return tuple(first[i] for i in second)


def _permuted(shape: ir.Shape | None, perm: Perm) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[i] for i in perm])


def _perms(graph: ir.Graph) -> list[Perm]:
    """Layouts worth trying: how values in the graph are transposed, either way round."""
    found: dict[Perm, None] = {}
    for node in graph:
        perm = perm_of(node)
        if perm is not None:
            found.setdefault(perm)
            found.setdefault(_inverse(perm))
    return list(found)


def _merge_pairs(graph: ir.Graph) -> bool:
    """Compose consecutive Transposes, drop those that do nothing or that nobody reads."""
    changed = False
    for node in list(graph):
        if node.op_type == "Shape" and not node.attributes:
            changed = _shape_before_transpose(graph, node) or changed
        perm = perm_of(node)
        if perm is None:
            continue
        source = node.inputs[0]
        assert source is not None
        before = perm_of(source.producer())
        if before is not None:
            producer = source.producer()
            assert producer is not None
            perm = _then(before, perm)
            node.replace_input_with(0, producer.inputs[0])
            node.attributes["perm"] = ir.AttrInt64s("perm", perm)
            if not source.uses() and not source.is_graph_output():
                graph.remove(producer, safe=True)
            changed = True
        output, source = node.outputs[0], node.inputs[0]
        if perm == tuple(range(len(perm))) and (not output.is_graph_output() or _computed_here(source)):
            assert source is not None
            replace_uses(output, source)
            changed = True
        if not output.uses() and not output.is_graph_output():
            graph.remove(node, safe=True)
            changed = True
    return changed


def _computed_here(value: ir.Value | None) -> bool:
    """Whether a value may bear an output's name: neither an input nor a constant nor another output."""
    return value is not None and value.producer() is not None and not value.is_graph_output()


def _shape_before_transpose(graph: ir.Graph, node: ir.Node) -> bool:
    """Shape(Transpose(x)) as a Gather from Shape(x), so that no data moves for its sake."""
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    perm = perm_of(producer)
    if producer is None or perm is None:
        return False
    shape = ir.node("Shape", [producer.inputs[0]])
    pick = ir.node("Gather", [shape.outputs[0], make_constant(node, np.array(perm, np.int64))])
    for new in (shape, pick):
        new.outputs[0].dtype, new.outputs[0].shape = ir.DataType.INT64, ir.Shape([len(perm)])
        graph.insert_before(node, new)
    replace_uses(node.outputs[0], pick.outputs[0])
    graph.remove(node, safe=True)
    return True


# ---------------------------------------------------------------- regions


@dataclasses.dataclass
class _Member:
    """How a node takes part in a region stored under a permutation.

    Attributes:
        inputs: indices of the inputs that are stored in the region's layout.
        outputs: whether the outputs are, too (a reduction that drops axes ends the region).
        rewrite: what to do to the node when the region is flipped.
    """

    node: ir.Node
    inputs: tuple[int, ...]
    outputs: bool
    rewrite: Callable[[], None]


def _flip_regions(graph: ir.Graph, perm: Perm, outward: bool) -> bool:
    members = [m for node in graph if (m := _member(node, perm)) is not None]
    flipped = False
    for region in _connected(members):
        gain = _gain(region, perm, outward)
        # At a tie a Transpose moves to the model's input, where it no longer parts a Pad from its Conv.
        if gain > 0 or (gain == 0 and _reads_inputs_alone(region)):
            _flip(graph, region, perm)
            flipped = True
    return flipped


def _reads_inputs_alone(region: Sequence[_Member]) -> bool:
    entering, made, _ = _rim(region)
    kept = any(value.is_graph_output() for value in made)
    return bool(entering and made) and not kept and all(value.is_graph_input() for value in entering)


def _values(member: _Member) -> list[ir.Value]:
    values = [member.node.inputs[i] for i in member.inputs]
    if member.outputs:
        values += member.node.outputs
    return [value for value in values if value is not None]


def _connected(members: Sequence[_Member]) -> list[list[_Member]]:
    """Group members that share a value; in graph order."""
    parent: dict[int, int] = {}

    def find(i: int) -> int:
        while parent.setdefault(i, i) != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for index, member in enumerate(members):
        for value in _values(member):
            parent[find(-1 - id(value))] = find(index)
    groups: dict[int, list[_Member]] = {}
    for index, member in enumerate(members):
        groups.setdefault(find(index), []).append(member)
    return list(groups.values())


def _rim(region: Sequence[_Member]) -> tuple[list[ir.Value], list[ir.Value], set[int]]:
    """Values that enter the region, values made in it, and the ids of its nodes."""
    made = [value for m in region if m.outputs for value in m.node.outputs]
    inside = {id(value) for value in made}
    entering = {
        id(value): value
        for m in region
        for i in m.inputs
        if (value := m.node.inputs[i]) is not None and id(value) not in inside
    }
    return list(entering.values()), made, {id(m.node) for m in region}


def _gain(region: Sequence[_Member], perm: Perm, outward: bool) -> int:
    """Transposes saved by storing the region's values v as v', where v = Transpose(v', perm)."""
    entering, made, nodes = _rim(region)
    back, graph = _inverse(perm), region[0].node.graph
    gain = 0
    for value in entering:
        before = perm_of(value.producer())
        if before is None:
            gain -= 1
        elif before == perm:
            outside = [u for u in value.uses() if id(u.node) not in nodes]
            free = not value.is_graph_output() and all(_exit(u.node, graph) for u in outside)
            gain += 1 if free else 0
    for value in made:
        wanted_back = value.is_graph_output() and not outward
        for use in value.uses():
            if id(use.node) in nodes or (use.node.op_type == "Shape" and use.node.graph is graph):
                continue
            after = _exit(use.node, graph)
            if after == back and not use.node.outputs[0].is_graph_output():
                gain += 1
            elif after is None:
                wanted_back = True
        gain -= wanted_back and not _moves_ones_alone(value, perm)
    return gain


def _moves_ones_alone(value: ir.Value, perm: Perm) -> bool:
    """Whether transposing moves no data: pooled images are of size one, and a Reshape turns them."""
    if value.shape is None:
        return False
    moved = [axis for axis in perm if value.shape[axis] != 1]
    return moved == sorted(moved)


def _exit(node: ir.Node, graph: object) -> Perm | None:
    """The permutation of a Transpose that can be merged; one inside a loop's body cannot."""
    return perm_of(node) if node.graph is graph else None


def _flip(graph: ir.Graph, region: Sequence[_Member], perm: Perm) -> None:
    entering, made, nodes = _rim(region)
    back = _inverse(perm)
    for value in entering:
        producer = value.producer()
        before = perm_of(producer)
        if before == perm:
            assert producer is not None
            stored = producer.inputs[0]
        else:
            turn = ir.node("Transpose", [value], {"perm": back})
            stored = turn.outputs[0]
            stored.type, stored.shape = value.type, _permuted(value.shape, back)
            if producer is not None:
                graph.insert_after(producer, turn)
            else:
                graph.insert_before(graph[0], turn)
        for member in region:
            for i in member.inputs:
                if member.node.inputs[i] is value:
                    member.node.replace_input_with(i, stored)
    for member in region:
        member.rewrite()
    for value in made:
        _hand_back(graph, value, perm, nodes)


def _hand_back(graph: ir.Graph, value: ir.Value, perm: Perm, nodes: set[int]) -> None:
    """Give users outside the region the value in the old layout again."""
    producer = value.producer()
    assert producer is not None
    outside = [use for use in value.uses() if id(use.node) not in nodes]
    shape, was_output = value.shape, value.is_graph_output()
    value.shape = _permuted(shape, _inverse(perm))
    if not outside and not was_output:
        return
    turn = ir.node("Transpose", [value], {"perm": perm})
    turned = turn.outputs[0]
    turned.type, turned.shape = value.type, shape
    graph.insert_after(producer, turn)
    for use in outside:
        use.node.replace_input_with(use.idx, turned)
    if was_output:
        name = value.name
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = turned
        value.name, turned.name = None, name


# ---------------------------------------------------------------- members


def _member(node: ir.Node, perm: Perm) -> _Member | None:
    """The node as a member of a region under `perm`, or None where its axes are tied down."""
    assert isinstance(node.graph, ir.Graph)
    opset = node.version or node.graph.opset_imports.get(node.domain, 1)
    if node.domain not in ("", "ai.onnx") or opset < 7:  # before 7, an attribute says what lies on what
        return None
    op = node.op_type
    if op in ("Hardmax", "LogSoftmax", "Softmax") and opset < 13:  # which go over all axes from one on
        return None
    if op in _ELEMENTWISE:
        return _elementwise(node, perm)
    if op in _BY_AXIS:
        return _by_axis(node, perm)
    if op in _REDUCTIONS:
        return _reduction(node, perm)
    if op == "Pad":
        return _pad(node, perm)
    if op == "Slice":
        return _slice(node, perm)
    if op == "Gather":
        return _gather(node, perm)
    return None


def _has_rank(value: ir.Value | None, rank: int) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == rank


def _mapped(axes: Iterable[int], perm: Perm) -> list[int]:
    return [perm[axis % len(perm)] for axis in axes]


def _elementwise(node: ir.Node, perm: Perm) -> _Member | None:
    rank = len(perm)
    stored: list[int] = []
    constants: list[tuple[int, ir.Value, np.ndarray]] = []
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        array = constant_of(value, limit=1 << 24)
        if array is not None:
            if array.size > 1 or array.ndim > rank:
                constants.append((i, value, array))
        elif _has_rank(value, rank):
            stored.append(i)
        elif not _has_rank(value, 0):
            return None
    if not stored or any(array.ndim > rank for *_, array in constants):
        return None

    def rewrite() -> None:
        for i, value, array in constants:
            full = array.reshape((1,) * (rank - array.ndim) + array.shape)
            turned = np.ascontiguousarray(full.transpose(_inverse(perm)))
            node.replace_input_with(i, rewritten(node, value, turned))

    return _Member(node, tuple(stored), True, rewrite)


def _by_axis(node: ir.Node, perm: Perm) -> _Member | None:
    if "axis" not in node.attributes and node.op_type == "Concat":
        return None
    default = 0 if node.op_type == "Split" else -1
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else default
    data = tuple(range(len(node.inputs))) if node.op_type == "Concat" else (0,)
    rank = len(perm)
    dynamic = tuple(i for i in data if constant_of(node.inputs[i]) is None)
    if dynamic != data or not all(_has_rank(node.inputs[i], rank) for i in data):
        return None

    def rewrite() -> None:
        node.attributes["axis"] = ir.AttrInt64("axis", perm[axis % rank])

    return _Member(node, data, True, rewrite)


def _axes(node: ir.Node, index: int) -> list[int] | None:
    """The axes a node names, as an attribute or as a constant input."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    if len(node.inputs) > index and node.inputs[index] is not None:
        array = constant_of(node.inputs[index])
        return None if array is None else [int(a) for a in array]
    return None


def _set_axes(node: ir.Node, index: int, axes: Sequence[int]) -> None:
    if "axes" in node.attributes:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    else:
        node.replace_input_with(index, make_constant(node, np.array(axes, np.int64)))


def _reduction(node: ir.Node, perm: Perm) -> _Member | None:
    axes = _axes(node, 1)
    if axes is None or not _has_rank(node.inputs[0], len(perm)):
        return None
    keep = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    new = sorted(_mapped(axes, perm))
    if not keep:
        gone = {axis % len(perm) for axis in axes}
        rest = [perm[axis] for axis in range(len(perm)) if axis not in gone]
        if rest != sorted(rest):
            return None
    return _Member(node, (0,), bool(keep), lambda: _set_axes(node, 1, new))


def _pad(node: ir.Node, perm: Perm) -> _Member | None:
    rank = len(perm)
    if len(node.inputs) < 2 or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    pads = constant_of(node.inputs[1])
    if pads is None or not _has_rank(node.inputs[0], rank):
        return None
    turned = pads.reshape(2, rank)[:, list(_inverse(perm))].reshape(-1)
    return _Member(node, (0,), True, lambda: node.replace_input_with(1, make_constant(node, turned)))


def _slice(node: ir.Node, perm: Perm) -> _Member | None:
    if len(node.inputs) < 3 or not _has_rank(node.inputs[0], len(perm)):
        return None
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return None
    axes = _axes(node, 3)
    if axes is None:
        return None
    return _Member(node, (0,), True, lambda: _set_axes(node, 3, _mapped(axes, perm)))


def _gather(node: ir.Node, perm: Perm) -> _Member | None:
    """A choice along one axis, by a list of places."""
    places = constant_of(node.inputs[1])
    if places is None or places.ndim != 1 or not _has_rank(node.inputs[0], len(perm)):
        return None
    axis = node.attributes.get_int("axis", 0) % len(perm)

    def rewrite() -> None:
        node.attributes["axis"] = ir.AttrInt64("axis", perm[axis])

    return _Member(node, (0,), True, rewrite)


# ---------------------------------------------------------------- transposes of size-one axes


def _turn_into_reshapes(graph: ir.Graph) -> None:
    """A Transpose that moves nothing but axes of size one is a Reshape, which costs nothing."""
    for node in list(graph):
        perm = perm_of(node)
        if perm is None or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        shape = node.inputs[0].shape
        moved = [axis for axis in perm if shape[axis] != 1]
        sizes = [shape[axis] for axis in perm]
        fixed = [size if isinstance(size, int) else -1 for size in sizes]
        if moved != sorted(moved) or fixed.count(-1) > 1:
            continue
        reshape = ir.node("Reshape", [node.inputs[0], make_constant(node, np.array(fixed, np.int64))])
        graph.insert_before(node, reshape)
        old, new = node.outputs[0], reshape.outputs[0]
        new.type, new.shape = old.type, old.shape
        replace_uses(old, new)
        graph.remove(node, safe=True)
