"""A PyTorch model as an exported program in which every layer's output is tapped.

A *tap* is an operator of our own that copies a tensor. In place of the model's outputs the program
returns the taps, so nothing can be optimised across them, and in-place operators that follow do not
reach what was copied. What the model computes with is left as it is: a copy passed on would part what
shares memory. Translation then lets whatever reads a tapped value after the tap read the tap.
"""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import os
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.model import Boundary, Layer, LayeredModel, TensorSpec
from converter.sources.torch import backend
from converter.sources.torch.operator import tap
from converter.sources.torch.recorder import ModuleCall, Reached, module_stack_kept, recording
from converter.sources.torch.signature import Signature, name_arguments
from converter.sources.torch.structure import flatten_named

__all__ = ["FixedBatchError", "Trace", "trace"]


@dataclasses.dataclass
class Trace:
    """A traced model.

    Attributes:
        program: the ExportedProgram; it takes the inputs in flat order and returns the taps.
        inputs: the model's inputs.
        outputs: the model's outputs as boundaries; empty where the trace stopped before them.
        layers: every layer call in order; where the trace stopped, those tapped until then.
        taps: the `Boundary.value` of each tensor that the program returns.
        translations: opset → the layered graph made of it; `translate` keeps them here.
    """

    program: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[Boundary, ...]
    layers: tuple[Layer, ...]
    taps: tuple[str, ...]
    translations: dict[int, LayeredModel] = dataclasses.field(default_factory=dict)

    @property
    def boundaries(self) -> set[Boundary]:
        """Every tensor that the program returns."""
        return {*self.outputs, *(boundary for layer in self.layers for boundary in layer.boundaries)}


class FixedBatchError(Exception):
    """The model computes with the batch size as a constant."""


class _Taps:
    """Taps the tensors that modules return: all, or until those that are waited for have been seen.

    In the second case only those and what stands beside them and their parents, where the next cut is likely.
    """

    def __init__(self, until: Iterable[tuple[str, int]]) -> None:
        self._until = frozenset(until)
        paths = [path.split(".") for path, _ in self._until]
        self._parents = {".".join(path[:depth]) for path in paths for depth in range(len(path))}
        self.start()

    def start(self) -> None:
        """Forget everything seen."""
        self.calls: list[tuple[ModuleCall, list[tuple[str, Any]]]] = []
        self.count = 0
        self._missing = set(self._until)

    def tap(self, tensor: Any) -> Any:
        self.count += 1
        return tap()(tensor, self.count - 1)

    def __call__(self, call: ModuleCall, output: Any) -> None:
        if self._until and call.path.rpartition(".")[0] not in self._parents:
            return
        tensors = [(key, self.tap(tensor)) for key, tensor in flatten_named(output)]
        if tensors:
            self.calls.append((call, tensors))
        if self._until:
            self._missing.discard((call.path, call.index))
            if not self._missing:
                raise Reached


def trace(
    model: Any, signature: Signature, until: Iterable[tuple[str, int]] = (), times: Counter[str] | None = None
) -> Trace:
    """Trace a model in evaluation mode with `torch.export`.

    Args:
        model: the model; left as it was.
        signature: how to call it.
        until: calls (path, index): stop when all of them have returned. The trace then has these layers,
            those beside them and beside their parents, and not the model's outputs. Each tap is paid for in
            every stage of the exporter.
        times: how often each module is called in all; counted in the trace where None.

    Raises:
        FixedBatchError: the batch cannot be symbolic.
        SourceError: the model cannot be traced; the line that is in the way is named.
    """
    taps = _Taps(until)
    ends: list[tuple[str, Any]] = []

    def forward(*values: Any) -> tuple[Any, ...]:
        taps.start()  # torch.export may run this more than once
        ends.clear()
        with module_stack_kept():
            try:
                with recording(model, taps):
                    outputs = signature.call(original, values)
                ends.extend((name, taps.tap(value)) for name, value in signature.name_outputs(outputs))
            except Reached:
                pass
        return tuple(value for _, tensors in taps.calls for _, value in tensors) + tuple(e for _, e in ends)

    original = model.forward
    name_arguments(forward, [spec.name for spec in signature.inputs])
    with backend.quiet(), backend.as_judge(model), backend.state_kept(model), _forward(model, forward):
        program = _exported(model, signature)
    return _collect(program, signature, taps, ends, times)


@contextlib.contextmanager
def _forward(model: Any, forward: Any) -> Iterator[None]:
    """Another `forward` on the instance for the length of a block."""
    before = model.__dict__.get("forward")
    model.__dict__["forward"] = forward
    try:
        yield
    finally:
        del model.__dict__["forward"]
        if before is not None:
            model.__dict__["forward"] = before


def _exported(model: Any, signature: Signature) -> Any:
    torch = backend.torch()
    kinds = torch.export.Dim
    shapes = tuple(
        {
            axis: kinds.AUTO if size == "batch" else kinds.DYNAMIC
            for axis, size in enumerate(spec.shape)
            if isinstance(size, str)
        }
        for spec in signature.inputs
    )
    try:
        values = tuple(backend.on_device_of(model, signature.tensors()))
        program = torch.export.export(model, values, dynamic_shapes=shapes, strict=False)
    except SourceError:
        raise
    except Exception as error:
        raise _refusal(model, error) from error
    if _guard_against(program, signature, "batch") is not None:
        raise FixedBatchError
    others = {size for spec in signature.inputs for size in spec.shape if isinstance(size, str)} - {"batch"}
    for name in sorted(others):
        guard = _guard_against(program, signature, name)
        if guard is not None:
            raise SourceError(
                f"the axis {name!r} that was asked to be symbolic is fixed in {type(model).__name__}, "
                f"which holds for these sizes only if {guard}",
                hint="leave it out of --dynamic",
            )
    return program


