from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converter.errors import TargetError, UsageError
from converter.fitting import Dataset, Preprocess, open_data
from converter.model import TensorSpec

NHWC = TensorSpec("image", ("b", 6, 5, 3), "float32")
SYMBOLIC = TensorSpec("image", ("b", "h", "w", 3), "float32")


def opened(folder: Path, spec: TensorSpec = NHWC, preprocess: str = "none") -> Dataset:
    return open_data(folder, spec, Preprocess.parse(preprocess))


def everything(data: Dataset, size: int = 3) -> Any:
    return np.concatenate(list(data.batches(size)))


def pixels(seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes: `ant` of 3 images and `Bee` of 2, all 6×5, lossless."""
    root = tmp_path / "data"
    for number, name in enumerate(("ant/c.png", "ant/a.PNG", "ant/b.bmp", "Bee/z.png", "Bee/y.webp")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(path, lossless=True)
    return root


def test_images_come_in_the_order_of_their_names(folder: Path) -> None:
    (folder / ".DS_Store").write_text("hidden")
    (folder / ".git").mkdir()
    (folder / "ant" / ".hidden.png").write_text("hidden")
    (folder / "LICENSE.txt").write_text("nobody's sample")
    data = opened(folder)
    assert data.classes == ("Bee", "ant")
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.labels.dtype == np.int64
    assert len(data) == 5
    sizes = [batch.shape for batch in data.batches(2)]
    assert sizes == [(2, 6, 5, 3), (2, 6, 5, 3), (1, 6, 5, 3)]
    expected = np.stack([pixels(n) for n in (4, 3, 1, 2, 0)])
    got = everything(data)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(everything(data, 100), expected)


def test_channels_first_is_the_transpose(folder: Path) -> None:
    first = opened(folder, TensorSpec("image", ("b", 3, 6, 5), "float32"), "imagenet")
    np.testing.assert_array_equal(
        everything(first), np.moveaxis(everything(opened(folder, NHWC, "imagenet")), 3, 1)
    )


def test_images_are_resized_bilinearly_and_made_grey(folder: Path) -> None:
    data = opened(folder, TensorSpec("image", ("b", 3, 4, 1), "uint8"))
    image = Image.open(folder / "ant" / "c.png").convert("L").resize((4, 3), Image.Resampling.BILINEAR)
    got = everything(data)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[-1, ..., 0], np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(folder: Path, mode: str) -> None:
    image = Image.fromarray(pixels(9)).convert(mode)
    image.save(folder / "ant" / "a.PNG")
    np.testing.assert_array_equal(everything(opened(folder))[2], np.asarray(image.convert("RGB")))


def test_jpeg_and_gif(folder: Path) -> None:
    Image.fromarray(pixels(9)).save(folder / "ant" / "d.JPG", "jpeg")
    frames = [Image.fromarray(pixels(n)) for n in (10, 11)]
    frames[0].save(folder / "ant" / "e.gif", save_all=True, append_images=frames[1:])
    got = everything(opened(folder))[-2:]
    for image, name in zip(got, ("d.JPG", "e.gif"), strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(folder / "ant" / name).convert("RGB")))


def test_sixteen_bits_are_refused(folder: Path) -> None:
    Image.fromarray(pixels(0, (6, 5)).astype(np.uint16) * 257).save(folder / "ant" / "deep.png")
    with pytest.raises(UsageError, match=r"deep\.png: pixels of mode I;16"):
        opened(folder)


def test_a_model_of_any_size_takes_images_of_one_size(folder: Path) -> None:
    np.testing.assert_array_equal(everything(opened(folder, SYMBOLIC)), everything(opened(folder)))
    half = TensorSpec("image", ("b", "h", 5, 3), "float32")
    np.testing.assert_array_equal(everything(opened(folder, half)), everything(opened(folder)))
    with pytest.raises(UsageError, match=r"6×5 \(height × width\), but the model takes 6×7"):
        opened(folder, TensorSpec("image", ("b", "h", 7, 3), "float32"))
    Image.fromarray(pixels(0, (4, 9, 3))).save(folder / "ant" / "b.bmp")
    with pytest.raises(UsageError, match=r"a\.PNG is 6×5.*|y\.webp is 6×5.*b\.bmp is 4×9"):
        opened(folder, SYMBOLIC)
    opened(folder)


def test_the_digest_changes_with_the_data_and_what_is_done_to_them(folder: Path) -> None:
    digests = [opened(folder).digest]
    assert opened(folder).digest == digests[0]
    digests.append(opened(folder, preprocess="scale").digest)
    digests.append(opened(folder, TensorSpec("image", ("b", 6, 6, 3), "float32")).digest)
    status = (folder / "ant/c.png").stat()
    content = bytearray((folder / "ant/b.bmp").read_bytes())
    content[-1] ^= 1
    (folder / "ant/b.bmp").write_bytes(content)  # of the same length
    os.utime(folder / "ant/b.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    digests.append(opened(folder).digest)
    (folder / "ant/c.png").rename(folder / "Bee/c.png")
    digests.append(opened(folder).digest)
    (folder / "Bee").rename(folder / "Bees")
    digests.append(opened(folder).digest)
    assert len(set(digests)) == 6


def _text(folder: Path) -> None:
    (folder / "ant/n.png").write_text("no image")


def _notes(folder: Path) -> None:
    (folder / "ant/notes.txt").write_text("no image")


def _postscript(folder: Path) -> None:
    (folder / "ant/p.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\nshowpage\n")


def _empty_class(folder: Path) -> None:
    (folder / "cow").mkdir()
    (folder / "cow/.hidden").write_text("")


def _empty_file(folder: Path) -> None:
    (folder / "ant/0.png").write_bytes(b"")


def _nested(folder: Path) -> None:
    (folder / "ant/more").mkdir()


def _loose(folder: Path) -> None:
    Image.fromarray(pixels(0)).save(folder / "loose.png")


def _link_out(folder: Path) -> None:
    Image.fromarray(pixels(0)).save(folder.parent / "secret.png")
    (folder / "ant/link.png").symlink_to(folder.parent / "secret.png")


def _folder_out(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "dog").symlink_to(folder.parent / "elsewhere")


def _dangling(folder: Path) -> None:
    (folder / "ant/link.png").symlink_to("nowhere.png")


def _circle(folder: Path) -> None:
    (folder / "ant/link.png").symlink_to("link.png")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "ant/pipe.png")


def _bomb(folder: Path) -> None:
    _write_header_of(folder / "ant/bomb.png", 30_000, 30_000)


def _small_bomb(folder: Path) -> None:
    _write_header_of(folder / "ant/bomb.png", 10_000, 10_000)


def _write_header_of(path: Path, width: int, height: int) -> None:
    """A PNG whose header declares another size."""
    import struct
    import zlib

    Image.fromarray(pixels(0)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_text, r"n\.png: no image of PNG"),
        (_notes, r"notes\.txt: no image by its name"),
        (_postscript, r"p\.png: no image of PNG"),
        (_empty_class, "cow: a class folder without images"),
        (_empty_file, r"0\.png: no image of PNG"),
        (_nested, "more: a folder in a class folder"),
        (_loose, r"loose\.png: an image that is in no class folder"),
        (_link_out, r"link\.png: a link out of the folder"),
        (_folder_out, "dog: a link out of the folder"),
        (_dangling, r"link\.png: a link that leads nowhere"),
        (_circle, r"link\.png: a link that leads nowhere"),
        (_pipe, r"pipe\.png: no regular file"),
        (_bomb, r"bomb\.png: too many pixels"),
        (_small_bomb, r"bomb\.png: too many pixels"),
    ],
)
def test_bad_folders(folder: Path, spoil: Any, message: str) -> None:
    opened(folder)
    spoil(folder)
    with pytest.raises(UsageError, match=message):
        opened(folder)


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    (folder / "ant/d.png").symlink_to("../Bee/z.png")
    (folder.parent / "alias").symlink_to(folder)
    data = opened(folder.parent / "alias")
    np.testing.assert_array_equal(everything(data)[-1], pixels(3))


@pytest.mark.parametrize("name", ["ant/a.PNG", "Bee/y.webp", "ant/d.jpg", "ant/e.gif", "ant/b.bmp"])
def test_truncated_images(folder: Path, name: str) -> None:
    path = folder / name
    Image.fromarray(pixels(0, (64, 64, 3))).save(path)
    content = path.read_bytes()
    assert everything(opened(folder)).shape[0] >= 5
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=path.name):
        everything(opened(folder))


def test_damaged_images_fail_in_plain_words_or_not_at_all(folder: Path) -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for name in ("ant/a.PNG", "Bee/y.webp", "ant/d.jpg", "ant/e.gif", "ant/b.bmp"):
        Image.fromarray(pixels(0, (32, 32, 3))).save(folder / name)
        content = (folder / name).read_bytes()
        for _ in range(30):
            broken = bytearray(content)
            broken[rng.integers(2, min(200, len(content)))] = rng.integers(256)
            (folder / name).write_bytes(broken)
            try:
                everything(opened(folder))
            except UsageError as error:
                assert Path(name).name in error.message
                refused += 1
        (folder / name).write_bytes(content)
    assert refused > 30


def test_a_file_that_went_away(folder: Path) -> None:
    data = opened(folder)
    (folder / "ant/a.PNG").unlink()
    with pytest.raises(UsageError, match=r"a\.PNG: cannot be read"):
        everything(data)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folders in it"):
        opened(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"neither a folder nor an \.npz file"):
        opened(tmp_path / "data.csv")


def test_models_that_take_no_pixels(folder: Path) -> None:
    with pytest.raises(UsageError, match="no batch of images"):
        opened(folder, TensorSpec("ids", ("b", 12), "int64"))
    for dtype in ("int8", "bool"):
        with pytest.raises(UsageError, match=f"pixels are 0 to 255, but the model takes image: {dtype}"):
            opened(folder, TensorSpec("image", ("b", 6, 5, 3), dtype))


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(TargetError, match="reading images needs PIL") as caught:
        opened(folder)
    assert caught.value.hint == "pip install 'converter[fit]'"
