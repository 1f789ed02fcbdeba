"""VGG16 as far as `block5_pool`, saved as `.h5` and loaded again.

    converter convert keras:vgg16 --to block5_pool --targets onnx,h5 --weights auto

writes the same files.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("keras:vgg16", weights=weights)
    report = model.cut(to="block5_pool").save(folder, targets=["onnx", "h5"])
    print(report.status)  # both files were loaded again and compared with Keras, else this would have raised

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
