"""Changed Keras models: the original's layers by their names, with others put in, left out, or never reached.

The model's own `call` is followed with KerasTensors, as for parts of it (`native.py`); where a layer is
replaced, new layers take what it took, and where layers are dropped, what went in goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from converter.edits import Call, Edits, bridge, expect_one_to_one, regions, within
from converter.errors import CutError, TargetError, UsageError
from converter.heads import Head
from converter.model import Layer, Place
from converter.sources.keras import backend
from converter.sources.keras.heads import layers_of, put_weights
from converter.sources.keras.native import apart_from, copied, input_like, nodes_restored, opened
from converter.sources.keras.recorder import LayerCall, following
from converter.sources.keras.signature import Signature, flatten_named

__all__ = ["edited", "named_layers"]


def edited(model: Any, signature: Signature, edits: Edits, names: Mapping[int, str]) -> tuple[Any, list[Any]]:
    """A changed copy of a model, a functional `keras.Model` that shares nothing with it; its new variables.

    Args:
        model: the model; it is left as it was.
        signature: how to call it.
        edits: the changes.
        names: id of a variable of the model → name of the weight.

    Raises:
        CutError: layers that cannot be taken out or replaced.
        UsageError: a head that does not take what it would be given, weights of one layer of which some are
            frozen and some not.
        TargetError: the model cannot be taken apart by Keras.
    """
    keras = backend.keras()
    bridges = _bridges(model, signature, edits.dropped) if edits.dropped else {}
    followed = False
    editor = _Editor(edits, bridges, taken={layer.name for layer in model._flatten_layers()})
    with nodes_restored(model):
        try:
            fed = {spec.name: input_like(spec.name, spec) for spec in signature.inputs}
            with following(model, editor):
                outputs = signature.call_inside(model, [fed[spec.name] for spec in signature.inputs])
            if edits.end is not None:
                outputs = editor.ended()
            followed = True
            begun = list(fed.values())
            outputs = keras.tree.map_structure(lambda tensor: apart_from(begun, tensor), outputs)
            inputs = keras.tree.map_structure(lambda i: begun[i], signature.structure)
            reached = _reached(outputs)
            if not all(id(tensor) in reached for tensor in begun):
                used = [tensor for tensor in begun if id(tensor) in reached]
                inputs = used[0] if len(used) == 1 else used
            single = keras.Model(inputs, outputs, name=model.name)
            copy = copied(single)
            added = [
                v for v, old in zip(copy.variables, single.variables, strict=True) if id(old) not in names
            ]
            _freeze(single, copy, edits, names)
        except (TargetError, CutError, UsageError):
            raise
        except Exception as error:
            if editor.reshaped and not followed:
                raise CutError(
                    f"{editor.reshaped}, and what comes after does not take that: {_short(error)}",
                    hint="an inner layer's replacement has the same shape",
                ) from error
            raise TargetError(
                f"Keras cannot take {model.name!r} apart into a model of its own layers: {_short(error)}",
                hint="models whose call is more than layers and keras.ops cannot be changed; cut they can be",
            ) from error
    return copy, added


# A tensor that a call takes: (path of the layer, number of the call, its place among the tensors taken).
Argument = tuple[str, int, int]


class _Editor:
    """Puts other tensors in the place of what changed layers put out."""

    def __init__(self, edits: Edits, bridges: Mapping[Place, Argument], taken: Collection[str]) -> None:
        self._edits = edits
        self._bridges = bridges
        self._taken = set(taken)
        self._met: dict[Place, Any] = {}
        self._given: dict[Argument, Any] = {}
        self._new: dict[str, Callable[[Any], Any]] = {}
        self.reshaped = ""  # which replaced layer puts out another shape than before, in words
        changed = [_path(layer.name) for layer, _ in edits.replaced]
        changed += [path for path, _, _ in (*bridges, *bridges.values())]
        if edits.end is not None and edits.end.place is not None:
            changed.append(edits.end.place[0])
        self._opened = opened(changed)

    def ended(self) -> Any:
        """The new end: the head on what the layer put out."""
        end = self._edits.end
        assert end is not None
        if end.place not in self._met:
            raise TargetError(
                f"Keras makes no tensor of its own at {end.name!r}: the layer around it loops over it"
            )
        tensor = self._met[end.place]
        return self._build("head", self._edits.head, tensor)(tensor)

    def __call__(self, call: LayerCall, proceed: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        keras = backend.keras()
        for place, tensor in enumerate(_tensors((args, kwargs))):
            self._given[call.path, call.index, place] = tensor
        run = call.operation.call if call.path in self._opened else proceed
        outputs = run(*args, **kwargs)
        for layer, new in self._edits.replaced:
            if (call.path, call.index) == _call_of(layer, call.index):
                outputs = self._replaced(layer, new, args, kwargs, outputs)
        places = [(call.path, call.index, key) for key, _ in flatten_named(outputs)]
        values = [
            self._given[self._bridges[p]] if p in self._bridges else v
            for p, v in zip(places, keras.tree.flatten(outputs), strict=True)
        ]
        self._met.update(zip(places, values, strict=True))
        return keras.tree.pack_sequence_as(outputs, values)

    def _replaced(self, layer: Layer, new: Any, args: Any, kwargs: Any, outputs: Any) -> Any:
        keras = backend.keras()
        given = _tensors((args, kwargs))
        made = keras.tree.flatten(outputs)
        expect_one_to_one(layer.name, len(given), len(made))
        if layer.name not in self._new:
            self._new[layer.name] = self._build(_path(layer.name).rpartition("/")[2], new, given[0])
        replaced = self._new[layer.name](given[0])
        if _described(replaced) != _described(made[0]):
            before, after = _described(made[0])[0], _described(replaced)[0]
            self.reshaped = f"{layer.name} puts out {before}, and what is to replace it {after}"
        return replaced

    def _build(self, name: str, new: Any, given: Any) -> Callable[[Any], Any]:
        """New layers for a tensor; those of a head bear names that begin with this one."""
        if not isinstance(new, Head):
            layer: Callable[[Any], Any] = new
            return layer
        keras = backend.keras()
        shape = ("batch", *("?" if size is None else size for size in given.shape[1:]))
        usual = keras.config.image_data_format() == "channels_last"
        edits = self._edits
        head = new.onto(shape, channels_last=edits.channels_last, usual=usual, seed=edits.seed)
        head.shapes(shape)
        alone = len(head.units) == 1 and name != "head"
        names = {u.name: name if alone else self._free(f"{name}_{u.name}") for u in head.units}
        layers = layers_of(head, len(shape), names)

        def apply(tensor: Any) -> Any:
            for layer in layers:
                tensor = layer(tensor)
            return tensor

        apply(keras.KerasTensor(given.shape, given.dtype))
        put_weights(head, layers)
        return apply

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_new"
        self._taken.add(name)
        return name


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _tensors(structure: Any) -> list[Any]:
    """The symbolic tensors in the arguments of a call."""
    keras = backend.keras()
    return [v for v in keras.tree.flatten(structure) if isinstance(v, keras.KerasTensor)]


def _path(name: str) -> str:
    """The path of the layer that a call belongs to."""
    return name.rpartition("@")[0] if "@" in name else name


def _call_of(layer: Layer, index: int) -> tuple[str, int]:
    """The call that a layer's name means; any of them, if it has no number."""
    path, at, number = layer.name.rpartition("@")
    return (path, int(number)) if at else (layer.name, index)


