"""TensorRT engines: plans for one version of TensorRT on one kind of GPU, made on that GPU.

Free batch sizes become an optimisation profile from 1 to 32, tuned for 8. Float32 stays float32: no TF32. The
API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/index.html (10 and newer).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceError, TargetError, ValidationError
from converter.model import Array, TensorSpec
from converter.targets.artifact import Artifact, named, narrowest
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "SUFFIX", "expect", "opened", "reload", "write"]

FRAMEWORK = "onnx"
SUFFIX = ".engine"
_BATCHES = (1, 8, 32)  # at least, tuned for, at most


def _packages() -> tuple[Any, Any]:
    """TensorRT and PyTorch, which holds the buffers.

    Raises:
        TargetError: one of them is missing or too old, or there is no GPU.
    """
    found = []
    for name, hint in (
        ("tensorrt", "on a machine with an NVIDIA GPU: pip install 'converter[tensorrt]'"),
        ("torch", "pip install torch, built for CUDA: its tensors hold an engine's inputs and outputs"),
    ):
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            raise TargetError(
                f"the target 'tensorrt' needs the package {name}, which does not import: {error}", hint=hint
            ) from error
    tensorrt, torch = found
    major = int(tensorrt.__version__.partition(".")[0])
    if major < 10:
        raise TargetError(f"TensorRT 10 or newer is needed, got {tensorrt.__version__}")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        raise TargetError(
            "TensorRT engines are made and run on an NVIDIA GPU, and "
            + (
                "PyTorch finds none" if built else f"this PyTorch ({torch.__version__}) is built without CUDA"
            ),
            hint="write ONNX here, and run trtexec --onnx=… on the machine with the GPU",
        )
    return tensorrt, torch


def expect() -> None:
    """Refuse what cannot be made on this machine, before anything is made for it.

    Raises:
        TargetError: what is missing, and where it can be had.
    """
    _packages()


def write(made: Path, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the file has all that is needed
    """Build an engine from an ONNX file; returns the files made.

    Raises:
        TargetError: no TensorRT or no GPU, an operator it does not have, or free sizes besides the batch.
    """
    tensorrt, _ = _packages()
    logger = _logger(tensorrt)
    builder = tensorrt.Builder(logger)
    # Strongly typed: each tensor has the type that the ONNX file gives it, none is narrowed for speed.
    strong = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(made)):  # by its path: data beside it are found
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise TargetError(f"TensorRT cannot read {made.name}: {'; '.join(errors[:3])[:400]}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    free = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *_profile(tensor.name, tuple(tensor.shape)))
            free = True
    if free:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TargetError(f"TensorRT cannot build an engine of {made.name}: {logger.last}")
    path.write_bytes(plan)
    return [path]


def _profile(name: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The least, the usual and the largest shape of an input whose batch size is free."""
    if -1 in shape[1:]:
        sizes = ", ".join("?" if size == -1 else str(size) for size in shape)
        raise TargetError(
            f"the input {name!r} has free sizes besides its batch ({sizes}): TensorRT needs bounds for each",
            hint="fix them when converting, or run trtexec with --minShapes, --optShapes and --maxShapes",
        )
    return [(batch, *shape[1:]) for batch in _BATCHES]


def _logger(tensorrt: Any) -> Any:
    """A logger that prints nothing and remembers the last error."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, msg: str) -> None:
            if severity in (tensorrt.ILogger.Severity.ERROR, tensorrt.ILogger.Severity.INTERNAL_ERROR):
                self.last = msg

    return Logger()


def reload(path: Path, made: Path, brief: Brief) -> Run:  # noqa: ARG001  # the file has all that is needed
    """The engine on the GPU, as a function from the piece's inputs to its outputs, by name.

    Raises:
        TargetError: no TensorRT or no GPU, or the engine does not load.
    """
    return _Engine(path, [spec.name for spec in brief.piece.outputs])


def opened(path: Path) -> Artifact:
    """Any engine of this TensorRT and this kind of GPU.

    Raises:
        SourceError: TensorRT does not load it.
        TargetError: no TensorRT, or no GPU.
    """
    try:
        engine = _Engine(path)
    except OSError as error:
        raise SourceError(f"{path}: {error}") from error
    inputs, outputs = engine.specs(engine.inputs), engine.specs(engine.outputs)
    precision = narrowest(spec.dtype for spec in (*inputs, *outputs))
    return Artifact("tensorrt", path, inputs, outputs, engine, precision)


class _Engine:
    """An engine with what has to live as long as it runs; all of its outputs, unless some are wanted."""

    def __init__(self, path: Path, wanted: list[str] | None = None) -> None:
        self._tensorrt, self._torch = _packages()
        self._path = path
        self._logger = _logger(self._tensorrt)
        self._runtime = self._tensorrt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise TargetError(f"TensorRT cannot load {path.name} again: {self._logger.last}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise TargetError(f"TensorRT has no memory to run {path.name}: {self._logger.last}")
        mode = self._tensorrt.TensorIOMode.INPUT
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == mode]
        self.outputs = [name for name in names if name not in self.inputs]
        self._wanted = self.outputs if wanted is None else wanted
        missing = [name for name in self._wanted if name not in self.outputs]
        if missing:
            raise TargetError(f"{path.name} has no {', '.join(missing[:4])}: it has {', '.join(names)}")

    def specs(self, names: list[str]) -> tuple[TensorSpec, ...]:
        """The tensors of these names as the engine declares them."""
        shapes = [tuple(self._engine.get_tensor_shape(name)) for name in names]
        dtypes = [str(self._dtype(name)).removeprefix("torch.") for name in names]
        return tuple(map(named, names, shapes, dtypes))

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        buffers = {name: self._fed(name, feeds[name]) for name in self.inputs}
        buffers |= {name: self._empty(name) for name in self.outputs}
        for name, buffer in buffers.items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        cuda = self._torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())  # where the inputs were copied
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise ValidationError(f"{self._path.name} does not run: {self._logger.last}")
        stream.synchronize()
        return {name: buffers[name].cpu().numpy() for name in self._wanted}

    def _fed(self, name: str, value: Array) -> Any:
        array = np.ascontiguousarray(value)
        if not self._context.set_input_shape(name, array.shape):
            raise ValidationError(
                f"{self._path.name} does not take {name!r} as {array.shape}: {self._logger.last}"
            )
        return self._torch.from_numpy(array).cuda()

    def _empty(self, name: str) -> Any:
        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise ValidationError(f"{self._path.name}: the shape of {name!r} depends on the values fed")
        return self._torch.empty(shape, dtype=self._dtype(name), device="cuda")

    def _dtype(self, name: str) -> Any:
        """PyTorch's dtype of a tensor of the engine."""
        tensorrt, torch = self._tensorrt, self._torch
        types = {
            tensorrt.DataType.FLOAT: torch.float32,
            tensorrt.DataType.HALF: torch.float16,
            tensorrt.DataType.INT64: torch.int64,
            tensorrt.DataType.INT32: torch.int32,
            tensorrt.DataType.INT8: torch.int8,
            tensorrt.DataType.UINT8: torch.uint8,
            tensorrt.DataType.BOOL: torch.bool,
        }
        found = self._engine.get_tensor_dtype(name)
        if found not in types:
            raise TargetError(f"{self._path.name}: {name!r} has the type {found}, which NumPy does not have")
        return types[found]
