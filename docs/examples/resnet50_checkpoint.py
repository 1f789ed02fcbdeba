"""ResNet50 as far as `conv5_block3_out`, through a TensorFlow checkpoint.

    converter convert keras:resnet50 --to conv5_block3_out --targets onnx,checkpoint --weights auto

writes the same files. A checkpoint holds the weights alone.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("keras:resnet50", weights=weights)
    model.cut(to="conv5_block3_out").save(folder, targets=["onnx", "checkpoint"])

    # The same trunk built anew, from Keras alone, with other weights until the checkpoint is restored.
    resnet50 = keras.applications.ResNet50(weights=None)
    anew = keras.Model(resnet50.input, resnet50.get_layer("conv5_block3_out").output)
    images = np.random.default_rng(0).uniform(-120, 150, (2, 224, 224, 3)).astype("float32")
    before = anew.predict(images, verbose=0)
    tf.train.Checkpoint(model=anew).restore(str(folder / "trunk.ckpt")).assert_consumed()
    features = anew.predict(images, verbose=0)
    assert not np.array_equal(features, before)

    original = model.native()
    wanted = keras.Model(original.input, original.get_layer("conv5_block3_out").output)
    assert features.shape == (2, 7, 7, 2048)
    assert np.array_equal(features, wanted.predict(images, verbose=0))


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/resnet50_checkpoint"), *sys.argv[2:])
