"""The first block of a small CNN removed, and the first two of another, with BatchNormalization.

    converter convert build/without_first_blocks/plain.keras --from block1_pool --targets onnx,keras
    converter convert build/without_first_blocks/normal.keras --from block2_pool --targets onnx,keras

A head starts after the layer that is named, and takes what that layer puts out.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
from keras import layers

import converter


def cnn(name: str, blocks: int, norm: bool) -> keras.Model:
    image = x = keras.Input((64, 64, 3), name="image")
    for n in range(1, blocks + 1):
        x = layers.Conv2D(8 * n, 3, padding="same", use_bias=not norm, name=f"block{n}_conv")(x)
        if norm:
            x = layers.BatchNormalization(name=f"block{n}_norm")(x)
        x = layers.ReLU(name=f"block{n}_relu")(x)
        x = layers.MaxPooling2D(name=f"block{n}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(4, activation="softmax", name="classes")(x), name=name)


def main(folder: Path, weights: str = "auto") -> None:
    del weights  # the files have their own
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype("float32")
    for model, last in (
        (cnn("plain", 3, norm=False), "block1_pool"),
        (cnn("normal", 4, norm=True), "block2_pool"),
    ):
        if model.name == "normal":  # let the statistics be others than the initial ones
            model.compile("sgd", "sparse_categorical_crossentropy")
            model.fit(images, np.arange(4), epochs=2, verbose=0)
        model.save(folder / f"{model.name}.keras")

        cut = converter.load(folder / f"{model.name}.keras").cut(from_=last)
        cut.save(folder / model.name, targets=["onnx", "keras"])

        # Fed with what Keras has at the cut, both heads put out what Keras has at the end.
        crossing = keras.Model(model.input, model.get_layer(last).output).predict(images, verbose=0)
        wanted = model.predict(images, verbose=0)
        head = keras.saving.load_model(folder / model.name / "head.keras")
        assert not any(layer.name in ("block1_conv", "block1_relu") for layer in head.layers)
        assert np.array_equal(head.predict(crossing, verbose=0), wanted)
        session = onnxruntime.InferenceSession(
            folder / model.name / "head.onnx", providers=["CPUExecutionProvider"]
        )
        (made,) = session.run(None, {session.get_inputs()[0].name: crossing})
        assert np.abs(made - wanted).max() < 1e-5


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/without_first_blocks"), *sys.argv[2:])
