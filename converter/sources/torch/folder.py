"""A folder that `save_pretrained` made, looked at before transformers opens it.

Its files: https://huggingface.co/docs/transformers/main_classes/model#transformers.PreTrainedModel.save_pretrained.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.sources.configs import dictionaries

__all__ = ["check_folder"]

_LONGEST = 32 << 20  # bytes of a JSON file
_MOST_LAYERS = 1 << 12  # the deepest models that are published have hundreds


def check_folder(folder: Path) -> None:
    """Refuse a folder with pipes in it, with weights named outside of it, or of endlessly many layers.

    Symbolic links are followed: caches of model hubs are made of them.

    Raises:
        SourceError: it is such a one.
    """
    for path in sorted(folder.iterdir()):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise SourceError(f"{path}: a link that leads nowhere: {error.strerror}") from error
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise SourceError(f"{path} is no regular file")
        if path.name.endswith(".index.json"):
            _check_index(path)
    if (folder / "config.json").is_file():
        _check_layers(folder / "config.json", _read(folder / "config.json"))


def _read(path: Path) -> Any:
    if path.stat().st_size > _LONGEST:
        raise SourceError(f"{path} has {path.stat().st_size:,} bytes, at most {_LONGEST:,} are read")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON that can be read: {error}") from error


def _check_index(path: Path) -> None:
    found = _read(path)
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict):
        raise SourceError(f"{path} has no weight_map")
    for name, place in places.items():
        if not isinstance(place, str) or Path(place).name != place or "\\" in place or place == "..":
            raise SourceError(f"{path}: the weight {name!r} lies outside of the folder: {place!r}")


def _check_layers(path: Path, config: Any) -> None:
    for item in dictionaries(config):
        for key, value in item.items():
            if "layers" in key and isinstance(value, (int, float)) and value > _MOST_LAYERS:
                raise SourceError(f"{path}: {key} is {value:,}, at most {_MOST_LAYERS:,} are built")
