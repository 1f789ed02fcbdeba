"""Which tensors each module of a PyTorch model takes and puts out, seen in one run on an example."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from converter.edits import Call
from converter.sources.torch import backend
from converter.sources.torch.signature import Signature
from converter.sources.torch.structure import flatten_named, map_named

__all__ = ["ModuleRun", "Run", "record"]


@dataclasses.dataclass(frozen=True)
class ModuleRun:
    """One call of one module.

    Attributes:
        path: the module's path.
        index: number of the call among those of this module.
        reads: the tensors it takes, each as (path in (arguments, keywords), number).
        writes: the tensors it puts out, each as (path in the output, number).
        output: what it puts out, with empty tensors.
    """

    path: str
    index: int
    reads: tuple[tuple[str, int], ...]
    writes: tuple[tuple[str, int], ...]
    output: Any

    @property
    def call(self) -> Call:
        """The call by the numbers of its tensors alone."""
        return Call(self.path, tuple(n for _, n in self.reads), tuple(n for _, n in self.writes))


@dataclasses.dataclass
class Run:
    """All calls of a run in the order in which they end.

    Attributes:
        calls: the calls.
        shapes: number of a tensor → its shape and dtype. A tensor that is written to in place has a number
            for each state it was in.
        ends: the tensors that the model puts out.
        error: what stopped the run, if something did.
    """

    calls: list[ModuleRun] = dataclasses.field(default_factory=list)
    shapes: list[tuple[tuple[int, ...], str]] = dataclasses.field(default_factory=list)
    ends: set[int] = dataclasses.field(default_factory=set)
    error: Exception | None = None


class _Recorder:
    def __init__(self) -> None:
        self.run = Run()
        self._number: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other tensor gets the same id
        self._begun: list[tuple[int, tuple[tuple[str, int], ...]]] = []
        self._count: Counter[str] = Counter()

    def before(self, _module: Any, args: Any, kwargs: Any) -> None:
        reads = tuple((key, self.number(t)) for key, t in flatten_named((args, kwargs)))
        self._begun.append((len(self.run.shapes), reads))

    def after(self, path: str, output: Any) -> None:
        since, reads = self._begun.pop()
        writes = []
        for key, tensor in flatten_named(output):
            known = self._number.get(id(tensor), -1)
            # What a module inside put out last is the same tensor; else it is a new state of it.
            writes.append((key, known if known >= since else self._next(tensor)))
        template = map_named(lambda _key, tensor: tensor.new_empty(0), output)
        self.run.calls.append(ModuleRun(path, self._count[path], reads, tuple(writes), template))
        self._count[path] += 1

    def number(self, tensor: Any) -> int:
        found = self._number.get(id(tensor))
        return self._next(tensor) if found is None else found

    def _next(self, tensor: Any) -> int:
        number = len(self.run.shapes)
        self._kept.append(tensor)
        self._number[id(tensor)] = number
        self.run.shapes.append((tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
        return number


@contextlib.contextmanager
def _training(model: Any) -> Iterator[None]:
    """Training mode for a block; the statistics and random numbers that it changes are put back."""
    torch = backend.torch()
    modes = [(module, module.training) for module in model.modules()]
    # Batch normalisation writes to its statistics without counting a new version of them.
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.train()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def record(model: Any, signature: Signature, *, training: bool = False) -> Run:
    """Run a model on an example and note the calls of its modules; an exception ends the run, noted, too."""
    recorder = _Recorder()
    handles = []
    batch = 2 if any("batch" in spec.shape for spec in signature.inputs) else None
    values = backend.on_device_of(model, signature.tensors(batch=batch))
    try:
        for path, module in model.named_modules():
            if path:
                handles.append(module.register_forward_pre_hook(recorder.before, with_kwargs=True))
                handles.append(
                    module.register_forward_hook(
                        lambda _m, _args, output, path=path: recorder.after(path, output)
                    )
                )
        judge = contextlib.nullcontext() if training else backend.as_judge(model)
        with judge, _training(model) if training else contextlib.nullcontext(), backend.state_kept(model):
            outputs = signature.call(model, values)
        recorder.run.ends = {recorder.number(tensor) for _, tensor in flatten_named(outputs)}
    except Exception as error:
        recorder.run.error = error
    finally:
        for handle in handles:
            handle.remove()
    return recorder.run
