from __future__ import annotations

import io
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import UsageError
from converter.fitting import Dataset, Preprocess, open_data
from converter.model import TensorSpec

SPEC = TensorSpec("image", ("b", 4, 5, 3), "float32")
X = np.random.default_rng(0).standard_normal((7, 4, 5, 3)).astype(np.float32)
Y = np.array([3, 1, 3, 1, 9, 9, 1])


def opened(path: Path, spec: TensorSpec = SPEC, preprocess: str = "none") -> Dataset:
    return open_data(path, spec, Preprocess.parse(preprocess))


def everything(data: Dataset, size: int = 3) -> Any:
    return np.concatenate(list(data.batches(size)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["x", "image"])
def test_arrays_come_as_they_are(tmp_path: Path, save: Any, name: str) -> None:
    save(tmp_path / "a.npz", y=Y, **{name: X})
    data = opened(tmp_path / "a.npz")
    assert [batch.shape[0] for batch in data.batches(3)] == [3, 3, 1]
    np.testing.assert_array_equal(everything(data), X)
    np.testing.assert_array_equal(everything(data, 100), X)
    assert len(data) == 7
    assert data.classes == ("1", "3", "9")
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [1, 0, 1, 0, 2, 2, 0]


def test_the_inputs_own_name_goes_before_x(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X + 1, image=X, y=Y)
    np.testing.assert_array_equal(everything(opened(tmp_path / "a.npz")), X)
    np.savez(tmp_path / "b.npz", x=X, y=Y)
    named_y = TensorSpec("y", SPEC.shape, "float32")
    np.testing.assert_array_equal(everything(opened(tmp_path / "b.npz", named_y)), X)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array(["cat", "ant", "cat", "bée", "ant", "ant", "ant"]), ("ant", "bée", "cat")),
        (np.array([-1, 1, 1, -1, 1, 1, 1], ">i2"), ("-1", "1")),
        (np.array([2**64 - 1, 0, 0, 0, 0, 0, 2**64 - 1], np.uint64), ("0", str(2**64 - 1))),
        (np.arange(7), tuple("0123456")),
    ],
)
def test_labels(tmp_path: Path, labels: Any, classes: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=labels)
    data = opened(tmp_path / "a.npz")
    assert data.classes == classes
    assert [data.classes[label] for label in data.labels] == [str(label) for label in labels.tolist()]


def test_dtypes_and_byte_orders(tmp_path: Path) -> None:
    for values in (X.astype(">f4"), X.astype(np.float64), X.astype(np.float16)):
        np.savez(tmp_path / "a.npz", x=values, y=Y)
        got = everything(opened(tmp_path / "a.npz"))
        assert got.dtype == np.dtype(np.float32)
        np.testing.assert_array_equal(got, values.astype(np.float32))
    ids = np.random.default_rng(0).integers(0, 100, (7, 12)).astype(">i8")
    np.savez(tmp_path / "a.npz", x=ids, y=Y)
    got = everything(opened(tmp_path / "a.npz", TensorSpec("ids", ("b", "length"), "int32")))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, ids)


def test_pixels_are_preprocessed_in_the_models_layout(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=Y)
    first = TensorSpec("image", ("b", 3, 4, 5), "float32")
    expected = pixels[:, ::-1] - np.array([103.939, 116.779, 123.68]).reshape(3, 1, 1)
    np.testing.assert_allclose(
        everything(opened(tmp_path / "a.npz", first, "keras:vgg16")), expected, atol=1e-4
    )
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with pytest.raises(UsageError, match="pixels of 0 to 255"):
        everything(opened(tmp_path / "a.npz", preprocess="imagenet"))


def test_samples_are_numbered_through_all_batches(tmp_path: Path) -> None:
    broken = X.copy()
    broken[5, 2, 2, 2] = np.nan
    np.savez(tmp_path / "a.npz", x=broken, y=Y)
    with pytest.raises(UsageError, match="sample 5 has the value nan"):
        everything(opened(tmp_path / "a.npz"), 2)


