"""How a PyTorch model is called: its inputs by name, an example of them, its outputs by name."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.arrays import load_arrays
from converter.errors import SourceError, UsageError
from converter.model import Array, Dim, TensorSpec
from converter.sources.torch import backend
from converter.sources.torch.structure import flatten_named, map_named

__all__ = ["Signature", "as_array", "as_tensor", "name_arguments", "parse_examples", "signature"]

# Groups of axes that `--dynamic` knows by a word: the least rank, whether of indices, names of the last axes.
_WORDS = {"image": (4, ("height", "width")), "sequence": (2, ("sequence",))}


@dataclasses.dataclass(frozen=True)
class Signature:
    """A model's inputs in flat order, and how its `forward` takes them.

    Attributes:
        inputs: the flat inputs.
        positional: arguments passed by position: structures with the index of an input at each leaf.
        keyword: those passed by name.
        example: sizes of each input in an example, fixed and symbolic ones alike.
    """

    inputs: tuple[TensorSpec, ...]
    positional: tuple[Any, ...]
    keyword: Mapping[str, Any]
    example: tuple[tuple[int, ...], ...]

    def call(self, model: Any, values: Sequence[Any]) -> Any:
        """Call the model on flat values."""
        args = [_filled(structure, values) for structure in self.positional]
        kwargs = {name: _filled(structure, values) for name, structure in self.keyword.items()}
        return model(*args, **kwargs)

    def tensors(self, batch: int | None = 2) -> list[Any]:
        """An example of the inputs, of zeros, in the example's own batch size where None is asked for.

        Traces need two samples, because the size 1 would be taken for a constant.
        """
        torch = backend.torch()
        made = []
        for spec, sizes in zip(self.inputs, self.example, strict=True):
            shape = [batch or n if d == "batch" else n for d, n in zip(spec.shape, sizes, strict=True)]
            made.append(torch.zeros(shape, dtype=getattr(torch, spec.dtype)))
        return made

    def with_fixed_batch(self) -> Signature:
        """The same with the example's batch size in the place of a symbolic one."""
        specs = [
            dataclasses.replace(
                s, shape=tuple(n if d == "batch" else d for d, n in zip(s.shape, sizes, strict=True))
            )
            for s, sizes in zip(self.inputs, self.example, strict=True)
        ]
        return dataclasses.replace(self, inputs=tuple(specs))

    def apart_from(self, weights: Iterable[str]) -> Signature:
        """The same with inputs that bear the name of a weight called `<name>_input`."""
        taken = set(weights)
        specs = (
            dataclasses.replace(s, name=f"{s.name}_input") if s.name in taken else s for s in self.inputs
        )
        return dataclasses.replace(self, inputs=tuple(specs))

    @staticmethod
    def name_outputs(outputs: Any) -> list[tuple[str, Any]]:
        """The model's output tensors: their keys where it returns a mapping or a dataclass, else
        `output` or `output_<number>`."""
        return [
            (key if key and not key[0].isdigit() else f"output_{key}" if key else "output", value)
            for key, value in flatten_named(outputs)
        ]


def _filled(structure: Any, values: Sequence[Any]) -> Any:
    """The structure with the value at each index; indices are the only integers in it."""
    if isinstance(structure, int):
        return values[structure]
    if isinstance(structure, Mapping):
        return type(structure)((key, _filled(inner, values)) for key, inner in structure.items())  # type: ignore[call-arg]
    filled = [_filled(inner, values) for inner in structure]
    return type(structure)(*filled) if hasattr(structure, "_fields") else type(structure)(filled)


def signature(
    model: Any,
    example: Any,
    dynamic: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Signature:
    """The signature of a model that is called on `example`.

    Args:
        model: the model.
        example: a tensor or a tuple, for arguments by position, or a dict, for arguments by name. Axis 0
            of each tensor is the batch.
        dynamic: axes to leave symbolic besides (`x:2=height`, `image`, `sequence`).
        ranges: the range of values of inputs, by name.

    Raises:
        SourceError: `forward` does not take such arguments.
        UsageError: `dynamic` names no axis of an input.
    """
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else (_as_tuple(example), {})
    parameters = inspect.signature(model.forward)
    try:
        parameters.bind(*args, **kwargs)
    except TypeError as error:
        raise SourceError(
            f"{type(model).__name__}.forward does not take this example: {error}",
            hint=f"its signature is forward{parameters}",
        ) from error
    names: list[str] = []
    tensors: list[Any] = []

    def index(path: str, tensor: Any) -> int:
        names.append(path)
        tensors.append(tensor)
        return len(tensors) - 1

    called = _positional_names(parameters, len(args))
    positional = tuple(map_named(index, value, name) for name, value in zip(called, args, strict=True))
    keyword = {name: map_named(index, value, name) for name, value in kwargs.items()}
    if not tensors:
        raise SourceError(f"the example for {type(model).__name__} has no tensor in it")
    specs = [
        _spec(name, tensor, (ranges or {}).get(name)) for name, tensor in zip(names, tensors, strict=True)
    ]
    example_sizes = tuple(tuple(t.shape) for t in tensors)
    return Signature(_symbolic(specs, dynamic), positional, keyword, example_sizes)


def _positional_names(parameters: inspect.Signature, count: int) -> list[str]:
    """Names of the first arguments by position; those of `*args` are numbered."""
    names: list[str] = []
    for parameter in parameters.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(count - len(names))]
        names.append(parameter.name)
    return names[:count]


