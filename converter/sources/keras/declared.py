"""What Keras files declare, read without Keras: members of archives, groups and datasets of HDF5, the config.

The formats: https://keras.io/guides/serialization_and_saving, https://docs.h5py.org/en/stable/high/group.html.
"""

from __future__ import annotations

import contextlib
import json
import resource
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from converter.errors import SourceError

__all__ = ["bounded_memory", "check_arrays", "read_config"]

_SUFFIXES = (".keras", ".h5", ".hdf5")
# A file may declare this many bytes of weights for each of its own (compression), plus a floor.
_EXPANSION, _FLOOR = 64, 64 << 20
# JSON becomes twenty times as large once it is parsed; NASNetLarge's has 1.5 MB.
_CONFIG_LIMIT = 32 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what Keras writes; others may ask for gigabytes
_DEEPEST, _MOST_OBJECTS = 64, 1 << 20
_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
# What loading may use besides what was there: weights are built, read and put in.
_TIMES, _ROOM = 8, 4 << 30
# All that damaged files raise in zipfile, zlib, h5py and json.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
)


def read_config(path: Path) -> tuple[dict[str, Any], int]:
    """The model's config as plain JSON, whichever kind of file it is in, and the bytes that it declares.

    Raises:
        SourceError: no such file, damaged, or one that reaches outside itself or declares too much.
    """
    if not path.is_file():
        raise SourceError(f"no file {path}")
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] != _ZIP and magic != _HDF5:
        raise SourceError(
            f"{path.name} is neither a .keras archive nor an HDF5 file (it starts with {magic[:8]!r})",
            hint=f"a Keras source is a whole model saved as one of {', '.join(_SUFFIXES)}",
        )
    declared = check_arrays(path)
    with _damage(path):
        text = _config_of_archive(path) if magic[:4] == _ZIP else _config_of_hdf5(path)
        config = json.loads(text)
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise SourceError(f"{path.name}: its config.json or model_config is no description of a model")
    return config, declared


def _config_of_archive(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise SourceError(f"{path.name} is a zip file without config.json: not a .keras model")
        info = archive.getinfo("config.json")
        if info.file_size > _CONFIG_LIMIT:
            raise SourceError(f"{path.name} declares a config of {info.file_size:,} bytes")
        return archive.read(info)


def _config_of_hdf5(path: Path) -> str | bytes:
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    if text is None:
        raise SourceError(
            f"{path.name} holds weights alone, no architecture",
            hint=f"name the architecture: converter convert keras:NAME --weights {path}",
        )
    if not isinstance(text, (str, bytes)) or len(text) > _CONFIG_LIMIT:
        raise SourceError(
            f"{path.name}: its model_config is no text, or of more than {_CONFIG_LIMIT:,} bytes"
        )
    return text


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise SourceError(f"{path.name} is damaged or not a Keras file: {error}") from error


def check_arrays(path: Path) -> int:
    """The bytes that a file declares; it is refused where they are far more than it has.

    Raises:
        SourceError: also where it reaches outside itself, or is two kinds of file at once.
    """
    limit = path.stat().st_size * _EXPANSION + _FLOOR
    with _damage(path):
        with path.open("rb") as file:
            hdf5 = file.read(8) == _HDF5
        zipped = zipfile.is_zipfile(path)
        if zipped and hdf5:
            raise SourceError(
                f"{path.name} is both an HDF5 file and a zip file: two readers would see two models"
            )
        declared = _declared_by_archive(path, limit) if zipped else _declared_by(path)
    if declared > limit:
        raise SourceError(
            f"{path.name} declares {declared:,} bytes of arrays but is {path.stat().st_size:,} bytes long"
        )
    return declared


def _declared_by_archive(path: Path, limit: int) -> int:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [info.filename for info in members]
        for info in members:
            _check_member(path, info, names)
        declared = sum(info.file_size for info in members)
        for name in names if declared <= limit else ():
            if name.endswith(".h5"):
                with archive.open(name) as member:
                    declared += _declared_by(member)
    return declared


def _check_member(path: Path, info: zipfile.ZipInfo, names: list[str]) -> None:
    """Refuse what Keras does not write: it unpacks assets, and reads weights of several kinds."""
    name = info.filename
    problem = None
    if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name or ":" in name:
        problem = "would be unpacked outside of its folder"
    elif stat.S_ISLNK(info.external_attr >> 16):
        problem = "is a symbolic link"
    elif info.compress_type not in _METHODS:
        problem = "is compressed in a way that Keras does not use"
    elif name.endswith(".npz"):
        problem = "keeps weights outside of HDF5"
    elif names.count(name) > 1:
        problem = "is there twice"
    if problem:
        raise SourceError(f"{path.name}: the member {name!r} {problem}")


def _declared_by(file: Path | IO[bytes]) -> int:
    """Bytes of all datasets of an HDF5 file; links to other files are refused."""
    import h5py

    total = 0
    seen: set[Any] = set()
    with h5py.File(file, "r") as opened:
        stack = [(opened, 0)]
        while stack:
            group, depth = stack.pop()
            for key in group:
                _check_link(group, key)
                item = group[key]
                if isinstance(item, h5py.Dataset):
                    total += _size_of(item)
                    continue
                if not isinstance(item, h5py.Group):
                    raise SourceError(f"the HDF5 object {item.name!r} is neither a group nor a dataset")
                # A group of several names is in more places than a walk can visit.
                if item in seen or item == opened:
                    raise SourceError(f"the HDF5 group {item.name!r} is there more than once")
                if depth >= _DEEPEST or len(seen) > _MOST_OBJECTS:
                    raise SourceError(f"the HDF5 groups are more than {_DEEPEST} deep, or too many")
                seen.add(item)
                stack.append((item, depth + 1))
    return total


def _check_link(group: Any, key: str) -> None:
    import h5py

    link = group.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise SourceError(f"an HDF5 link leads out of the file, to {link.filename!r}")
    if isinstance(link, h5py.SoftLink):
        raise SourceError(f"an HDF5 soft link ({link.path!r}) is not part of a Keras file")


def _size_of(item: Any) -> int:
    if item.external or item.is_virtual:
        raise SourceError(f"the HDF5 dataset {item.name!r} keeps its data in other files")
    if item.shape is None:
        raise SourceError(f"the HDF5 dataset {item.name!r} has no shape")
    size = 1
    for length in item.shape:
        size *= int(length)
    return size * int(item.dtype.itemsize)


@contextlib.contextmanager
def bounded_memory(declared: int) -> Iterator[None]:
    """Let this process take no more memory than loading so many bytes of weights can need (on Linux).

    What layers a config makes is known only when they are made, and two of a million units make terabytes.
    """
    if sys.platform != "linux":
        yield
        return
    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmData:")[2].split()[0]) << 10
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + declared * _TIMES + _ROOM
    limits = [wanted, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
