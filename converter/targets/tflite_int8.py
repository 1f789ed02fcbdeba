"""TensorFlow Lite models in 8-bit integers, weights and activations; inputs and outputs stay float32.

The range of each activation is measured on the brief's calibration samples; weights have a scale per channel:
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.targets import tflite
from converter.targets.brief import Brief
from converter.targets.tflite import FRAMEWORK, reload

__all__ = ["FRAMEWORK", "PRECISION", "SUFFIX", "reload", "write"]

SUFFIX = ".int8.tflite"
PRECISION = "int8"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:
    """Convert a `keras.Model`; returns the files made.

    Raises:
        TargetError: as for `tflite`.
    """
    return tflite.write(made, path, brief, precision=PRECISION)
