"""ONNX Runtime's CUDA provider: whether it works here, and how it is set for validation.

Settings are those of ONNX Runtime's page on the CUDA provider. What an NVIDIA GPU rounds to TF32 keeps 10
bits of the significand, which would hide errors as large as a wrong epsilon.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import ValidationError
from converter.gpu import Gpu, first_gpu

__all__ = ["PROVIDER", "cuda_facts", "cuda_problem", "expect_cuda", "settings"]

PROVIDER = "CUDAExecutionProvider"
# The share of the free device memory that one session's arena may grow to. What CUDA, cuBLAS and cuDNN hold
# for themselves (contexts, kernels, workspaces: up to 2 GB on large GPUs) is outside of the arena.
_SHARE = 0.8
_HINT = "pip uninstall onnxruntime, then pip install 'converter[gpu]'"


def settings() -> dict[str, str]:
    """Options of the provider for results that are exact to float32 and the same each time.

    cudnn_conv_algo_search: HEURISTIC asks cuDNN's heuristics; EXHAUSTIVE, the default, times algorithms, and
    may take another one each time. arena_extend_strategy: kSameAsRequested takes from the device what is
    asked for, kNextPowerOfTwo up to twice that. gpu_mem_limit bounds the arena. cuDNN's largest workspace
    (cudnn_conv_use_max_workspace) is for searches, and may be gigabytes.
    """
    gpu = _gpu()
    return {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
        "arena_extend_strategy": "kSameAsRequested",
        **({} if gpu is None else {"gpu_mem_limit": str(int(gpu.free * _SHARE))}),
    }


@functools.cache
def _gpu() -> Gpu | None:
    """Asked once: the bound is the same for all sessions of a process, whatever they hold meanwhile."""
    return first_gpu()


def cuda_facts(runtime: Any) -> dict[str, Any]:
    """What is known of the GPU: `gpu`, `driver`, `memory` and `memory_limit` in bytes, `cuda`, the version
    that ONNX Runtime is built with. What cannot be had is left out."""
    gpu, version = _gpu(), getattr(runtime, "cuda_version", "")
    found: dict[str, Any] = {"cuda": version} if version else {}
    if gpu is not None:
        found |= {"gpu": gpu.name, "driver": gpu.driver, "memory": gpu.memory}
        found["memory_limit"] = int(gpu.free * _SHARE)
    return found


def expect_cuda(runtime: Any) -> None:
    """Refuse to go on where CUDA does not compute.

    Args:
        runtime: the module `onnxruntime`.

    Raises:
        ValidationError: it has no CUDA provider, or that one does not load or run; it says why.
    """
    problem = cuda_problem(runtime)
    if problem is not None:
        missing = PROVIDER not in runtime.get_available_providers()
        raise ValidationError(
            f"device cuda: {problem}",
            hint=_HINT
            if missing
            else "nvidia-smi shows whether there are a GPU and a driver; "
            "CUDA's libraries come with pip install 'onnxruntime-gpu[cuda,cudnn]'; --device cpu does without",
        )


def cuda_problem(runtime: Any) -> str | None:
    """Why CUDA does not compute here; None where a product and a convolution ran on it.

    ONNX Runtime's GPU build lists CUDA without a driver and without CUDA's libraries as well, and makes
    sessions that run on the CPU then: only a run can tell. It is asked once.
    """
    return _problem(runtime)


@functools.cache
def _problem(runtime: Any) -> str | None:
    available = runtime.get_available_providers()
    if PROVIDER not in available:
        return f"this ONNX Runtime has only {', '.join(available)}"
    problem = _preloaded(runtime)
    if problem is not None:
        return f"ONNX Runtime's CUDA provider does not load: {problem}"
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = runtime.InferenceSession(
            _trial(), options, providers=[(PROVIDER, settings())], enable_fallback=0
        )
        session.run(None, _trial_feeds())
    except Exception as error:  # ONNX Runtime has a class of exceptions for each of its status codes
        return f"ONNX Runtime's CUDA provider does not run: {' '.join(str(error).split())[:400]}"
    return None


def _trial() -> bytes:
    """A product (cuBLAS) and a convolution (cuDNN), both of which a working provider has to take."""
    import onnx

    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "m"], ["c"]),
        onnx.helper.make_node("Conv", ["c", "w"], ["y"]),
    ]
    inputs = [info(name, kind, array.shape) for name, array in _trial_feeds().items()]
    graph = onnx.helper.make_graph(nodes, "trial", inputs, [info("y", kind, [1, 4, 6, 6])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _trial_feeds() -> dict[str, Any]:
    shapes = {"x": (1, 4, 8, 8), "m": (8, 8), "w": (4, 4, 3, 3)}
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def _preloaded(runtime: Any) -> str | None:
    """Load CUDA's libraries from pip's packages, where they are; what still keeps the provider from loading.

    `preload_dlls` looks beside onnxruntime's own folder, and then where the system does. PyTorch's libraries
    may lie in another folder of `sys.path`.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        runtime.preload_dlls()
        problem = _load(runtime)
        if problem is not None:
            for folder in _library_folders():
                runtime.preload_dlls(directory=str(folder))
            problem = _load(runtime)
    return problem


def _library_folders() -> Iterator[Path]:
    found = importlib.util.find_spec("nvidia")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        for folder in sorted(Path(place).glob("*/lib")):
            if any(folder.glob("*.so*")):
                yield folder


def _load(runtime: Any) -> str | None:
    """What the linker says of the provider's library; None where it loads, or is not where Linux has it."""
    library = Path(runtime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.exists():
        return None
    try:
        ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None
