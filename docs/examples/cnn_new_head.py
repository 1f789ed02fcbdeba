r"""A CNN of one's own, from a file: `final_output` taken off, the rest frozen, two new layers trained.

    converter convert build/cnn_new_head/cnn.keras --to pool \
      --head 'flatten,dense(128,relu),dense(2,softmax)' --freeze '*' --targets onnx,keras

writes `model.onnx` and `model.keras`, of which Keras trains the new layers alone.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

import converter


def cnn() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((32, 32, 3), name="image"),
            layers.Conv2D(8, 3, activation="relu", name="conv1"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(16, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(4, name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, activation="softmax", name="final_output"),
        ],
        name="cnn",
    )


def main(folder: Path, weights: str = "auto") -> None:
    del weights  # the file has its own
    folder.mkdir(parents=True, exist_ok=True)
    cnn().save(folder / "cnn.keras")

    model = converter.load(folder / "cnn.keras")
    # `freeze` speaks of the model as it was: what the head brings is trained.
    edited = model.edit(to="pool", head="flatten,dense(128,relu),dense(2,softmax)", freeze="*")
    edited.cut().save(folder, targets=["onnx", "keras"])

    changed = keras.saving.load_model(folder / "model.keras")
    before = {weight.path: weight.numpy() for weight in changed.weights}
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(32, 32, 32, 3)), rng.integers(0, 2, 32)
    changed.compile("adam", "sparse_categorical_crossentropy")
    changed.fit(images, labels, batch_size=8, epochs=2, verbose=0)

    # What the file had is there bit for bit, statistics of BatchNormalization included; the head has learned.
    original = {
        weight.path: weight.numpy() for weight in keras.saving.load_model(folder / "cnn.keras").weights
    }
    after = {weight.path: weight.numpy() for weight in changed.weights}
    kept = [path for path in after if path in original]
    assert len(kept) == 8
    assert all(np.array_equal(after[path], original[path]) for path in kept)
    new = [path for path in after if path not in original]
    assert len(new) == 4
    assert not any(np.array_equal(after[path], before[path]) for path in new)
    assert changed.predict(images, verbose=0).shape == (32, 2)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/cnn_new_head"), *sys.argv[2:])
