"""Which framework a source belongs to, by its prefix, suffix or type."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converter import preflight
from converter.errors import SourceError, UnknownModelError
from converter.mistaken import expect_downloaded
from converter.model import Source
from converter.sources.steady import steady

__all__ = ["Opening", "is_file", "resolve"]

_EXPECTED = (
    "a source is keras:NAME, torchvision:NAME, timm:NAME, transformers:FOLDER, a bare NAME, FILE.keras, "
    "FILE.h5, FILE.onnx, FILE.py:FACTORY, FILE.pth or FILE.pt2, or, in Python, a live keras.Model or "
    "torch.nn.Module"
)


@dataclasses.dataclass(frozen=True)
class Opening:
    """How to open a source.

    Attributes:
        weights: `pretrained`, `auto`, `random`, or the path of a weights file.
        seed: seed of random weights.
        trust: allow files to run code (Lambda layers, custom classes, pickles).
        custom_objects: a Python file with the custom classes of a Keras file; needs `trust`.
        example: inputs of a PyTorch model whose inputs are not known otherwise: tensors, or texts as
            `--example` takes them.
        dynamic: axes of a PyTorch model's inputs to leave symbolic besides the batch.
        cache: keep what is exported for later runs, and use what was kept.
        cache_whole: export whole models, so that every later cut is found in the cache.
        custom_ops: libraries of operators for ONNX Runtime, for ONNX files with operators that it lacks.
    """

    weights: str = "pretrained"
    seed: int = 0
    trust: bool = False
    custom_objects: Path | None = None
    example: Any = None
    dynamic: tuple[str, ...] = ()
    cache: bool = True
    cache_whole: bool = False
    custom_ops: tuple[Path, ...] = ()


def resolve(source: str | Path | Any, how: Opening) -> Source:
    """Open a source: a name with a prefix, a bare name, a path, or a live model.

    Raises:
        SourceError: nothing of that name, it cannot be opened, its weights do not fit into memory, or it was
            changed meanwhile.
    """
    files = _files(source, how)
    for path in files:
        if path.suffix.casefold() in (".onnx", *_READ_WHOLE):
            expect_downloaded(path)
    preflight.check_files(_stored(source, how))
    with steady(files):
        opened = _opened(source, how)
    if not how.cache or opened.origin is None:
        return opened
    from converter.sources.cache import CachedSource, Store

    return CachedSource(opened, Store(), whole=how.cache_whole)


def is_file(source: str) -> bool:
    """Whether a source is said to be in a file, by its suffix; else it is a model of a zoo."""
    suffix = Path(source).suffix.casefold()
    return any(suffix in suffixes for suffixes, _ in _FILES)


def _files(source: str | Path | Any, how: Opening) -> list[Path]:
    """The user's own files that a source is read from."""
    text = str(source) if isinstance(source, (str, Path)) else ""
    found: list[Path] = []
    for name in (text, text.removeprefix("transformers:"), how.weights):
        with contextlib.suppress(OSError, ValueError):  # no name of a file at all, or a folder that is closed
            path = Path(name)
            found += path.iterdir() if name and path.is_dir() else [path]
    return found


def _stored(source: str | Path | Any, how: Opening) -> list[Path]:
    """The files of weights that are read whole; those of ONNX files stay where they are."""
    if not isinstance(source, (str, Path)):
        return []
    text = str(source)
    folder = Path(text.removeprefix("transformers:"))
    if text.startswith("transformers:") and folder.is_dir():
        found = [sorted(folder.glob(f"*{suffix}")) for suffix in (".safetensors", ".bin")]
        return found[0] or found[1]
    files = [Path(text), Path(how.weights)]
    return [path for path in files if path.suffix.casefold() in _READ_WHOLE]


