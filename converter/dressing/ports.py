"""One tensor at an end of a piece: as the source has it, and as the dressed piece does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

from converter.dressing.prepared import Prepared
from converter.imaging import Postprocess, Preprocess
from converter.model import SCORES, Array, Boundary, TensorSpec

__all__ = ["Port"]


@dataclasses.dataclass(frozen=True)
class Port:
    """One tensor at an end of a piece.

    Attributes:
        spec: as the source has it.
        perm: the permutation that takes the source's axes to the piece's; empty where they are the same.
        preprocess: what makes it of an image.
        postprocess: what is made of it.
        sizes: what symbolic sizes are fixed to.
        renames: new names.
        boundary: the boundary that it is; None for an input of the model.
        channels_last: where the source's framework has channels.
    """

    spec: TensorSpec
    perm: tuple[int, ...] = ()
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    boundary: Boundary | None = None
    channels_last: bool | None = None

    @property
    def turned(self) -> TensorSpec:
        """The tensor with its axes as the piece has them."""
        if not self.perm:
            return self.spec
        return dataclasses.replace(self.spec, shape=tuple(self.spec.shape[axis] for axis in self.perm))

    @property
    def outer(self) -> tuple[TensorSpec, ...]:
        """What the piece has, under the source's names, sizes still symbolic."""
        if self.preprocess is not None:
            return (self.preprocess.image(self.spec, channels_last=self.channels_last),)
        if self.postprocess is not None:
            return self.postprocess.outputs(self.turned)
        return (self.turned,)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What the piece has."""
        return tuple(self._settled(spec) for spec in self.outer)

    def _settled(self, spec: TensorSpec) -> TensorSpec:
        shape = tuple(self.sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape)
        return dataclasses.replace(spec, name=self.renames.get(spec.name, spec.name), shape=shape)

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The boundaries that the piece's tensors are."""
        assert self.boundary is not None
        value = self.boundary.value
        if self.postprocess is None:
            return (Boundary(self.specs[0], value),)
        names = [spec.name for spec in self.outer]
        return tuple(
            Boundary(spec, f"post:{value}:{name}") for spec, name in zip(self.specs, names, strict=True)
        )

    @cached_property
    def prepared(self) -> Prepared | None:
        """The words for images as a graph of their own."""
        if self.preprocess is None:
            return None
        return Prepared(self.preprocess, self.spec, self.channels_last)

    @property
    def picks(self) -> bool:
        """Whether classes are picked."""
        return self.postprocess is not None and bool(self.postprocess.top or self.postprocess.best)

    def inward(self, array: Array) -> Array:
        """What the source takes, of what the piece takes."""
        if self.prepared is not None:
            return self.prepared(array)
        if not self.perm:
            return array
        back = sorted(range(len(self.perm)), key=self.perm.__getitem__)
        return array.transpose(back)

    def outward(self, array: Array) -> dict[str, Array]:
        """What the piece has, by value, of what the source has."""
        turned = array.transpose(self.perm) if self.perm else array
        boundaries = self.boundaries
        if self.postprocess is None:
            return {boundaries[0].value: turned}
        made = list(self.postprocess.apply(turned, self.turned).values())
        found = {boundary.value: part for boundary, part in zip(boundaries, made, strict=True)}
        if self.picks:
            scores = dataclasses.replace(self.postprocess, top=0, best=False)
            found[f"{boundaries[-1].value}{SCORES}"] = scores.apply(turned, self.turned)[self.turned.name]
        return found
