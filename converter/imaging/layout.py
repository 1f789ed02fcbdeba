"""How a model takes images."""

from __future__ import annotations

import dataclasses

from converter.errors import UsageError
from converter.model import TensorSpec

__all__ = ["Layout"]

_COLOURS = (1, 3)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a model takes images.

    Attributes:
        channel_axis: 3 (NHWC) or 1 (NCHW).
        channels: 1 (grey) or 3 (RGB).
        height: rows of pixels; None where the model takes any number.
        width: columns of pixels; None likewise.
    """

    channel_axis: int
    channels: int
    height: int | None
    width: int | None

    @classmethod
    def of(cls, spec: TensorSpec, *, channels_last: bool | None = None) -> Layout:
        """The layout of an input.

        Args:
            spec: the input.
            channels_last: where the source's framework has channels, which decides where both ends could be
                channels; None for last.

        Raises:
            UsageError: no images of 1 or 3 channels go in there.
        """
        if len(spec.shape) == 4:
            for axis in (1, 3) if channels_last is False else (3, 1):
                channels = spec.shape[axis]
                if channels in _COLOURS and isinstance(channels, int):
                    sizes = [spec.shape[i] for i in range(1, 4) if i != axis]
                    height, width = (size if isinstance(size, int) else None for size in sizes)
                    return cls(axis, channels, height, width)
        raise UsageError(
            f"the model takes {spec}, which is no batch of images with 1 or 3 channels",
            hint="images are [batch, height, width, channels] or [batch, channels, height, width]; other "
            "data are arrays in an .npz file, in the model's own layout",
        )
