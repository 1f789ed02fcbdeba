"""Weights in 4 bits: what is stored is decoded here in NumPy, and held against the original weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from converter.errors import TargetError, UsageError
from converter.precision import Precision
from converter.precision.weights import BLOCK, quantized
from converter.request import Request

NET = """g (float[N,20,9,9] x) => (float[N,30] y) { a = Conv<pads=[1,1,1,1]>(x,k) r = Relu(a)
    d = Conv<pads=[1,1,1,1],group=40>(r,t) p = MaxPool<kernel_shape=[3,3],strides=[3,3]>(d)
    f = Flatten(p) m = MatMul(f,w) h = Relu(m) y = Gemm<transB=1>(h,v) }"""


@pytest.fixture
def arrays(normal: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    shapes = {"k": (40, 20, 3, 3), "t": (40, 1, 3, 3), "w": (360, 50), "v": (30, 50)}
    made = {name: normal(*shape) / np.float32(np.sqrt(np.prod(shape[1:]))) for name, shape in shapes.items()}
    made["w"][3, 4] = 2.0  # one that stands out, in a block of its own
    return made


def decoded(levels: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int, block: int) -> np.ndarray:
    """What DequantizeLinear of opset 21 is defined to make of them."""
    if block:
        scale, zero = (
            np.take(np.repeat(part, block, axis), range(levels.shape[axis]), axis) for part in (scale, zero)
        )
    else:
        shape = [-1 if i == axis else 1 for i in range(levels.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (levels.astype(np.float32) - zero.astype(np.float32)) * scale


def stored(proto: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, int, int]]:
    """Weight → levels, scales, zero points, axis, block, as the file has them."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        attributes = {a.name: a.i for a in node.attribute}
        parts = [tensors[name] for name in node.input]
        assert parts[0].data_type == parts[2].data_type == onnx.TensorProto.UINT4
        levels, scale, zero = (numpy_helper.to_array(part) for part in parts)
        found[node.input[0]] = (
            levels.astype(np.int32),
            scale,
            zero.astype(np.int32),
            attributes["axis"],
            attributes.get("block_size", 0),
        )
    return found


def test_what_is_stored_is_near_the_weights(lowered: Any, arrays: Any) -> None:
    written = lowered(NET, "int4-weights", weights=arrays)
    proto = written.model()
    assert [o.version for o in proto.opset_import if not o.domain] == [21]
    found = stored(proto)
    assert set(found) == {"k", "t", "w", "v"}
    # Of fewer than a block is summed over by `k` (20 channels) and `t` (one).
    assert {name: parts[3:] for name, parts in found.items()} == {
        "k": (0, 0),
        "t": (0, 0),
        "w": (0, BLOCK),
        "v": (1, BLOCK),
    }
    for name, parts in found.items():
        levels, scale, zero, axis, block = parts
        assert (levels.min(), levels.max()) >= (0, 0)
        assert levels.max() <= 15
        step = decoded(np.ones_like(levels), scale, np.zeros_like(zero), axis, block)
        bottom, top = (decoded(np.full_like(levels, end), scale, zero, axis, block) for end in (0, 15))
        nearest = np.clip(arrays[name], bottom, top)  # what lies outside is cut off
        assert (np.abs(decoded(*parts) - nearest) <= step / 2 * 1.0001).all()
        assert np.abs(arrays[name] - nearest).max() <= 0.2 * np.abs(arrays[name]).max() + step.max() / 2


@pytest.mark.parametrize(
    ("shape", "axis", "block"), [((64, 6), 0, 32), ((6, 70), 1, 32), ((5, 3, 3), 0, 0), ((3, 5, 2), 1, 0)]
)
def test_limits_drawn_in_are_never_worse_than_the_whole_range(
    shape: Any, axis: int, block: int, normal: Any
) -> None:
    array = normal(*shape) ** 3  # few large ones
    levels, scale, zero = quantized(array, axis, block)
    ours = np.square(decoded(levels, scale, zero, axis, block) - array).sum()
    # Rounded to the nearest of 16 steps over each block's whole range, worked out block by block.
    rows = np.moveaxis(array, axis, -1) if block else np.moveaxis(array, axis, 0).reshape(shape[axis], -1)
    plain = 0.0
    for row in rows.reshape(-1, rows.shape[-1]):
        for start in range(0, len(row), block or len(row)):
            part = row[start : start + (block or len(row))].astype(np.float64)
            low, high = min(part.min(), 0), max(part.max(), 0)
            step = (high - low) / 15
            origin = round(-low / step)
            plain += np.square((np.clip(np.round(part / step) + origin, 0, 15) - origin) * step - part).sum()
    assert ours <= plain * 1.0001
    assert ours < 0.995 * plain


def test_constant_blocks_and_zeros_are_exact() -> None:
    array = np.zeros((64, 2), np.float32)
    array[32:] = 0.75
    parts = quantized(array, 0, 32)
    np.testing.assert_allclose(decoded(*parts, 0, 32), array, rtol=1e-6)


def test_a_weight_that_two_layers_read_is_stored_once(lowered: Any, normal: Any) -> None:
    text = "g (float[N,64] x) => (float[N,64] y) { a = MatMul(x,w) b = Tanh(a) y = MatMul(b,w) }"
    w = normal(64, 64) / 8
    written = lowered(text, "int4-weights", weights={"w": w})
    assert written.facts["operators"] == 2
    assert set(stored(written.model())) == {"w"}
    # What one of the two keeps in float stays in float for both.
    with pytest.raises(TargetError, match="no weight of the model can be stored in 4 bits"):
        lowered(text, "int4-weights", weights={"w": w}, keep=("y",))


def test_weights_that_are_kept_and_the_others(lowered: Any, arrays: Any) -> None:
    written = lowered(NET, "int4-weights", weights=arrays, keep=("a", "d"))
    assert set(stored(written.model())) == {"w", "v"}
    kept = {t.name: numpy_helper.to_array(t) for t in written.model().graph.initializer}
    np.testing.assert_array_equal(kept["k"], arrays["k"])


def test_opsets_without_4_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="opset 18 has no types of 4 bits: expected 21 at least"):
        Request(precision=Precision("int4-weights"), opset=18)
    assert Request(precision=Precision("int4-weights"), opset=21)


def test_small_weights_are_not_worth_it(lowered: Any, normal: Any) -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { y = MatMul(x,w) }"
    with pytest.raises(TargetError, match="no weight of the model can be stored in 4 bits"):
        lowered(text, "int4-weights", weights={"w": normal(8, 8)})
