"""TensorFlow Lite models with weights in half precision: half the size, computed with in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.targets import tflite
from converter.targets.brief import Brief
from converter.targets.tflite import FRAMEWORK, reload

__all__ = ["FRAMEWORK", "PRECISION", "SUFFIX", "reload", "write"]

SUFFIX = ".fp16.tflite"
PRECISION = "float16"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:
    """Convert a `keras.Model`; returns the files made.

    Raises:
        TargetError: as for `tflite`.
    """
    return tflite.write(made, path, brief, precision=PRECISION)
