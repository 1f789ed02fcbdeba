"""From what a user writes to the layers it names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from converter.errors import CutError
from converter.model import Boundary, Layer, is_glob, matches

__all__ = ["expanded", "select", "select_layers"]

_RANGE = re.compile(r"(.*?)(\d{1,9})\.\.(\d{1,9})(.*)", re.ASCII)


def select(
    patterns: Sequence[str], layers: Sequence[Layer], inputs: Sequence[str] = ()
) -> tuple[Boundary, ...]:
    """The boundaries that the patterns name, each once, in the order in which they are named.

    A pattern is a layer's name (`block5_pool`, `outer/inner`), one of its calls (`shared@1`), one of its
    tensors (`lstm:1`), or a shell-style glob over names, in which `*` stops at `/` and `.`.

    Args:
        patterns: what the user wrote.
        layers: every layer call of the model.
        inputs: the names of the model's inputs, for a better message.

    Raises:
        CutError: nothing bears that name (the nearest ones are listed), or several calls do.
    """
    found: dict[str, Boundary] = {}
    for pattern in patterns:
        for boundary in _select_one(pattern, layers, inputs):
            found.setdefault(boundary.value, boundary)
    return tuple(found.values())


def _select_one(pattern: str, layers: Sequence[Layer], inputs: Sequence[str]) -> tuple[Boundary, ...]:
    for layer in layers:
        if layer.name == pattern:
            return layer.boundaries
        for boundary in layer.boundaries:
            if boundary.name == pattern:
                return (boundary,)
    calls = [layer for layer in layers if layer.base == pattern]
    if len(calls) > 1:
        names = ", ".join(layer.name for layer in calls)
        raise CutError(
            f"layer {pattern!r} is called {len(calls)} times: {names}", hint="name one of the calls"
        )
    if is_glob(pattern):
        matching = [b for layer in layers if matches(layer.name, pattern) for b in layer.boundaries]
        if matching:
            return tuple(matching)
        raise CutError(f"no layer matches {pattern!r}", hint=_nearest(pattern, layers))
    if pattern in inputs:
        raise CutError(
            f"{pattern!r} is an input of the model: there is nothing before it to cut off",
            hint=f"the first layers are {_listed([layer.name for layer in layers[:3]])}",
        )
    raise CutError(f"no layer is called {pattern!r}", hint=_nearest(pattern, layers))


def select_layers(patterns: Sequence[str], layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers that the patterns name, each once, in the order of execution.

    A pattern is a layer's name, which means all of its calls, one of its calls, a glob, or a range of numbers
    in a name (`encoder.layers.7..9`, `block1..2_*`).

    Raises:
        CutError: nothing bears that name; the nearest ones are listed.
    """
    found: set[int] = set()
    for pattern in (each for written in patterns for each in expanded(written)):
        glob = is_glob(pattern)
        meant = [
            number
            for number, layer in enumerate(layers)
            if pattern in (layer.name, layer.base) or (glob and matches(layer.name, pattern))
        ]
        if not meant:
            raise CutError(
                f"no layer {'matches' if glob else 'is called'} {pattern!r}", hint=_nearest(pattern, layers)
            )
        found.update(meant)
    return tuple(layers[number] for number in sorted(found))


def expanded(pattern: str) -> list[str]:
    """The names that a range of numbers in a pattern stands for.

    Raises:
        CutError: numbers that do not go up.
    """
    parts = _RANGE.fullmatch(pattern)
    if parts is None:
        return [pattern]
    first, last = int(parts[2]), int(parts[3])
    if not first <= last < first + 10_000:
        raise CutError(f"range {pattern!r}: expected numbers that go up, such as layers.7..9")
    return [f"{parts[1]}{number}{parts[4]}" for number in range(first, last + 1)]


def _nearest(pattern: str, layers: Sequence[Layer]) -> str:
    names = list(dict.fromkeys(layer.name for layer in layers))
    folded = {name.casefold(): name for name in reversed(names)}
    text = pattern.casefold().strip("*?")
    near = [name for name in names if text and text in name.casefold()][:3]
    near += [folded[n] for n in difflib.get_close_matches(text, folded, n=5, cutoff=0.5)]
    near = list(dict.fromkeys(near))[:5]
    if near:
        return f"the nearest names are {_listed(near)}"
    return f"`converter layers` lists all {len(names)}, from {_listed([names[0], names[-1]])}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
