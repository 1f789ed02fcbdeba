"""Which kind of artifact a path is, and how each kind is opened: a table by suffix.

Files are hostile until shown otherwise: what would run code of the file's author is opened with trust alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from converter.comparing import native
from converter.errors import SourceError, UsageError
from converter.targets.artifact import Artifact

__all__ = ["Means", "open_artifact"]

_KINDS = (
    "FILE.onnx, FILE.ort, FILE.xml (OpenVINO), FILE.keras, FILE.h5, a SavedModel folder, FILE.tflite, "
    "FILE.pt2, FILE.py (with load()), FILE.engine (TensorRT), FILE.mlpackage (Core ML)"
)
_WEIGHTS = (
    "weights alone: there is no graph in it to run",
    "compare the artifact that has the graph: of --targets onnx, pt2, or torch (trunk.py beside the weights)",
)
_CHECKPOINT = (
    "a TensorFlow checkpoint, weights alone, which go into the model that they were saved from",
    "compare --targets keras or savedmodel of that model, which have its graph",
)


@dataclasses.dataclass(frozen=True)
class Means:
    """What opening artifacts may make use of.

    Attributes:
        trust: let files run their author's code.
        custom_objects: a Python file with the custom classes of a Keras file; needs `trust`.
        custom_ops: libraries of operators for ONNX files.
        provider: ONNX Runtime's execution provider for ONNX files.
    """

    trust: bool = False
    custom_objects: Path | None = None
    custom_ops: tuple[Path, ...] = ()
    provider: str = "CPUExecutionProvider"


def open_artifact(path: Path, means: Means) -> Artifact:
    """Open an artifact by its suffix, or a folder by what is in it.

    Raises:
        UsageError: nothing that can be compared: not a kind of artifact, or weights alone.
        SourceError: not there, damaged, or not to be opened without trust.
        TargetError: the package or the machine that it needs is missing.
    """
    suffix = path.suffix.casefold()
    if suffix == ".index" or _is_checkpoint(path):
        raise UsageError(f"{path} is {_CHECKPOINT[0]}", hint=_CHECKPOINT[1])
    if not path.exists():
        raise SourceError(f"no file or folder {str(path)!r}", hint=f"compare takes {_KINDS}")
    if path.is_dir():
        opener = _folder(path)
    else:
        if suffix in _WEIGHTS_ALONE:
            raise UsageError(f"{path} holds {_WEIGHTS[0]}", hint=_WEIGHTS[1])
        opener = next((opener for suffixes, opener in _FILES if suffix in suffixes), None)
    if opener is None:
        raise UsageError(f"{path} is not a kind of artifact that can be compared", hint=f"it takes {_KINDS}")
    return opener(path, means)


def _is_checkpoint(path: Path) -> bool:
    folder = path.is_dir() and (path / "checkpoint").exists() and not (path / "saved_model.pb").exists()
    return folder or path.with_name(f"{path.name}.index").exists() or ".ckpt.data-" in path.name


def _folder(path: Path) -> _Opener | None:
    if (path / "saved_model.pb").exists():
        return _savedmodel
    return _coreml if path.suffix.casefold() == ".mlpackage" else None


def _trusted(path: Path, means: Means, what: str) -> None:
    if not means.trust:
        raise SourceError(
            f"{path} is {what}",
            hint="--trust opens it all the same; only do so with a file from somebody you trust",
        )


def _ort(path: Path, means: Means) -> Artifact:
    from converter.targets import ort

    del means
    return ort.opened(path)


def _openvino(path: Path, means: Means) -> Artifact:
    from converter.targets import openvino

    del means
    return openvino.opened(path)


def _savedmodel(path: Path, means: Means) -> Artifact:
    from converter.targets import savedmodel

    _trusted(path, means, "a SavedModel, and loading one runs operators of its graph, which can write files")
    return savedmodel.opened(path)


def _tflite(path: Path, means: Means) -> Artifact:
    from converter.targets import tflite

    return tflite.opened(path, trust=means.trust)


def _torch(path: Path, means: Means) -> Artifact:
    from converter.targets import torch

    _trusted(path, means, "Python code, which would run")
    return torch.opened(path)


def _tensorrt(path: Path, means: Means) -> Artifact:
    from converter.targets import tensorrt

    _trusted(path, means, "a TensorRT engine: machine code, which would run")
    return tensorrt.opened(path)


def _coreml(path: Path, means: Means) -> Artifact:
    from converter.targets import coreml

    del means
    return coreml.opened(path)


def _onnx(path: Path, means: Means) -> Artifact:
    return native.open_onnx(path, trust=means.trust, custom_ops=means.custom_ops, provider=means.provider)


def _keras(path: Path, means: Means) -> Artifact:
    return native.open_keras(path, trust=means.trust, custom_objects=means.custom_objects)


def _pt2(path: Path, means: Means) -> Artifact:
    return native.open_pt2(path, trust=means.trust)


_Opener = Callable[[Path, Means], Artifact]
_WEIGHTS_ALONE = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_FILES: tuple[tuple[tuple[str, ...], _Opener], ...] = (
    ((".onnx",), _onnx),
    ((".ort",), _ort),
    ((".xml",), _openvino),
    ((".keras", ".h5", ".hdf5"), _keras),
    ((".tflite",), _tflite),
    ((".pt2",), _pt2),
    ((".py",), _torch),
    ((".engine", ".plan", ".trt"), _tensorrt),
)
