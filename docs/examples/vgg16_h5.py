"""VGG16 as far as `block5_pool`, saved as `.h5` and loaded again.

    converter convert keras:vgg16 --to block5_pool --targets onnx,keras --weights auto

writes the same trunk as `.onnx` and `.keras`; the last step, to `.h5`, is Keras's own.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("keras:vgg16", weights=weights)
    report = model.cut(to="block5_pool").save(folder, targets=["onnx", "keras"])
    print(report.status)  # the pieces were compared with Keras, else this would have raised

    trunk = keras.saving.load_model(folder / "trunk.keras")
    trunk.save(folder / "trunk.h5")
    loaded = keras.saving.load_model(folder / "trunk.h5", compile=False)

    # Keras's own way to the same features.
    vgg16 = model.native()
    wanted = keras.Model(vgg16.input, vgg16.get_layer("block5_pool").output)
    images = np.random.default_rng(0).uniform(-120, 150, (2, 224, 224, 3)).astype("float32")
    features = loaded.predict(images, verbose=0)
    assert features.shape == (2, 7, 7, 512)
    assert np.array_equal(features, wanted.predict(images, verbose=0))


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/vgg16_h5"), *sys.argv[2:])