def test_the_digest_changes_with_the_data_and_what_is_done_to_them(tmp_path: Path) -> None:
    def digest(x: Any, y: Any, spec: TensorSpec = SPEC, preprocess: str = "none") -> str:
        np.savez(tmp_path / "a.npz", x=x, y=y)
        return opened(tmp_path / "a.npz", spec, preprocess).digest

    other = X.copy()
    other[0, 0, 0, 0] += 1
    digests = [
        digest(X, Y),
        digest(other, Y),
        digest(X, Y[::-1]),
        digest(X, Y, preprocess="scale"),
        digest(X, Y, TensorSpec("image", SPEC.shape, "float16")),
    ]
    assert len(set(digests)) == 5
    assert digest(X, Y) == digests[0]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_large_array_is_never_whole_in_memory(tmp_path: Path, compression: int) -> None:
    samples = 200  # of 1 MB each
    path = tmp_path / "large.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (samples, 512, 512, 1)}
    )
    with zipfile.ZipFile(path, "w", compression) as archive:
        with archive.open("x.npy", "w") as file:
            file.write(header.getvalue())
            for _ in range(samples):
                file.write(bytes(1 << 20))
        with archive.open("y.npy", "w") as file:
            np.save(file, np.arange(samples) % 2)
    tracemalloc.start()
    try:
        data = opened(path, TensorSpec("image", ("b", 512, 512, 1), "float32"), "scale")
        total = sum(len(batch) for batch in data.batches(4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == samples
    assert peak < 40 << 20  # batches of 4 MB, some of them at once


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"expected the arrays x \(or 'image'\) and y, got \['x'\]"),
        ({"y": Y}, "expected the arrays x"),
        ({"z": X, "y": Y}, r"got \['z', 'y'\]"),
        ({"x": X[:, :3], "y": Y}, r"x has shape \(7, 3, 5, 3\), expected image: float32\[b, 4, 5, 3\]"),
        ({"x": X[..., 0], "y": Y}, "expected image"),
        ({"x": X.astype(int), "y": Y}, "x is int64, expected float32"),
        ({"x": X.astype(complex), "y": Y}, "x is complex128, expected float32"),
        ({"x": np.asfortranarray(X), "y": Y}, "Fortran order"),
        ({"x": X, "y": Y[:6]}, "y has 6 labels, x has 7 samples"),
        ({"x": X, "y": np.eye(7)}, r"y has shape \(7, 7\), expected \(7,\)"),
        ({"x": X, "y": Y.astype(float)}, "y is float64, expected integers or strings"),
        ({"x": X, "y": Y == 1}, "y is bool, expected integers or strings"),
        ({"x": X, "y": np.array(["a" * 300] * 7)}, "names of classes are shorter"),
        ({"x": X, "y": np.array([b"a"] * 7)}, r"y is \|S1, expected an array of numbers or strings"),
        ({"x": X, "y": np.array([{}] * 7)}, "no pickles are read"),
        ({"x": np.array(X.tolist(), object), "y": Y}, "no pickles are read"),
        ({"x": X, "y": np.zeros(7, [("a", "i4")])}, "expected an array of numbers or strings"),
        ({"x": X[:0], "y": Y[:0]}, r"x has shape \(0, 4, 5, 3\): nothing in it"),
        ({"x": X, "y": np.int64(3)}, r"y has shape \(\): nothing in it"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        opened(tmp_path / "a.npz")


def _npy(shape: str, data: bytes, descr: str = "<f4") -> bytes:
    """An .npy file with a header of this text."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def _written(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


LABELS = _npy("(7,)", Y.astype("<i8").tobytes(), "<i8")
SAMPLES = _npy("(7, 4, 5, 3)", X.tobytes())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.npy": SAMPLES[:-4], "y.npy": LABELS}, "x declares 1680 bytes and has 1676"),
        ({"x.npy": SAMPLES + b"more", "y.npy": LABELS}, "x declares 1680 bytes and has 1684"),
        ({"x.npy": SAMPLES, "y.npy": LABELS[:-1]}, "y declares 56 bytes and has 55"),
        ({"x.npy": _npy("(10**12, 4, 5, 3)", b""), "y.npy": LABELS}, "x has no readable header"),
        (
            {"x.npy": _npy("(1000000000000, 4, 5, 3)", b""), "y.npy": LABELS},
            "x declares 240000000000000 bytes",
        ),
        ({"x.npy": _npy("(-7, 4, 5, 3)", b""), "y.npy": LABELS}, "nothing in it"),
        ({"x.npy": _npy("(" * 3000, b""), "y.npy": LABELS}, "x has no readable header"),
        ({"x.npy": b"\x93NUMPY\x09\x00", "y.npy": LABELS}, r"version \(9, 0\) of \.npy"),
        ({"x.npy": b"\x93NUMPY\x03\x00\x00\x00\x00\x00", "y.npy": LABELS}, r"version \(3, 0\) of \.npy"),
        ({"x.npy": b"", "y.npy": LABELS}, "x has no readable header"),
        ({"x.npy": _npy("(7, 4, 5, 3)", X.tobytes(), "|O"), "y.npy": LABELS}, "no pickles are read"),
        ({"x": SAMPLES, "y": LABELS}, "expected the arrays x"),
        ({"x.npy": SAMPLES, "y.npy": _npy("(7,)", b"", "<U0")}, "expected an array of numbers or strings"),
    ],
)
def test_crafted_members(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    assert len(opened(_written(tmp_path / "a.npz", {"x.npy": SAMPLES, "y.npy": LABELS}))) == 7
    with pytest.raises(UsageError, match=message):
        opened(_written(tmp_path / "a.npz", members))


def test_samples_that_are_too_large_or_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.fitting import archive

    np.savez(tmp_path / "a.npz", x=X, y=Y)
    for name, message in (
        ("_LARGEST_SAMPLE", "samples of more than"),
        ("_MOST_SAMPLES", "at most 2 are read"),
        ("_MOST_CLASSES", "more than 2 different labels"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(archive, name, 2)
            with pytest.raises(UsageError, match=message):
                opened(tmp_path / "a.npz")


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = _written(tmp_path / "a.npz", {"x.npy": SAMPLES, "y.npy": LABELS}, compression)
        with pytest.raises(UsageError, match="compressed in a way NumPy does not write"):
            opened(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_and_damaged_files(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "a.npz"
    save(path, x=X, y=Y)
    content = path.read_bytes()
    for size in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UsageError, match=r"damaged or truncated \.npz file"):
            opened(path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(content)
        broken[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            np.testing.assert_array_equal(everything(opened(path)), X)
        except UsageError:
            refused += 1
    assert refused > 150


def test_a_stream_that_is_no_deflate(tmp_path: Path) -> None:
    samples = _npy("(700, 4, 5, 3)", np.tile(X, (100, 1, 1, 1)).tobytes())
    labels = _npy("(700,)", bytes(700), "|i1")
    deflate = zlib.compressobj(level=0, wbits=-15)
    start = deflate.compress(samples[:100_000]) + deflate.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", start + b"\xff" * 100)  # a block of a type that there is not
        archive.writestr("y.npy", labels)
        info = archive.getinfo("x.npy")
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, len(samples)
    data = opened(tmp_path / "a.npz")
    with pytest.raises(UsageError, match=r"damaged or truncated \.npz file: Error -3"):
        everything(data)


def test_a_stream_that_ends_before_what_the_directory_declares(tmp_path: Path) -> None:
    for name, content, message in (
        ("x", SAMPLES, "x ends before its last row"),
        ("y", LABELS, "y ends before"),
    ):
        others = {"x.npy": SAMPLES, "y.npy": LABELS}
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for member, whole in others.items():
                archive.writestr(member, content[:-24] if member == f"{name}.npy" else whole)
            archive.getinfo(f"{name}.npy").file_size = len(content)
        with pytest.raises(UsageError, match=message):
            everything(opened(tmp_path / "a.npz"))