# ---------------------------------------------------------------- what goes in and what comes out


@dataclasses.dataclass(frozen=True)
class _Seen:
    """One call of a layer: the tensors by number, those put out with their places, too."""

    call: Call
    places: tuple[Place, ...]


def _bridges(model: Any, signature: Signature, dropped: Sequence[Layer]) -> dict[Place, Argument]:
    """For each tensor that dropped layers put out: the argument of one of them that goes on in its place."""
    keras = backend.keras()
    chosen = {layer.name for layer in dropped}
    around = opened([_path(name) for name in chosen])
    numbers: dict[int, int] = {}
    tensors: list[Any] = []
    seen: list[_Seen] = []

    def number(tensor: Any) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return numbers[id(tensor)]

    def observe(call: LayerCall, proceed: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if call.path in around:
            return call.operation.call(*args, **kwargs)
        reads = tuple(map(number, _tensors((args, kwargs))))
        outputs = proceed(*args, **kwargs)
        leaves = flatten_named(outputs)
        places = tuple((call.path, call.index, key) for key, _ in leaves)
        seen.append(_Seen(Call(call.path, reads, tuple(number(v) for _, v in leaves)), places))
        return outputs

    with nodes_restored(model):
        fed = {spec.name: input_like(spec.name, spec) for spec in signature.inputs}
        with following(model, observe):
            outputs = signature.call_inside(model, list(fed.values()))
    ends = {number(tensor) for tensor in keras.tree.flatten(outputs)}
    places = {value: p for entry in seen for value, p in zip(entry.call.writes, entry.places, strict=True)}
    calls = [entry.call for entry in seen]
    inside = [i for i, entry in enumerate(seen) if _is_chosen(entry, chosen)]
    missing = sorted(n for n in chosen if not any(within(calls[i].name, _path(n)) for i in inside))
    if missing:
        raise CutError(f"{', '.join(missing[:4])} is inside another layer and cannot be dropped from it")
    found: dict[Place, Argument] = {}
    for region in regions(calls, inside, ends):
        given, out = bridge(
            [calls[i].name for i in region.calls], region, lambda value: _described(tensors[value])
        )
        reader = next(seen[i] for i in region.calls if given in calls[i].reads)
        path, index, _ = reader.places[0]
        found[places[out]] = path, index, reader.call.reads.index(given)
    return found


def _is_chosen(entry: _Seen, chosen: Collection[str]) -> bool:
    path, index, _ = entry.places[0] if entry.places else (entry.call.name, 0, "")
    return path in chosen or f"{path}@{index}" in chosen


def _described(tensor: Any) -> tuple[str, Any]:
    sizes = ["batch", *("?" if size is None else str(size) for size in tensor.shape[1:])]
    return f"{tensor.dtype}[{', '.join(sizes)}]", (tuple(tensor.shape), tensor.dtype)


# ---------------------------------------------------------------- the new model


def _reached(outputs: Any) -> set[int]:
    """The ids of the tensors that the outputs are computed from."""
    stack = list(backend.keras().tree.flatten(outputs))
    seen: set[int] = set()
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, index, _ = tensor._keras_history
        stack.extend(operation._inbound_nodes[index].input_tensors)
    return seen


def _freeze(single: Any, copy: Any, edits: Edits, names: Mapping[int, str]) -> None:
    """Make the layers whose weights are frozen untrainable, in a copy of the model that holds the weights.

    Keras freezes layers, not weights; its BatchNormalization then keeps to its statistics in training, too.
    """
    frozen, twins = edits.frozen, dict(named_layers(copy))
    layers = named_layers(single)
    everything = {names[id(v)] for _, la in layers for v in la._trainable_variables if id(v) in names}
    for path, layer in layers:  # those around others first: they pass it on to what is inside
        own = [names[id(v)] for v in layer._trainable_variables if id(v) in names]
        inside = [names[id(v)] for v in _variables_inside(layer) if id(v) in names]
        held = [name for name in own if name in frozen]
        if held and len(held) < len(own):
            loose = [name for name in own if name not in frozen]
            raise UsageError(
                f"{', '.join(held[:3])} would be frozen and {', '.join(loose[:3])} not: "
                "Keras freezes layers as a whole"
            )
        # Statistics alone go with all the rest: no weight of such a layer is named.
        statistics = not inside and any(id(v) in names for v in layer._non_trainable_variables)
        if (inside and frozen.issuperset(inside)) or (statistics and everything and frozen >= everything):
            twins[path].trainable = False
        elif not edits.trained.isdisjoint(inside) and not twins[path].trainable:
            before = [(inner, inner.trainable) for _, inner in named_layers(twins[path])]
            twins[path].trainable = True
            for inner, was in before:
                inner.trainable = was


def _variables_inside(layer: Any) -> list[Any]:
    """The weights of a layer and of those in it that can be trained, whether or not they are now."""
    inner = [variable for _, la in named_layers(layer) for variable in la._trainable_variables]
    return [*layer._trainable_variables, *inner]


def named_layers(model: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every layer inside, by its path."""
    found = []
    for layer in model._flatten_layers(include_self=False, recursive=False):
        name = f"{path}/{layer.name}" if path else layer.name
        found += [(name, layer), *named_layers(layer, name)]
    return found
