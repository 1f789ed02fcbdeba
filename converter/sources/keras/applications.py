"""The models of `keras.applications`, by name."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from converter.errors import SourceError, UnknownModelError
from converter.sources.keras import backend
from converter.sources.keras.initial import keep_signal, seeded

__all__ = ["application_names", "build_application", "fresh_names", "value_range"]

# What each family's `preprocess_input` (or, where preprocessing is inside the model, an image) yields.
# Source: keras.src.applications.imagenet_utils, modes "caffe", "tf" and "torch".
_CAFFE, _TF, _TORCH, _IMAGE = (-123.68, 151.061), (-1.0, 1.0), (-2.1179, 2.64), (0.0, 255.0)
_RANGES: tuple[tuple[str, tuple[float, float]], ...] = (
    ("vgg", _CAFFE),
    ("resnet50v2", _TF),
    ("resnet101v2", _TF),
    ("resnet152v2", _TF),
    ("resnet", _CAFFE),
    ("mobilenetv3", _IMAGE),
    ("mobilenet", _TF),
    ("inception", _TF),
    ("xception", _TF),
    ("nasnet", _TF),
    ("densenet", _TORCH),
    ("efficientnet", _IMAGE),
    ("convnext", _IMAGE),
)


def _builders() -> dict[str, Callable[..., Any]]:
    applications = backend.keras().applications
    names = [name for name in dir(applications) if name[0].isupper()]
    return {name.casefold(): getattr(applications, name) for name in names}


def application_names() -> list[str]:
    """Every model of `keras.applications`, in lower case."""
    return sorted(_builders())


def value_range(name: str) -> tuple[float, float]:
    """The range of the values that the application takes."""
    return next((r for prefix, r in _RANGES if name.startswith(prefix)), (-1.0, 1.0))


def build_application(name: str, *, pretrained: bool, seed: int) -> Any:
    """Build an application with its ImageNet weights, or with seeded initial ones.

    Raises:
        SourceError: no such application, or its weights are neither cached nor to be downloaded.
    """
    builders = _builders()
    builder = builders.get(name.casefold())
    if builder is None:
        near = difflib.get_close_matches(name.casefold(), builders, n=4, cutoff=0.4)
        raise UnknownModelError(
            f"keras.applications has no model {name!r}",
            hint=f"the nearest names are {', '.join(near or sorted(builders))}",
        )
    if not pretrained:
        with fresh_names(), seeded(seed):
            model = builder(weights=None)
        keep_signal(model, seed, value_range(name.casefold()))
        return model
    try:
        # Keras draws a progress bar on stdout, which is for the report.
        with fresh_names(), contextlib.redirect_stdout(sys.stderr):
            return builder(weights="imagenet")
    except Exception as error:
        raise SourceError(
            f"the pretrained weights of {name} are not in Keras's cache "
            f"and cannot be downloaded: {_first_line(error)}",
            hint="--weights FILE takes weights from a file, --weights random seeded initial ones; "
            "--weights auto falls back to initial ones and marks everything UNTRAINED",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


@contextlib.contextmanager
def fresh_names() -> Iterator[None]:
    """Count automatic layer names from zero inside the block, and go on as before after it.

    Keras counts them per process: without this the second model of a process would get other
    layer names than the first one does, and its ONNX file other bytes.
    """
    state = backend.keras().src.backend.common.global_state
    before = state.get_global_attribute("object_name_uids")
    state.set_global_attribute("object_name_uids", None)
    try:
        yield
    finally:
        state.set_global_attribute("object_name_uids", before)
