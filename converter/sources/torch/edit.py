"""Changed PyTorch models: the original's class and names, with modules taken out, put in, or never reached.

What is not changed keeps its module, its name in the `state_dict` and its bits. A model that ends earlier
is the original with its `forward` left at the cut: control flow, aliasing and modes are the author's own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Sequence
from typing import Any

from converter.edits import Edits, bridge, expect_one_to_one, regions, within
from converter.errors import CutError
from converter.heads import Head
from converter.model import Layer
from converter.sources.torch import backend
from converter.sources.torch.calls import ModuleRun, Run, record
from converter.sources.torch.heads import module_of
from converter.sources.torch.recorder import module_stack_kept
from converter.sources.torch.signature import Signature
from converter.sources.torch.structure import copied, flatten_named, map_named

__all__ = ["edited"]


def edited(model: Any, signature: Signature, edits: Edits, used: Collection[str]) -> tuple[Any, list[str]]:
    """A changed copy of a model, in evaluation mode; and the paths of the modules that were put in.

    Args:
        model: the model; it is left as it was.
        signature: how to call it.
        edits: the changes.
        used: names of the weights that what comes before `edits.end` computes with.

    Raises:
        CutError: layers that cannot be taken out or replaced, or do not fit together afterwards.
        UsageError: a head that does not take what it would be given.
    """
    copy = copied(model)
    added = [layer.base for layer, _ in edits.replaced]
    if edits.end is not None:
        added.append(_end(copy, signature, edits, used))
    for layer, new in edits.replaced:
        _replace(copy, record(copy, signature), layer, new, edits)
    if edits.dropped:
        _drop(copy, record(copy, signature), edits.dropped)
    if edits.replaced or edits.dropped:
        error = record(copy, signature).error
        if error is not None:
            what = ", ".join(layer.name for layer in (*edits.dropped, *(la for la, _ in edits.replaced)))
            raise CutError(
                f"without {what} as it was the model does not run: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                hint="an inner layer's replacement has the same shape" if edits.replaced else None,
            )
    _freeze(copy, edits.frozen, edits.trained)
    return copy.eval(), added


# ---------------------------------------------------------------- a new end


class _Left(BaseException):
    """Thrown through `forward` with what the last layer put out."""

    def __init__(self, mark: _Mark, output: Any) -> None:
        self.mark = mark
        self.output = output


class _Mark:
    """Ties the layer at which a model ends to the model; copied with them."""

    def __init__(self, index: int, key: str) -> None:
        self.index = index
        self.key = key


class _Passing(threading.local):
    """The models that are running in this thread: mark → calls to let pass before the last."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}


_PASSING = _Passing()


def _end(model: Any, signature: Signature, edits: Edits, used: Collection[str]) -> str:
    """End a model at a layer, in place; the name of its new head."""
    assert edits.end is not None
    assert edits.end.place is not None
    path, index, key = edits.end.place
    module, mark = model.get_submodule(path), _Mark(index, key)
    module.__class__, module._ends = _ending(_class_of(module)), mark
    level = getattr(model, "_ended_times", 0)  # a model that was given an end before has that one, too
    model.__class__, model._ended_times = _ended(_class_of(model), level), level + 1
    setattr(model, f"_end_{level}", (mark, None))
    reached = {
        call.path for training in (False, True) for call in record(model, signature, training=training).calls
    }
    _remove_unreached(model, reached | {path}, used)
    new = _module(edits.head, edits.end.spec.shape, edits)
    names = ["head", *(f"head_{number}" for number in range(1, level + 2))]
    name = next(name for name in names if getattr(model, name, None) is None)
    model._modules.pop(name, None)
    setattr(model, name, new)
    setattr(model, f"_end_{level}", (mark, name))
    return name


def _blank(maker: Any, *args: Any) -> Any:
    """An object of a class made here, before its state: how such objects are pickled."""
    made = maker(*args)
    return made.__new__(made)


def _named_like(made: Any, cls: Any) -> Any:
    """A class made here under the name of the author's."""
    made.__name__, made.__qualname__, made.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return made


def _class_of(module: Any) -> Any:
    return type(module)


@functools.cache
def _ending(cls: Any) -> Any:
    """A module's class, whose calls end the forward pass of the model around it."""

    class Ending(cls):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            left = _PASSING.left.get(id(self._ends))
            if left == 0:
                raise _Left(self._ends, output)
            if left is not None:  # else the layer is called by itself
                _PASSING.left[id(self._ends)] = left - 1
            return output

        def __reduce__(self) -> Any:
            return _blank, (_ending, cls), self.__dict__

    return _named_like(Ending, cls)


