"""Resizing, cropping and arithmetic: NumPy beside Pillow, PyTorch and torchvision, the graph beside NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converter.errors import TargetError
from converter.imaging import Preprocess
from converter.imaging.resample import resize
from converter.model import LAYER, TensorSpec

SHAPES = [
    ((333, 500), (224, 341)),
    ((100, 75), (224, 168)),
    ((97, 301), (97, 64)),
    ((64, 64), (80, 64)),
    ((9, 7), (1, 1)),
]


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize(("before", "after"), SHAPES)
@pytest.mark.parametrize("method", ["bilinear", "bicubic", "nearest"])
def test_resizing_is_pillows(
    method: str, before: Any, after: Any, kind: str, picture: Callable[..., Any]
) -> None:
    from PIL import Image

    image = picture(*before, kind)
    expected = np.asarray(Image.fromarray(image).resize(after[::-1], Image.Resampling[method.upper()]))
    got = resize(image, after, (0, 1), method)
    if method == "nearest":  # of a centre that falls between two pixels Pillow takes either
        rows, columns = (
            (2 * np.arange(new) + 1) * old % (2 * new) > 0 for old, new in zip(before, after, strict=True)
        )
        got, expected = (x[rows | (before[0] == after[0])] for x in (got, expected))
        got, expected = (x[:, columns | (before[1] == after[1])] for x in (got, expected))
        assert got.size > 0 or after == (1, 1)
    np.testing.assert_array_equal(got, expected)


def test_where_the_aspect_changes_pillow_may_take_the_rows_first(picture: Callable[..., Any]) -> None:
    """Since 13 it does what is less work first, so that what lies between is rounded elsewhere."""
    from PIL import Image

    image = picture(256, 256, "smooth")
    expected = np.asarray(Image.fromarray(image).resize((300, 112), Image.Resampling.BILINEAR))
    assert np.abs(resize(image, (112, 300), (0, 1)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("before", "after"), SHAPES)
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_plain_sampling_is_pytorchs(
    method: str, before: Any, after: Any, picture: Callable[..., Any]
) -> None:
    from torch import from_numpy
    from torch.nn.functional import interpolate

    image = picture(*before).astype(np.float32)
    given = from_numpy(image).permute(2, 0, 1)[None]
    expected = interpolate(given, size=after, mode=method, align_corners=False, antialias=False)
    got = resize(image, after, (0, 1), method, antialias=False)
    np.testing.assert_allclose(got, expected[0].permute(1, 2, 0), atol=2e-2, rtol=0)
    whole = resize(image.astype(np.uint8), after, (0, 1), method, antialias=False)
    assert whole.dtype == np.uint8
    assert np.abs(whole - np.clip(got, 0, 255)).max() < 0.5 + 1e-6


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_antialiasing_of_floats_is_pytorchs(method: str, picture: Callable[..., Any]) -> None:
    from torch import from_numpy
    from torch.nn.functional import interpolate

    image = picture(101, 75).astype(np.float32)
    expected = interpolate(
        from_numpy(image).permute(2, 0, 1)[None],
        size=(40, 90),
        mode=method,
        align_corners=False,
        antialias=True,
    )
    got = resize(image, (40, 90), (0, 1), method)
    np.testing.assert_allclose(got, expected[0].permute(1, 2, 0), atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    "size", [(224, 224), (225, 227), (231, 300), (100, 300), (101, 99), (3, 224), (1, 1)]
)
@pytest.mark.parametrize("crop", [(224, 224), (101, 30)])
def test_cropping_is_torchvisions(
    size: tuple[int, int], crop: tuple[int, int], graph: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    from torch import from_numpy

    from converter.sources.torch import backend

    backend.torchvision()
    from torchvision.transforms.functional import center_crop

    image = picture(*size)
    expected = center_crop(from_numpy(image).permute(2, 0, 1), list(crop)).numpy()[None]
    words = f"crop({crop[0]}x{crop[1]})"
    first = TensorSpec("x", ("b", 3, *crop), "float32")
    last = TensorSpec("x", ("b", *crop, 3), "float32")
    np.testing.assert_array_equal(Preprocess.parse(words).apply(image[None], first), expected)
    np.testing.assert_array_equal(graph(words, first, image[None]), expected)
    np.testing.assert_array_equal(graph(words, last, image[None]), np.moveaxis(expected, 1, 3))


# Words, and how far the graph may be from NumPy: a step of 255 where float32 and integers round differently.
WORDS = {
    "none": 0.0,
    "bgr": 0.0,
    "scale": 1e-7,
    "scale(2,-3),normalize(1|2|3,4),bgr,scale(1,5)": 1e-4,
    "bgr,normalize(1|2|3,4|5|6),bgr": 1e-5,
    "resize(40x30)": 1.0,
    "resize(40x30,bicubic)": 1.0,
    "resize(40x30,nearest)": 0.0,
    "resize(40x30,noantialias)": 1.0,
    "resize(40x30,bicubic,noantialias)": 1.0,
    "resize(short=50),crop(40x30)": 1.0,
    "resize(short=20,nearest),crop(40x30)": 0.0,
    "scale(1/255),resize(40x30,bicubic)": 1e-5,
    "resize(60,bicubic,noantialias),resize(40x30,bicubic),scale(1/127.5,-1)": 2 / 127.5,
    "scale(1,7),crop(70),resize(40x30),scale(1/255),bgr": 1e-5,
}


@pytest.mark.parametrize("shape", [("b", 40, 30, 3), ("b", 3, 40, 30)])
@pytest.mark.parametrize("words", WORDS)
def test_the_graph_is_what_numpy_computes(
    words: str, shape: tuple[Any, ...], graph: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    spec = TensorSpec("x", shape, "float32")
    read = Preprocess.parse(words)
    for size in ((40, 30),) if not read.sizing else ((61, 75), (33, 90), (200, 41)):
        images = np.stack([picture(*size, "noise", seed) for seed in range(3)])
        expected = read.apply(images, spec)
        got = graph(words, spec, images)
        assert got.shape == expected.shape == (3, *shape[1:])
        assert got.dtype == expected.dtype == np.float32
        error = np.abs(got - expected)
        assert error.max() <= WORDS[words] + 1e-4 * (WORDS[words] >= 1)
        assert np.ptp(expected) > 0
        assert (error > 1e-4).mean() < 0.02


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opsets(opset: int, graph: Callable[..., Any], picture: Callable[..., Any]) -> None:
    spec, image = TensorSpec("x", ("b", 3, 30, 30), "float32"), picture(64, 48)[None]
    words = "resize(short=32,bicubic),crop(30),imagenet"
    expected = Preprocess.parse(words).apply(image, spec)
    assert np.abs(graph(words, spec, image, opset) - expected).max() < 0.02


def test_an_old_opset_is_refused_where_it_cannot_resize(
    graph: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    spec = TensorSpec("x", ("b", 3, 30, 30), "float32")
    with pytest.raises(TargetError, match="need opset 18, and the graph is in 17"):
        graph("resize(30)", spec, picture(40, 40)[None], 17)
    assert graph("imagenet", spec, picture(30, 30)[None], 13).shape == (1, 3, 30, 30)


def test_half_precision_and_grey(graph: Callable[..., Any], picture: Callable[..., Any]) -> None:
    image = picture(40, 40)[None]
    half = TensorSpec("x", ("b", 3, 30, 30), "float16")
    got = graph("resize(30),imagenet", half, image)
    expected = Preprocess.parse("resize(30),imagenet").apply(image, half)
    assert got.dtype == expected.dtype == np.float16
    assert np.abs(got.astype(np.float32) - expected).max() < 0.02
    grey = TensorSpec("x", ("b", 1, 30, 30), "float32")
    words = "resize(30),normalize(0.5,0.25)"
    expected = Preprocess.parse(words).apply(image[..., :1], grey)
    assert np.abs(graph(words, grey, image[..., :1]) - expected).max() < 4.01


def test_what_is_built(
    build: Callable[..., Any], load: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    spec = TensorSpec("x", ("b", 3, 224, 224), "float32")
    model = build(spec)
    words = Preprocess.parse("torchvision:resnet50")
    words.build(model, spec)
    (given,) = model.graph.inputs
    assert given.name == "x"
    assert given.dtype == ir.DataType.UINT8
    assert list(given.shape) == ["b", "height", "width", 3]
    *new, own = list(model.graph)
    assert {node.metadata_props[LAYER] for node in new} == {"preprocess"}
    assert LAYER not in own.metadata_props
    assert list(own.inputs[0].shape) == ["b", 3, 224, 224]
    assert [node.op_type for node in new].count("Transpose") == 1
    assert all(out.type is not None and out.shape is not None for node in new for out in node.outputs)


def test_sizes_fold_where_the_input_is_static(build: Callable[..., Any]) -> None:
    from onnxscript import optimizer

    spec = TensorSpec("x", ("b", 3, 30, 30), "float32")
    model = build(spec)
    Preprocess.parse("resize(short=32),crop(30),imagenet").build(model, spec)
    model.graph.inputs[0].shape = ir.Shape([1, 64, 48, 3])
    proto = onnx.shape_inference.infer_shapes(ir.serde.serialize_model(model), data_prop=True)
    left = [node.op_type for node in optimizer.optimize(proto).graph.node]
    assert left == ["Transpose", "Resize", "Slice", "Cast", "Mul", "Add"] + ["Identity"] * (len(left) - 6)
    assert len(left) <= 7


def _busy(spec: TensorSpec) -> ir.Model:
    """The input is read by two nodes and inside an If, is an output itself, and the names are taken."""
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    g (float[b,3,4,5] x, bool c) => (float[b,3,4,5] x2, float[b,3,4,5] y) {
        "preprocess/Cast:0" = Neg (x)
        "preprocess/constant" = Add (x, "preprocess/Cast:0")
        y = If (c) <then_branch = t () => (float[b,3,4,5] p) { p = Neg (x) },
                    else_branch = e () => (float[b,3,4,5] q) { q = Identity ("preprocess/constant") }>
        x2 = Identity (x)
    }"""
    return ir.from_proto(
        onnx.parser.parse_model(
            text.replace('"preprocess/Cast:0"', "a").replace('"preprocess/constant"', "z")
        )
    )


