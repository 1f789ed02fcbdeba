"""What is done to pixels before a model sees them, by name: `none`, `scale`, `imagenet`, `keras:NAME`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping

import numpy as np

from converter.errors import UsageError
from converter.model import Array

__all__ = ["Preprocess"]


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Arithmetic on pixels of 0..255: channels reversed, divided, less the mean, by the deviation.

    Attributes:
        name: what the user calls it.
        reverse: whether RGB becomes BGR.
        divisor: what all values are divided by.
        mean: subtracted, one for all channels or one for each; empty for nothing.
        std: divided by, one for each channel; empty for nothing.
    """

    name: str
    reverse: bool = False
    divisor: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def named(cls, text: str) -> Preprocess:
        """A preprocessing by its name; case and underscores of Keras's names do not matter.

        Raises:
            UsageError: no such name.
        """
        prefix, colon, family = text.partition(":")
        if not colon and text in _PLAIN:
            return dataclasses.replace(_PLAIN[text], name=text)
        plain = family.casefold().replace("_", "")
        if prefix == "keras" and plain in _FAMILIES:
            return dataclasses.replace(_MODES[_FAMILIES[plain]], name=text)
        names = [*_PLAIN, *(f"keras:{known}" for known in _FAMILIES)]
        near = difflib.get_close_matches(text.casefold().replace("_", ""), names, n=4, cutoff=0.5)
        raise UsageError(
            f"preprocess {text!r}: no such name",
            hint=f"the nearest names are {', '.join(near)}"
            if near
            else "none, scale, imagenet or keras:MODEL",
        )

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return self.reverse or self.divisor != 1 or bool(self.mean)

    @property
    def by_channel(self) -> bool:
        """Whether it tells red, green and blue apart."""
        return self.reverse or len(self.mean) > 1

    def apply(self, x: Array, channel_axis: int | None = None) -> Array:
        """The preprocessed pixels, float32, in a new array of the same shape.

        Args:
            x: pixels of 0..255 in RGB, any real dtype.
            channel_axis: where `x` has its three channels; only what tells them apart needs it.
        """
        value = np.array(x, np.float32)
        axis = -1 if channel_axis is None else channel_axis
        if self.reverse:
            value = np.ascontiguousarray(np.flip(value, axis))
        # The order and the precision are Keras's, so that values agree to the last bits.
        if self.divisor != 1:
            value /= np.float32(self.divisor)
        sizes = [1] * value.ndim
        sizes[axis] = -1
        if self.mean:
            value -= np.reshape(np.array(self.mean, np.float32), sizes)
        if self.std:
            value /= np.reshape(np.array(self.std, np.float32), sizes)
        return value


# Means and deviations of ImageNet's training images. Sources: torchvision.transforms.Normalize as its models'
# weights have it, and keras.src.applications.imagenet_utils, whose modes these are.
_MODES: Mapping[str, Preprocess] = {
    "caffe": Preprocess("caffe", reverse=True, mean=(103.939, 116.779, 123.68)),
    "tf": Preprocess("tf", divisor=127.5, mean=(1.0,)),
    "torch": Preprocess("torch", divisor=255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "none": Preprocess("none"),
}
_PLAIN: Mapping[str, Preprocess] = {
    "none": _MODES["none"],
    "scale": Preprocess("scale", divisor=255),
    "imagenet": _MODES["torch"],
}

# Modules and models of `keras.applications` without underscores → mode; a test holds it to Keras itself.
_FAMILIES: Mapping[str, str] = {
    name: mode
    for mode, names in {
        "caffe": "vgg16 vgg19 resnet resnet50 resnet101 resnet152",
        "tf": "resnetv2 resnet50v2 resnet101v2 resnet152v2 inceptionv3 inceptionresnetv2 xception "
        "mobilenet mobilenetv2 nasnet nasnetlarge nasnetmobile",
        "torch": "densenet densenet121 densenet169 densenet201",
        # What these do to pixels is inside the model.
        "none": "mobilenetv3 mobilenetv3large mobilenetv3small "
        "efficientnet efficientnetb0 efficientnetb1 efficientnetb2 efficientnetb3 efficientnetb4 "
        "efficientnetb5 efficientnetb6 efficientnetb7 efficientnetv2 efficientnetv2b0 efficientnetv2b1 "
        "efficientnetv2b2 efficientnetv2b3 efficientnetv2s efficientnetv2m efficientnetv2l "
        "convnext convnexttiny convnextsmall convnextbase convnextlarge convnextxlarge",
    }.items()
    for name in names.split()
}
