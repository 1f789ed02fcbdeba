"""Importing PyTorch and the packages of models built on it, with a clear message when one is missing."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from converter.errors import UnknownModelError

__all__ = ["as_judge", "on_device_of", "quiet", "state_kept", "timm", "torch", "torchvision", "transformers"]


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnknownModelError(
            f"this source needs the package {name!r}, which does not import: {error}",
            hint=f"pip install 'converter[{extra}]' brings it",
        ) from error


@functools.cache
def torch() -> Any:
    """The module `torch`."""
    return _import("torch", "torch")


@functools.cache
def torchvision() -> Any:
    """The module `torchvision`, beside a build of PyTorch that its compiled extension cannot load on, too.

    The extension of the CUDA wheel does not load on a CPU build of PyTorch; `import torchvision` then fails
    because it registers shapes for operators that nobody has declared. Declared, they have no
    kernel, which only detection models miss.
    """
    library = torch().library
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        return _import("torchvision", "torch")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    declared = library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(declared)
    return _import("torchvision", "torch")


# A Library takes its operators with it when it is collected.
_KEPT: list[Any] = []


@functools.cache
def timm() -> Any:
    """The module `timm`."""
    torchvision()
    return _import("timm", "timm")


@functools.cache
def transformers() -> Any:
    """The module `transformers`; it imports torchvision where there is one."""
    with contextlib.suppress(UnknownModelError):
        torchvision()
    return _import("transformers", "transformers")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, log lines and listings of graphs; what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "huggingface_hub", "timm")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def as_judge(model: Any) -> Iterator[None]:
    """PyTorch as the reference for a block: evaluation mode, no TF32, no autocast, no gradients, and on GPUs
    the same algorithms each time.

    The fused path of attention is switched off: it is another way to the same values that
    calls none of the layers inside. Everything is put back as it was.
    """
    library = torch()
    training = [(module, module.training) for module in model.modules()]
    fastpath = library.backends.mha.get_fastpath_enabled()
    try:
        for module, _ in training:
            module.training = False
        library.backends.mha.set_fastpath_enabled(False)
        with _exact(), library.no_grad(), contextlib.ExitStack() as off:
            for kind in ("cpu", "cuda"):
                if library.is_autocast_enabled(kind):
                    off.enter_context(library.autocast(kind, enabled=False))
            yield
    finally:
        for module, mode in training:
            module.training = mode
        library.backends.mha.set_fastpath_enabled(fastpath)


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """No TF32 in cuBLAS and cuDNN, and cuDNN's deterministic algorithms, for a block.

    PyTorch has two settings for TF32: `allow_tf32`, and since 2.9 `fp32_precision`, which counts. Where they
    contradict each other, reading `allow_tf32` is an error, and `torch.export` reads it: both are set.
    """
    backends = torch().backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    flags = (backends.cuda.matmul, backends.cudnn)
    precisions, allowed = [part.fp32_precision for part in parts], [_allowed(flag) for flag in flags]
    cudnn, before = backends.cudnn, (backends.cudnn.deterministic, backends.cudnn.benchmark)
    try:
        for flag in flags:
            flag.allow_tf32 = False
        for part in parts:
            part.fp32_precision = "ieee"  # what is unset takes the setting for all backends
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        for flag, value in zip(flags, allowed, strict=True):
            if value is not None:
                flag.allow_tf32 = value
        for part, precision in zip(parts, precisions, strict=True):
            part.fp32_precision = precision
        cudnn.deterministic, cudnn.benchmark = before


def _allowed(flag: Any) -> bool | None:
    """Whether TF32 is allowed in the older setting's words; None where it is not to be read."""
    try:
        return bool(flag.allow_tf32)
    except RuntimeError:
        return None


def on_device_of(model: Any, tensors: Sequence[Any]) -> list[Any]:
    """The tensors where the model's weights are; as they are where it has none."""
    weights = itertools.chain(model.parameters(), model.buffers())
    device = next((weight.device for weight in weights), None)
    return [tensor if device is None else tensor.to(device) for tensor in tensors]


@contextlib.contextmanager
def state_kept(model: Any) -> Iterator[None]:
    """Put the buffers that a model writes to back as they were at the start of a block."""
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch().no_grad():
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
