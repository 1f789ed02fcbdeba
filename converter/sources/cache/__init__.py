"""Exports kept between runs."""

from converter.sources.cache.cached import CachedSource
from converter.sources.cache.store import Entry, Store

__all__ = ["CachedSource", "Entry", "Store"]
