"""Importing PyTorch and the packages of models built on it, with a clear message when one is missing."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from converter.errors import UnknownModelError

__all__ = ["as_judge", "quiet", "state_kept", "timm", "torch", "torchvision", "transformers"]


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
    """PyTorch as the reference for a block: evaluation mode, no TF32, no autocast, no gradients.

    The fused path of attention is switched off: it is another way to the same values that
    calls none of the layers inside. Everything is put back as it was.
    """
    library = torch()
    training = [(module, module.training) for module in model.modules()]
    matmul, cudnn = library.backends.cuda.matmul, library.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, library.backends.mha.get_fastpath_enabled()
    try:
        for module, _ in training:
            module.training = False
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        library.backends.mha.set_fastpath_enabled(False)
        with library.no_grad(), library.autocast("cpu", enabled=False):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        matmul.allow_tf32, cudnn.allow_tf32 = before[:2]
        library.backends.mha.set_fastpath_enabled(before[2])


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
