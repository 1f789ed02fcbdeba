"""One module per artifact, the same verb in each: `write`."""

from types import ModuleType

from converter.targets import keras, onnx, pt2, safetensors, state_dict
from converter.targets.staging import staged

__all__ = ["TARGETS", "staged"]

TARGETS: dict[str, ModuleType] = {
    "onnx": onnx,
    "keras": keras,
    "pt2": pt2,
    "state_dict": state_dict,
    "safetensors": safetensors,
}
