"""Opening `.keras` and `.h5` files from anyone: no code of theirs runs, and memory stays bounded.

Before Keras sees a file, its config is read as plain JSON and every class and function it names is held
against Keras's own; the arrays it declares are added up. Keras then loads it in safe mode.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.sources.keras import backend
from converter.sources.keras.applications import fresh_names

__all__ = ["load_weights", "open_file"]

_SUFFIXES = (".keras", ".h5", ".hdf5")
_UNSAFE = frozenset(["Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"])
_MARKERS = frozenset(
    ["__tuple__", "__tensor__", "__keras_tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"]
)
# A file may declare this many bytes of weights for each of its own (compression), plus a floor.
_EXPANSION, _FLOOR = 64, 64 << 20
_CONFIG_LIMIT = 256 << 20


def open_file(path: Path, *, trust: bool, custom_objects: Path | None) -> Any:
    """Load a Keras model from a file.

    Args:
        path: a `.keras` archive or a legacy `.h5` file of a whole model.
        trust: load classes that are not Keras's own, and Lambda layers: both run code of the file's author.
        custom_objects: a Python file whose classes and functions the model uses; needs `trust`.

    Raises:
        SourceError: not such a file, damaged, or not loadable without `trust`.
    """
    keras = backend.keras()
    if custom_objects is not None and not trust:
        raise SourceError(f"{custom_objects} is code and would run", hint="--trust says that you trust it")
    config = _read_config(path)
    if not trust:
        foreign = sorted(set(_foreign(config)))
        if foreign:
            raise SourceError(
                f"{path.name} uses {', '.join(foreign[:6])}: not Keras's own, so loading it would run code",
                hint="--trust loads it, with --custom-objects FILE.py where the classes are in a file; "
                "do so only if you trust its author",
            )
    with _custom_scope(path, trust, custom_objects), fresh_names():
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=not trust)
        except Exception as error:
            raise SourceError(
                f"Keras cannot load {path.name}: {_shortened(error)}",
                hint="classes of your own come in with --trust --custom-objects FILE.py" if trust else None,
            ) from error


def load_weights(model: Any, path: Path) -> None:
    """Load a weights file (`.weights.h5`, `.h5`, `.keras`) into a model.

    Raises:
        SourceError: no such file, or its weights do not fit the model.
    """
    if not path.is_file():
        raise SourceError(f"no weights file {path}")
    _check_arrays(path)
    try:
        model.load_weights(path)
    except Exception as error:
        raise SourceError(
            f"the weights in {path.name} do not fit {model.name!r}: {_shortened(error)}",
            hint="the file must come from the same architecture, with the same head",
        ) from error


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


# ---------------------------------------------------------------- reading without running


def _read_config(path: Path) -> Any:
    """The model's config as plain JSON, whichever kind of file it is in."""
    if not path.is_file():
        raise SourceError(f"no file {path}")
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] == b"PK\x03\x04":
        _check_arrays(path)
        return _config_of_archive(path)
    if magic == b"\x89HDF\r\n\x1a\n":
        _check_arrays(path)
        return _config_of_hdf5(path)
    raise SourceError(
        f"{path.name} is neither a .keras archive nor an HDF5 file (it starts with {magic[:8]!r})",
        hint=f"a Keras source is a whole model saved as one of {', '.join(_SUFFIXES)}",
    )


def _config_of_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("config.json")
            if info.file_size > _CONFIG_LIMIT:
                raise SourceError(f"{path.name} declares a config of {info.file_size:,} bytes")
            return json.loads(archive.read(info))
    except KeyError:
        raise SourceError(f"{path.name} is a zip file without config.json: not a .keras model") from None
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, RecursionError) as error:
        raise SourceError(f"{path.name} is damaged: {error}") from error


