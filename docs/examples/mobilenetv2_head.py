"""MobileNetV2 from `block_1_expand_relu` on.

    converter convert keras:mobilenetv2 --from block_1_expand_relu --targets onnx,keras --weights auto

writes `head.onnx` and `head.keras`.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("keras:mobilenetv2", weights=weights)
    model.cut(from_="block_1_expand_relu").save(folder, targets=["onnx", "keras"])

    # Keras's own activations at the cut, and what it makes of them.
    mobilenet = model.native()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    crossing = keras.Model(mobilenet.input, mobilenet.get_layer("block_1_expand_relu").output)
    given, wanted = crossing.predict(images, verbose=0), mobilenet.predict(images, verbose=0)

    head = keras.saving.load_model(folder / "head.keras")
    assert head.input_shape == (None, 112, 112, 96)
    assert np.array_equal(head.predict(given, verbose=0), wanted)
    session = onnxruntime.InferenceSession(folder / "head.onnx", providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {session.get_inputs()[0].name: given})
    assert np.abs(made - wanted).max() < 1e-4 * wanted.max()


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/mobilenetv2_head"), *sys.argv[2:])
