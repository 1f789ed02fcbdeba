"""Express a graph in another opset of ONNX."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir import tape
from onnx_ir.passes import common
from onnxscript.version_converter import convert_version

from converter.errors import TargetError
from converter.finish.graphs import constant_of, forget_shapes, main_domain, replace_uses
from converter.model import Piece
from converter.onnxfile import FROM_FILE, Excerpt
from converter.onnxfile.memory import as_model

__all__ = ["lowest_ir_version", "restate", "to_opset"]

Rule = Callable[[tape.Tape, ir.Node], ir.Value | None]


def to_opset(model: ir.Model, opset: int) -> None:
    """Rewrite the nodes of the standard domain for this opset, in place.

    Requires: inferred shapes where they matter (`Pad` by axes, uneven `Split`).
    Ensures: `opset_imports[""] == opset`; values equal up to rounding.

    Newer opsets: onnxscript's converter, and ONNX's own below opset 18. Older ones, for which neither has all
    that exporters write: a node stays where its operator did not change or what changed is not used, by the
    schemas that the onnx package carries; `_RULES` rewrites the others.

    Raises:
        TargetError: a node uses what the opset does not have.
    """
    if "ai.onnx" in model.opset_imports:  # another name of the same domain
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")
    found = model.opset_imports.get("", opset)
    if opset > found:
        _raise(model, opset)
    for version in range(model.opset_imports.get("", opset), opset, -1):
        _lower(model.graph, version)
    model.opset_imports[""] = opset
    for function in model.functions.values():
        for version in range(function.opset_imports.get("", opset), opset, -1):
            _lower(function, version)
        if "" in function.opset_imports:
            function.opset_imports[""] = opset


def restate(piece: Piece, opset: int | None) -> None:
    """Make a piece of an ONNX file a graph in memory, in this opset; weights are still where they were."""
    assert isinstance(piece.graph, Excerpt)
    if any(weight.is_sparse for weight in piece.graph.weights):
        raise TargetError("a piece with sparse weights stays in the opset of its file")
    model = as_model(piece.graph)
    model.meta[FROM_FILE] = True
    piece.graph = model
    if opset is None:
        return
    common.ShapeInferencePass(data_prop=True)(model)
    to_opset(model, opset)
    forget_shapes(model)
    lowest_ir_version(model)


def lowest_ir_version(model: ir.Model) -> None:
    """Give a model the lowest IR version that its opset allows, for old runtimes; in place.

    One with local functions, which came with a later version, keeps its own if that is higher.
    """
    version = model.opset_imports.get("", 1)
    lowest = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    model.ir_version = max(lowest, model.ir_version) if model.functions else lowest


def _raise(model: ir.Model, opset: int) -> None:
    logger = logging.getLogger("onnxscript.version_converter")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it warns, with a traceback, before it gives up
    try:
        convert_version(model, opset, fallback=True)
    except Exception as error:
        raise TargetError(f"the graph cannot be expressed in opset {opset}: {error}") from error
    finally:
        logger.setLevel(level)
    if model.opset_imports.get("") != opset:
        raise TargetError(f"the graph cannot be expressed in opset {opset}")


def _lower(graph: ir.Graph | ir.Function, version: int) -> None:
    """Take all nodes from `version` to the one before it."""
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        if not main_domain(node) or _schema(node, version).since_version != version:
            continue
        rule = _RULES.get((node.op_type, version))
        if rule is None:
            _forget_defaults(node, version)
            continue
        builder = tape.Tape()
        result = rule(builder, node)
        if result is not None:
            _replace(node, result, list(builder.nodes))


def _replace(node: ir.Node, result: ir.Value, nodes: list[ir.Node]) -> None:
    old = node.outputs[0]
    result.type, result.shape = old.type, old.shape
    for number, new in enumerate(nodes):
        new.metadata_props.update(node.metadata_props)
        # Names that onnx_ir makes up are those of one graph, and may be those of values around it.
        new.outputs[0].name = f"{old.name}:opset_{number}"
    owner = node.graph
    assert owner is not None
    owner.insert_before(node, nodes)
    replace_uses(old, result)
    owner.remove(node, safe=True)


def _schema(node: ir.Node, version: int) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        raise TargetError(f"{node.op_type} is not an operator of opset {version}: {_named(node)}") from None


def _forget_defaults(node: ir.Node, version: int) -> None:
    """Drop attributes that came with `version` and say what was the case before."""
    newer, older = _schema(node, version), _schema(node, version - 1)
    for name in [name for name in node.attributes if name not in older.attributes]:
        default = newer.attributes[name].default_value
        value = node.attributes[name].value
        if isinstance(value, str):
            value = value.encode()
        if value != onnx.helper.get_attribute_value(default):
            said = f"{name} = {node.attributes[name].value!r}"
            raise TargetError(f"{node.op_type} with {said} needs opset {version}: {_named(node)}")
        node.attributes.pop(name)
    used = [index for index, value in enumerate(node.inputs) if value is not None]
    if used and used[-1] >= older.max_input:
        raise _needs(node, version)


def _needs(node: ir.Node, version: int) -> TargetError:
    return TargetError(
        f"{node.op_type} in the form used here needs opset {version}: {_named(node)}",
        hint=f"ask for --opset {version} or above",
    )


def _named(node: ir.Node) -> str:
    return f"node {node.name or node.outputs[0].name}"


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _constant(op: tape.Tape, array: npt.ArrayLike) -> ir.Value:
    return op.op("Constant", [], {"value": ir.tensor(np.asarray(array))})


def _reduce(op: tape.Tape, node: ir.Node) -> ir.Value | None:
    """Axes were an attribute, and no axes always meant all of them."""
    axes = _input(node, 1)
    keeps = node.attributes.get_int("keepdims", 1)
    none_is_none = node.attributes.get_int("noop_with_empty_axes", 0)
    values = None if axes is None else constant_of(axes)
    if axes is not None and values is None:
        raise _needs(node, 18)
    if values is None or values.size == 0:
        if none_is_none:
            if node.op_type not in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"):
                raise _needs(node, 18)  # the others work on each element even then
            return op.op("Identity", [node.inputs[0]])
        return op.op(node.op_type, [node.inputs[0]], {"keepdims": keeps})
    listed = [int(axis) for axis in values.reshape(-1)]
    return op.op(node.op_type, [node.inputs[0]], {"axes": listed, "keepdims": keeps})


def _split(op: tape.Tape, node: ir.Node) -> None:
    """The number of parts was that of the outputs; uneven parts had to be given."""
    if node.attributes.pop("num_outputs", None) is None:
        return
    whole, parts = node.inputs[0], len(node.outputs)
    axis = node.attributes.get_int("axis", 0)
    size = whole.shape[axis] if whole is not None and whole.shape is not None else None
    if not isinstance(size, int):
        raise _needs(node, 18)
    if size % parts:
        step = -(-size // parts)
        sizes = [min(step, size - step * index) for index in range(parts)]
        listed = _constant(op, np.array(sizes, np.int64))
        listed.name = f"{node.outputs[0].name}:opset_sizes"
        assert node.graph is not None
        node.graph.insert_before(node, list(op.nodes))
        node.resize_inputs(2)
        node.replace_input_with(1, listed)


def _pad(op: tape.Tape, node: ir.Node) -> ir.Value | None:
    """Pads were given for every axis."""
    axes = _input(node, 3)
    if axes is None:
        return None
    data, pads = node.inputs[0], node.inputs[1]
    assert data is not None
    assert pads is not None
    chosen, amounts = constant_of(axes), constant_of(pads)
    if chosen is None or amounts is None or data.shape is None:
        raise _needs(node, 18)
    rank = len(data.shape)
    full = np.zeros((2, rank), np.int64)
    full[:, [int(axis) % rank for axis in chosen]] = amounts.reshape(2, -1)
    listed = _constant(op, full.reshape(-1))
    rest = [node.inputs[2]] if node.inputs[2] is not None else []
    return op.op("Pad", [data, listed, *rest], dict(node.attributes))


def _layer_norm(op: tape.Tape, node: ir.Node) -> ir.Value | None:
    """The operator's definition, in the form that runtimes recognise and fuse again."""
    data, scale = node.inputs[0], node.inputs[1]
    assert data is not None
    more = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
    if more or data.shape is None:
        raise _needs(node, 17)
    if data.dtype != ir.DataType.FLOAT:
        raise _needs(node, 17)  # it computes in float32; others would need casts
    rank = len(data.shape)
    axes = list(range(node.attributes.get_int("axis", -1) % rank - rank, 0))
    epsilon = np.float32(node.attributes.get_float("epsilon", 1e-5))
    over: dict[str, list[int] | int] = {"axes": axes, "keepdims": 1}
    centred = op.op("Sub", [data, op.op("ReduceMean", [data], over)])
    squared = op.op("Pow", [centred, _constant(op, np.float32(2))])
    variance = op.op("ReduceMean", [squared], over)
    spread = op.op("Sqrt", [op.op("Add", [variance, _constant(op, epsilon)])])
    scaled = op.op("Mul", [op.op("Div", [centred, spread]), scale])
    bias = _input(node, 2)
    return scaled if bias is None else op.op("Add", [scaled, bias])


