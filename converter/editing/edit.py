"""From what a user wants changed to a source of the changed model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from converter.editing.changes import Changes
from converter.editing.heads import OnnxHead, open_new
from converter.editing.weights import digests, kept_weights
from converter.edits import Edits, within
from converter.errors import UsageError
from converter.heads import Head
from converter.model import Boundary, Layer, Source, SourceInfo
from converter.surgery import select, select_layers

__all__ = ["Edited", "edit"]


@dataclasses.dataclass(frozen=True)
class Edited:
    """A changed model beside the original.

    Attributes:
        source: the changed model, with the verbs of any source.
        original: the model as it was.
        seams: tensors that come before all changes, in the original and in the changed model.
        facts: what was changed, and which weights are the original's, as JSON-ready values.
        digests: of the changed model's weights as they were then; empty for a graph, which nobody trains.
    """

    source: Source
    original: Source
    seams: tuple[tuple[Boundary, Boundary], ...]
    facts: Mapping[str, Any]
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def now(self) -> Edited:
        """The same, unless its weights were trained since: then the original has no part in it to compare."""
        if not self.digests or digests(_weights(self.source)) == self.digests:
            return self
        self.source.info = dataclasses.replace(self.source.info, weights="live", trained=True)
        return dataclasses.replace(self, seams=(), digests={})


def edit(source: Source, changes: Changes, *, seed: int, trust: bool = False) -> Edited:
    """Change a model.

    Args:
        source: the model; it is left as it was.
        changes: what to change.
        seed: of the initial weights of new layers.
        trust: files of new layers may run their authors' code.

    Raises:
        CutError: no such layers, or layers that do not fit together afterwards.
        UsageError: a head that is none, or does not take what it would be given.
        TargetError: the framework cannot take the model apart, or new layers are of another framework.
        ValidationError: a weight that should have stayed is not what it was.
    """
    alone = changes.head is not None and not (changes.replace or changes.drop)
    source.expect(changes.to if alone else (), trunk=alone)
    layers = source.layers
    inputs = [spec.name for spec in source.inputs]
    end = None
    if changes.head is not None:
        ends = select(changes.to, layers, inputs)
        if len(ends) != 1:
            raise UsageError(f"a head takes one tensor: {changes.to[0]} names {len(ends)}")
        end = ends[0]
    replaced = tuple(
        (layer, open_new(new, source.info.kind, trust))
        for name, new in changes.replace.items()
        for layer in _one(select_layers([name], layers), name)
    )
    frozen, trained = frozenset[str](), frozenset[str]()
    if changes.freeze or changes.train:
        frozen, trained = changes.frozen(layers, source.trainable())
    edits = Edits(
        end=end,
        head=None if changes.head is None else open_new(changes.head, source.info.kind, trust),
        replaced=replaced,
        dropped=select_layers(changes.drop, layers) if changes.drop else (),
        frozen=frozenset(n for n in frozen if not any(within(n, layer.base) for layer, _ in replaced)),
        trained=trained,
        channels_last=changes.channels_last,
        seed=seed,
    )
    new = [head for head in (edits.head, *(head for _, head in replaced)) if head is not None]
    info = _info(source.info, new, changes.fitted, seed)
    if source.info.kind == "onnx" or any(isinstance(head, OnnxHead) for head in new):
        from converter.editing.graph import edited_graph

        return edited_graph(source, edits, info, changes)
    made = source.edited(edits, info)
    made.expect(())
    after = digests(_weights(made))
    weights = kept_weights(_weights(source), after, new=made.added, frozen=edits.frozen)
    facts = changes.described() | {"weights": weights}
    seams = _seams(layers, made.layers, edits)
    return Edited(made, source, seams, facts, after)


def _weights(source: Source) -> dict[str, Any]:
    """The weights by name; states of random generators are none."""
    return {name: w for name, w in source.weights().items() if not name.endswith("seed_generator_state")}


def _one(found: Sequence[Layer], name: str) -> Sequence[Layer]:
    """The layer to replace; of one that is called several times, the layer itself."""
    if len({layer.base for layer in found}) > 1:
        raise UsageError(f"{name} names {len(found)} layers: --replace takes one")
    layer = found[0]
    return [dataclasses.replace(layer, name=layer.base) if len(found) > 1 else layer]


def _info(info: SourceInfo, new: Sequence[Any], fitted: Mapping[str, Any], seed: int) -> SourceInfo:
    """Where the changed model comes from; new layers with initial weights make it untrained."""
    if not new:
        return info
    if fitted:
        return dataclasses.replace(info, weights=f"{info.weights}, head fitted on {fitted['data']}")
    if all(isinstance(head, Head) and not head.weights for head in new):
        label = f"{info.weights}, new layers random(seed={seed})"
        return dataclasses.replace(info, weights=label, trained=False)
    return dataclasses.replace(info, weights=f"{info.weights}, new layers as given")


def _seams(
    before: Sequence[Layer], after: Sequence[Layer], edits: Edits
) -> tuple[tuple[Boundary, Boundary], ...]:
    """The last tensor ahead of all changes, in both models."""
    there = {b.value: b for layer in after for b in layer.boundaries}
    changed = [layer.name for layer in (*edits.dropped, *(layer for layer, _ in edits.replaced))]
    order = [(layer.name, b) for layer in before for b in layer.boundaries]
    places = [i for i, (name, _) in enumerate(order) if any(within(name, other) for other in changed)]
    if edits.end is not None and not changed:
        places = [i + 1 for i, (_, boundary) in enumerate(order) if boundary == edits.end]
    for _, boundary in reversed(order[: min(places, default=len(order))]):
        if boundary.value in there:
            return ((boundary, there[boundary.value]),)
    return ()
