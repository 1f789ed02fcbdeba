"""A PyTorch model as a source: the verbs of `converter.model.Source`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor

from converter.edits import Edits, within
from converter.errors import SourceError, TargetError
from converter.model import Array, Boundary, Layer, LayeredModel, Outline, SourceInfo, TensorSpec
from converter.sources.torch import backend
from converter.sources.torch.edit import edited
from converter.sources.torch.native import NativePiece, used_weights
from converter.sources.torch.outline import outline_of
from converter.sources.torch.recorder import ModuleCall, Reached, called, recording
from converter.sources.torch.signature import Signature, as_array, as_tensor
from converter.sources.torch.structure import copied, flatten_named
from converter.sources.torch.trace import FixedBatchError, Trace, trace
from converter.sources.torch.translate import translate

__all__ = ["TorchSource"]


class TorchSource:
    """A PyTorch module, seen through the verbs that every source has."""

    packages: tuple[str, ...] = ("torch", "torchvision", "timm", "transformers")
    beside: tuple[Path, ...] = ()

    def __init__(self, model: Any, info: SourceInfo, signature: Signature, origin: str | None = None) -> None:
        self.info = info
        self.origin = None if origin is None else f"{origin} {signature} {model}"
        self.model = model
        self._signature = signature.apart_from(name for name in self.weights() if "." not in name)
        self.added: frozenset[str] = frozenset()
        self._until: frozenset[tuple[str, int]] = frozenset()
        self._traced: Trace | None = None
        self._times: Counter[str] | None = None
        self._double: Any = None

    @property
    def _trace(self) -> Trace:
        if self._traced is None:
            times = self._calls() if self._until else None
            try:
                self._traced = trace(self.model, self._signature, self._until, times)
            except FixedBatchError:
                fixed = self._signature.with_fixed_batch()
                self._traced = trace(self.model, fixed, self._until, times)
        return self._traced

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._trace.inputs

    @property
    def outputs(self) -> tuple[Boundary, ...]:
        return self._trace.outputs

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._trace.layers

    def outline(self, most: int, near: Sequence[Boundary] = ()) -> Outline:
        del near
        return outline_of(self.model, most)

    def expect(self, names: Sequence[str], *, trunk: bool = True) -> None:
        until = self._resolve(names) if trunk else frozenset()
        if self._traced is not None and not self._until:
            return
        if self._traced is not None and until:
            tapped = {b.place[:2] for la in self._traced.layers for b in la.boundaries if b.place}
            if until <= tapped:
                return  # what was traced for another cut reaches far enough
        self._traced, self._until = None, until

    def _resolve(self, names: Sequence[str]) -> frozenset[tuple[str, int]]:
        """The calls that these names mean; none unless each is the plain name of one call."""
        found = set()
        for name in names:
            times = self._calls()
            if not times:
                return frozenset()
            call = name.partition(":")[0]
            path, _, number = call.partition("@")
            index = int(number) if number.isdigit() else 0
            if index >= times[path] or (times[path] > 1) != bool(number):
                return frozenset()
            found.add((path, index))
        return frozenset(found)

    def _calls(self) -> Counter[str]:
        """How often each module is called, by running the example."""
        if self._times is None:
            values = backend.on_device_of(self.model, self._signature.tensors(batch=None))
            with backend.as_judge(self.model), backend.state_kept(self.model):
                self._times = called(self.model, lambda: self._signature.call(self.model, values))
        return self._times

    def export(self, sinks: Sequence[Boundary], opset: int) -> LayeredModel:
        del sinks  # the trace has no more than was expected
        return translate(self._trace, opset)

    def weights(self) -> dict[str, ir.TensorProtocol]:
        named = [*self.model.named_parameters(remove_duplicate=False)]
        named += self.model.named_buffers(remove_duplicate=False)
        return {name: TorchTensor(tensor.detach(), name) for name, tensor in named}

    def trainable(self) -> dict[str, str]:
        return {name: name.rpartition(".")[0] for name, _ in self.model.named_parameters()}

    def frozen(self) -> frozenset[str]:
        # A weight of two names has both here.
        state = self.model.state_dict(keep_vars=True)
        return frozenset(n for n, weight in state.items() if not getattr(weight, "requires_grad", False))

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        """Run PyTorch eagerly; independent of the trace that the graph comes from."""
        return self._answers(self.model, feeds, wanted)

    def run64(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        """A copy of the model in double precision, which tensors that it makes get as well."""
        torch = backend.torch()
        if self._double is None:
            try:
                self._double = copied(self.model).double()
            except TargetError as error:
                raise SourceError(f"{error.message}, so it cannot be had in float64") from error
        wide = {
            name: array.astype("float64") if array.dtype.kind in "fV" else array
            for name, array in feeds.items()
        }
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            return self._answers(self._double, wide, wanted, " in float64")
        finally:
            torch.set_default_dtype(before)

    def _answers(
        self, model: Any, feeds: Mapping[str, Array], wanted: Sequence[Boundary], how: str = ""
    ) -> dict[str, Array]:
        places = {b.place: b.value for b in wanted if b.place}
        ends = {b.name: b.value for b in wanted if not b.place}
        found: dict[str, Array] = {}

        def observe(call: ModuleCall, output: Any) -> None:
            for key, value in flatten_named(output):
                name = places.get((call.path, call.index, key))
                if name is not None:
                    found[name] = as_array(value)
            if not ends and len(found) == len(places):
                raise Reached

        given = [as_tensor(feeds[spec.name]) for spec in self._signature.inputs]
        values = backend.on_device_of(model, given)
        try:
            with backend.as_judge(model), backend.state_kept(model), recording(model, observe):
                outputs = self._signature.call(model, values)
        except Reached:
            return found
        except Exception as error:
            raise SourceError(
                f"PyTorch cannot run {self.info.name!r} on these samples{how}: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            ) from error
        for name, value in self._signature.name_outputs(outputs):
            if name in ends:
                found[ends[name]] = as_array(value)
        missing = [b.name for b in wanted if b.value not in found]
        if missing:
            raise SourceError(f"PyTorch did not reach {', '.join(missing)} when it ran the model")
        return found

    def edited(self, edits: Edits, info: SourceInfo) -> TorchSource:
        used: list[str] = []
        if edits.end is not None:
            self._reach((edits.end,))
            used = used_weights(self.model, translate(self._trace), (), [edits.end.value])
        model, paths = edited(self.model, self._signature, edits, used)
        made = TorchSource(model, info, self._signature)
        made.added = frozenset(name for name in made.weights() if any(within(name, path) for path in paths))
        return made

    def native(self, inputs: Sequence[str], starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Any:
        self._reach((*starts, *ends))
        return NativePiece(
            self.model,
            self._signature,
            self._trace,
            tuple(spec for spec in self._trace.inputs if spec.name in inputs),
            tuple(starts),
            tuple(ends),
        )

    def _reach(self, boundaries: Sequence[Boundary]) -> None:
        """Trace as far as these boundaries, unless that was done."""
        if self._traced is None or not set(boundaries) <= self._traced.boundaries:
            # What was cut came from the cache, or another cut was traced since.
            places = [b.place for b in boundaries]
            self._until = frozenset(place[:2] for place in places if place) if all(places) else frozenset()
            self._traced = None
