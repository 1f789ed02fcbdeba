from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import TargetError, UsageError, ValidationError
from converter.fitting import feature_key, features

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 1 << 30


@dataclasses.dataclass
class Numbers:
    """A dataset of rows of numbers."""

    values: Any
    digest: str = "d"
    classes: tuple[str, ...] = ("a", "b")

    @property
    def labels(self) -> Any:
        return np.arange(len(self.values)) % 2

    def __len__(self) -> int:
        return len(self.values)

    def batches(self, size: int) -> Iterator[Any]:
        for start in range(0, len(self.values), size):
            yield self.values[start : start + size]


class Trunk:
    """Doubles its input and counts its runs."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Any) -> Any:
        self.sizes.append(len(x))
        return np.stack([x * 2, x + 1], axis=1)


VALUES = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
DOUBLED = np.stack([VALUES * 2, VALUES + 1], axis=1)


def computed(
    folder: Path, trunk: Any = None, key: str = "k", limit: int = LIMIT, values: Any = VALUES
) -> Any:
    return features(
        trunk or Trunk(),
        Numbers(values),
        batch=3,
        folder=folder,
        key=key,
        limit=limit,
        progress=lambda done, total: None,
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_features_are_computed_once(tmp_path: Path) -> None:
    trunk, said = Trunk(), []
    arguments: Any = {
        "batch": 3,
        "folder": tmp_path / "new" / "folder",
        "key": "k",
        "limit": LIMIT,
        "progress": lambda done, total: said.append((done, total)),
    }
    first = features(trunk, Numbers(VALUES), **arguments)
    assert trunk.sizes == [3, 3, 1]
    assert said == [(0, 7), (3, 7), (6, 7), (7, 7)]
    again = features(trunk, Numbers(VALUES), **arguments)
    assert trunk.sizes == [3, 3, 1]
    assert said[4:] == [(7, 7)]
    for found in (first, again):
        assert isinstance(found, np.memmap)
        assert found.dtype == np.float32
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, DOUBLED)
    assert files(tmp_path / "new" / "folder") == ["k.features.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "folder" / "k.features.npy"), DOUBLED)
    features(trunk, Numbers(VALUES), **{**arguments, "key": "other"})
    assert len(trunk.sizes) == 6


def test_other_floats_become_float32(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float64):
        got = computed(tmp_path, lambda x, dtype=dtype: x.astype(dtype), key=np.dtype(dtype).name)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, VALUES.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_features_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    def trunk(x: Any) -> Any:
        made = x.astype(np.float64)
        made[(x == VALUES[4, 1])] = value
        return made

    with pytest.raises(ValidationError, match="sample 4 have NaN or infinity"):
        computed(tmp_path, trunk)
    assert files(tmp_path) == []


def test_trunks_that_make_no_features(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="are int64, expected floats"):
        computed(tmp_path, lambda x: x.astype(np.int64))
    with pytest.raises(ValidationError, match=r"shape \(1, 3\) of 3 samples, expected \(3, 3\)"):
        computed(tmp_path, lambda x: x[:1])
    with pytest.raises(ValidationError, match=r"shape \(1, 1\) of 1 samples, expected \(1, 3\)"):
        computed(tmp_path, lambda x: x[:, : len(x)])
    assert files(tmp_path) == []


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def trunk(x: Any) -> Any:
        if len(x) < 3:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        computed(tmp_path, trunk)
    assert files(tmp_path) == []


def test_a_run_that_is_killed_leaves_nothing_that_is_believed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from tests.fitting.test_features import Numbers, VALUES\n"
        "from converter.fitting import features\n"
        "def trunk(x):\n"
        "    if len(x) < 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return np.zeros((len(x), 1 << 20), np.float32)\n"
        "features(trunk, Numbers(VALUES), batch=3, folder=Path(sys.argv[1]), key='k', limit=1 << 30,\n"
        "         progress=lambda done, total: None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (part,) = tmp_path.iterdir()
    assert not part.name.endswith(".npy")
    assert part.stat().st_size > 1 << 20
    np.testing.assert_array_equal(computed(tmp_path), DOUBLED)
    assert files(tmp_path) == ["k.features.npy"]


def _npy(array: Any) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(array: Any) -> bytes:
    import io

    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        _npy(DOUBLED)[:-1],
        _npy(DOUBLED) + b"x",
        _npy(DOUBLED[:6]),
        _npy(DOUBLED.astype(np.float64)),
        _npy(np.array([{}] * 7, object)),
        _npy(np.float32(1)),
        _npz(DOUBLED),
    ],
)
def test_files_that_are_not_what_was_written_are_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k.features.npy").write_bytes(content)
    trunk = Trunk()
    np.testing.assert_array_equal(computed(tmp_path, trunk), DOUBLED)
    assert trunk.sizes == [3, 3, 1]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    size = len(_npy(DOUBLED))
    (tmp_path / "other.export").write_bytes(bytes(10 * size))  # not ours, neither counted nor removed
    for number, key in enumerate("abc"):
        computed(tmp_path, key=key)
        os.utime(tmp_path / f"{key}.features.npy", (1000 + number, 1000 + number))
    computed(tmp_path, key="a", limit=3 * size)  # used again
    assert len(files(tmp_path)) == 4
    computed(tmp_path, key="d", limit=3 * size)
    assert files(tmp_path) == [f"{key}.features.npy" for key in "acd"] + ["other.export"]
    computed(tmp_path, key="e", limit=3 * size - 1)
    assert sum((tmp_path / name).stat().st_size for name in files(tmp_path)[:-1]) == 2 * size
    assert "e.features.npy" in files(tmp_path)


def test_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    small = computed(tmp_path, key="small", values=VALUES[:1])
    large = computed(tmp_path, key="large", limit=len(_npy(DOUBLED)) - 1)
    np.testing.assert_array_equal(large, DOUBLED)  # still mapped
    np.testing.assert_array_equal(small, DOUBLED[:1])
    assert files(tmp_path) == ["small.features.npy"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="features cannot be written to"):
        computed(tmp_path / "file" / "folder")


def test_features_are_never_whole_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        got = computed(
            tmp_path, lambda x: np.ones((len(x), 1 << 18), np.float32), values=np.zeros((120, 1), np.float32)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.nbytes == 120 << 20
    assert peak < 20 << 20  # batches of 3 MB


def test_the_key_is_of_trunk_and_data(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx", "weights"):
        (tmp_path / name).write_text(name)
    a, b, weights = (tmp_path / name for name in ("a.onnx", "b.onnx", "weights"))
    data, other = Numbers(VALUES), Numbers(VALUES, digest="e")
    keys = [
        feature_key([a], data),
        feature_key([b], data),
        feature_key([a], other),
        feature_key([a, weights], data),
    ]
    assert len(set(keys)) == 4
    assert feature_key([a], data) == keys[0]
    assert set(keys[0]) <= set("0123456789abcdef")
    with pytest.raises(UsageError, match="cannot be read"):
        feature_key([tmp_path / "nowhere"], data)
