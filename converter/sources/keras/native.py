"""Parts of a Keras model as Keras models, with the original layers' names and weights.

The model's own `call` is followed with KerasTensors, layer by layer. At a boundary where the part
starts, the layer's output is replaced by a fresh `keras.Input`, so everything after it hangs on that;
nested models that hold a boundary are called through instead of being recorded as one layer. This gives
parts of Functional, Sequential, nested and of those subclassed models whose `call` uses layers and
`keras.ops` alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from converter.errors import TargetError
from converter.model import Place, TensorSpec
from converter.sources.keras import backend
from converter.sources.keras.recorder import LayerCall, following, operations
from converter.sources.keras.signature import Signature, flatten_named

__all__ = ["apart_from", "copied", "input_like", "nodes_restored", "opened", "part"]


def part(
    model: Any,
    signature: Signature,
    inputs: Sequence[str],
    starts: Sequence[tuple[Place, TensorSpec]],
    ends: Sequence[Place | str],
) -> Any:
    """A new `keras.Model`, trainable, that shares nothing with the source.

    Args:
        model: the source; it is left as it was.
        inputs: names of the model's own inputs that the part takes.
        starts: tensors that become inputs, with the spec and name to give them.
        ends: tensors that become outputs; a string names an output of the model.

    Raises:
        TargetError: the model cannot be taken apart by Keras (a subclassed model with TensorFlow code in it).
    """
    keras = backend.keras()
    follower = _Follower(dict(starts), [e for e in ends if not isinstance(e, str)])
    fed = {spec.name: input_like(spec.name, spec) for spec in signature.inputs}
    with nodes_restored(model):
        try:
            with following(model, follower):
                outputs = signature.call_inside(model, [fed[s.name] for s in signature.inputs])
            begun = [fed[name] for name in inputs] + [follower.tensor_at(p) for p, _ in starts]
            whole = dict(signature.name_outputs(model, outputs))
            tensors = [whole[e] if isinstance(e, str) else follower.tensor_at(e) for e in ends]
            tensors = [apart_from(begun, t) for t in tensors]
            single = keras.Model(
                begun[0] if len(begun) == 1 else begun,
                tensors[0] if len(tensors) == 1 else tensors,
                name=model.name,
            )
            copy = copied(single)
        except TargetError:
            raise
        except Exception as error:
            raise TargetError(
                f"Keras cannot take {model.name!r} apart into a model of its own layers: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                hint="the ONNX artifact does not have this limit",
            ) from error
    return copy


class _Follower:
    """Notes the KerasTensors at the ends, and puts Inputs in the place of those at the starts."""

    def __init__(self, starts: dict[Place, TensorSpec], ends: Sequence[Place]) -> None:
        self.starts = starts
        self.met: dict[Place, Any] = {}
        self._ends = set(ends)
        paths = [path for path, _, _ in (*starts, *ends)]
        self._opened = opened(paths)

    def tensor_at(self, place: Place) -> Any:
        """The tensor at a place; an Input where the part starts there."""
        if place not in self.met:
            raise TargetError(
                f"Keras makes no tensor of its own at {place[0]!r}: the layer around it loops over it",
                hint="cut at the layer around it, or leave the keras target out",
            )
        return self.met[place]

    def __call__(self, call: LayerCall, proceed: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        keras = backend.keras()
        # Through a nested model that holds a boundary: its layers join the graph in its place.
        run = call.operation.call if call.path in self._opened else proceed
        outputs = run(*args, **kwargs)
        places = {id(value): (call.path, call.index, key) for key, value in flatten_named(outputs)}
        for value in keras.tree.flatten(outputs):
            if (place := places[id(value)]) in self._ends:
                self.met[place] = value

        def begin(value: Any) -> Any:
            place = places[id(value)]
            if place not in self.starts:
                return value
            spec = self.starts[place]
            self.met[place] = input_like(spec.name.replace("/", "_"), spec, tuple(value.shape))
            return self.met[place]

        return keras.tree.map_structure(begin, outputs)


def opened(paths: Iterable[str]) -> set[str]:
    """The layers around those at these paths, which have to be called through."""
    return {path[:i] for path in paths for i, letter in enumerate(path) if letter == "/"}


def copied(model: Any) -> Any:
    """A copy with weights of its own, without the conversions that a Functional's `call` puts before inputs.

    They are operations, not layers: Keras does not load them from `.h5`, and they shift the numbers under
    which `tf.train.Checkpoint` keeps a model's layers.
    """

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if type(operation).__name__ == "ConvertToTensor" and operation.dtype in (None, args[0].dtype):
            return args[0]
        return operation(*args, **kwargs)

    copy = backend.keras().models.clone_model(model, call_function=call)
    copy.set_weights(model.get_weights())
    return copy


def apart_from(inputs: Sequence[Any], tensor: Any) -> Any:
    """A tensor that passes through untouched still needs a layer between the model's two ends."""
    if any(tensor is given for given in inputs):
        return backend.keras().layers.Identity()(tensor)
    return tensor


def input_like(name: str, spec: TensorSpec, shape: tuple[int | None, ...] | None = None) -> Any:
    """A `keras.Input` of this name, shape and dtype."""
    if shape is None:
        shape = tuple(d if isinstance(d, int) else None for d in spec.shape)
    return backend.keras().Input(
        batch_shape=shape, dtype=spec.dtype, name=name.replace(":", "_").replace("@", "_")
    )


@contextlib.contextmanager
def nodes_restored(model: Any) -> Iterator[None]:
    """Forget the graph nodes that following the model adds to its layers.

    Otherwise `layer.output` of the user's own model would become ambiguous.
    """
    before = [
        (operation, list(operation._inbound_nodes), list(operation._outbound_nodes))
        for operation in operations(model)
    ]
    try:
        yield
    finally:
        for operation, inbound, outbound in before:
            operation._inbound_nodes[:] = inbound
            operation._outbound_nodes[:] = outbound
