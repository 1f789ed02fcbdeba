"""Cut pretrained models at layers named as their authors named them, prove the pieces, hand them on.

    >>> import converter
    >>> model = converter.load("keras:vgg16", weights="auto")
    >>> cut = model.cut(to="block5_pool")
    >>> cut.validate().passed
    True
    >>> cut.save("build/vgg16-block5_pool", targets=["onnx", "keras"])

No framework is imported before a source that needs it is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.errors import (
    ConverterError,
    CutError,
    SourceError,
    TargetError,
    UsageError,
    ValidationError,
)

if TYPE_CHECKING:
    from converter.handles import Cut, Model, load, verify
    from converter.precision import Precision

__all__ = [
    "ConverterError",
    "Cut",
    "CutError",
    "Model",
    "Precision",
    "SourceError",
    "TargetError",
    "UsageError",
    "ValidationError",
    "load",
    "verify",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # NumPy, ONNX and the optimisers take half a second to import: `converter --help` can do without.
    if name in ("Cut", "Model", "load", "verify"):
        from converter import handles

        return getattr(handles, name)
    if name == "Precision":
        from converter.precision import Precision

        return Precision
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
