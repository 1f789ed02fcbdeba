"""How a Keras model is called: its inputs by name, its outputs by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from converter.errors import SourceError
from converter.model import Dim, TensorSpec
from converter.sources.keras import backend

__all__ = ["Signature", "flatten_named", "signature"]


def flatten_named(structure: Any) -> list[tuple[str, Any]]:
    """Leaves of nested tuples, lists and dicts, each with its path (`0`, `logits`, `state.1`)."""
    leaves = backend.keras().tree.flatten_with_path(structure)
    return [(".".join(str(part) for part in path), leaf) for path, leaf in leaves]


@dataclasses.dataclass(frozen=True)
class Signature:
    """A model's inputs in flat order, and the structure in which its `call` wants them.

    Attributes:
        inputs: the flat inputs.
        structure: what `call` takes, with the index of a flat input at each leaf.
        by_keyword: whether `structure` is a dict of `call`'s argument names.
    """

    inputs: tuple[TensorSpec, ...]
    structure: Any
    by_keyword: bool = False

    def call(self, model: Any, values: Sequence[Any]) -> Any:
        """Call the model in inference mode on flat values."""
        arguments = backend.keras().tree.map_structure(lambda i: values[i], self.structure)
        if self.by_keyword:
            return model(**arguments, training=False)
        return model(arguments, training=False)

    def call_inside(self, model: Any, values: Sequence[Any]) -> Any:
        """Run the body of the model's `call` on flat values, leaving `training` open."""
        arguments = backend.keras().tree.map_structure(lambda i: values[i], self.structure)
        return model.call(**arguments) if self.by_keyword else model.call(arguments)

    def name_outputs(self, model: Any, outputs: Any) -> list[tuple[str, Any]]:
        """The model's output tensors with the names their author gave them.

        Dict keys where the model returns dicts, Keras's output names for Functional models,
        `output` or `output_<path>` for the rest.
        """
        leaves = [(key, value) for key, value in flatten_named(outputs) if value is not None]
        if isinstance(outputs, dict):
            return leaves
        names = list(getattr(model, "output_names", None) or ())
        if len(names) != len(leaves) or len(set(names)) != len(names):
            names = [f"output_{key}" if key else "output" for key, _ in leaves]
        return [(name, value) for name, (_, value) in zip(names, leaves, strict=True)]


def signature(model: Any) -> Signature:
    """Read the signature of a built model.

    Raises:
        SourceError: the model was never built, so its input shapes are not known.
    """
    keras = backend.keras()
    if isinstance(model, keras.Sequential) or hasattr(model, "_inputs_struct"):
        functional = getattr(model, "_functional", None) or model
        if not hasattr(functional, "_inputs_struct"):
            raise _unbuilt(model)
        return _of_functional(functional)
    shapes = getattr(model, "_build_shapes_dict", None)
    if not model.built or not shapes:
        raise _unbuilt(model)
    return _of_subclass(model, dict(shapes))


def _unbuilt(model: Any) -> SourceError:
    return SourceError(
        f"the model {model.name!r} has never been built: the shapes of its inputs are not known",
        hint="call it once on data, or `model.build(input_shape)`, before converting it",
    )


def _of_functional(model: Any) -> Signature:
    tree = backend.keras().tree
    tensors = tree.flatten(model._inputs_struct)
    # The layer's name is the author's; the tensor's own is a counter where none was given.
    names = [t._keras_history.operation.name for t in tensors]
    specs = tuple(_spec(n, tuple(t.shape), t.dtype) for n, t in zip(names, tensors, strict=True))
    structure = tree.pack_sequence_as(model._inputs_struct, list(range(len(tensors))))
    return Signature(specs, structure)


def _of_subclass(model: Any, shapes: dict[str, Any]) -> Signature:
    names = list(shapes)
    single = len(names) == 1
    structure: dict[str, Any] = {}
    specs: list[TensorSpec] = []
    dtype = model.input_dtype if hasattr(model, "input_dtype") else "float32"
    for key, shape in shapes.items():
        # Keras names the shapes `<argument>_shape`; a lone one is called `input_shape`.
        argument = key.removesuffix("_shape")
        leaves: Any = _shape_leaves(argument, shape)
        packed = {}
        for name, leaf in leaves:
            packed[name] = len(specs)
            specs.append(_spec(name, leaf, dtype))
        structure[argument] = _pack(argument, shape, packed)
    if single:
        return Signature(tuple(specs), next(iter(structure.values())))
    return Signature(tuple(specs), structure, by_keyword=True)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(d is None or isinstance(d, int) for d in value)


def _shape_leaves(name: str, shape: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    if _is_shape(shape):
        # The first dimension of recorded shapes is the batch of the data it was built on.
        return [(name, (None, *shape[1:]))]
    items = shape.items() if isinstance(shape, dict) else enumerate(shape)
    return [leaf for key, inner in items for leaf in _shape_leaves(_join(name, key), inner)]


def _join(name: str, key: Any) -> str:
    return str(key) if isinstance(key, str) else f"{name}_{key}"


def _pack(name: str, shape: Any, packed: dict[str, int]) -> Any:
    if _is_shape(shape):
        return packed[name]
    if isinstance(shape, dict):
        return {key: _pack(_join(name, key), inner, packed) for key, inner in shape.items()}
    return [_pack(_join(name, i), inner, packed) for i, inner in enumerate(shape)]


def _spec(name: str, shape: tuple[int | None, ...], dtype: str) -> TensorSpec:
    dims: list[Dim] = []
    for axis, size in enumerate(shape):
        dims.append(size if size is not None else "batch" if axis == 0 else f"{name}_dim{axis}")
    return TensorSpec(name, tuple(dims), dtype)
