"""Where ONNX Runtime runs: what was asked for, what there is, and why it was taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from converter.cuda import cuda_facts, cuda_problem, expect_cuda
from converter.errors import UsageError
from converter.runtime import PROVIDERS, onnxruntime

__all__ = ["Device", "device_for", "expect_device", "provider_for"]


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """Where ONNX Runtime runs, and why there.

    Attributes:
        asked: `auto`, `cpu` or `cuda`.
        provider: the execution provider.
        why: what decided it.
        facts: of a GPU: `gpu`, `driver`, `memory` and `memory_limit` in bytes, and the version of CUDA that
            ONNX Runtime is built with; those that could be had.
    """

    asked: str
    provider: str
    why: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        on = f" on {self.facts['gpu']}" if "gpu" in self.facts else ""
        return f"{self.provider}{on}" + (f" (auto: {self.why})" if self.asked == "auto" else "")

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"asked": self.asked, "provider": self.provider, "why": self.why, **self.facts}


def expect_device(device: str) -> None:
    """Refuse what is no device.

    Raises:
        UsageError: neither `auto`, `cpu` nor `cuda`.
    """
    if device not in ("auto", *PROVIDERS):
        raise UsageError(f"device {device!r}: expected auto, cpu or cuda")


def device_for(device: str) -> Device:
    """Where to run for `auto`, `cpu` or `cuda`; `auto` takes CUDA where a trial runs on it.

    Raises:
        UsageError: an unknown device.
        ValidationError: `cuda` was asked for and does not compute here; it says why.
    """
    expect_device(device)
    runtime = onnxruntime()
    if device == "cpu":
        return Device(device, PROVIDERS["cpu"], "asked for")
    if device == "auto":
        problem = cuda_problem(runtime)
        if problem is not None:
            return Device(device, PROVIDERS["cpu"], problem)
    expect_cuda(runtime)
    why = "asked for" if device == "cuda" else "a product and a convolution ran on CUDA"
    return Device(device, PROVIDERS["cuda"], why, cuda_facts(runtime))


def provider_for(device: str) -> str:
    """The execution provider for `auto`, `cpu` or `cuda`.

    Raises:
        UsageError, ValidationError: as of `device_for`.
    """
    return device_for(device).provider
