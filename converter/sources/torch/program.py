"""A piece of a traced model as a program of PyTorch's own, which needs none of the model's code."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from converter.errors import TargetError
from converter.model import TensorSpec
from converter.sources.torch import backend
from converter.sources.torch.operator import tap
from converter.sources.torch.signature import name_arguments
from converter.sources.torch.structure import first_names
from converter.sources.torch.trace import Trace

__all__ = ["export_piece"]


def export_piece(
    traced: Trace, inputs: Sequence[TensorSpec], starts: Mapping[str, TensorSpec], ends: Sequence[str]
) -> Any:
    """The part of a traced model between two cuts as an ExportedProgram.

    It has the weights under their original names, knows the layer of each of its operators, and returns a
    tensor, or a tuple where there is more than one end.

    Args:
        traced: a trace that has the starts and the ends.
        inputs: inputs of the model that are inputs of the piece.
        starts: `Boundary.value` → the input that takes its place, in order; they follow the `inputs`.
        ends: `Boundary.value` of each output.

    Raises:
        TargetError: PyTorch cannot trace the piece by itself, or would fix an axis that is symbolic.
    """
    torch = backend.torch()
    specs = [*inputs, *starts.values()]
    dims = [{i: torch.export.Dim.AUTO for i, d in enumerate(s.shape) if isinstance(d, str)} for s in specs]
    with backend.quiet():
        piece = _Piece(traced, inputs, starts, ends)
        try:
            with torch.fx.traceback.preserve_node_meta():
                program = torch.export.export(
                    piece.module([spec.name for spec in specs]),
                    tuple(piece.example()),
                    dynamic_shapes=tuple(dims),
                    strict=False,
                )
        except Exception as error:
            raise TargetError(
                f"torch.export cannot trace this piece by itself: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:400]}"
            ) from error
    program.example_inputs = None  # zeros, as large as a batch of the inputs
    for node in program.graph.nodes:
        for key in ("stack_trace", "from_node"):  # they speak of this machine and of this process
            node.meta.pop(key, None)
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name, spec in zip(program.graph_signature.user_inputs, specs, strict=True):
        for size, made in zip(spec.shape, placeholders[name].meta["val"].shape, strict=True):
            if isinstance(size, str) and isinstance(made, int):
                raise TargetError(f"torch.export fixes the axis {size!r} of {spec} to {made}")
    return program


class _Piece:
    """The nodes between two cuts of a functional program, to be run again.

    Whatever read a tensor after the tap at which the piece starts reads what the piece is fed. A size that
    the program read from a tensor is read from what the piece is fed, too.
    """

    def __init__(
        self,
        traced: Trace,
        inputs: Sequence[TensorSpec],
        starts: Mapping[str, TensorSpec],
        ends: Sequence[str],
    ) -> None:
        with backend.torch().no_grad():  # as the trace was made; attention takes another way otherwise
            self._program = traced.program.run_decompositions({})
        graph, signature = self._program.graph, self._program.graph_signature
        specs = zip(signature.output_specs, graph.output_node().args[0], strict=True)
        taps = dict(zip(traced.taps, [n for s, n in specs if s.kind.name == "USER_OUTPUT"], strict=True))
        placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
        named = dict(zip((spec.name for spec in traced.inputs), signature.user_inputs, strict=True))
        self._fed = [placeholders[named[spec.name]] for spec in inputs] + [taps[value] for value in starts]
        self._ends = [taps[value] for value in ends]
        self._position = {node: number for number, node in enumerate(graph.nodes)}
        first = first_names(self._program.state_dict)
        self._state = {
            spec.arg.name: first.get(spec.target, spec.target)
            for spec in signature.input_specs
            if spec.kind.name != "USER_INPUT"
        }
        self._symbols = self._solve()
        self._order = sorted(self._needed(), key=self._position.__getitem__)

    def example(self) -> list[Any]:
        """An example of what the piece is fed."""
        torch = backend.torch()
        made = []
        for node in self._fed:
            value = node.meta["val"]
            sizes = [size if isinstance(size, int) else size.node.hint for size in value.shape]
            made.append(torch.zeros(sizes, dtype=value.dtype, device=value.device))
        return made

    def module(self, names: Sequence[str]) -> Any:
        """A module with the weights that the piece needs, under their names, which runs it."""
        module = backend.torch().nn.Module()
        for node in self._order:
            if node.op == "placeholder" and node.name in self._state:
                self._attach(module, self._state[node.name])

        def forward(*values: Any) -> Any:
            results = self._run(module, values)
            return results[0] if len(results) == 1 else tuple(results)

        name_arguments(forward, names)
        module.forward = forward
        return module

    def _attach(self, module: Any, path: str) -> None:
        torch = backend.torch()
        *parents, name = path.split(".")
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        state, constants = self._program.state_dict, self._program.constants
        tensor = state[path] if path in state else constants[path]
        if isinstance(tensor, torch.nn.Parameter):
            module.register_parameter(name, tensor)
        else:
            module.register_buffer(name, tensor, persistent=path in state)

    def _run(self, module: Any, values: Sequence[Any]) -> list[Any]:
        torch = backend.torch()
        known = dict(zip(self._fed, values, strict=True))
        sizes = {symbol: self._size(known, *place) for symbol, place in self._symbols.items()}
        for node in self._order:
            if node in known:
                continue
            with torch.fx.traceback.set_current_meta(node):
                known[node] = self._compute(module, node, known, sizes)
        return [known[end] for end in self._ends]

    def _compute(self, module: Any, node: Any, known: Mapping[Any, Any], sizes: Mapping[Any, Any]) -> Any:
        torch = backend.torch()
        if node.op == "placeholder":
            return operator.attrgetter(self._state[node.name])(module)
        if node.op == "get_attr":
            return getattr(self._program.graph_module, node.target)
        if self._is_size(node):
            return _evaluated(node.meta["val"], sizes)
        args = torch.fx.node.map_arg(node.args, lambda arg: known[self._read(node, arg)])
        kwargs = torch.fx.node.map_arg(node.kwargs, lambda arg: known[self._read(node, arg)])
        if node.target is torch.ops.aten._native_batch_norm_legit_no_training.default:
            # What making a program functional turns batch_norm into has no gradient.
            x, weight, bias, mean, variance, momentum, epsilon = args
            return (torch.batch_norm(x, weight, bias, mean, variance, False, momentum, epsilon, False),)
        if node.target is tap():
            return args[0]
        return node.target(*args, **kwargs)

    def _read(self, node: Any, source: Any) -> Any:
        """What a node reads for one of its arguments: the tap that the piece starts at, from there on."""
        taps = [fed for fed in self._fed if fed.op != "placeholder" and fed.args[0] is source]
        starts = [start for start in taps if self._position[start] < self._position[node]]
        return max(starts, key=self._position.__getitem__) if starts else source

    def _needed(self) -> set[Any]:
        seen: set[Any] = set()
        stack = list(self._ends)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node not in self._fed and not self._is_size(node):
                stack.extend(self._read(node, source) for source in node.all_input_nodes)
        return seen

    def _is_size(self, node: Any) -> bool:
        """Whether a node reads a size of a tensor that the piece can tell by itself."""
        if node.target is not backend.torch().ops.aten.sym_size.int:
            return False
        size = node.meta["val"]
        return isinstance(size, int) or set(size.node.expr.free_symbols) <= set(self._symbols)

    def _solve(self) -> dict[Any, tuple[int, int, int, int]]:
        """Where each symbolic size can be read: (input, axis, a, b) where that axis measures a·size + b."""
        found: dict[Any, tuple[int, int, int, int]] = {}
        for index, axis, expression in self._axes():
            for symbol in expression.free_symbols:
                factor = expression.coeff(symbol, 1)
                rest = expression - factor * symbol
                if factor.is_Integer and rest.is_Integer and (factor == 1 or symbol not in found):
                    found[symbol] = index, axis, int(factor), int(rest)
        return found

    def _axes(self) -> Iterator[tuple[int, int, Any]]:
        for index, node in enumerate(self._fed):
            for axis, size in enumerate(node.meta["val"].shape):
                if not isinstance(size, int):
                    yield index, axis, size.node.expr

    def _size(self, known: Mapping[Any, Any], index: int, axis: int, factor: int, rest: int) -> Any:
        size = known[self._fed[index]].shape[axis]
        return size if (factor, rest) == (1, 0) else (size - rest) // factor


def _evaluated(size: Any, sizes: Mapping[Any, Any]) -> Any:
    if isinstance(size, int):
        return size
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    return sympy_interp(PythonReferenceAnalysis, dict(sizes), size.node.expr)
