"""All of it together: an ONNX trunk in ONNX Runtime, data from files, a head that is better than chance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converter.fitting import (
    Preprocess,
    Score,
    expect_classes,
    feature_key,
    features,
    open_data,
    predict,
    solve,
    split,
)
from converter.heads import Head
from converter.model import TensorSpec
from converter.runtime import Session
from fixtures.onnx_text import saved

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """Random filters over images of 8×8, NCHW."""
    filters = np.random.default_rng(0).standard_normal((24, 1, 3, 3)).astype(np.float32)
    text = """net (float[batch, 1, 8, 8] image) => (float[batch, 24, 3, 3] out) {
        a = Conv <strides = [2, 2]> (image, filters)
        out = Relu(a)
    }"""
    return saved(text, tmp_path, weights={"filters": filters})


@pytest.mark.parametrize("kind", ["images", "arrays"])
@pytest.mark.parametrize("text", ["flatten,dense(10,softmax)", "flatten,dense(10)"])
def test_digits_on_random_filters(tmp_path: Path, trunk: Path, kind: str, text: str) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images * 15).astype(np.uint8)[:600]
    labels = bunch.target[:600]
    if kind == "images":
        path = tmp_path / "images"
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            (path / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path / str(label) / f"{number:04}.png")
    else:
        path = tmp_path / "data.npz"
        np.savez_compressed(path, x=pixels[:, None], y=labels)
    spec = TensorSpec("image", ("batch", 1, 8, 8), "float32")
    data = open_data(path, spec, Preprocess.parse("scale"))
    session = Session(trunk)
    found = features(
        lambda x: session.run({"image": x})["out"],
        data,
        batch=32,
        folder=tmp_path / "cache",
        key=feature_key([trunk], data),
        limit=1 << 30,
        progress=lambda done, total: None,
    )
    head = Head(Head.parse(text).units, channels_last=False)
    expect_classes(head, found.shape, data.classes)
    train, held_out = split(data.labels, data.classes, seed=0, share=0.25)
    fitted = solve(head, found, data.labels, len(data.classes), 1.0, rows=train)
    score = Score.of(predict(fitted, found, held_out), data.labels[held_out], len(data.classes))
    assert score.accuracy > 0.9
    assert score.confusion.sum() == len(held_out)


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "import converter.fitting, sys; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    unwanted = {"tensorflow", "keras", "torch", "tf2onnx", "onnxruntime", "sklearn", "scipy", "PIL"}
    assert not set(done.stdout.split()) & unwanted
