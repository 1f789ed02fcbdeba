"""Inputs to run a model on: seeded random ones in its real range, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from converter.arrays import Header, headers_of, load_arrays
from converter.errors import UsageError, ValidationError
from converter.imaging import Preprocess, read_images
from converter.model import Array, TensorSpec
from converter.onnxfile import STANDARD, OnnxFile, memory_limit

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "BATCHES",
    "IMAGE_SIDE",
    "LENGTH",
    "complete",
    "count_of",
    "draw",
    "expect_samples",
    "read_samples",
    "vocabularies",
]

BATCHES = (1, 3)
_PASSES_ON = frozenset(["Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Clip"])
_WORDS = np.array("alpha beta gamma delta epsilon zeta eta theta".split())
_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
IMAGE_SIDE, LENGTH = 64, 12
# Of the range that a model expects; samples that cover less were scaled for another one.
_LEAST_SHARE = 0.02
_FAR = 3  # ranges outside of the range: normal noise does not get there, pixels of 0 to 255 do
_UNNAMED = ("", "arr_0")  # what NumPy calls the array of an .npy file, and one that is saved without a name
# Of images of any size: what resizes them has to shrink them, and to tell height from width.
_IMAGE_SIZES = {"height": 300, "width": 400}


def vocabularies(model: ir.Model | OnnxFile) -> dict[str, int]:
    """For each graph input that indexes a table (an embedding): the rows of the smallest one."""
    if isinstance(model, OnnxFile):
        return _vocabularies_of_file(model)
    rows: dict[str, int] = {}
    for start in model.graph.inputs:
        stack, seen = [start], {start}
        while stack:
            value = stack.pop()
            for node, index in value.uses():
                if node.op_type == "Gather" and index == 1:
                    table = node.inputs[0]
                    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
                    if table is None or not table.is_initializer() or table.shape is None:
                        continue
                    size = table.shape[axis]
                    if isinstance(size, int) and start.name:
                        rows[start.name] = min(size, rows.get(start.name, size))
                elif node.op_type in _PASSES_ON and index == 0 and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    stack.append(node.outputs[0])
    return rows


def _vocabularies_of_file(file: OnnxFile) -> dict[str, int]:
    whole = {info.name for info in file.inputs if info.type.tensor_type.elem_type in _INTEGERS}
    origin = {name: name for name in whole - file.weights.keys()}
    rows: dict[str, int] = {}
    for node in file.nodes() if origin else ():
        if node.domain not in STANDARD or not node.input:
            continue
        if node.op_type == "Gather" and node.input[1] in origin and node.input[0] in file.weights:
            dims = file.weights[node.input[0]].dims
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            if dims:
                name = origin[node.input[1]]
                rows[name] = min(dims[axis], rows.get(name, dims[axis]))
        elif node.op_type in _PASSES_ON and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
    return rows


def draw(specs: Sequence[TensorSpec], tables: Mapping[str, int], seed: int) -> list[dict[str, Array]]:
    """Seeded random inputs at two batch sizes (or twice at the one that the model is fixed to).

    A symbolic first axis is the batch.

    Args:
        specs: the model's inputs.
        tables: for inputs that index tables, the number of rows (see `vocabularies`).
        seed: the same seed gives the same arrays.
    """
    fixed = not any(isinstance(size, str) for spec in specs for size in spec.shape[:1])
    batches = (1, 1) if fixed else BATCHES
    feeds = []
    for number, batch in enumerate(batches):
        rng = np.random.default_rng([seed, number])
        sizes = _sizes(specs, batch)
        _refuse_large(specs, sizes)
        feeds.append({spec.name: np.asarray(_draw_one(spec, tables, sizes, rng)) for spec in specs})
    return feeds


def _sizes(specs: Sequence[TensorSpec], batch: int) -> dict[str, int]:
    """A size for each symbol; images are looked at first, what shares a symbol with them follows."""
    sizes: dict[str, int] = {}
    for spec in sorted(specs, key=lambda spec: -len(spec.shape)):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                usual = IMAGE_SIDE if len(spec.shape) >= 4 else LENGTH
                if spec.dtype == "uint8":
                    usual = _IMAGE_SIZES.get(size, usual)
                sizes.setdefault(size, batch if axis == 0 else usual)
    return sizes


def _refuse_large(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> None:
    """Refuse inputs that no memory holds: a file of some bytes can declare such."""
    for spec in specs:
        count = math.prod(size if isinstance(size, int) else sizes.get(size, 1) for size in spec.shape)
        # Random numbers are drawn in float64.
        if count * 8 > memory_limit():
            raise ValidationError(
                f"samples of the input {spec.name} would have {count:,} numbers, more than memory holds"
            )
        if any(isinstance(size, int) and size < 0 for size in spec.shape):
            raise ValidationError(
                f"the input {spec} has a negative size", hint="--shape fixes the sizes of inputs"
            )


def _draw_one(
    spec: TensorSpec, tables: Mapping[str, int], sizes: Mapping[str, int], rng: np.random.Generator
) -> Array:
    if "(" in spec.dtype or spec.dtype == "unknown" or "..." in spec.shape:
        raise ValidationError(
            f"no samples can be drawn for the input {spec}",
            hint="--no-validate cuts without running anything",
        )
    shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
    if spec.dtype == "string":
        return np.asarray(rng.choice(_WORDS, shape)).astype(object)
    if spec.numpy_dtype.kind in "biu" and "mask" in spec.name and len(shape) == 2:
        return _padding(shape, rng).astype(spec.numpy_dtype)
    if spec.dtype == "bool":
        return rng.random(shape) < 0.5
    dtype = spec.numpy_dtype
    if spec.name in tables:
        return rng.integers(0, tables[spec.name], shape).astype(dtype)
    if dtype == np.uint8 and spec.value_range and len(shape) == 4:  # an image
        low, high = spec.value_range
        return np.rint(low + (high - low) * _smooth(shape, rng)).astype(dtype)
    if dtype.kind in "iu":
        low, high = spec.value_range or (0, 10)
        return rng.integers(int(low), int(high) + 1, shape).astype(dtype)
    low, high = spec.value_range or (-1.0, 1.0)
    return (low + (high - low) * _smooth(shape, rng)).astype(dtype)


def _padding(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """A mask as tokenizers make it: each row has some ones, at least one, and then zeros."""
    lengths = rng.integers(1, shape[1] + 1, (shape[0], 1))
    return np.arange(shape[1]) < lengths


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Values in 0..1 that vary between samples, within each, and over coarse and fine scales.

    White noise alone would look the same to any model that averages over an image.
    """
    values = rng.random(shape)
    if len(shape) < 3:
        return values
    rows = shape[0]
    level = rng.random((rows,) + (1,) * (len(shape) - 1))
    coarse_shape = tuple(min(size, 4) if 0 < i < len(shape) - 1 else size for i, size in enumerate(shape))
    coarse = rng.random(coarse_shape)
    for axis in range(1, len(shape) - 1):
        picks = np.arange(shape[axis]) * coarse_shape[axis] // shape[axis]
        coarse = np.take(coarse, picks, axis=axis)
    share = np.linspace(0.2, 0.6, rows).reshape((rows,) + (1,) * (len(shape) - 1))
    return np.asarray(0.3 * level + share * coarse + (0.7 - share) * values)


