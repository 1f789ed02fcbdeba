r"""A PyTorch `nn.Sequential` without its last two modules, and with a new linear layer.

    converter convert docs/examples/sequential_new_head.py:net --example 1x3x32x32 \
      --to 8 --head 'dense(5)' --targets onnx,pt2
"""

import sys
from pathlib import Path

import torch
from torch import nn

import converter


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
    )


def main(folder: Path, weights: str = "auto") -> None:
    del weights  # a live model has its own
    torch.manual_seed(0)
    model, new = net().eval(), nn.Linear(32, 5)
    edited = converter.load(model, example=torch.zeros(1, 3, 32, 32)).edit(to="8", head=new)
    edited.cut().save(folder, targets=["onnx", "pt2"])

    # PyTorch's own way to the same model.
    wanted = nn.Sequential(*list(model.children())[:-2], new)
    changed = edited.native()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(changed(images), wanted(images))
        program = torch.export.load(folder / "model.pt2").module()
        assert torch.allclose(program(images), wanted(images), atol=1e-6)

    # It trains, from end to end.
    changed.train()
    optimizer = torch.optim.SGD(changed.parameters(), lr=0.1)
    before = {name: weight.detach().clone() for name, weight in changed.named_parameters()}
    nn.functional.cross_entropy(changed(images), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    assert len(before) == 10
    assert not any(torch.equal(weight, before[name]) for name, weight in changed.named_parameters())


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/sequential_new_head"), *sys.argv[2:])
