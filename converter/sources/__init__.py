"""Where models come from: one package per framework, the same verbs in each."""

from converter.sources.resolve import Opening, resolve

__all__ = ["Opening", "resolve"]
