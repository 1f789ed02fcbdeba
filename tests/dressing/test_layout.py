"""Layouts, sizes and names around pieces; judged by the framework itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.dressing import Dress
from converter.errors import TargetError, UsageError
from fixtures.onnx_text import saved

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
RNG = np.random.default_rng


def images(*shape: int) -> np.ndarray:
    return RNG(0).uniform(-1, 1, shape).astype(np.float32)


def near(got: Any, reference: Any) -> None:
    assert got.shape == reference.shape
    np.testing.assert_allclose(got, reference, atol=1e-4 * np.abs(reference).max())


# ---------------------------------------------------------------- layouts


def test_a_keras_model_with_channels_first(dressed: Any, keras_file: Any, structure: Any) -> None:
    written = dressed(keras_file("unet"), layout="nchw")
    assert written.ends() == {"image": ["batch", 3, 16, 16], "mask": ["batch", 1, 16, 16]}
    assert written.kinds()["Transpose"] == 0  # they cancel those that Keras's layout needs
    x = images(4, 16, 16, 3)
    reference = structure("unet").predict(x, verbose=0).transpose(FIRST)
    near(written.run({"image": x.transpose(FIRST)})["mask"], reference)
    (target,) = written.document.targets
    assert target["turned"] == {"image": [0, 3, 1, 2], "mask": [0, 3, 1, 2]}
    plain = dressed(keras_file("unet"), layout="nhwc")  # as it is
    assert plain.ends()["image"] == ["batch", 16, 16, 3]
    assert "turned" not in plain.document.targets[0]


def test_a_torch_model_with_channels_last(dressed: Any, torch_model: Any) -> None:
    import torch

    net, model = torch_model("unet")
    written = dressed(model, layout="nhwc", to=("coarse", "fine"))
    ends = list(written.ends("trunk").values())
    assert ends == [["batch", 16, 16, 3], ["batch", 8, 8, 12], ["batch", 16, 16, 6]]
    x = torch.from_numpy(images(2, 3, 16, 16))
    with torch.no_grad():
        fine = net.fine(x)
        reference = [net.coarse(net.down(fine)), fine]
    (name,) = [spec.name for spec in written.document.pieces[0].inputs]
    found = written.run({name: x.numpy().transpose(LAST)}, "trunk")
    for got, wanted in zip(found.values(), reference, strict=True):
        near(got, wanted.numpy().transpose(LAST))
    assert written.kinds("trunk")["Transpose"] == 3


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_an_onnx_file_has_the_layout_of_its_transposes(
    turned: bool, layout: str, dressed: Any, tmp_path: Path
) -> None:
    """A file whose ends are turned beside its convolutions has channels last."""
    body = "r = Conv<pads=[1,1,1,1]>(x,k) y = Relu(r)"
    text = f"g (float[N,3,6,8] x) => (float[N,4,6,8] y) {{ {body} }}"
    if turned:
        text = """g (float[N,6,8,3] x) => (float[N,6,8,4] y) { a = Transpose<perm=[0,3,1,2]>(x)
            r = Conv<pads=[1,1,1,1]>(a,k) s = Relu(r) y = Transpose<perm=[0,2,3,1]>(s) }"""
    kernel = images(4, 3, 3, 3)
    written = dressed(saved(text, tmp_path, weights={"k": kernel}), layout=layout)
    last = layout == "nhwc"
    assert written.ends() == {
        "x": ["N", 6, 8, 3] if last else ["N", 3, 6, 8],
        "y": ["N", 6, 8, 4] if last else ["N", 4, 6, 8],
    }
    assert written.kinds()["Transpose"] == (2 if last else 0)
    import torch

    x = images(2, 3, 6, 8)
    reference = torch.relu(torch.conv2d(torch.from_numpy(x), torch.from_numpy(kernel), padding=1)).numpy()
    found = written.run({"x": x.transpose(LAST) if last else x})["y"]
    near(found, reference.transpose(LAST) if last else reference)


def test_a_split_crosses_in_the_layout_that_was_asked_for(
    dressed: Any, keras_file: Any, structure: Any
) -> None:
    written = dressed(
        keras_file("residual"),
        split=("inner1",),
        layout="nchw",
        batch=2,
        renames={"image": "pixels", "inner1": "mid", "out": "logits"},
    )
    crossing = {"mid": [2, 8, 16, 16], "stem": [2, 8, 16, 16]}
    assert written.ends("trunk") == {"pixels": [2, 3, 16, 16], **crossing}
    assert written.ends("head") == {**crossing, "logits": [2, 3]}
    assert written.kinds("trunk")["Transpose"] == written.kinds("head")["Transpose"] == 0
    x = images(2, 16, 16, 3)
    found = written.run(written.run({"pixels": x.transpose(FIRST)}, "trunk"), "head")
    near(found["logits"], structure("residual").predict(x, verbose=0))


def test_an_output_that_is_an_input(dressed: Any, tmp_path: Path) -> None:
    text = "g (float[N,3,4,5] x) => (float[N,3,4,5] y, float[N,3,4,5] z) { y = Identity(x) z = Relu(x) }"
    written = dressed(saved(text, tmp_path), layout="nhwc", renames={"y": "same"})
    x = images(2, 4, 5, 3)
    found = written.run({"x": x})
    np.testing.assert_array_equal(found["same"], x)
    np.testing.assert_array_equal(found["z"], np.maximum(x, 0))


# ---------------------------------------------------------------- sizes


def static(written: Any, role: str = "model") -> bool:
    return all(isinstance(size, int) and size > 0 for sizes in written.ends(role).values() for size in sizes)


def test_a_fixed_batch_folds_all_arithmetic_with_sizes(dressed: Any, keras_file: Any, structure: Any) -> None:
    written = dressed(keras_file("attention"), batch=3)
    assert static(written)
    assert not {"Shape", "Gather", "ConstantOfShape", "Range"} & written.kinds().keys()
    x = images(3, 10, 16)
    near(
        written.run({"tokens": x})[next(iter(written.ends())).replace("tokens", "gap")],
        structure("attention").predict(x, verbose=0),
    )


def test_sizes_of_any_image(dressed: Any, keras_file: Any, structure: Any) -> None:
    written = dressed(keras_file("any_size"), shapes={"image": (2, 20, 24, 3)})
    assert static(written)
    x = images(2, 20, 24, 3)
    near(written.run({"image": x})["out"], structure("any_size").predict(x, verbose=0))
    turned = dressed(keras_file("any_size"), shapes={"image": (2, 3, 20, 24)}, layout="nchw")
    near(turned.run({"image": x.transpose(FIRST)})["out"], structure("any_size").predict(x, verbose=0))


def test_recurrent_layers_and_two_inputs(dressed: Any, keras_file: Any, torch_model: Any) -> None:
    assert static(dressed(keras_file("text_lstm"), shapes={"ids": (2, 7)}))
    two = dressed(keras_file("siamese"), shapes={"left": (2, 6)})
    assert two.ends()["right"] == [2, 6]  # they share the batch
    _, model = torch_model("text")
    fixed = dressed(model, batch=2)
    assert static(fixed)
    assert not {"Shape", "ConstantOfShape"} & fixed.kinds().keys()


@pytest.mark.parametrize(
    ("name", "wish", "message"),
    [
        (
            "residual",
            {"shapes": {"image": (1, 17, 16, 3)}},
            r"shape 1x17x16x3: the model takes image: float32\[batch, 16, 16, 3\]",
        ),
        (
            "residual",
            {"shapes": {"image": (1, 16, 16)}},
            r"shape 1x16x16: it is image: float32\[batch, 16, 16, 3\]",
        ),
        ("residual", {"shapes": {"nope": (1,)}}, "no input is called 'nope'"),
        ("residual", {"shapes": {"image": (1, 16, 16, 3)}, "batch": 3}, "batch is 1 elsewhere"),
        ("fixed_batch", {"batch": 3}, r"shape 3: the model takes image: float32\[2, 8, 8, 3\]"),
        ("siamese", {"shapes": {"left": (2, 6), "right": (3, 6)}}, "batch is 2 elsewhere"),
        ("residual", {"renames": {"nope": "a"}}, "nothing at the ends is called 'nope'"),
        ("siamese", {"renames": {"left": "right"}}, "left cannot be called 'right'"),
        ("siamese", {"renames": {"left": "same"}}, "left cannot be called 'same'"),
    ],
)
def test_what_does_not_fit(name: str, wish: Any, message: str, dressed: Any, keras_file: Any) -> None:
    with pytest.raises(UsageError, match=message):
        dressed(keras_file(name), **wish)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"batch": 0}, "batch 0: expected 1 to"),
        ({"batch": 10**11}, "batch 100000000000: expected 1 to"),
        ({"shapes": {"x": (1, 0)}}, "shape x=1x0: sizes are 1 at least"),
        ({"shapes": {"x": (10**6, 10**6)}}, "more than"),
        ({"layout": "nchws"}, "layout 'nchws'"),
        ({"renames": {"a": "c", "b": "c"}}, "two tensors cannot both be called 'c'"),
    ],
)
def test_wishes_that_nobody_can_have(wish: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Dress(**wish)


def test_sizes_that_depend_on_values_are_refused(dressed: Any, tmp_path: Path) -> None:
    text = "g (float[N,6] x) => (int64[2,M] y) { y = NonZero(x) }"
    with pytest.raises(TargetError, match=r"the size of y: .* depends on their values"):
        dressed(saved(text, tmp_path), batch=2)


def test_a_size_that_the_model_cannot_take(dressed: Any, keras_file: Any) -> None:
    with pytest.raises(converter.ConverterError, match=r"cannot|smaller|expected"):
        dressed(keras_file("any_size"), shapes={"image": (2, 2, 2, 3)})


# ---------------------------------------------------------------- names


def test_names_of_two_inputs_are_swapped(dressed: Any, keras_file: Any, structure: Any) -> None:
    written = dressed(keras_file("siamese"), renames={"left": "right", "right": "left"})
    model = structure("siamese")
    left, right = images(3, 6), images(4, 6)[1:]
    reference = model.predict([left, right], verbose=0)
    near(written.run({"right": left, "left": right})["same"], reference)
    assert np.abs(model.predict([right, left], verbose=0) - reference).max() > 0.01


def test_inner_tensors_give_way(dressed: Any, tmp_path: Path) -> None:
    """Also in a branch, which reads what it read before; and weights."""
    text = """g (float[N,3] x) => (float[N,3] y) { a = Mul(x,w) s = ReduceSum<keepdims=0>(a)
        c = Greater(s,zero)
        y = If(c)<then_branch = t () => (float[N,3] p) { b = Neg(a) p = Mul(b,w) },
                  else_branch = e () => (float[N,3] q) { q = Abs(x) }> }"""
    arrays = {"w": np.float32([1, 2, 3]), "zero": np.float32(0)}
    path = saved(text, tmp_path, weights=arrays)
    x = images(2, 3)
    wanted = -x * arrays["w"] ** 2 if (x * arrays["w"]).sum() > 0 else np.abs(x)
    for renames in ({"x": "a", "y": "w"}, {"x": "b", "y": "p"}, {"x": "y", "y": "x"}, {"y": "a"}):
        written = dressed(path, renames=renames)
        name = renames.get("x", "x")
        np.testing.assert_allclose(written.run({name: x})[renames["y"]], wanted, rtol=1e-6)
        written.model()


def test_all_of_it_is_in_the_report(dressed: Any, keras_file: Any) -> None:
    written = dressed(keras_file("residual"), layout="nchw", batch=2, renames={"out": "logits"})
    assert written.document.as_dict()["around"] == {
        "layout": "nchw",
        "batch": 2,
        "renames": {"out": "logits"},
    }
    metadata = {p.key: p.value for p in onnx.load(written.folder / "model.onnx").metadata_props}
    assert "logits" in " ".join(metadata.values())