@functools.cache
def _ended(cls: Any, level: int) -> Any:
    """A model's class, whose forward pass ends at a layer inside and goes on with a head."""
    where = f"_end_{level}"

    class Ended(cls):  # type: ignore[misc]
        @functools.wraps(cls.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            mark, head = getattr(self, where)
            _PASSING.left[id(mark)] = mark.index
            with module_stack_kept():
                try:
                    super().forward(*args, **kwargs)
                except _Left as left:
                    if left.mark is not mark:
                        raise
                    tensor = dict(flatten_named(left.output))[mark.key]
                else:
                    raise RuntimeError("the layer at which this model ends was not called")
                finally:
                    _PASSING.left.pop(id(mark), None)
            return tensor if head is None else getattr(self, head)(tensor)

        def __reduce__(self) -> Any:
            return _blank, (_ended, cls, level), self.__dict__

    return _named_like(Ended, cls)


def _remove_unreached(model: Any, reached: Collection[str], used: Collection[str], at: str = "") -> None:
    """Take out the modules that are not called and hold no weight that is computed with."""
    module = model.get_submodule(at)
    for name, _ in list(module.named_children()):
        path = f"{at}.{name}" if at else name
        if not any(within(other, path) for other in (*reached, *used)):
            module._modules[name] = None  # `if self.aux is not None` is what authors ask
        else:
            _remove_unreached(model, reached, used, path)
    if isinstance(module, backend.torch().nn.Sequential):  # a list, whose end is nothing that authors ask for
        while module._modules and next(reversed(module._modules.values())) is None:
            module._modules.popitem()


# ---------------------------------------------------------------- replacing and dropping


def _replace(model: Any, run: Run, layer: Layer, new: Any, edits: Edits) -> None:
    calls = [call for call in run.calls if call.path == layer.base]
    if not calls:
        raise CutError(f"{layer.name} is not called when the model runs: there is nothing to replace")
    given = calls[0].reads
    expect_one_to_one(layer.name, len(given), len(calls[0].writes))
    if layer.base != layer.name and len(calls) > 1:
        raise CutError(
            f"{layer.base} is one module that is called {len(calls)} times: name it without a number"
        )
    module = _module(new, ("batch", *run.shapes[given[0][1]][0][1:]), edits)
    alone = isinstance(new, Head) and len(module) == 1
    _put(model, layer.base, module[0] if alone else module)


def _module(new: Any, shape: Sequence[int | str], edits: Edits) -> Any:
    """New layers for a tensor of this shape as a module; one that the user gives stays the user's own."""
    if not isinstance(new, Head):
        return copied(new)
    head = new.onto(shape, channels_last=edits.channels_last, usual=False, seed=edits.seed)
    return module_of(head, shape)


def _shown(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(['batch', *map(str, shape[1:])])}]"


def _drop(model: Any, run: Run, layers: Sequence[Layer]) -> None:
    chosen = {layer.name for layer in layers} | {layer.base for layer in layers}
    paths = {call.path for call in run.calls if {call.path, f"{call.path}@{call.index}"} & chosen}
    top = {path for path in paths if not any(path != other and within(path, other) for other in paths)}
    partly = {c.path for c in run.calls if c.path in top and not {c.path, f"{c.path}@{c.index}"} & chosen}
    if partly:
        raise CutError(f"{min(partly)} is one module that is called several times: all its calls go, or none")
    missing = [layer.name for layer in layers if not any(within(layer.base, path) for path in paths)]
    if missing:
        raise CutError(f"{', '.join(missing)} is not called when the model runs: there is nothing to drop")
    calls = [call for call in run.calls if call.path in top or not any(within(call.path, p) for p in top)]
    numbers = [number for number, call in enumerate(calls) if call.path in top]
    for region in regions([call.call for call in calls], numbers, run.ends):
        names = [calls[number].path for number in region.calls]
        bridge(names, region, lambda value: _described(run, value))
        for number in region.calls:
            _bypass(model, calls[number])


def _described(run: Run, value: int) -> tuple[str, Any]:
    shape, dtype = run.shapes[value]
    return f"{dtype}{_shown(shape)}", (shape, dtype)


def _bypass(model: Any, call: ModuleRun) -> None:
    if len(call.writes) != 1:
        raise CutError(
            f"{call.path} puts out {len(call.writes)} tensors, and only one can go on in their place",
            hint="drop a block as a whole",
        )
    inner = [key for key, _ in call.reads]
    if not inner:
        raise CutError(f"{call.path} takes no tensor that could go on in its place")
    _put(model, call.path, _bypass_class()(inner[0], call.output))


@functools.cache
def _bypass_class() -> Any:
    class Bypass(backend.torch().nn.Module):  # type: ignore[misc]
        """Stands where a layer was dropped, and passes on what it is given, in the form the layer had."""

        def __init__(self, key: str, output: Any) -> None:
            super().__init__()
            self.key = key
            self.output = output

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            given = dict(flatten_named((args, kwargs)))[self.key]
            return map_named(lambda _key, _tensor: given, self.output)

        def __reduce__(self) -> Any:
            return _blank, (_bypass_class,), self.__dict__

    return Bypass


def _put(model: Any, path: str, new: Any) -> None:
    """Put a module into the place of another, under all the names that one has."""
    old = model.get_submodule(path)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, last = name.rpartition(".")
            model.get_submodule(parent)._modules[last] = new


# ---------------------------------------------------------------- freezing


def _freeze(model: Any, frozen: frozenset[str], trained: frozenset[str]) -> None:
    """Take weights out of training or into it; batch normalisation that is frozen keeps to its statistics."""
    if not frozen and not trained:
        return
    for name, weight in model.named_parameters(remove_duplicate=False):
        if name in frozen or name in trained:
            weight.requires_grad_(name in trained)
    norms = backend.torch().nn.modules.batchnorm._BatchNorm
    for path, module in model.named_modules():
        if not isinstance(module, norms):
            continue
        held, still = _all_frozen(model, path), hasattr(type(module), "keeps_statistics")
        if held and not still:
            module.__class__ = _kept_in_inference(_class_of(module))
        elif still and not held:
            module.__class__ = type(module).__mro__[1]


def _all_frozen(model: Any, path: str) -> bool:
    """Whether no weight of a module is trained; one without weights goes by the module around it."""
    while True:
        weights = list(model.get_submodule(path).parameters())
        if weights or not path:
            return bool(weights) and not any(weight.requires_grad for weight in weights)
        path = path.rpartition(".")[0]


@functools.cache
def _kept_in_inference(cls: Any) -> Any:
    class Frozen(cls):  # type: ignore[misc]
        keeps_statistics = True

        def train(self, mode: bool = True) -> Any:  # noqa: ARG002  # the method of every module
            return super().train(False)

        def __reduce__(self) -> Any:
            return _blank, (_kept_in_inference, cls), self.__dict__

    return _named_like(Frozen, cls)