def _mish(op: tape.Tape, node: ir.Node) -> ir.Value | None:
    gate = op.op("Tanh", [op.op("Softplus", [node.inputs[0]])])
    return op.op("Mul", [node.inputs[0], gate])


def _gelu(op: tape.Tape, node: ir.Node) -> ir.Value | None:
    """The operator's definition: https://onnx.ai/onnx/operators/onnx__Gelu.html."""
    data = node.inputs[0]
    assert data is not None
    assert data.dtype is not None
    dtype = data.dtype.numpy()

    def number(value: float) -> ir.Value:
        return _constant(op, np.array(value, dtype))

    if node.attributes.get_string("approximate", "none") == "tanh":
        cubed = op.op("Mul", [op.op("Mul", [data, data]), data])
        inner = op.op("Add", [data, op.op("Mul", [number(0.044715), cubed])])
        gate = op.op("Tanh", [op.op("Mul", [number((2 / np.pi) ** 0.5), inner])])
    else:
        gate = op.op("Erf", [op.op("Div", [data, number(2**0.5)])])
    twice = op.op("Mul", [data, op.op("Add", [gate, number(1.0)])])
    return op.op("Mul", [twice, number(0.5)])


def _grid_sample(_: tape.Tape, node: ir.Node) -> None:
    mode = node.attributes.get_string("mode", "linear")
    node.attributes["mode"] = ir.AttrString(
        "mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    )


def _roi_align(_: tape.Tape, node: ir.Node) -> None:
    mode = node.attributes.pop("coordinate_transformation_mode", None)
    if mode is None or mode.value != "output_half_pixel":
        raise _needs(node, 16)


def _refuse(version: int) -> Rule:
    def rule(_: tape.Tape, node: ir.Node) -> None:
        raise _needs(node, version)

    return rule


_REDUCED = "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split()

# What to do with an operator that came or changed its meaning with an opset, to go to the one before it.
_RULES: dict[tuple[str, int], Rule] = {
    ("Gelu", 20): _gelu,
    ("GridSample", 20): _grid_sample,
    ("DFT", 20): _refuse(20),
    ("GroupNormalization", 21): _refuse(21),  # scale and bias were given by group
    ("Mish", 18): _mish,
    ("Pad", 18): _pad,
    ("Split", 18): _split,
    **{(f"Reduce{what}", 18): _reduce for what in _REDUCED},
    ("LayerNormalization", 17): _layer_norm,
    ("RoiAlign", 16): _roi_align,
}
