"""A TensorFlow Lite model loaded and run once, as a script in a process of its own.

    python -P tflite_probe.py FILE

exits with 0 where that goes well, and with 1 where the interpreter refuses. It does not check a file's
offsets and sizes before it follows them: a damaged file can end the process, which is better this one.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import numpy as np

__all__ = ["main", "probe"]


def probe(interpreter: Any) -> None:
    """Run the model on zeros, at the sizes that it was saved with."""
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    for detail in interpreter.get_output_details():
        interpreter.get_tensor(detail["index"])


def main() -> int:
    """Probe the file that the command line names, in at most half of the machine's memory."""
    if sys.platform != "win32":
        resource = importlib.import_module("resource")
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        resource.setrlimit(resource.RLIMIT_DATA, (half, half))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    lite = importlib.import_module("tensorflow").lite
    try:
        probe(lite.Interpreter(model_path=sys.argv[1]))
    except Exception:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
