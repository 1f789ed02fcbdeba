"""Parts of a PyTorch model for PyTorch: as weights under their original names, and as programs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from converter.errors import TargetError, ValidationError
from converter.model import Array, Boundary, LayeredModel, TensorSpec
from converter.sources.torch import backend
from converter.sources.torch.program import export_piece
from converter.sources.torch.recorder import ModuleCall, Reached, recording
from converter.sources.torch.signature import Signature, as_array, as_tensor
from converter.sources.torch.structure import copied, first_names, flatten_named, map_named
from converter.sources.torch.trace import Trace
from converter.sources.torch.translate import translate

__all__ = ["NativePiece", "used_weights"]


@dataclasses.dataclass(frozen=True)
class NativePiece:
    """The part of a model between two cuts.

    Attributes:
        model: the whole model; it is left as it was.
        signature: how to call it.
        traced: a trace of it that has the starts and the ends.
        inputs: inputs of the model that are inputs of the piece.
        starts: where the piece starts.
        ends: where it ends; one that is at no place is an output of the model.
    """

    model: Any
    signature: Signature
    traced: Trace
    inputs: tuple[TensorSpec, ...]
    starts: tuple[Boundary, ...]
    ends: tuple[Boundary, ...]

    @functools.cached_property
    def state(self) -> dict[str, Any]:
        """What the model's `state_dict` has of the modules that the piece computes with, each tensor
        once, under the first of its names.

        Raises:
            TargetError: the piece has no weights.
        """
        starts, ends = ([boundary.value for boundary in at] for at in (self.starts, self.ends))
        names = used_weights(self.model, translate(self.traced), starts, ends)
        if not names:
            raise TargetError("there are no weights in this piece to save")
        state = _tensors(self.model)
        return {name: state[name].detach().cpu().clone().contiguous() for name in names}

    @functools.cached_property
    def program(self) -> Any:
        """The piece as an ExportedProgram.

        Raises:
            TargetError: PyTorch cannot trace it by itself.
        """
        starts = {boundary.value: boundary.spec for boundary in self.starts}
        return export_piece(self.traced, self.inputs, starts, [boundary.value for boundary in self.ends])

    def restored(self, state: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """The piece as a function, run by the original architecture with these weights and no others.

        Every weight that is not among them is NaN, or an integer's complement, so that one that the piece
        needs and `state` lacks is seen in the result. Where the piece starts inside the model, what it is
        fed takes the place of the module's output.

        Raises:
            TargetError: the architecture does not know one of the names, or cannot be copied.
        """
        torch = backend.torch()
        model = copied(self.model)
        with torch.no_grad():
            for tensor in _tensors(model).values():
                if tensor.is_floating_point() or tensor.is_complex():
                    tensor.fill_(torch.nan)
                else:
                    tensor.bitwise_not_()
        unexpected = model.load_state_dict(dict(state), strict=False).unexpected_keys
        if unexpected:
            raise TargetError(f"the original architecture does not know {', '.join(unexpected[:4])}")
        return lambda feeds: self._run(model, feeds)

    def called(self, module: Any) -> Callable[[Mapping[str, Array]], list[Array]]:
        """A module that computes the piece as a function of its inputs by name.

        Raises:
            ValidationError: when called: the module refuses what the piece takes.
        """
        torch = backend.torch()
        names = [spec.name for spec in (*self.inputs, *(boundary.spec for boundary in self.starts))]

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            try:
                with torch.no_grad():
                    given = [as_tensor(feeds[name]) for name in names]
                    results = module(*backend.on_device_of(module, given))
            except Exception as error:
                raise ValidationError(f"the module does not run: {type(error).__name__}: {error}") from error
            return [as_array(r) for r in (results if isinstance(results, tuple) else (results,))]

        return run

    def _run(self, model: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
        given = {b.place: b.name for b in self.starts}
        wanted = {b.place or b.name: b.name for b in self.ends}
        found: dict[str, Array] = {}

        def observe(call: ModuleCall, output: Any) -> Any:
            def put(key: str, tensor: Any) -> Any:
                name = given.get((call.path, call.index, key))
                if name is None:
                    return tensor
                value = as_tensor(feeds[name]).to(tensor.device)
                # Into the same memory, which others may share; an expanded tensor has none of its own.
                return value if 0 in tensor.stride() else tensor.copy_(value)

            changed = map_named(put, output)
            for key, tensor in flatten_named(changed):
                if (place := (call.path, call.index, key)) in wanted:
                    found[wanted[place]] = as_array(tensor)
            if len(found) == len(wanted):
                raise Reached
            return changed

        given_inputs = [as_tensor(feeds[spec.name]) for spec in self.signature.inputs]
        values = backend.on_device_of(model, given_inputs)
        try:
            with backend.as_judge(model), recording(model, observe):
                outputs = self.signature.call(model, values)
        except Reached:
            return found
        found |= {
            wanted[name]: as_array(tensor)
            for name, tensor in self.signature.name_outputs(outputs)
            if name in wanted
        }
        return found


def used_weights(model: Any, layered: LayeredModel, starts: Sequence[str], ends: Sequence[str]) -> list[str]:
    """The names that the `state_dict` has for the weights of every module that owns one between two cuts.

    Args:
        model: the PyTorch module.
        layered: its layered graph, whose initializers bear the names of the weights.
        starts: values of the boundaries at which to stop.
        ends: values of the boundaries from which to go back.
    """
    assert isinstance(layered.graph, ir.Model)
    graph = layered.graph.graph
    named = {value.name: value for node in graph for value in node.outputs}
    stack = [named[end] for end in ends]
    seen: set[ir.Value] = set()
    used: set[str] = set()
    while stack:
        value = stack.pop()
        if value in seen or value.name in starts:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is not None:
            inner = [node for g in _bodies(producer) for node in ir.traversal.RecursiveGraphIterator(g)]
            stack.extend(v for node in (producer, *inner) for v in node.inputs if v is not None)
        elif value.is_initializer() and value.name is not None:
            used.add(value.name)
    state = _tensors(model)
    first = first_names(state)
    needed = {first[name] for name in used if name in state}
    owners = {name.rpartition(".")[0] for name in used} | {
        name.rpartition(".")[0] for name in state if first[name] in needed
    }
    owned = {name: state[name] for name in state if name.rpartition(".")[0] in owners}
    return list(dict.fromkeys(first_names(owned).values()))


def _bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside a node: branches and bodies of loops, which read tensors from outside."""
    return [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]


def _tensors(model: Any) -> dict[str, Any]:
    """The tensors of the `state_dict`; modules may put other things of their own there."""
    tensor = backend.torch().Tensor
    return {name: value for name, value in model.state_dict().items() if isinstance(value, tensor)}
