"""Keras to ONNX: this converter beside tf2onnx and Keras's own export, each in a process of its own.

    python benchmarks/keras_export.py [MODEL…] [--runs N]

For each model the whole and the trunk at a middle layer. Time runs from the built Keras model to the file on
disk, without validation on any side; `validated` is this converter with its validation. Peak memory is
that of the whole process, TensorFlow and the model's weights included. Peers get the trunk as a native
Keras model, which is the way they can cut. Latency is ONNX Runtime's, CPU, batch 1, interleaved runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from exporters import peak_memory, run

MODELS = {
    "VGG16": (None, "block4_pool"),
    "ResNet50": (None, "conv4_block3_out"),
    "MobileNetV2": (None, "block_8_add"),
    "EfficientNetB0": (None, "block4c_add"),
    "DenseNet121": (None, "pool3_pool"),
}
EXPORTERS = ("converter", "validated", "tf2onnx", "keras.export")


def export(exporter: str, name: str, layer: str | None, path: Path) -> dict[str, Any]:
    """Build the model, export it once, and say how long that took; runs in the child."""
    from converter.sources.keras import backend
    from converter.sources.keras.applications import build_application

    keras = backend.keras()
    backend.tf2onnx()
    import converter.handles  # imports are no part of the measured time, on any side

    model = build_application(name, pretrained=False, seed=0)
    if exporter in ("tf2onnx", "keras.export") and layer:
        model = keras.Model(model.input, model.get_layer(layer).output)
    if exporter == "keras.export":
        model(keras.ops.zeros((1, *model.input.shape[1:])))  # it exports no model that was never called
    start = time.perf_counter()
    if exporter == "tf2onnx":
        _tf2onnx(model, path)
    elif exporter == "keras.export":
        model.export(str(path), format="onnx", verbose=False)
    else:
        cut = converter.handles.load(model).cut(**({"to": layer} if layer else {}))
        cut.save(path.parent / "out", validate=exporter == "validated")
        made = next((path.parent / "out").glob("*.onnx"))
    seconds = time.perf_counter() - start
    if exporter in ("converter", "validated"):
        made.rename(path)
    return {"seconds": seconds, "peak": peak_memory()}


def _tf2onnx(model: Any, path: Path) -> None:
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *model.input.shape[1:]), model.input.dtype, name="x")]
    model.output_names = ["output"]  # tf2onnx 1.17 asks Keras 3 for what it no longer has
    tf2onnx.convert.from_keras(model, input_signature=signature, opset=18, output_path=str(path))


if __name__ == "__main__":
    run(__file__, EXPORTERS, MODELS, export, __doc__ or "")
