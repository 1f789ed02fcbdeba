"""Where models come from: one package per framework, the same verbs in each."""

from converter.sources.digest import digest_of, sha256_of, versions_of
from converter.sources.resolve import Opening, is_file, resolve
from converter.sources.steady import unchanging

__all__ = ["Opening", "digest_of", "is_file", "resolve", "sha256_of", "unchanging", "versions_of"]
