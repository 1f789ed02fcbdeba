"""PyTorch models as sources."""

from converter.sources.torch.exported import open_exported
from converter.sources.torch.files import open_factory, open_live, open_pickle
from converter.sources.torch.zoo import open_timm, open_torchvision, open_transformers

__all__ = [
    "open_exported",
    "open_factory",
    "open_live",
    "open_pickle",
    "open_timm",
    "open_torchvision",
    "open_transformers",
]