def _placeholders(program: Any) -> list[Any]:
    """The nodes of the program's own inputs, in order."""
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [nodes[name] for name in names]


def _guard_against(program: Any, signature: Signature, name: str) -> str | None:
    """What the trace supposes of the sizes that does not hold when the size called `name` is doubled."""
    import sympy

    values: dict[Any, Any] = {}
    readable: dict[Any, Any] = {}
    nodes = _placeholders(program)
    for node, spec, sizes in zip(nodes, signature.inputs, signature.example, strict=True):
        for symbol, label, size in zip(node.meta["val"].shape, spec.shape, sizes, strict=True):
            if isinstance(label, str) and isinstance(symbol, int):
                if label == name:
                    return f"{label} == {symbol}"
            elif isinstance(label, str):
                hint = 2 if label == "batch" else size
                values[symbol.node._expr] = sympy.Integer(2 * hint if label == name else hint)
                readable[symbol.node._expr] = sympy.Symbol(label)
    environments = [getattr(node.meta["val"].fake_mode, "shape_env", None) for node in nodes]
    for guard in environments[0].guards if environments and environments[0] is not None else ():
        if guard.expr.xreplace(values) == sympy.false:
            return str(guard.expr.xreplace(readable))
    return None


def _refusal(model: Any, error: Exception) -> SourceError:
    """What stands in the way, in the terms of the model's own code."""
    name = type(model).__name__
    line = _user_line(error)
    text = " ".join(str(error).split())
    if "data-dependent" in text.casefold() or "DataDependent" in type(error).__name__:
        return SourceError(
            f"{name}.forward decides by the values of a tensor, which a graph cannot{line}",
            hint="torch.where and torch.cond compute with such a decision",
        )
    if "Constraints violated" in text or "specialized" in text:
        return SourceError(
            f"an axis that was asked to be symbolic is fixed in {name}: {text[:400]}",
            hint="leave it out of --dynamic",
        )
    return SourceError(f"torch.export cannot trace {name}{line}: {type(error).__name__}: {text[:400]}")


def _user_line(error: BaseException) -> str:
    """The innermost line of the traceback that is neither PyTorch's nor ours."""
    own = f"{Path(__file__).resolve().parents[2]}{os.sep}"
    library = f"{Path(backend.torch().__file__).parent}{os.sep}"
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if not frame.filename.startswith((own, library, "<")):
                code = linecache.getline(frame.filename, frame.lineno or 0).strip()
                return f", at {frame.filename}:{frame.lineno}: `{code}`"
        seen = seen.__cause__ or seen.__context__
    return ""


def _collect(
    program: Any,
    signature: Signature,
    taps: _Taps,
    ends: Sequence[tuple[str, Any]],
    times: Counter[str] | None,
) -> Trace:
    symbols = _symbols(program, signature)
    tapped = iter(program.graph.output_node().args[0])
    if times is None:
        times = Counter(call.path for call, _ in taps.calls)
    layers, values = [], []
    for call, tensors in taps.calls:
        name = f"{call.path}@{call.index}" if times[call.path] > 1 else call.path
        boundaries = []
        for key, _ in tensors:
            value = Boundary.value_at((call.path, call.index, key))
            spec = _spec(name if len(tensors) == 1 else f"{name}:{key}", next(tapped), symbols)
            boundaries.append(Boundary(spec, value))
            values.append(value)
        weights = list(call.module.parameters())
        layers.append(
            Layer(
                name=name,
                kind=type(call.module).__name__,
                boundaries=tuple(boundaries),
                parameters=sum(w.numel() for w in weights),
                trainable=sum(w.numel() for w in weights if w.requires_grad),
                depth=call.path.count("."),
            )
        )
    outputs = tuple(Boundary(_spec(name, next(tapped), symbols), f"output:{name}") for name, _ in ends)
    values += [b.value for b in outputs]
    return Trace(program, signature.inputs, outputs, tuple(layers), tuple(values))


def _symbols(program: Any, signature: Signature) -> dict[Any, str]:
    """The names of the symbolic sizes of the inputs."""
    named: dict[Any, str] = {}
    for node, spec in zip(_placeholders(program), signature.inputs, strict=True):
        for size, name in zip(node.meta["val"].shape, spec.shape, strict=True):
            if isinstance(name, str) and not isinstance(size, int):
                named.setdefault(size.node.expr, name)
    return named


def _spec(name: str, node: Any, symbols: dict[Any, str]) -> TensorSpec:
    value = node.meta["val"]
    shape = tuple(size if isinstance(size, int) else _dim(size, symbols) for size in value.shape)
    return TensorSpec(name, shape, str(value.dtype).removeprefix("torch."))


def _dim(size: Any, symbols: dict[Any, str]) -> str | int:
    """A symbolic size in the inputs' names: `batch`, `49*batch`."""
    import sympy

    expression = size.node.expr
    if expression.is_Integer:
        return int(expression)
    named = expression.xreplace({symbol: sympy.Symbol(text) for symbol, text in symbols.items()})
    return str(named).replace(" ", "")
