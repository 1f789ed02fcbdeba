"""Tensors inside what a module takes or returns, each with its path; and copies of modules."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from converter.errors import TargetError
from converter.sources.torch import backend

__all__ = ["copied", "first_names", "flatten_named", "map_named"]


def map_named(function: Callable[[str, Any], Any], structure: Any, path: str = "") -> Any:
    """The same structure with `function(path, tensor)` in the place of each tensor.

    Goes through tuples, lists, mappings and dataclasses (among them the outputs of transformers); what else
    there is stays as it is. Paths are keys, fields and numbers joined by dots.
    """

    def inner(key: Any, value: Any) -> Any:
        return map_named(function, value, f"{path}.{key}" if path else str(key))

    if isinstance(structure, backend.torch().Tensor):
        return function(path, structure)
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        fields = {f.name: getattr(structure, f.name) for f in dataclasses.fields(structure) if f.init}
        return dataclasses.replace(structure, **{k: inner(k, v) for k, v in fields.items()})
    if isinstance(structure, Mapping):
        changed = {key: inner(key, value) for key, value in structure.items()}
        return changed if type(structure) is dict else type(structure)(changed)  # type: ignore[call-arg]
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*map(inner, structure._fields, structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)(inner(i, value) for i, value in enumerate(structure))
    return structure


def flatten_named(structure: Any) -> list[tuple[str, Any]]:
    """The tensors, each with its path (`0`, `logits`, `state.1`; empty for a lone tensor)."""
    leaves: list[tuple[str, Any]] = []

    def note(path: str, tensor: Any) -> Any:
        leaves.append((path, tensor))
        return tensor

    map_named(note, structure)
    return leaves


def copied(model: Any) -> Any:
    """A copy that shares nothing with the model.

    Raises:
        TargetError: the model cannot be copied.
    """
    # An unflattened program's nodes hold tensors without data, which cannot be copied and need not be.
    shared = {id(node): node for node in getattr(model, "input_placeholders", ())}
    try:
        return copy.deepcopy(model, shared)
    except Exception as error:
        raise TargetError(f"the model cannot be copied: {type(error).__name__}: {error}") from error


def first_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Name of a tensor → the first of the names of the same tensor; tied weights have several."""
    first: dict[Any, str] = {}
    return {
        name: first.setdefault((t.data_ptr(), t.shape, t.stride()) if t.numel() else name, name)
        for name, t in state.items()
    }
