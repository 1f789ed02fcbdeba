"""What a user wants changed, in names and patterns, and what of a model that means."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from converter.errors import CutError, UsageError
from converter.heads import Head
from converter.model import Layer, is_glob, matches
from converter.surgery import expanded

__all__ = ["Changes"]

_FIRST = re.compile(r"first:([1-9]\d{0,8})", re.ASCII)
_CHANNELS = {"auto": None, "first": False, "last": True}


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes to a model, as they are asked for.

    Attributes:
        to: the layer whose output a head goes onto; the model ends there.
        head: a head's text, a `Head`, a file (`.onnx`, `.keras`, `file.py:factory`), or a layer or module.
        replace: layer → what takes its place, in the same words.
        drop: layers to leave out: names, globs, ranges.
        freeze: weights to take out of training: names, globs or ranges of layers or weights, or `first:N`.
        train: weights to train all the same; without `freeze`, all others are frozen.
        channels: where the channels of what new layers take are: `first`, `last`, or `auto`.
        fitted: on what and how well the head's weights were fitted, JSON-ready; empty for initial weights.
    """

    to: tuple[str, ...] = ()
    head: str | Head | Any | None = None
    replace: Mapping[str, str | Head | Any] = dataclasses.field(default_factory=dict)
    drop: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    channels: str = "auto"
    fitted: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.head is not None and len(self.to) != 1:
            raise UsageError("a head goes onto one layer: --head takes one --to")
        if self.to and self.head is None:
            raise UsageError(
                f"{self.to[0]} is where a head would go, and there is none",
                hint="cut(to=…) ends a model there",
            )
        if self.channels not in _CHANNELS:
            raise UsageError(f"channels {self.channels!r}: expected auto, first or last")
        if self.channels != "auto" and self.head is None and not self.replace:
            raise UsageError("--channels says where a new head's or layer's channels are: there is none")

    def __bool__(self) -> bool:
        return bool(self.head is not None or self.replace or self.drop or self.freeze or self.train)

    @staticmethod
    def replacements(texts: Sequence[str]) -> dict[str, str]:
        """`LAYER=SPEC` as a mapping.

        Raises:
            UsageError: no such pair, or a layer twice.
        """
        found: dict[str, str] = {}
        for text in texts:
            layer, equals, spec = text.partition("=")
            if not equals or not layer or not spec:
                raise UsageError(
                    f"replace {text!r}: expected LAYER=SPEC, such as predictions=dense(5,softmax)"
                )
            if layer in found:
                raise UsageError(f"{layer} is to be replaced twice")
            found[layer] = spec
        return found

    @property
    def channels_last(self) -> bool | None:
        """Where the channels are; None for where they usually are."""
        return _CHANNELS[self.channels]

    def frozen(
        self, layers: Sequence[Layer], trainable: Mapping[str, str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the weights to freeze, and of those to train.

        Raises:
            CutError: a pattern that names nothing.
        """
        train, frozen = (
            frozenset(n for p in given for each in expanded(p) for n in _meant(each, layers, trainable))
            for given in (self.train, self.freeze)
        )
        return (frozen if self.freeze or not self.train else frozenset(trainable)) - train, train

    def described(self) -> dict[str, Any]:
        """The changes as JSON-ready values."""
        return {
            "to": list(self.to) if self.head is not None else [],
            "head": None if self.head is None else _text(self.head),
            "replace": {layer: _text(new) for layer, new in self.replace.items()},
            "drop": list(self.drop),
            "freeze": list(self.freeze),
            "train": list(self.train),
        } | ({"fit": dict(self.fitted)} if self.fitted else {})


def _text(new: Any) -> str:
    return str(new) if isinstance(new, (str, Head)) else type(new).__name__


def _around(path: str) -> list[str]:
    """A layer and the layers around it."""
    return [path[:i] for i, letter in enumerate(path) if letter in "/."] + [path]


def _meant(pattern: str, layers: Sequence[Layer], trainable: Mapping[str, str]) -> set[str]:
    """The weights that a pattern of `--freeze` or `--train` names."""
    first = _FIRST.fullmatch(pattern)
    if first is not None:
        return set(list(trainable)[: int(first[1])])
    glob = is_glob(pattern)
    owners = {layer.base for layer in layers} | {o for owner in trainable.values() for o in _around(owner)}
    named = {o for o in owners if o == pattern or (glob and (matches(o, pattern) or pattern == "*"))}
    found = {name for name, owner in trainable.items() if any(o in named for o in _around(owner))}
    found |= {name for name in trainable if name == pattern or (glob and fnmatch.fnmatchcase(name, pattern))}
    if not found:
        some = ", ".join(list(trainable)[:3])
        raise CutError(
            f"no layer or weight to train or freeze matches {pattern!r}",
            hint=f"`converter layers` lists the layers; the weights are {some}, …",
        )
    return found
