from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converter.errors import TargetError, UsageError
from converter.imaging import Preprocess, read_images
from converter.model import TensorSpec
from converter.samples import read_samples

ANY = TensorSpec("image", ("b", "height", "width", 3), "uint8", (0.0, 255.0))
FIXED = TensorSpec("image", ("b", 6, 5, 3), "uint8")
FLOAT = TensorSpec("image", ("b", 3, 6, 5), "float32")


def pixels(seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of 6×5 in three folders, lossless, and files that are none."""
    root = tmp_path / "data"
    for number, name in enumerate(("b.png", "a/z.bmp", "a/deep/x.PNG", "c/y.webp", "a/b.png")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(path, lossless=True)
    (root / "LICENSE.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image")
    return root


def test_all_images_below_a_folder_in_order(folder: Path) -> None:
    (got,) = read_images(folder, ANY)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.stack([pixels(n) for n in (4, 2, 1, 0, 3)]))
    np.testing.assert_array_equal(read_images(folder, FIXED)[0], got)


def test_words_make_floats_of_them(folder: Path) -> None:
    words = Preprocess.parse("imagenet")
    (raw,), (got,) = read_images(folder, FIXED), read_images(folder, FLOAT, words)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, words.apply(raw, FLOAT))
    (again,) = read_images(folder, FIXED, words)  # the words are in the graph
    np.testing.assert_array_equal(again, raw)


def test_images_of_several_sizes(folder: Path) -> None:
    wide = pixels(9, (12, 40, 3))
    Image.fromarray(wide).save(folder / "a/c.png")
    first, second = read_images(folder, ANY)
    assert first.shape == (5, 6, 5, 3)
    np.testing.assert_array_equal(second, wide[None])
    (fixed,) = read_images(folder, FIXED)
    expected = Image.fromarray(wide).resize((5, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fixed[1], np.asarray(expected))
    words = Preprocess.parse("resize(short=8),crop(6x5),scale")
    (cropped,) = read_images(folder, FLOAT, words)
    np.testing.assert_array_equal(cropped[1], words.apply(wide[None], FLOAT)[0])
    loose = TensorSpec("image", ("b", 3, "h", "w"), "float32")
    assert [x.shape for x in read_images(folder, loose, Preprocess.parse("resize(short=8),scale"))] == [
        (5, 3, 9, 8),
        (1, 3, 8, 26),
    ]
    with pytest.raises(UsageError, match=r"c\.png is 12×40 \(height × width\), but the model takes"):
        read_images(folder, TensorSpec("image", ("b", "h", 5, 3), "uint8"))


def test_a_fixed_batch_is_filled_up(folder: Path) -> None:
    (whole,) = read_images(folder, FIXED)
    first, second, third = read_images(folder, TensorSpec("image", (2, 6, 5, 3), "uint8"))
    np.testing.assert_array_equal(np.concatenate([first, second, third]), whole[[0, 1, 2, 3, 4, 0]])
    (many,) = read_images(folder, TensorSpec("image", (7, 6, 5, 3), "uint8"))
    np.testing.assert_array_equal(many, whole[[0, 1, 2, 3, 4, 0, 1]])


def test_grey(folder: Path) -> None:
    (got,) = read_images(folder, TensorSpec("image", ("b", 1, 6, 5), "uint8"))
    expected = np.asarray(Image.fromarray(pixels(4)).convert("L"))
    np.testing.assert_array_equal(got[0, 0], expected)


def test_samples_of_a_folder(folder: Path) -> None:
    feeds = read_samples(folder, [ANY])
    assert [feed["image"].shape[0] for feed in feeds] == [1, 5]
    assert [feed["image"].shape[0] for feed in read_samples(folder, [FLOAT], Preprocess.parse("scale"))] == [
        1,
        5,
    ]
    Image.fromarray(pixels(9, (12, 40, 3))).save(folder / "a/a.png")
    assert [feed["image"].shape for feed in read_samples(folder, [ANY])] == [(1, 12, 40, 3), (5, 6, 5, 3)]
    with pytest.raises(UsageError, match="a folder of images is for models of one input"):
        read_samples(folder, [ANY, FLOAT])


def _text(folder: Path) -> None:
    (folder / "n.png").write_text("no image")


def _postscript(folder: Path) -> None:
    (folder / "p.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\nshowpage\n")


def _truncated(folder: Path) -> None:
    Image.fromarray(pixels(0, (64, 64, 3))).save(folder / "t.png")
    (folder / "t.png").write_bytes((folder / "t.png").read_bytes()[:3000])


def _deep_pixels(folder: Path) -> None:
    Image.fromarray(pixels(0, (6, 5)).astype(np.uint16) * 257).save(folder / "deep.png")


def _link_out(folder: Path) -> None:
    Image.fromarray(pixels(0)).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")


def _dangling(folder: Path) -> None:
    (folder / "link.png").symlink_to("nowhere.png")


def _round(folder: Path) -> None:
    (folder / "a/back").symlink_to(folder)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")


def _large(folder: Path) -> None:
    Image.new("1", (9000, 9000)).save(folder / "large1.png")
    for number in range(2, 7):
        (folder / f"large{number}.png").symlink_to("large1.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_text, r"n\.png: no image of PNG"),
        (_postscript, r"p\.png: no image of PNG"),
        (_truncated, r"t\.png: damaged or truncated"),
        (_deep_pixels, r"deep\.png: pixels of mode I;16"),
        (_link_out, r"link\.png: a link out of the folder"),
        (_dangling, r"link\.png: a link that leads nowhere"),
        (_round, "more than 32 folders deep"),
        (_pipe, r"pipe\.png: no regular file"),
        (_large, "make more than 1 GiB"),
    ],
)
def test_bad_folders(folder: Path, spoil: Any, message: str) -> None:
    read_images(folder, ANY)
    spoil(folder)
    with pytest.raises(UsageError, match=message):
        read_images(folder, ANY)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images in it"):
        read_images(tmp_path, ANY)
    with pytest.raises(UsageError, match="cannot be listed"):
        read_images(tmp_path / "nowhere", ANY)


def test_inputs_that_take_no_images(folder: Path) -> None:
    with pytest.raises(UsageError, match="no batch of images"):
        read_images(folder, TensorSpec("ids", ("b", 12), "uint8"))
    with pytest.raises(
        UsageError, match="images are pixels of 0 to 255, but the model takes image: float32"
    ) as caught:
        read_samples(folder, [FLOAT])
    assert "--preprocess" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="ends at float32 or float16"):
        read_images(folder, TensorSpec("image", ("b", 6, 5, 3), "int32"), Preprocess.parse("scale"))
    with pytest.raises(UsageError, match="ends at images of 224×224"):
        read_images(folder, FLOAT, Preprocess.parse("resize(224)"))


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(TargetError, match="reading images needs PIL"):
        read_images(folder, ANY)
