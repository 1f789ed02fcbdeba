"""Images in and classes out, beside the frameworks' own preprocessing; a wrong word has to be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import UsageError, ValidationError
from fixtures.onnx_text import saved

RNG = np.random.default_rng


def pixels(*shape: int) -> np.ndarray:
    """uint8 images that are smooth, as photographs are, with some noise."""
    rng = RNG(0)
    rows, columns = np.linspace(0, 6, shape[1])[:, None, None], np.linspace(0, 4, shape[2])[None, :, None]
    wave = np.sin(rows + rng.uniform(0, 6, (shape[0], 1, 1, 3))) * np.cos(columns + rng.uniform(0, 6, 3))
    return np.clip(127 + 110 * wave + rng.normal(0, 4, shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier() -> Any:
    """A small network of images of 32×32, and it loaded."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AvgPool2d(5), nn.Flatten(), nn.Linear(72, 10)
    ).eval()
    with torch.no_grad():
        net[4].weight *= 8
    return net, converter.load(net, example=torch.zeros(1, 3, 32, 32))


WORDS = "resize(short=40),crop(32),scale(1/255),normalize(imagenet)"


@pytest.mark.parametrize("size", [(60, 80), (97, 64), (40, 40)])
def test_images_beside_torchvision(size: tuple[int, int], dressed: Any, classifier: Any) -> None:
    import torch
    from PIL import Image

    from converter.sources.torch import backend

    transforms = backend.torchvision().transforms

    net, model = classifier
    written = dressed(model, preprocess={"": WORDS})
    (name, shape), *_ = written.ends().items()
    assert shape == ["batch", "height", "width", 3]
    prepare = transforms.Compose(
        [
            transforms.Resize(40),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = pixels(3, *size, 3)
    with torch.no_grad():
        reference = net(torch.stack([prepare(Image.fromarray(image)) for image in images])).numpy()
    (found,) = written.run({name: images}).values()
    # ONNX Runtime's Resize is a level off in few pixels.
    np.testing.assert_allclose(found, reference, atol=0.01 * np.abs(reference).max())


def test_images_beside_keras(dressed: Any, keras_file: Any, structure: Any) -> None:
    from keras.applications import vgg16

    written = dressed(keras_file("unet"), preprocess={"image": "keras:vgg16"}, layout="nchw")
    assert written.ends() == {"image": ["batch", 16, 16, 3], "mask": ["batch", 1, 16, 16]}
    images = pixels(3, 16, 16, 3)
    fed = vgg16.preprocess_input(images.astype(np.float32))
    reference = structure("unet").predict(fed, verbose=0)
    np.testing.assert_allclose(
        written.run({"image": images})["mask"], reference.transpose(0, 3, 1, 2), atol=1e-4
    )


@pytest.mark.parametrize("wrong", ["mean", "channels"])
def test_words_that_come_out_wrong_in_the_graph_are_seen(
    wrong: str, dressed: Any, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is not judged by itself: NumPy's side of the words is another implementation."""
    from converter.imaging import preprocess

    words = (
        "resize(32),scale(1/255),normalize(imagenet)" if wrong == "mean" else "resize(32),bgr,scale(1/255)"
    )
    own = preprocess.Preprocess.build
    broken = preprocess.Preprocess.parse(
        words.replace("normalize(imagenet)", "normalize(0.47|0.456|0.406,0.229|0.224|0.225)").replace(
            "bgr,", ""
        )
    )

    def build(self: Any, *arguments: Any, **options: Any) -> None:
        own(broken, *arguments, **options)

    monkeypatch.setattr(preprocess.Preprocess, "build", build)
    with pytest.raises(ValidationError, match="comparisons failed"):
        dressed(classifier[1], preprocess={"": words})
    monkeypatch.undo()
    assert dressed(classifier[1], preprocess={"": words}).document.proof.passed


def test_scores_and_classes(dressed: Any, classifier: Any) -> None:
    import torch

    net, model = classifier
    written = dressed(model, postprocess={"": "softmax,top3"}, renames={"output_classes": "best"})
    x = RNG(1).uniform(-1, 1, (6, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        scores, classes = net(torch.from_numpy(x)).softmax(1).topk(3)
    found = written.run({next(iter(written.ends())): x})
    assert list(found) == ["output_scores", "best"]
    np.testing.assert_allclose(found["output_scores"], scores.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found["best"], classes.numpy())
    assert found["best"].dtype == np.int64


def test_of_equal_scores_either_may_be_picked(dressed: Any, tmp_path: Path) -> None:
    """Two columns are the same: classes 1 and 4 are always equal, and no reason to fail."""
    w = RNG(0).normal(size=(16, 6)).astype(np.float32)
    w[:, 1] *= 3
    w[:, 4] = w[:, 1]
    text = "g (float[N,16] x) => (float[N,6] y) { y = MatMul(x,w) }"
    for words in ("argmax", "softmax,top2", "top6"):
        written = dressed(saved(text, tmp_path, weights={"w": w}), postprocess={"y": words})
        assert written.document.proof.passed


def test_a_wrong_class_is_seen(dressed: Any, classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.imaging import postprocess

    own = postprocess.Postprocess._picked

    def least(self: Any, made: Any, value: Any, spec: Any) -> Any:
        return own(self, made, made.add("Neg", [value], value.dtype, spec.shape), spec)

    monkeypatch.setattr(postprocess.Postprocess, "_picked", least)
    with pytest.raises(ValidationError, match="comparisons failed"):
        dressed(classifier[1], postprocess={"": "argmax"})


def test_several_inputs_have_words_by_name(dressed: Any, tmp_path: Path) -> None:
    text = """g (float[N,3,8,8] left, float[N,8,8,3] right, float[N,4] side) => (float[N,4] y)
        { a = Conv(left,k) t = Transpose<perm=[0,3,1,2]>(right) b = Conv(t,k) c = Add(a,b)
          p = GlobalAveragePool(c) f = Flatten(p) y = Add(f,side) }"""
    kernel = RNG(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    path = saved(text, tmp_path, weights={"k": kernel})
    with pytest.raises(UsageError, match=r"2 tensors could be meant: left.*right"):
        dressed(path, preprocess={"": "scale(1/255)"})
    with pytest.raises(UsageError, match="no image goes in at 'side'"):
        dressed(path, preprocess={"side": "scale(1/255)"})
    written = dressed(
        path,
        preprocess={"left": "scale(1/255)", "right": "resize(8),scale(1/127.5,-1)"},
        renames={"left": "one"},
    )
    assert written.ends() == {
        "one": ["N", 8, 8, 3],
        "right": ["N", "height", "width", 3],
        "side": ["N", 4],
        "y": ["N", 4],
    }
    left, right, side = (
        pixels(2, 8, 8, 3),
        pixels(2, 8, 8, 3)[::-1],
        RNG(2).normal(size=(2, 4)).astype(np.float32),
    )
    both = left / 255 + (right / 127.5 - 1)
    reference = np.einsum("nhwc,oc->no", both, kernel[:, :, 0, 0]) / 64 + side
    np.testing.assert_allclose(
        written.run({"one": left, "right": right, "side": side})["y"], reference, atol=1e-4
    )


def test_words_twice_for_one_input(dressed: Any, keras_file: Any) -> None:
    with pytest.raises(UsageError, match="image is given twice"):
        dressed(keras_file("residual"), preprocess={"": "scale(1/255)", "image": "scale(1/127.5,-1)"})


@pytest.mark.parametrize(
    ("name", "wish", "message"),
    [
        ("siamese", {"preprocess": {"": "scale(1/255)"}}, "no input of this piece takes images"),
        ("residual", {"preprocess": {"": "crop(12)"}}, "ends at images of 12×12.*the model takes 16×16"),
        ("residual", {"postprocess": {"": "top9"}}, "top9 of 3 classes"),
        ("residual", {"postprocess": {"nope": "argmax"}}, "no output is at 'nope'"),
        (
            "residual",
            {"from_": ("gap",), "preprocess": {"": "scale(1/255)"}},
            "no input of this piece takes images",
        ),
    ],
)
def test_words_that_do_not_fit(name: str, wish: Any, message: str, dressed: Any, keras_file: Any) -> None:
    with pytest.raises(UsageError, match=message):
        dressed(keras_file(name), **wish)


def test_a_split_has_words_at_its_outer_ends_alone(dressed: Any, classifier: Any) -> None:
    _net, model = classifier
    written = dressed(
        model,
        split=("1",),
        batch=2,
        layout="nhwc",
        preprocess={"": WORDS},
        postprocess={"": "softmax,top3"},
        renames={"output_scores": "scores"},
    )
    taken, crossing = written.ends("trunk").values()
    assert (taken, crossing) == ([2, "height", "width", 3], [2, 15, 15, 8])
    images = pixels(2, 50, 70, 3)
    (name,) = [spec.name for spec in written.document.pieces[0].inputs]
    found = written.run(written.run({name: images}, "trunk"), "head")
    assert list(found) == ["scores", "output_classes"]
    assert found["scores"].shape == (2, 3)