def _config_of_hdf5(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            if text is None:
                raise SourceError(
                    f"{path.name} holds weights alone, no architecture",
                    hint=f"name the architecture: converter convert keras:NAME --weights {path}",
                )
            return json.loads(text)
    except (OSError, ValueError, RuntimeError, RecursionError) as error:
        raise SourceError(f"{path.name} is damaged: {error}") from error


def _check_arrays(path: Path) -> None:
    """Refuse a file that declares far more bytes than it has, or that reaches outside itself."""
    import h5py

    limit = path.stat().st_size * _EXPANSION + _FLOOR
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                declared = sum(info.file_size for info in archive.infolist())
                names = [i.filename for i in archive.infolist() if i.filename.endswith(".h5")]
                for name in names if declared <= limit else ():
                    with archive.open(name) as member, h5py.File(member, "r") as file:
                        declared += _declared_bytes(file)
        else:
            with h5py.File(path, "r") as file:
                declared = _declared_bytes(file)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
        raise SourceError(f"{path.name} is damaged or not a Keras file: {error}") from error
    if declared > limit:
        raise SourceError(
            f"{path.name} declares {declared:,} bytes of arrays but is {path.stat().st_size:,} bytes long"
        )


def _declared_bytes(file: Any) -> int:
    """Bytes of all datasets of an HDF5 file; links to other files are refused."""
    import h5py

    total = 0

    def visit(group: Any) -> None:
        nonlocal total
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise SourceError(f"an HDF5 link leads out of the file, to {link.filename!r}")
            if isinstance(link, h5py.SoftLink):
                raise SourceError(f"an HDF5 soft link ({link.path!r}) is not part of a Keras file")
            item = group[key]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise SourceError(f"the HDF5 dataset {item.name!r} keeps its data in other files")
                total += item.size * item.dtype.itemsize
            else:
                visit(item)

    visit(file)
    return total


# ---------------------------------------------------------------- the allowlist


@functools.cache
def _allowed_classes() -> frozenset[str]:
    keras = backend.keras()
    spaces = (
        keras.layers,
        keras.initializers,
        keras.regularizers,
        keras.constraints,
        keras.dtype_policies,
    )
    names = {n for s in spaces for n, member in vars(s).items() if inspect.isclass(member)}
    names |= {"Functional", "Model", "Sequential", "Policy", "SeedGenerator"}
    operation = keras.Operation
    for module in [m for key, m in sys.modules.items() if key.startswith("keras.src.ops.")]:
        for name, member in vars(module).items():
            if inspect.isclass(member) and issubclass(member, operation):
                names.add(name)
    return frozenset(names - _UNSAFE)


@functools.cache
def _allowed_functions() -> frozenset[str]:
    spaces = (backend.keras().activations, backend.keras().initializers)
    return frozenset(
        n for s in spaces for n in vars(s) if not n.startswith("_") and n not in ("get", "deserialize")
    )


def _foreign(config: Any) -> Iterator[str]:
    """Names in a config that are not Keras's own classes or activation functions."""
    stack = [config.get("config"), {k: config.get(k) for k in ("class_name", "module", "registered_name")}]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
            name = item.get("class_name")
            if isinstance(name, str) and not _is_keras_own(item, name):
                module = item.get("module")
                yield f"{name} (of {module})" if module else name


def _is_keras_own(item: dict[str, Any], name: str) -> bool:
    if name in _MARKERS:
        return True
    module = item.get("module")
    own = module is None or module == "builtins" or str(module).split(".")[0] == "keras"
    if name == "function":
        return own and item.get("config") in _allowed_functions()
    registered = item.get("registered_name")
    return own and name in _allowed_classes() and registered in (None, name)


# ---------------------------------------------------------------- with trust


@contextlib.contextmanager
def _custom_scope(path: Path, trust: bool, custom_objects: Path | None) -> Iterator[None]:
    if not trust:
        yield
        return
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with backend.keras().saving.custom_object_scope(_objects_in(custom_objects)):
            yield
    finally:
        sys.path.remove(folder)


def _objects_in(path: Path | None) -> dict[str, Any]:
    """The public classes and functions that a Python file defines."""
    if path is None:
        return {}
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SourceError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Keras looks classes up in the module that their config names.
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SourceError(f"{path} does not run: {type(error).__name__}: {error}") from error
    return {
        name: member
        for name, member in vars(module).items()
        if not name.startswith("_") and getattr(member, "__module__", None) == path.stem
    }