def count_of(batch: Mapping[str, Array]) -> int:
    """How many samples a batch has: the length of its longest axis 0."""
    return max((len(array) for array in batch.values() if array.ndim), default=1)


def complete(specs: Sequence[TensorSpec], samples: Mapping[str, Array]) -> int:
    """How many samples there are for these inputs.

    Raises:
        UsageError: an input without samples, or none at all.
    """
    missing = [spec.name for spec in specs if spec.name not in samples]
    if missing:
        raise UsageError(
            f"no samples for the inputs {', '.join(missing)}, got {', '.join(samples) or 'none'}"
        )
    count = count_of(samples)
    if count == 0:
        raise UsageError("no samples: the arrays are empty")
    return count


def read_samples(
    path: Path,
    specs: Sequence[TensorSpec],
    preprocess: Preprocess | None = None,
    *,
    channels_last: bool | None = None,
    known_as: Mapping[str, str] | None = None,
) -> list[dict[str, Array]]:
    """The user's own inputs from `x.npz` (an array an input), `x.npy` or a folder of images (a lone input).

    Args:
        path: the file or folder.
        specs: the model's inputs.
        preprocess: what makes a float input of images; the arrays of a file are taken as they are.
        channels_last: where the source's framework has channels, for inputs of images that do not tell.
        known_as: input → the name that its array may have instead, if all have theirs.

    Returns:
        All samples as one batch, and the first alone as another where the model takes any batch; images of
        several sizes as a batch a size.

    Raises:
        UsageError: not such a file, pickles in it, an input missing, or a shape or dtype that is off; for
            folders, what `converter.imaging.read_images` raises.
        TargetError: images without Pillow.
    """
    if path.is_dir():
        return _read_folder(path, specs, preprocess, channels_last)
    arrays = _by_input(path, specs, load_arrays(path, "samples"), known_as or {})
    for spec in specs:
        _check_values(path, spec, arrays[spec.name])
    whole = {spec.name: _cast(path, spec, arrays[spec.name]) for spec in specs}
    batched = [spec.name for spec in specs if spec.shape and isinstance(spec.shape[0], str)]
    counts = {len(whole[name]) for name in batched}
    if len(counts) > 1:
        raise UsageError(f"samples {path}: inputs differ in their number of samples: {sorted(counts)}")
    if len(batched) < len(specs) or counts == {1}:
        return [whole]
    return [{name: array[:1] for name, array in whole.items()}, whole]


