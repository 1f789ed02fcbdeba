"""ResNet18 with its first ten parameters frozen, trained for a step.

    converter convert torchvision:resnet18 --freeze first:10 --targets onnx,pt2 --weights auto

writes `model.onnx` and `model.pt2`, whose `.module()` knows what is frozen.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("torchvision:resnet18", weights=weights)
    edited = model.edit(freeze="first:10")
    edited.cut().save(folder, targets=["onnx"])

    resnet, original = edited.native().train(), model.native()
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(resnet.parameters(), lr=0.01)
    nn.functional.cross_entropy(resnet(images), labels).backward()
    optimizer.step()

    # In the order in which PyTorch itself lists the parameters of the model that was loaded.
    pairs = list(zip(resnet.parameters(), original.parameters(), strict=True))
    assert len(pairs) == 62
    assert all(torch.equal(trained, before) for trained, before in pairs[:10])
    assert not any(torch.equal(trained, before) for trained, before in pairs[10:])
    # BatchNorm whose weights are frozen keeps its statistics, too, in training mode.
    assert torch.equal(resnet.bn1.running_mean, original.bn1.running_mean)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/freeze_first_ten"), *sys.argv[2:])
