"""Which framework a source belongs to, by its prefix, suffix or type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.model import Source

__all__ = ["resolve"]

_KERAS_FILES = (".keras", ".h5", ".hdf5")
_EXPECTED = "a source is keras:NAME, a .keras or .h5 file, or, in Python, a live keras.Model"


def resolve(
    source: str | Path | Any,
    *,
    weights: str = "pretrained",
    seed: int = 0,
    trust: bool = False,
    custom_objects: Path | None = None,
) -> Source:
    """Open a source.

    Args:
        source: `keras:NAME`, a bare name of a Keras application, a path, or a live model.
        weights: `pretrained`, `auto`, `random`, or the path of a weights file.
        seed: seed of random weights.
        trust: allow files to run code (Lambda layers, custom classes).
        custom_objects: a Python file with the custom classes of a model file; needs `trust`.

    Raises:
        SourceError: nothing of that name, or it cannot be opened.
    """
    if not isinstance(source, (str, Path)):
        return _live(source)
    text = str(source)
    prefix, colon, name = text.partition(":")
    path = Path(text)
    if path.suffix.casefold() in _KERAS_FILES:
        from converter.sources.keras import open_keras_file

        return open_keras_file(path, weights=weights, seed=seed, trust=trust, custom_objects=custom_objects)
    if trust or custom_objects is not None:
        raise SourceError(f"{text!r} is no model file: there is nothing in it to trust")
    if colon and prefix != "keras":
        raise SourceError(f"no kind of source is called {prefix!r}", hint=_EXPECTED)
    if not colon and (path.suffix or len(path.parts) > 1):
        raise SourceError(f"{text!r} is not a kind of file that can be a source", hint=_EXPECTED)
    from converter.sources.keras import open_application

    return open_application(name if colon else text, weights=weights, seed=seed)


def _live(model: Any) -> Source:
    if any(base.__module__.partition(".")[0] == "keras" for base in type(model).__mro__):
        from converter.sources.keras import open_live

        return open_live(model)
    raise SourceError(f"got a {type(model).__module__}.{type(model).__name__}", hint=_EXPECTED)