def _as_tuple(example: Any) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


def _spec(name: str, tensor: Any, value_range: tuple[float, float] | None) -> TensorSpec:
    shape: tuple[Dim, ...] = tuple(tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(name, ("batch", *shape[1:]) if shape else (), dtype, value_range)


def _symbolic(specs: Sequence[TensorSpec], dynamic: Sequence[str]) -> tuple[TensorSpec, ...]:
    shapes = {spec.name: list(spec.shape) for spec in specs}
    for wish in dynamic:
        for name, axis, symbol in _axes(wish, specs):
            shapes[name][axis] = symbol
    return tuple(dataclasses.replace(spec, shape=tuple(shapes[spec.name])) for spec in specs)


def _axes(wish: str, specs: Sequence[TensorSpec]) -> list[tuple[str, int, str]]:
    """The axes that one `--dynamic` names: (input, axis, symbol)."""
    if wish in _WORDS:
        rank, symbols = _WORDS[wish]
        of_indices = wish == "sequence" and any(spec.dtype.startswith("int") for spec in specs)
        found = []
        for spec in specs:
            if len(spec.shape) < rank or (of_indices and len(spec.shape) != rank):
                continue
            first = 1 if wish == "sequence" else len(spec.shape) - len(symbols)
            found += [(spec.name, first + i, symbol) for i, symbol in enumerate(symbols)]
        if found:
            return found
    place, _, symbol = wish.partition("=")
    name, colon, axis = place.rpartition(":")
    for spec in specs:
        if colon and name == spec.name and axis.isdigit() and 0 < int(axis) < len(spec.shape):
            return [(name, int(axis), symbol or f"{name}_dim{axis}")]
    raise UsageError(
        f"dynamic {wish!r}: expected {', '.join(_WORDS)} or INPUT:AXIS[=NAME], axis 0 being the batch",
        hint=f"the inputs are {', '.join(map(str, specs))}",
    )


def name_arguments(forward: Any, names: Sequence[str]) -> None:
    """Let a function of `*values` say that it takes arguments of these names, as near as Python has them."""
    identifiers = [re.sub(r"^(?=\d)|\W", "_", name) for name in names]
    unique = [f"{n}_{i}" if identifiers.count(n) > 1 else n for i, n in enumerate(identifiers)]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in unique])


def parse_examples(texts: Sequence[str]) -> Any:
    """What `--example` says: `1x3x224x224`, `ids=1x16:int64`, or the path of an `.npz` file.

    Raises:
        UsageError: none of these.
    """
    torch = backend.torch()
    unnamed: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        if text.endswith(".npz"):
            named |= _from_npz(Path(text))
            continue
        name, equals, rest = text.rpartition("=")
        sizes, _, dtype = rest.partition(":")
        kind = getattr(torch, dtype or "float32", None)
        if not all(s.isdigit() for s in sizes.split("x")) or not isinstance(kind, torch.dtype):
            raise UsageError(
                f"example {text!r}: expected sizes like 1x3x224x224, ids=1x16:int64, or a .npz file"
            )
        tensor = torch.zeros([int(s) for s in sizes.split("x")], dtype=kind)
        if equals:
            named[name] = tensor
        else:
            unnamed.append(tensor)
    if named and unnamed:
        raise UsageError("examples are either all named or all without a name")
    return named or tuple(unnamed)


def _from_npz(path: Path) -> dict[str, Any]:
    arrays = load_arrays(path, "example")
    try:
        return {name: backend.torch().from_numpy(array) for name, array in arrays.items()}
    except TypeError as error:
        raise UsageError(f"example {path}: {error}") from error


def as_tensor(array: Array) -> Any:
    """A NumPy array as a tensor of the same dtype, apart from the array."""
    import ml_dtypes

    torch = backend.torch()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def as_array(tensor: Any) -> Array:
    """A tensor's values as a NumPy array of the same dtype, apart from the tensor."""
    import ml_dtypes

    plain = tensor.detach().to("cpu", copy=True).contiguous()
    if plain.dtype is backend.torch().bfloat16:
        return np.asarray(plain.view(backend.torch().int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(plain.numpy())
