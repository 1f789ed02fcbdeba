"""Functions that users name as `file.py:function`. Their file is run: it is their own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converter.errors import SourceError

__all__ = ["function_of"]


def function_of(place: str) -> Callable[..., Any]:
    """The function that `file.py:name` names; what it raises comes as a SourceError that says where.

    Raises:
        SourceError: no such file or function, or the file fails when it is run.
    """
    text, _, name = place.rpartition(":")
    path = Path(text)
    if not path.is_file():
        raise SourceError(f"no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(f"converter_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    _guarded(place, path, spec.loader.exec_module, module)
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise SourceError(f"{path} has no function {name!r}", hint=f"it has {', '.join(names)}")
    return lambda *args: _guarded(place, path, function, *args)


def _guarded(place: str, path: Path, function: Callable[..., Any], *args: Any) -> Any:
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # as Python does for a script
    try:
        return function(*args)
    except (Exception, SystemExit) as error:  # a script that ends here would pass for a run that succeeded
        raise SourceError(f"{place} fails: {type(error).__name__}: {error}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
