"""What is done to pixels before a model sees them, in words.

The uint8 image takes the place of the model's input. A text is

    preprocess = word { "," word }
    word       = "resize(" size { "," ( "bilinear" | "bicubic" | "nearest" | "noantialias" ) } ")"
               | "crop(" side [ "x" side ] ")" | "scale" [ "(" number [ "," number ] ")" ]
               | "normalize(imagenet)" | "normalize(" numbers "," numbers ")" | "bgr"
               | "imagenet" | "none" | "keras:" model | "torchvision:" model
    size       = side | side "x" side | "short=" side            height x width
    numbers    = number { "|" number }                           one, or one a channel
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from converter.errors import UsageError
from converter.imaging.layout import Layout
from converter.imaging.presets import IMAGENET, PRESETS, plain_name
from converter.imaging.resample import METHODS
from converter.imaging.steps import Crop, Normalize, Resize, Reverse, Scale, Step
from converter.imaging.words import Word, number, numbers, split_words
from converter.model import Array, Dim, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Preprocess"]

_LARGEST = 1 << 14  # of a side
_EXPECTED = (
    "words are resize(224), resize(256x320), resize(short=256,bicubic), crop(224), scale(1/255), "
    "scale(1/127.5,-1), normalize(imagenet), normalize(mean,std), bgr, imagenet, none, keras:MODEL, "
    "torchvision:MODEL"
)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What is done to RGB pixels of 0..255, in order.

    Images are uint8 as long as they are resized and cropped, and float32 from the first arithmetic on.

    Attributes:
        text: the words, as the user wrote them.
        steps: what they do.
    """

    text: str
    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """Read the words.

        Raises:
            UsageError: no such word, or an argument that it does not take; says where, and the nearest words.
        """
        steps: list[Step] = []
        for word in split_words("preprocess", text, _EXPECTED):
            steps += _steps(word)
        return cls(text, tuple(steps))

    def __str__(self) -> str:
        """The words in full, presets written out."""
        return ",".join(map(str, self.steps)) or "none"

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return bool(self.steps)

    @cached_property
    def by_channel(self) -> bool:
        """Whether it tells red, green and blue apart."""
        return any(step.by_channel for step in self.steps)

    @cached_property
    def sizing(self) -> bool:
        """Whether it resizes or crops: images of any size go in then."""
        return any(step.sizing for step in self.steps)

    def without_sizes(self) -> str:
        """The words that leave the size alone."""
        return ",".join(str(step) for step in self.steps if not step.sizing) or "none"

    def size(self, height: int | None, width: int | None) -> tuple[int | None, int | None]:
        """Height and width after all words, for an image of this size; None where that cannot be told."""
        for step in self.steps:
            if isinstance(step, Crop):
                height, width = step.height, step.width
            elif isinstance(step, Resize):
                if height is not None and width is not None:
                    height, width = step.size(height, width)
                else:
                    height, width = (step.height, step.width) if step.width else (None, None)
        return height, width

    def image(self, spec: TensorSpec, *, channels_last: bool | None = None) -> TensorSpec:
        """The image which replaces a model's float input.

        Args:
            spec: the model's input, NHWC or NCHW, of 1 or 3 channels, float32 or float16.
            channels_last: where the source's framework has channels, for inputs that do not tell.

        Returns:
            uint8 [batch, height, width, channels] of 0..255 under the same name. Height and width are any
            (`height`, `width`) where the words set the size, else the model's own.

        Raises:
            UsageError: as `check`.
        """
        layout = self._fitting(spec, channels_last)
        rows, columns = (2, 3) if layout.channel_axis == 1 else (1, 2)
        sizes: tuple[Dim, Dim] = (spec.shape[rows], spec.shape[columns])
        if self.sizing:
            sizes = ("height", "width")
        return TensorSpec(spec.name, (spec.shape[0], *sizes, layout.channels), "uint8", (0.0, 255.0))

    def check(self, spec: TensorSpec, *, channels_last: bool | None = None) -> None:
        """Hold the words against a model's input; the arguments are those of `image`.

        Raises:
            UsageError: no image goes in there, or none of the size, channels or dtype that the words end at.
        """
        self._fitting(spec, channels_last)

    def apply(self, images: Array, spec: TensorSpec, *, channels_last: bool | None = None) -> Array:
        """What the model takes, computed in NumPy.

        Resizing is in integers or float64, arithmetic in float32, in the order of the words.

        Args:
            images: uint8 of (N, height, width, channels).
            spec: the model's input, as for `image`.
            channels_last: as for `image`.

        Returns:
            Images in the layout and dtype of `spec`.

        Raises:
            UsageError: as `check`, or images that are none.
        """
        image = self.image(spec, channels_last=channels_last)
        fits = images.dtype == np.uint8 and images.ndim == 4 and images.size > 0
        if not fits or not all(
            size == got
            for size, got in zip(image.shape[1:], images.shape[1:], strict=True)
            if isinstance(size, int)
        ):
            raise UsageError(f"images are {images.dtype} of {images.shape}, expected {image}")
        value = self.run(images, 3)
        if Layout.of(spec, channels_last=channels_last).channel_axis == 1:
            value = np.moveaxis(value, 3, 1)
        return np.ascontiguousarray(value, spec.numpy_dtype)

    def run(self, x: Array, channel_axis: int | None = None) -> Array:
        """All steps on pixels in any layout, in a new array.

        Args:
            x: pixels of 0..255 in RGB, any real dtype; uint8 where the words set the size.
            channel_axis: where `x` has its channels; only `by_channel` and `sizing` need it.

        Returns:
            uint8 where `x` is and no word is arithmetic, else float32.
        """
        value = x.copy() if x.dtype == np.uint8 else np.array(x, np.float32)
        for step in self.steps:
            value = step.apply(value, -1 if channel_axis is None else channel_axis)
        return value

    def build(self, model: ir.Model, spec: TensorSpec, *, channels_last: bool | None = None) -> None:
        """Put the words in front of a graph's input, which becomes the uint8 image; in place.

        The new nodes bear `LAYER` = `preprocess` in their metadata.

        Args:
            model: a model with the graph input `spec.name`.
            spec: that input, as for `image`.
            channels_last: as for `image`.

        Raises:
            UsageError: as `check`.
            TargetError: the words set the size and the graph's opset is below 18, which has no antialias.
        """
        from converter.imaging.nodes import put_before

        image = self.image(spec, channels_last=channels_last)
        put_before(model, self.steps, spec, image, Layout.of(spec, channels_last=channels_last).channel_axis)

    def _fitting(self, spec: TensorSpec, channels_last: bool | None) -> Layout:
        layout = Layout.of(spec, channels_last=channels_last)
        if spec.dtype not in ("float32", "float16"):
            raise UsageError(
                f"preprocess {self.text} ends at float32 or float16, but the model takes {spec}",
                hint="a model that takes integers has its preprocessing inside, or is quantized",
            )
        if self.by_channel and layout.channels != 3:
            raise UsageError(
                f"preprocess {self.text} takes 3 channels, but the model takes {spec}",
                hint="scale and normalize(mean,std) with one mean go with any number of channels",
            )
        own = (layout.height, layout.width)
        ends = self.size(None, None) if self.sizing else own
        if any(size not in (None, end) for size, end in zip(own, ends, strict=True)):
            raise UsageError(
                f"preprocess {self.text} ends at images of {_shown(ends)}, but the model takes {_shown(own)} "
                f"({spec})",
                hint=f"crop({_side(own)}) or resize({_side(own)}) at its end",
            )
        return layout


