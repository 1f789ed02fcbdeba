"""Where models come from: one package per framework, the same verbs in each."""

from converter.sources.cache import Store
from converter.sources.digest import versions_of
from converter.sources.resolve import Opening, resolve

__all__ = ["Opening", "Store", "resolve", "versions_of"]
