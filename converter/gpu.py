"""What an NVIDIA driver says of the GPU that CUDA takes first."""

from __future__ import annotations

import dataclasses
import os
import subprocess

__all__ = ["Gpu", "first_gpu"]

_FIELDS = "name,driver_version,memory.total,memory.free"
_MIB = 1 << 20
_SECONDS = 20  # a driver that hangs must not hang the run


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: its name (`NVIDIA H100 80GB HBM3`).
        driver: the driver's version.
        memory: bytes of device memory.
        free: bytes of it that nobody held when it was asked.
    """

    name: str
    driver: str
    memory: int
    free: int

    def __str__(self) -> str:
        return f"{self.name}, driver {self.driver}"


def first_gpu() -> Gpu | None:
    """The first GPU that programs see here (`CUDA_VISIBLE_DEVICES`); None where `nvidia-smi` knows none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if visible in ("", "-1", "NoDevFiles"):
        return None
    command = ["nvidia-smi", f"--id={visible}", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else parsed(done.stdout)


def parsed(text: str) -> Gpu | None:
    """The first line of `nvidia-smi --query-gpu=name,driver_version,memory.total,memory.free` in CSV, whose
    sizes are MiB; None where it has other fields, or sizes that the driver does not tell (`[N/A]`)."""
    parts = [part.strip() for part in text.strip().partition("\n")[0].rsplit(",", 3)]
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        return None
    return Gpu(parts[0], parts[1], int(parts[2]) * _MIB, int(parts[3]) * _MIB)