def expect_samples(path: Path, specs: Sequence[TensorSpec]) -> None:
    """Refuse what `read_samples` would, as far as the headers of its arrays tell: before anything takes time.

    Args:
        path: the file or folder.
        specs: the model's inputs; none where they are not known yet.

    Raises:
        UsageError: not such a file, an input missing, or a shape or dtype that is off.
    """
    if path.is_dir():
        if specs:
            _expect_one(path, specs)
        return
    headers = headers_of(path, "samples")
    if specs:
        _by_input(path, specs, headers, {})


def _by_input(
    path: Path,
    specs: Sequence[TensorSpec],
    arrays: Mapping[str, Array] | Mapping[str, Header],
    known_as: Mapping[str, str],
) -> dict[str, Any]:
    """What a file has for each input; an array without a name is for a lone one."""
    found: dict[str, Any] = dict(arrays)
    others = {spec.name: known_as.get(spec.name, spec.name) for spec in specs}
    if not others.keys() <= found.keys() and set(others.values()) <= found.keys():
        found = {name: found[other] for name, other in others.items()}
    if len(found) == len(specs) == 1 and next(iter(found)) in _UNNAMED:
        found = {specs[0].name: next(iter(found.values()))}
    for spec in specs:
        if spec.name not in found:
            raise UsageError(
                f"samples {path}: no array for the input {spec.name!r}, got {', '.join(map(repr, found))}",
                hint=f"numpy.savez('samples.npz', **{{{spec.name!r}: array}})",
            )
        _check(path, spec, found[spec.name])
    return found


def _expect_one(path: Path, specs: Sequence[TensorSpec]) -> None:
    if len(specs) != 1:
        raise UsageError(
            f"samples {path}: a folder of images is for models of one input, and this one takes "
            f"{', '.join(map(str, specs))}",
            hint="an .npz file with an array for each input",
        )


def _read_folder(
    path: Path, specs: Sequence[TensorSpec], preprocess: Preprocess | None, channels_last: bool | None
) -> list[dict[str, Array]]:
    _expect_one(path, specs)
    (spec,) = specs
    batches = read_images(path, spec, preprocess, channels_last=channels_last)
    if len(batches[0]) > 1 and isinstance(spec.shape[0], str):
        batches.insert(0, batches[0][:1])
    return [{spec.name: batch} for batch in batches]


def _check(path: Path, spec: TensorSpec, array: Array | Header) -> None:
    fits = len(array.shape) == len(spec.shape) and all(
        size == got for size, got in zip(spec.shape, array.shape, strict=True) if isinstance(size, int)
    )
    if not fits:
        raise UsageError(f"samples {path}: {spec.name} has shape {array.shape}, expected {spec}")
    if array.shape and not array.shape[0]:
        raise UsageError(f"samples {path}: there are none for {spec.name}")
    kind, expected = array.dtype.kind, spec.numpy_dtype.kind
    if kind != expected and not (kind in "iuf" and expected in "fV"):
        raise UsageError(f"samples {path}: {spec.name} is {array.dtype}, expected {spec.dtype}")


def _cast(path: Path, spec: TensorSpec, array: Array) -> Array:
    """The array in the input's dtype, which has to hold its values."""
    cast = array.astype(spec.numpy_dtype)
    if cast.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise UsageError(f"samples {path}: {spec.name} has values that {spec.dtype} does not hold")
    if cast.dtype.kind in "fV" and not np.isfinite(cast.astype(np.float64)).all():
        raise UsageError(f"samples {path}: {spec.name} has values that are infinite in {spec.dtype}")
    return cast


def _check_values(path: Path, spec: TensorSpec, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"samples {path}: {spec.name} has NaN or infinity in it")
    _check_range(path, spec, array)


def _check_range(path: Path, spec: TensorSpec, array: Array) -> None:
    """Refuse samples that were prepared for another model: far outside of the range, or in a corner of it."""
    if spec.value_range is None or array.size == 0 or array.dtype.kind not in "iuf":
        return
    low, high = spec.value_range
    least, most = float(array.min()), float(array.max())
    width = high - low
    within = least >= low - _FAR * width and most <= high + _FAR * width
    if within and most - least >= width * _LEAST_SHARE:
        return
    raise UsageError(
        f"samples {path}: {spec.name} has values from {least:.4g} to {most:.4g}, "
        f"and the model expects {low:.4g} to {high:.4g}",
        hint="prepare them as for the model's training; --preprocess takes pixels of 0 to 255",
    )
