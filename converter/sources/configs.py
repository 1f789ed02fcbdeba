"""Configs of models as their files have them: dictionaries and lists within one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["dictionaries"]


def dictionaries(config: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in a config, however deep: nothing is called again for what lies within."""
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            yield item
            stack.extend(item.values())