def _opened(source: str | Path | Any, how: Opening) -> Source:
    if not isinstance(source, (str, Path)):
        return _live(source, how)
    text = str(source)
    path = Path(text)
    suffix = path.suffix.casefold()
    if how.custom_ops and suffix != ".onnx":
        raise SourceError(f"{text!r} is no ONNX file: --custom-ops does not apply")
    if is_file(text):
        return next(opener for suffixes, opener in _FILES if suffix in suffixes)(path, how)
    if how.trust or how.custom_objects is not None:
        raise SourceError(f"{text!r} is no model file: there is nothing in it to trust")
    prefix, colon, name = text.rpartition(":")
    if colon and prefix.endswith(".py"):
        from converter.sources.torch import open_factory

        return open_factory(
            text, weights=how.weights, seed=how.seed, example=how.example, dynamic=how.dynamic
        )
    prefix, colon, name = text.partition(":")
    if colon and prefix not in _PREFIXES:
        raise SourceError(f"no kind of source is called {prefix!r}", hint=_EXPECTED)
    if not colon and (path.suffix or len(path.parts) > 1):
        raise SourceError(f"{text!r} is not a kind of file that can be a source", hint=_EXPECTED)
    return _named(prefix, name, how) if colon else _bare(text, how)


def _onnx_file(path: Path, how: Opening) -> Source:
    from converter.sources.onnx import open_onnx_file

    _refuse_torch_options(f"{path} is an ONNX file", how)
    _refuse_weights(path, how)
    return open_onnx_file(path, trust=how.trust, custom_ops=how.custom_ops)


def _keras_file(path: Path, how: Opening) -> Source:
    from converter.sources.keras import open_keras_file

    _refuse_torch_options(f"{path} is a Keras model", how)
    return open_keras_file(
        path, weights=how.weights, seed=how.seed, trust=how.trust, custom_objects=how.custom_objects
    )


def _torch_file(path: Path, how: Opening) -> Source:
    from converter.sources.torch import open_exported, open_pickle

    _refuse_weights(path, how)
    if path.suffix.casefold() == ".pt2":
        _refuse_torch_options(f"{path} is a program", how)
        return open_exported(path, trust=how.trust)
    return open_pickle(path, example=how.example, dynamic=how.dynamic, trust=how.trust)


_FILES: tuple[tuple[tuple[str, ...], Callable[[Path, Opening], Source]], ...] = (
    ((".onnx",), _onnx_file),
    ((".keras", ".h5", ".hdf5"), _keras_file),
    ((".pt", ".pth", ".bin", ".safetensors", ".pt2"), _torch_file),
)
_READ_WHOLE = tuple(suffix for suffixes, _ in _FILES[1:] for suffix in suffixes)
_PREFIXES = ("keras", "torchvision", "timm", "transformers")


def _named(prefix: str, name: str, how: Opening) -> Source:
    if _has_example(how):
        raise SourceError(f"{prefix}:{name} knows its inputs: it takes no example")
    if prefix == "keras":
        from converter.sources.keras import open_application

        _refuse_torch_options(f"{prefix}:{name} is a Keras model", how)
        return open_application(name, weights=how.weights, seed=how.seed)
    from converter.sources import torch

    opened = {
        "torchvision": torch.open_torchvision,
        "timm": torch.open_timm,
        "transformers": torch.open_transformers,
    }[prefix]
    return opened(name, weights=how.weights, seed=how.seed, dynamic=how.dynamic)


def _bare(name: str, how: Opening) -> Source:
    """The first of Keras, torchvision and timm that has a model of this name."""
    refusals = []
    for prefix in ("keras", "torchvision", "timm"):
        try:
            return _named(prefix, name, how)
        except UnknownModelError as error:
            refusals.append(error)
    near = [error.hint for error in refusals if error.hint]
    raise UnknownModelError("; ".join(error.message for error in refusals), hint="; ".join(near))


def _has_example(how: Opening) -> bool:
    return not (how.example is None or (isinstance(how.example, (list, tuple)) and not how.example))


def _refuse_torch_options(what: str, how: Opening) -> None:
    if _has_example(how) or how.dynamic:
        raise SourceError(f"{what}, which knows its inputs: neither example nor dynamic apply")


def _refuse_weights(path: Path, how: Opening) -> None:
    if how.weights not in ("pretrained", "auto"):
        raise SourceError(f"{path} brings its own weights: --weights {how.weights} does not apply")


def _live(model: Any, how: Opening) -> Source:
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "keras" in packages:
        from converter.sources.keras import open_live

        _refuse_torch_options("this is a Keras model", how)
        return open_live(model)
    if "torch" in packages:
        from converter.sources import torch

        return torch.open_live(model, example=how.example, dynamic=how.dynamic)
    raise SourceError(f"got a {type(model).__module__}.{type(model).__name__}", hint=_EXPECTED)
