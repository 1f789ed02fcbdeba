"""Bytes that are no ONNX file, or nearly one: an error in plain words, in bounded time and memory."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import converter
from converter.errors import ConverterError
from converter.onnxfile.wire import WireError, fields, tag, varint

# `make fuzz` asks for many more.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))


def _seed_model() -> bytes:
    text = """<ir_version: 10, opset_import: ["": 21, "mine": 1]>
    g (float[batch, 4] x, bool q) => (float[batch, 3] y)
    { a = MatMul(x, w) b = mine.f(a) i = If(q)<
        then_branch = t () => (float[batch, 5] o) { o = Relu(b) },
        else_branch = e () => (float[batch, 5] o) { o = Neg(b) }>
      s = DequantizeLinear(k, sc) c = Add(i, s) y = MatMul(c, v) }
    <domain: "mine", opset_import: ["": 21]> f (p) => (r) { r = Tanh(p) }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(4, 5)), "v": rng.normal(size=(5, 3)), "sc": np.array(0.5)}
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    proto.graph.initializer.append(helper.make_tensor("k", onnx.TensorProto.INT4, [5], [1, 2, 3, 4, -5]))
    outside = proto.graph.initializer.add(name="z", dims=[2], data_type=1, data_location=1)
    outside.external_data.add(key="location", value="data")
    helper.set_model_props(proto, {"key": "value"})
    return proto.SerializeToString()


SEED = _seed_model()


def attempt(content: bytes, folder: Path) -> str:
    """Open, list, cut and write; how it came out. Anything but our own errors is a failure."""
    path = folder / "fuzzed.onnx"
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        source = converter.load(path)
        names = [layer.name for layer in source.layers]
        for name in names[:3]:
            source.cut(split=name).save(folder / "out", validate=False)
    except ConverterError as error:
        assert str(error)
        return type(error).__name__
    finally:
        assert time.perf_counter() - start < 60
    return "cut"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fuzz")
    (place / "data").write_bytes(bytes(8))
    return place


def test_the_seed_itself_is_cut(folder: Path) -> None:
    assert attempt(SEED, folder) == "cut"


@st.composite
def changed(draw: Any) -> bytes:
    """The seed with some bytes set, cut out, doubled or put in, or its end gone."""
    content = bytearray(SEED)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        what = draw(st.sampled_from(["set", "remove", "double", "insert", "truncate"]))
        size = draw(st.integers(1, 40))
        if what == "set":
            content[at] = draw(st.integers(0, 255))
        elif what == "remove":
            del content[at : at + size]
        elif what == "double":
            content[at:at] = content[at : at + size]
        elif what == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=12))
        else:
            del content[max(at, 1) :]
        if not content:
            content = bytearray(b"\0")
    return bytes(content)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=changed())
def test_changed_files(content: bytes, folder: Path) -> None:
    attempt(content, folder)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=200))
def test_any_bytes(content: bytes, folder: Path) -> None:
    attempt(content, folder)


@settings(max_examples=EXAMPLES, deadline=None)
@given(content=st.binary(max_size=300))
def test_a_walk_covers_the_message_or_says_why_not(content: bytes) -> None:
    position = 0
    try:
        for field in fields(content, 0, len(content)):
            assert field.begin == position
            assert field.begin < field.start <= field.stop <= len(content)
            position = field.stop
    except WireError:
        return
    assert position == len(content)


@given(value=st.integers(0, (1 << 64) - 1), rest=st.binary(max_size=3))
def test_numbers(value: int, rest: bytes) -> None:
    encoded = bytearray()
    left = value
    while left > 0x7F:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    encoded.append(left)
    content = bytes(encoded) + rest
    assert varint(content, 0, len(content)) == (value, len(encoded))


def field(number: int, body: bytes) -> bytes:
    return tag(number, len(body)) + body


def nested(depth: int) -> bytes:
    """Branches in branches: a node whose attribute holds a graph, whose node …"""
    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + b"\xa0\x01\x05" + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
    return graph


HEAD = b"\x08\x08"  # ir_version 8


def initializer(*parts: bytes) -> bytes:
    """A model of one initializer, called `w` unless it says otherwise."""
    return HEAD + field(7, field(5, b"".join(parts) + field(8, b"w")))


CRAFTED = {
    "too_long": b"\x3a\xff\xff\xff\xff\x7f" + bytes(10),
    "longer_than_64_bits": b"\x3a" + b"\xff" * 20,
    "group": b"\x3b\x00\x3c",
    "field_zero": b"\x02\x00",
    "no_graph": b"\x08\x08",
    "two_graphs": HEAD + field(7, b"") + field(7, b""),
    "graph_is_a_number": b"\x08\x08\x38\x05",
    "node_is_a_number": HEAD + field(7, b"\x08\x05"),
    "overlapping": HEAD + field(7, b"\x0a\x7f" + bytes(10)),
    "nested_10000": HEAD + field(7, nested(10_000)),
    "nested_90": HEAD + field(7, nested(90) + field(1, field(4, b"Relu") * 3000)),
    "bad_text": HEAD + field(7, field(5, b"\x08\x01\x10\x01" + field(8, b"\xff\xfe"))),
    "huge_shape": initializer((b"\x08" + b"\xff" * 8 + b"\x7f") * 4, b"\x10\x01"),
    "negative_shape": initializer(b"\x08" + b"\xff" * 9 + b"\x01\x10\x01"),
    "unknown_type": initializer(b"\x08\x01\x10\x63"),
    "short_weight": initializer(b"\x08\x09\x10\x01", field(9, bytes(8))),
    "twice_a_weight": HEAD + field(7, field(5, b"\x10\x01" + field(8, b"w") + field(9, bytes(4))) * 2),
    "sparse_without_values": HEAD + field(7, field(15, b"\x18\x05")),
}  # fmt: skip


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_files(case: str, folder: Path) -> None:
    outcome = attempt(CRAFTED[case], folder)
    assert outcome in (("SourceError", "cut") if case in ("nested_90", "huge_shape") else ("SourceError",))


def test_memory_stays_bounded(folder: Path) -> None:
    """Declared sizes cost nothing: what is there is read, not what is said to be there."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in CRAFTED:
        attempt(CRAFTED[case], folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
