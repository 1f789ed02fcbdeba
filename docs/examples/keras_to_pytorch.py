"""A trunk of Keras's MobileNetV2 as a PyTorch module that a PyTorch user would have written.

    converter convert keras:mobilenetv2 --to block_8_add --targets onnx,torch --layout native --weights auto

writes the same files: `trunk.py`, which needs PyTorch alone, and `trunk.safetensors`.
"""

import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
import torch

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("keras:mobilenetv2", weights=weights)
    # In PyTorch's layout: NCHW in, NCHW out. `source` keeps Keras's at both ends.
    model.cut(to="block_8_add").save(folder, targets=["onnx", "torch"], layout="native")

    spec = importlib.util.spec_from_file_location("trunk", folder / "trunk.py")
    assert spec is not None
    assert spec.loader is not None
    text = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(text)
    trunk = text.load()
    assert "block_8_depthwise.weight" in trunk.state_dict()

    original = model.native()
    wanted = keras.Model(original.input, original.get_layer("block_8_add").output)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    with torch.no_grad():
        features = trunk(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    reference = wanted.predict(images, verbose=0)
    assert np.abs(features - reference).max() <= 1e-4 * np.abs(reference).max()

    # It trains.
    head = torch.nn.Linear(features.shape[-1], 5)
    optimizer = torch.optim.SGD([*trunk.parameters(), *head.parameters()], lr=0.01)
    before = trunk.block_8_depthwise.weight.detach().clone()
    scores = head(trunk(torch.from_numpy(images).permute(0, 3, 1, 2)).mean((2, 3)))
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1])).backward()
    optimizer.step()
    assert not torch.equal(trunk.block_8_depthwise.weight, before)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/keras_to_pytorch"), *sys.argv[2:])
