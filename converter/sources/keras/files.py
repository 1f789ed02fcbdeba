"""Opening `.keras` and `.h5` files from anyone: no code of theirs runs, and memory stays bounded.

Before Keras sees a file, its config is read as plain JSON and every class and function it names is held
against Keras's own; the arrays it declares are added up. Keras then loads it in safe mode.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.onnxfile import memory_limit
from converter.sources.configs import dictionaries
from converter.sources.keras import backend
from converter.sources.keras.applications import fresh_names
from converter.sources.keras.declared import bounded_memory, check_arrays, read_config

__all__ = ["load_weights", "open_file"]

_UNSAFE = frozenset(["Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"])
_MARKERS = frozenset(
    ["__tuple__", "__tensor__", "__keras_tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"]
)
# Settings that are a file where they are a text, which Keras reads while it builds the layer.
_FILES = ("vocabulary", "idf_weights", "filepath")
# Settings that say how many weights a layer has, at least one for each.
_SIZES = ("units", "filters", "input_dim", "output_dim")


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
    config, declared = read_config(path)
    if not trust:
        foreign = sorted(set(_foreign(config)))
        if foreign:
            raise SourceError(
                f"{path.name} uses {', '.join(foreign[:6])}: not Keras's own, so loading it would run code",
                hint="--trust loads it, with --custom-objects FILE.py where the classes are in a file; "
                "do so only if you trust its author",
            )
        _check_settings(path, config, declared)
    with _custom_scope(path, trust, custom_objects), fresh_names():
        try:
            with bounded_memory(declared):
                model = keras.saving.load_model(path, compile=False, safe_mode=not trust)
        except Exception as error:
            raise SourceError(
                f"Keras cannot load {path.name}: {_shortened(error)}",
                hint="classes of your own come in with --trust --custom-objects FILE.py" if trust else None,
            ) from error
    _refuse_large(path, model)
    return model


def load_weights(model: Any, path: Path) -> None:
    """Load a weights file (`.weights.h5`, `.h5`, `.keras`) into a model.

    Raises:
        SourceError: no such file, or its weights do not fit the model.
    """
    if not path.is_file():
        raise SourceError(f"no weights file {path}")
    check_arrays(path)
    try:
        model.load_weights(path)
    except Exception as error:
        raise SourceError(
            f"the weights in {path.name} do not fit {model.name!r}: {_shortened(error)}",
            hint="the file must come from the same architecture, with the same head",
        ) from error


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _refuse_large(path: Path, model: Any) -> None:
    """Refuse a model in which a tensor of one sample is larger than the memory there is."""
    most = memory_limit()
    for layer in model._flatten_layers():
        for node in layer._inbound_nodes:
            for tensor in node.output_tensors:
                size = math.prod(size for size in tensor.shape or () if size is not None)
                if size * 4 > most:
                    raise SourceError(
                        f"{path.name}: what the layer {layer.name!r} puts out would have "
                        f"{size * 4 / 1e9:,.0f} GB, more than the {most / 1e9:,.0f} GB of memory there are"
                    )


def _check_settings(path: Path, config: Any, declared: int) -> None:
    """Refuse layers that read files, and layers of more weights than the file declares bytes."""
    for item in dictionaries(config):
        for key in _FILES:
            if isinstance(item.get(key), str):
                raise SourceError(
                    f"{path.name}: the {key} of a layer is a file, {item[key]!r}, which Keras would read"
                )
        for key in _SIZES:
            if isinstance(item.get(key), int) and item[key] > max(declared, 1 << 16):
                raise SourceError(
                    f"{path.name}: a layer has {key} {item[key]:,}, its weights have {declared:,} bytes"
                )


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
    root = {key: config.get(key) for key in ("class_name", "module", "registered_name")}
    for item in (*dictionaries(config.get("config")), root):
        name = item.get("class_name")
        if name is not None and not (isinstance(name, str) and _is_keras_own(item, name)):
            module = item.get("module")
            yield f"{name} (of {module})" if module else str(name)


def _is_keras_own(item: dict[str, Any], name: str) -> bool:
    if name in _MARKERS:
        return True
    module = item.get("module")
    own = module is None or module == "builtins" or str(module).split(".")[0] == "keras"
    if name == "function":
        function = item.get("config")
        return own and isinstance(function, str) and function in _allowed_functions()
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
