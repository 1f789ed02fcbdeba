"""TensorFlow Lite's converter, run as a script in a process of its own by `converter.targets.tflite`.

    python -P tflite_child.py FOLDER float32|float16|int8

reads the SavedModel `FOLDER/frozen` and the samples `FOLDER/calibration-*.npz`, and writes
`FOLDER/model.tflite`, or `FOLDER/error.txt` and exits with 1.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["convert"]


def convert(folder: Path, precision: str) -> bytes:
    """The model in the folder as a flatbuffer."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = importlib.import_module("tensorflow")
    converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(folder / "frozen"))
    if precision != "float32":
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tensorflow.float16]
    if precision == "int8":
        converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: samples(folder)
    return bytes(converter.convert())


def samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The inputs to measure the range of values on, by the name of the argument."""
    for file in sorted(folder.glob("calibration-*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            yield dict(arrays)


def main() -> int:
    """Convert what the command line names."""
    folder, precision = Path(sys.argv[1]), sys.argv[2]
    try:
        (folder / "model.tflite").write_bytes(convert(folder, precision))
    except Exception as error:
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
