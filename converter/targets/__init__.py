"""One module per artifact, the same verb in each: `write`."""

from types import ModuleType

from converter.targets import keras, onnx
from converter.targets.staging import staged

__all__ = ["TARGETS", "staged"]

TARGETS: dict[str, ModuleType] = {"onnx": onnx, "keras": keras}
