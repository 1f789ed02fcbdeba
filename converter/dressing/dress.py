"""What a user wants around a piece: layout, fixed sizes, images instead of floats, other names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from converter.errors import UsageError
from converter.imaging import Postprocess, Preprocess
from converter.model import TensorSpec

__all__ = ["AXES", "Dress"]

# Layouts that can be asked for → whether channels are last.
AXES = {"nchw": False, "nhwc": True}
_LARGEST = 1 << 16  # of a batch
_MOST = 1 << 31  # elements of an input


@dataclasses.dataclass(frozen=True)
class Dress:
    """What stands around a piece.

    Attributes:
        layout: `nchw` or `nhwc` for tensors of 4 axes at the ends; empty for the source's own.
        batch: size of the batch; None leaves it symbolic.
        shapes: input → its sizes.
        preprocess: words for images; by name of input, or by an empty name for the only one there is.
        postprocess: words for scores, by name of output likewise.
        renames: input or output → its new name.
    """

    layout: str = ""
    batch: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    preprocess: Mapping[str, Preprocess] = dataclasses.field(default_factory=dict)
    postprocess: Mapping[str, Postprocess] = dataclasses.field(default_factory=dict)
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layout not in ("", *AXES):
            raise UsageError(f"layout {self.layout!r}: expected {', '.join(AXES)}")
        if self.batch is not None and not 1 <= self.batch <= _LARGEST:
            raise UsageError(f"batch {self.batch}: expected 1 to {_LARGEST}")
        for name, sizes in self.shapes.items():
            shown = "x".join(map(str, sizes))
            if min(sizes, default=1) < 1:
                raise UsageError(f"shape {name}={shown}: sizes are 1 at least")
            if math.prod(sizes) > _MOST:
                raise UsageError(f"shape {name}={shown}: more than {_MOST} elements")
        twice = [new for new in self.renames.values() if list(self.renames.values()).count(new) > 1]
        if twice:
            raise UsageError(f"two tensors cannot both be called {twice[0]!r}")

    def __bool__(self) -> bool:
        parts = (self.layout, self.shapes, self.preprocess, self.postprocess, self.renames)
        return any(parts) or self.batch is not None

    @property
    def facts(self) -> dict[str, Any]:
        """What is put on, for reports."""
        parts = {
            "layout": self.layout,
            "batch": self.batch,
            "shapes": {name: list(sizes) for name, sizes in self.shapes.items()},
            "preprocess": {name: str(words) for name, words in self.preprocess.items()},
            "postprocess": {name: str(words) for name, words in self.postprocess.items()},
            "renames": dict(self.renames),
        }
        return {key: part for key, part in parts.items() if part}

    @property
    def words(self) -> bool:
        """Whether images come in or scores are worked on."""
        return bool(self.preprocess or self.postprocess)

    @property
    def static(self) -> bool:
        """Whether sizes are fixed."""
        return self.batch is not None or bool(self.shapes)

    def sizes(self, specs: Sequence[TensorSpec]) -> dict[str, int]:
        """What symbolic sizes of these inputs become.

        Raises:
            UsageError: no such input, sizes that the model does not take, or that contradict one another.
        """
        names = {name: spec for spec in specs for name in (spec.name, self.renames.get(spec.name, spec.name))}
        found: dict[str, int] = {}
        for name, sizes in self.shapes.items():
            if name not in names:
                raise UsageError(
                    f"shape: no input is called {name!r}",
                    hint=f"the inputs are {', '.join(map(str, specs))}",
                )
            _fix(names[name], sizes, found)
        if self.batch is not None:
            batches = [spec for spec in specs if spec.shape]
            for spec in batches:
                _fix(spec, (self.batch,), found)
        return found


def _fix(spec: TensorSpec, sizes: Sequence[int], found: dict[str, int]) -> None:
    """Note what the symbols of a shape become; `sizes` may be its first axes alone."""
    shown = "x".join(map(str, sizes))
    if len(sizes) not in (1, len(spec.shape)):
        raise UsageError(f"{spec.name} cannot have the shape {shown}: it is {spec}")
    for own, size in zip(spec.shape, sizes, strict=False):
        if isinstance(own, str):
            if found.setdefault(own, size) != size:
                where = f"{own} is {found[own]} elsewhere"
                raise UsageError(f"{spec.name} cannot have the shape {shown}: {where}, and it is {spec}")
        elif own != size:
            raise UsageError(f"{spec.name} cannot have the shape {shown}: the model takes {spec}")
