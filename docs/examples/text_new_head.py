r"""A text model of Embedding, two LSTMs and Dense, from a file: its last layer gone, two new ones trained.

    converter convert build/text_new_head/text.keras --to lstm2 \
      --head 'dense(64,relu),dense(3,softmax)' --freeze '*' --targets onnx,keras
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

import converter


def text() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((20,), dtype="int32", name="tokens"),
            layers.Embedding(500, 16, name="embedding"),
            layers.LSTM(24, return_sequences=True, name="lstm1"),
            layers.LSTM(24, name="lstm2"),
            layers.Dense(2, activation="softmax", name="sentiment"),
        ],
        name="text",
    )


def main(folder: Path, weights: str = "auto") -> None:
    del weights  # the file has its own
    folder.mkdir(parents=True, exist_ok=True)
    text().save(folder / "text.keras")

    model = converter.load(folder / "text.keras")
    edited = model.edit(to="lstm2", head="dense(64,relu),dense(3,softmax)", freeze="*")
    edited.cut().save(folder, targets=["onnx", "keras"])

    changed = keras.saving.load_model(folder / "model.keras")
    before = [weight.numpy() for weight in changed.trainable_weights]
    rng = np.random.default_rng(0)
    tokens, labels = rng.integers(0, 500, (32, 20)), rng.integers(0, 3, 32)
    changed.compile("adam", "sparse_categorical_crossentropy")
    changed.fit(tokens, labels, batch_size=8, epochs=2, verbose=0)

    # The frozen layers put out, bit for bit, what they do in the file; the head has learned.
    original = keras.saving.load_model(folder / "text.keras")
    wanted = keras.Model(original.inputs, original.get_layer("lstm2").output)
    trunk = keras.Model(changed.inputs, changed.get_layer("lstm2").output)
    assert np.array_equal(trunk.predict(tokens, verbose=0), wanted.predict(tokens, verbose=0))
    assert len(before) == 4
    assert not any(map(np.array_equal, [w.numpy() for w in changed.trainable_weights], before))
    assert changed.predict(tokens, verbose=0).shape == (32, 3)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/text_new_head"), *sys.argv[2:])
