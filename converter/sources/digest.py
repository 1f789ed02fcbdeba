"""What a result depends on: digests of files and of code, versions of packages."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["digest_of", "sha256_of", "user_code", "versions_of"]


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, read in chunks, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """`sha256:` and the digest of a file."""
    return f"sha256:{digest_of(path)}"


def user_code() -> str:
    """The digest of every loaded Python file that is no installed package's, nor this one's, and of the
    versions of what is installed: what a user's own function may make a model of."""
    paths = sysconfig.get_paths()
    installed = [Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed.append(Path(__file__).resolve().parents[1])
    files = set()
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if name is not None and Path(name).suffix == ".py":
            path = Path(name).resolve()
            if not any(path.is_relative_to(folder) for folder in installed):
                files.add(path)
    digests = sorted(sha256_of(path) for path in files if path.is_file())
    digests += sorted(path.name for folder in installed[2:4] for path in folder.glob("*.dist-info"))
    return f"code:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """The versions of those of these packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
