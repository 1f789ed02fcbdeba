"""A folder of images as the input of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from converter.errors import UsageError
from converter.imaging.decoding import SUFFIXES, header, inside, listing, pixels, regular
from converter.imaging.layout import Layout
from converter.imaging.preprocess import Preprocess
from converter.model import Array, TensorSpec

__all__ = ["read_images"]

_MOST = 1 << 30  # bytes of all batches
_DEEPEST = 32  # folders in folders


def read_images(
    folder: Path,
    spec: TensorSpec,
    preprocess: Preprocess | None = None,
    *,
    channels_last: bool | None = None,
) -> list[Array]:
    """All images below a folder, in the order of their paths, as batches for one input.

    Images become grey or RGB, as the input has 1 or 3 channels. Where the input is of a fixed size and no
    word sets one, they are resized to it bilinearly by Pillow. Where it takes any size, images of one size
    are one batch.

    Args:
        folder: folders in it, and files that are no images by their names (a licence), are allowed.
        spec: the input: uint8 of (N, height, width, channels), which gets raw pixels, or a float one.
        preprocess: what makes a float input of pixels.
        channels_last: see `Layout.of`.

    Returns:
        Batches in the layout and dtype of `spec`, one for each size; of a model with a fixed batch, so many
        of that batch as there are images for, the last one filled up with the first images again.

    Raises:
        UsageError: no images, a file that is none, a link out of the folder, more than 1 GiB in all,
            an input that takes no images, or a float input without words.
        TargetError: Pillow is missing.
    """
    layout = Layout.of(spec, channels_last=channels_last)
    raw = spec.dtype == "uint8"
    if not raw and preprocess is None:
        raise UsageError(
            f"samples {folder}: images are pixels of 0 to 255, but the model takes {spec}",
            hint="--preprocess says what makes its input of pixels",
        )
    if preprocess is not None and not raw:
        preprocess.check(spec, channels_last=channels_last)
    words = None if raw else preprocess
    own = _own(layout, words)
    with listing("samples", folder):
        paths = list(_images(folder.resolve(strict=True), folder.resolve(strict=True), 0))
    if not paths:
        raise UsageError(
            f"samples {folder}: no images in it", hint=f"images are {' '.join(sorted(SUFFIXES))}"
        )
    _check_sizes(folder, paths, spec, layout, words)
    found: dict[tuple[int, ...], list[Array]] = {}
    for path in paths:
        image = pixels(path, layout.channels, own)[None]
        if words is not None:
            image = words.apply(image, spec, channels_last=channels_last)
        elif layout.channel_axis == 1:
            image = np.moveaxis(image, 3, 1)
        found.setdefault(image.shape, []).append(image)
    return [batch for images in found.values() for batch in _batches(images, spec)]


def _images(root: Path, folder: Path, depth: int) -> Iterator[Path]:
    """The images below a folder, by name; links are followed as long as they stay inside."""
    if depth > _DEEPEST:
        raise UsageError(
            f"{folder}: more than {_DEEPEST} folders deep", hint="a link may lead round in a circle"
        )
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if inside(root, path).is_dir():
            yield from _images(root, path, depth + 1)
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _own(layout: Layout, words: Preprocess | None) -> tuple[int, int] | None:
    """The size that Pillow resizes images to; None where words do, or the model takes any."""
    if layout.height is None or layout.width is None or (words is not None and words.sizing):
        return None
    return layout.height, layout.width


def _check_sizes(
    folder: Path, paths: list[Path], spec: TensorSpec, layout: Layout, words: Preprocess | None
) -> None:
    """Hold the headers of all images against the input, and their sum against what is read."""
    own, sizing = _own(layout, words), words is not None and words.sizing
    total = 0
    for path in paths:
        with regular(path) as file:
            height, width = header(path, file)
        ends: tuple[int | None, int | None] = own or (height, width)
        if words is not None and sizing:
            ends = words.size(height, width)
        elif own is None and any(
            wanted not in (None, got)
            for wanted, got in zip((layout.height, layout.width), (height, width), strict=True)
        ):
            raise UsageError(f"{path} is {height}×{width} (height × width), but the model takes {spec}")
        total += math.prod(size or 1 for size in ends) * layout.channels * spec.numpy_dtype.itemsize
        if total > _MOST:
            raise UsageError(
                f"samples {folder}: {len(paths)} images make more than {_MOST >> 30} GiB",
                hint="fewer images are enough to compare",
            )


def _batches(images: list[Array], spec: TensorSpec) -> list[Array]:
    count = spec.shape[0]
    if not isinstance(count, int):
        return [np.concatenate(images)]
    whole = images + [images[i % len(images)] for i in range(-len(images) % count)]
    return [np.concatenate(whole[i : i + count]) for i in range(0, len(whole), count)]
