"""Where models come from: one package per framework, the same verbs in each."""

from converter.sources.digest import sha256_of, versions_of
from converter.sources.resolve import Opening, resolve

__all__ = ["Opening", "resolve", "sha256_of", "versions_of"]