def test_a_graph_that_reads_its_input_everywhere(
    load: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    spec = TensorSpec("x", ("b", 3, 4, 5), "float32")
    model = _busy(spec)
    model.graph[0].outputs[0].name, model.graph[1].outputs[0].name = (
        "preprocess/Cast:0",
        "preprocess/constant",
    )
    words = Preprocess.parse("imagenet")
    words.build(model, spec)
    image = picture(4, 5)[None]
    expected = words.apply(image, spec)
    session = load(model)
    for flag, wanted in ((True, -expected), (False, 0 * expected)):
        got = session.run({"x": image, "c": np.array(flag)})
        np.testing.assert_allclose(got["x2"], expected, atol=1e-6)
        np.testing.assert_allclose(got["y"], wanted, atol=1e-6)


def test_an_input_that_is_an_output(load: Callable[..., Any], picture: Callable[..., Any]) -> None:
    spec = TensorSpec("x", ("b", 4, 5, 3), "float32")
    value = ir.Value(name="x", shape=ir.Shape(spec.shape), type=spec.onnx_type)
    model = ir.Model(ir.Graph([value], [value], nodes=[], opset_imports={"": 18}, name="g"), ir_version=10)
    Preprocess.parse("scale").build(model, spec)
    image = picture(4, 5)[None]
    (got,) = load(model).run({"x": image}).values()
    np.testing.assert_allclose(got, image / np.float32(255), atol=1e-7)


def test_images_are_left_alone(picture: Callable[..., Any]) -> None:
    image = picture(8, 8)[None]
    kept = image.copy()
    for words in ("none", "bgr", "scale", "keras:vgg16", "crop(4)"):
        size = 4 if "crop" in words else 8
        Preprocess.parse(words).apply(image, TensorSpec("x", ("b", size, size, 3), "float32"))
        np.testing.assert_array_equal(image, kept)
    floats = image.astype(np.float32)
    Preprocess.parse("imagenet").run(floats, 3)
    np.testing.assert_array_equal(floats, kept)
