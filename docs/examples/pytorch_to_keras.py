r"""A trunk of PyTorch's ResNet18 in Keras, and from there for TensorFlow and TensorFlow Lite.

    converter convert torchvision:resnet18 --to layer2 --targets keras,savedmodel,tflite \
      --layout native --weights auto

writes the same files.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import torch

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("torchvision:resnet18", weights=weights)
    # In Keras's layout: NHWC in, NHWC out, no transpose anywhere. `source` keeps PyTorch's at both ends.
    model.cut(to="layer2").save(folder, targets=["keras", "savedmodel", "tflite"], layout="native")

    trunk = keras.saving.load_model(folder / "trunk.keras")
    assert isinstance(trunk.get_layer("layer2.0.conv1"), keras.layers.Conv2D)

    resnet18 = model.native()
    wanted = torch.nn.Sequential(*list(resnet18.children())[:6]).eval()
    images = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype("float32")
    with torch.no_grad():
        reference = wanted(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy()
    features = trunk.predict(images.transpose(0, 2, 3, 1), verbose=0)
    assert np.abs(features - reference).max() <= 1e-4 * np.abs(reference).max()

    # It trains.
    network = keras.Sequential([trunk, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)])
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = trunk.get_layer("layer2.0.conv1").kernel.numpy()
    network.fit(images.transpose(0, 2, 3, 1), np.array([0, 1]), verbose=0)
    assert not np.array_equal(trunk.get_layer("layer2.0.conv1").kernel.numpy(), before)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/pytorch_to_keras"), *sys.argv[2:])