def _shown(size: tuple[int | None, int | None]) -> str:
    if size == (None, None):
        return "any size"
    return "×".join("any" if side is None else str(side) for side in size) + " (height × width)"


def _side(size: tuple[int | None, int | None]) -> str:
    return "x".join("N" if side is None else str(side) for side in size)


def _steps(word: Word) -> list[Step]:
    """What a word does."""
    name = plain_name(word.name)
    if name in PRESETS:
        if word.arguments is not None:
            raise word.refused("takes nothing in parentheses", _EXPECTED)
        words = split_words("preprocess", PRESETS[name], _EXPECTED) if PRESETS[name] else []
        return [step for inner in words for step in _steps(inner)]
    if name not in _READERS:
        raise word.unknown([*_READERS, *PRESETS], _EXPECTED)
    return [_READERS[name](word)]


def _resize(word: Word) -> Step:
    size, *choices = word.arguments or ("",)
    found = _sides(size.removeprefix("short="))
    methods = [choice for choice in choices if choice in METHODS]
    plain = choices.count("noantialias")
    if found is None or (size.startswith("short=") and "x" in size):
        raise word.refused(
            f"{size!r} is no size of 1 to {_LARGEST}", "resize(224), resize(256x320) or resize(short=256)"
        )
    if len(methods) > 1 or plain > 1 or len(choices) != len(methods) + plain:
        strange = next((c for c in choices if c not in (*METHODS, "noantialias")), None)
        why = "said twice" if strange is None else f"no such choice {strange!r}"
        raise word.refused(why, f"one of {', '.join(METHODS)}, and noantialias")
    method = methods[0] if methods else METHODS[0]
    height, width = found
    return Resize(
        height,
        0 if size.startswith("short=") else width,
        method,
        antialias=not plain and method != "nearest",
    )


def _crop(word: Word) -> Step:
    sides = _sides(word.arguments[0]) if word.arguments and len(word.arguments) == 1 else None
    if sides is None:
        raise word.refused(f"expected one size of 1 to {_LARGEST}", "crop(224) or crop(224x160)")
    return Crop(*sides)


def _scale(word: Word) -> Step:
    if word.arguments is None:
        return Scale(divisor=255.0)
    found = [number(part) for part in word.arguments]
    factor, offset = (*found, (0.0, 1.0))[:2]
    if len(found) > 2 or factor is None or offset is None or not factor[0] / factor[1]:
        raise word.refused(
            "expected a factor that is not 0, and an offset", "scale(1/255), scale(1/127.5,-1)"
        )
    return Scale(factor[0], factor[1], offset[0] / offset[1])


def _normalize(word: Word) -> Step:
    given = word.arguments or ()
    if given == ("imagenet",):
        return Normalize(*IMAGENET)
    found = [numbers(part) for part in given]
    hint = "normalize(imagenet), normalize(0.5,0.5), normalize(0.485|0.456|0.406,0.229|0.224|0.225)"
    if len(found) != 2 or found[0] is None or found[1] is None:
        raise word.refused("expected a mean and a deviation, of one or three numbers each", hint)
    mean, std = found[0], found[1]
    if not {len(mean), len(std)} <= {1, 3} or not all(std):
        raise word.refused("expected one or three numbers, no deviation being 0", hint)
    return Normalize(mean, std)


def _bgr(word: Word) -> Step:
    if word.arguments is not None:
        raise word.refused("takes nothing in parentheses", "bgr")
    return Reverse()


_READERS: Mapping[str, Callable[[Word], Step]] = {
    "resize": _resize,
    "crop": _crop,
    "scale": _scale,
    "normalize": _normalize,
    "bgr": _bgr,
}


def _sides(text: str) -> tuple[int, int] | None:
    """Height and width of `224` or `256x320`; None where it is neither."""
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    if found is None:
        return None
    height, width = int(found[1]), int(found[2] or found[1])
    return (height, width) if 0 < height <= _LARGEST and 0 < width <= _LARGEST else None
