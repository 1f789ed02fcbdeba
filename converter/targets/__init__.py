"""One module per artifact, the same verbs in each: `write`, and `reload` from what was written.

`FRAMEWORK` says what an artifact is made of: a finished ONNX file, or a model of Keras or PyTorch.
"""

from types import ModuleType

from converter.targets import (
    checkpoint,
    coreml,
    h5,
    keras,
    onnx,
    openvino,
    ort,
    pt2,
    safetensors,
    savedmodel,
    state_dict,
    tensorrt,
    tflite,
    tflite_fp16,
    tflite_int8,
    torch,
)
from converter.targets.brief import Brief, Run
from converter.targets.staging import expect_writable, staged

__all__ = ["TARGETS", "Brief", "Run", "expect_writable", "staged"]

TARGETS: dict[str, ModuleType] = {
    "onnx": onnx,
    "ort": ort,
    "openvino": openvino,
    "tensorrt": tensorrt,
    "keras": keras,
    "h5": h5,
    "savedmodel": savedmodel,
    "checkpoint": checkpoint,
    "tflite": tflite,
    "tflite-fp16": tflite_fp16,
    "tflite-int8": tflite_int8,
    "pt2": pt2,
    "state_dict": state_dict,
    "safetensors": safetensors,
    "torch": torch,
    "coreml": coreml,
}
