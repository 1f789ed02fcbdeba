"""ResNet50 without its last two children, as a `state_dict` that loads into the original architecture.

    converter convert torchvision:resnet50 --to layer4 --targets onnx,state_dict --weights auto

writes `trunk.onnx` and `trunk.pth`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import converter


def main(folder: Path, weights: str = "auto") -> None:
    model = converter.load("torchvision:resnet50", weights=weights)
    model.cut(to="layer4").save(folder, targets=["onnx", "state_dict"])

    import torchvision  # after the package, which imports it beside a PyTorch of another build, too

    # The names are the original's, so the weights load into it; only the classifier's are not there.
    resnet50 = torchvision.models.resnet50()
    state = torch.load(folder / "trunk.pth", weights_only=True)
    missing, unexpected = resnet50.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    trunk = nn.Sequential(*list(resnet50.children())[:-2]).eval()

    # PyTorch's own trunk, of the model that was cut.
    wanted = nn.Sequential(*list(model.native().children())[:-2])
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = trunk(images)
        assert features.shape == (2, 2048, 7, 7)
        assert torch.equal(features, wanted(images))


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/resnet50_state_dict"), *sys.argv[2:])
