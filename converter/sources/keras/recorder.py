"""Watching a Keras model call its layers.

Every operation inside the model gets its `call` wrapped on the *instance* for the length
of a `with` block. This sees Functional, Sequential, nested, shared-layer and subclassed
models alike, where sub-models built from `layer.output` see only the first of these.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

__all__ = [
    "Around",
    "LayerCall",
    "Reached",
    "calls_until",
    "following",
    "nodes_in_order",
    "operations",
    "recording",
]


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of one operation: where it stands in the nesting, and which call it is.

    Attributes:
        path: names of the layers being called, from the outermost, joined by `/`.
        index: number of the call among those of this path.
        operation: the layer or bare operation that is called.
        parents: the layers in whose calls this one happens, from the outermost.
    """

    path: str
    index: int
    operation: Any
    parents: tuple[Any, ...]


Around = Callable[[LayerCall, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def operations(model: Any) -> list[Any]:
    """Every layer below `model`, and every bare `keras.ops` node of its Functional parts."""
    found: dict[int, Any] = {}
    for layer in model._flatten_layers(include_self=True, recursive=True):
        found.setdefault(id(layer), layer)
        for operation in getattr(layer, "_operations", ()):
            found.setdefault(id(operation), operation)
    found.pop(id(model))
    return list(found.values())


def calls_until(model: Any, names: Collection[str]) -> list[Any]:
    """The operations that a Functional model calls, in order, up to the last one of these names.

    Empty where its graph does not show it: for subclassed models, for names it does not have,
    and where a layer is called twice, since calls could then be numbered by all of them only.
    """
    called = [node.operation for node in nodes_in_order(model)]
    order = {operation.name: index for index, operation in enumerate(called)}
    if len(order) < len(called) or not names or not set(names) <= set(order):
        return []
    return called[: max(order[name] for name in names) + 1]


def nodes_in_order(model: Any) -> list[Any]:
    """The calls in the graph of a Functional model, in running order; none where it has no such graph."""
    functional = getattr(model, "_functional", None) or model
    levels = getattr(functional, "_nodes_by_depth", {})
    return [node for depth in sorted(levels, reverse=True) for node in levels[depth] if not node.is_input]


class Reached(BaseException):
    """Thrown through a model's `call` when what was waited for has been seen.

    Not an Exception, because Keras wraps those in others to add the names of its layers.
    """


class _Calls:
    """Names calls: the path is the stack of layers being called, the index counts them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.count: Counter[str] = Counter()
        self._owner: dict[str, int] = {}

    def enter(self, operation: Any) -> LayerCall:
        parents = tuple(self.stack)
        self.stack.append(operation)
        path = "/".join(layer.name for layer in self.stack)
        # Two different layers may bear one name in a subclassed model; the second is told apart.
        stem, copy = path, 1
        while self._owner.setdefault(path, id(operation)) != id(operation):
            copy += 1
            path = f"{stem}~{copy}"
        index = self.count[path]
        self.count[path] += 1
        return LayerCall(path, index, operation, parents)

    def wrap(self, operation: Any, proceed: Callable[..., Any], around: Around) -> Callable[..., Any]:
        """The function `proceed` of the operation, with `around` around it."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            call = self.enter(operation)
            try:
                return around(call, proceed, args, kwargs)
            finally:
                self.stack.pop()

        # Keras reads the signature of what it calls.
        wrapped.__wrapped__ = proceed  # type: ignore[attr-defined]
        return wrapped


@contextlib.contextmanager
def recording(model: Any, around: Around) -> Iterator[None]:
    """Let `around` stand in for the `call` of each operation inside the model.

    Args:
        model: a built Keras model; its own call is not shown, only its operations'.
        around: gets (call, proceed, args, kwargs) and returns the outputs to pass on; as a rule
            `proceed(*args, **kwargs)`, looked at or replaced.
    """
    calls = _Calls()
    undo: list[Callable[[], Any]] = []
    try:
        for operation in operations(model):
            quantized = getattr(operation, "quantization_mode", None) is not None
            name = "quantized_call" if quantized else "call"
            attributes = operation.__dict__
            undo.append(_restorer(attributes, name))
            attributes[name] = calls.wrap(operation, getattr(operation, name), around)
        yield
    finally:
        for restore in undo:
            restore()


@contextlib.contextmanager
def following(model: Any, around: Around) -> Iterator[None]:
    """The same for `__call__`, which Keras's own graph of KerasTensors is built in.

    Python looks `__call__` up on the class, so each operation is given a subclass of its own class for
    the length of the block.
    """
    calls = _Calls()
    classes = [(operation, type(operation)) for operation in operations(model)]
    try:
        for operation, cls in classes:
            wrapped = calls.wrap(operation, functools.partial(cls.__call__, operation), around)
            operation.__class__ = type(cls.__name__, (cls,), {"__call__": staticmethod(wrapped)})
        yield
    finally:
        for operation, cls in classes:
            operation.__class__ = cls


def _restorer(attributes: dict[str, Any], name: str) -> Callable[[], Any]:
    if name not in attributes:
        return lambda: attributes.pop(name)
    old = attributes[name]
    return lambda: attributes.update({name: old})
