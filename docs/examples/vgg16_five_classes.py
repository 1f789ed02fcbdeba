r"""VGG16 with five classes in the place of `predictions`, of which that layer alone is trained.

    converter convert keras:vgg16 --replace 'predictions=dense(5,softmax)' --train predictions \
      --targets keras --weights auto

writes `model.keras`, ready for `fit`. Without `--train` or `--freeze` all layers are trained.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("keras:vgg16", weights=weights)
    edited = model.edit(replace={"predictions": "dense(5,softmax)"}, train="predictions")
    vgg16, changed = model.native(), edited.native()

    rng = np.random.default_rng(0)
    images = rng.uniform(-120, 150, (8, 224, 224, 3)).astype("float32")
    changed.compile("adam", "sparse_categorical_crossentropy")
    before = [weight.numpy() for weight in changed.trainable_weights]
    changed.fit(images, rng.integers(0, 5, 8), batch_size=4, epochs=2, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    changed.save(folder / "model.keras")

    # The new layer has learned; every other one still computes what Keras's VGG16 does, bit for bit.
    new = changed.get_layer("predictions")
    assert changed.trainable_weights == new.trainable_weights
    assert not any(map(np.array_equal, [weight.numpy() for weight in new.weights], before))
    wanted = keras.Model(vgg16.input, vgg16.get_layer("fc2").output)
    features = keras.Model(changed.input, changed.get_layer("fc2").output)
    assert np.array_equal(features.predict(images, verbose=0), wanted.predict(images, verbose=0))
    assert changed.predict(images, verbose=0).shape == (8, 5)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/vgg16_five_classes"), *sys.argv[2:])
