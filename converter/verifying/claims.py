"""What is claimed of an artifact: inside of it, and in the report.json beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from converter.errors import SourceError, UsageError, ValidationError
from converter.recording import Record, Seal, parsed, read_seal
from converter.sources import digest_of

__all__ = ["Claim", "claims_of"]

_REPORT = "report.json"
_LARGEST_REPORT = 1 << 26
# Suffixes of files and folders that are run by themselves, of artifacts of several files.
_MAIN = (".onnx", ".ort", ".xml", ".keras", ".h5", ".tflite", ".pt2", ".py", ".engine", ".mlpackage")


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is claimed of one artifact.

    Attributes:
        path: what is opened to run it; a weights file where there is nothing to run.
        kind: the kind of artifact, `onnx` where nobody says.
        role: `trunk`, `head`, `segment` or `model`.
        validation: how it was proven, in words.
        source: where the model comes from, in words.
        weights: what its weights are.
        cut: `to`, `from`, `split`, `frontier`.
        around: what stands around the piece.
        edited: whether the model was changed before it was cut.
        versions: of what made it.
        record: its answers on seeded samples.
        turned: input or output whose axes are in another order than those of the record → the permutation.
        digests: file → SHA-256 by the report.
        seal: what the file itself says; None of artifacts that have no place for it, and where it has none.
        unread: why the report beside it, which may speak of it, cannot be read.
    """

    path: Path
    kind: str
    role: str
    validation: str
    source: str
    weights: str
    cut: Mapping[str, Any]
    around: Mapping[str, Any]
    edited: bool
    versions: Mapping[str, str]
    record: Record | None
    turned: Mapping[str, tuple[int, ...]]
    digests: Mapping[Path, str]
    seal: Seal | None
    unread: str = ""

    def problems(self) -> list[str]:
        """What is not as it was written."""
        found = [] if self.seal is None else list(self.seal.problems)
        for path, wanted in self.digests.items():
            if not path.is_file():
                found.append(f"{path.name} is not there")
            elif digest_of(path) != wanted:
                found.append(f"{path.name} has other bytes than the report says")
        return found


def claims_of(path: Path) -> list[Claim]:
    """The claims about an artifact; of a folder with a report, about every artifact in it.

    Raises:
        UsageError: nothing of the kind is there.
        SourceError: a report or a certificate that cannot be read.
        ValidationError: nothing is claimed: no certificate inside, no report beside.
    """
    if not path.exists():
        raise UsageError(f"no file or folder {str(path)!r}")
    if path.name in (_REPORT, "report.html"):
        path = path.parent
    problem: SourceError | None = None
    try:
        own = _of_reports(path)
    except SourceError as error:
        if path.is_dir():
            raise
        own, problem = [], error  # a file with a seal speaks for itself
    own = own or _of_seals(path, "" if problem is None else problem.message)
    if own:
        return own
    raise problem or ValidationError(
        f"{path} has no certificate: no seal inside of it, and no {_REPORT} beside it speaks of it",
        hint="files of --no-validate have none; converter compare holds two artifacts together",
    )


def _of_seals(path: Path, unread: str) -> list[Claim]:
    """What ONNX files say of themselves: a file, or those of a folder."""
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    seals = [(file, read_seal(file)) for file in files if file.suffix.casefold() == ".onnx"]
    return [_sealed(file, seal, unread) for file, seal in seals if seal is not None]


def _of_reports(path: Path) -> list[Claim]:
    """What the report of a folder says, the one beside a file, or beside an artifact that is a folder.

    Raises:
        SourceError: it cannot be read.
    """
    if (path / _REPORT).is_file():
        return _reported(_read(path / _REPORT), path)
    if not (path.parent / _REPORT).is_file():
        return []
    return [claim for claim in _reported(_read(path.parent / _REPORT), path.parent) if _is_of(claim, path)]


def _is_of(claim: Claim, path: Path) -> bool:
    real = path.resolve()
    return claim.path.resolve() == real or any(file.resolve() == real for file in claim.digests)


def _sealed(path: Path, seal: Seal, unread: str) -> Claim:
    """What a file says of itself, where no report speaks of it."""
    facts = seal.facts
    return Claim(
        path,
        "onnx",
        seal.role,
        facts.get("converter.validation", ""),
        facts.get("converter.source", ""),
        facts.get("converter.weights", ""),
        parsed(facts.get("converter.cut", "{}")),
        parsed(facts.get("converter.around", "{}")),
        "converter.edits" in facts,
        {name: str(v) for name, v in parsed(facts.get("converter.versions", "{}")).items()},
        seal.record,
        {},
        {},
        seal,
        unread,
    )


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_REPORT:
        raise SourceError(f"{path} has {path.stat().st_size / 1e6:.0f} MB, which no report has")
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SourceError) as error:
        raise SourceError(
            f"{path} cannot be read: {error}", hint="an .onnx file alone, elsewhere, is verified by itself"
        ) from error


def _reported(report: Mapping[str, Any], folder: Path) -> list[Claim]:
    """A claim for each artifact of a report."""
    try:
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for target in report["targets"]:
            groups.setdefault((str(target["kind"]), str(target["piece"])), []).append(target)
        return [_of_report(report, folder, key, files) for key, files in groups.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{folder / _REPORT} is no report of this package: {error!r}") from error


def _of_report(
    report: Mapping[str, Any], folder: Path, key: tuple[str, str], files: Sequence[Mapping[str, Any]]
) -> Claim:
    kind, role = key
    paths = [_inside(folder, str(file["path"])) for file in files]
    main = _main(folder, paths)
    piece = next(piece for piece in report["pieces"] if piece["name"] == role)
    validation, source = report["validation"], report["source"]
    samples = next((file["samples"] for file in files if "samples" in file), piece.get("samples"))
    around = dict(report.get("around", {}))
    turned = {str(n): tuple(map(int, perm)) for n, perm in files[0].get("turned", {}).items()}
    return Claim(
        main,
        kind,
        role,
        _words(validation, source["kind"]),
        f"{source['kind']}:{source['name']}",
        f"{source['weights']}{'' if source['trained'] else ' UNTRAINED'}",
        dict(report["cut"]),
        around,
        "edits" in report,
        {str(name): str(version) for name, version in report["versions"].items()},
        None if samples is None else Record.from_dict(samples),
        {} if kind == "onnx" or around.get("layout") else turned,
        {path: str(file["sha256"]) for path, file in zip(paths, files, strict=True) if "sha256" in file},
        read_seal(main) if kind == "onnx" and main.is_file() else None,
    )


def _words(validation: Mapping[str, Any], framework: str) -> str:
    """How a report says that an artifact was proven, as the metadata of files say it."""
    status = str(validation["status"])
    return f"{status}: {validation['provider']} against {framework}" if "provider" in validation else status


def _main(folder: Path, paths: Sequence[Path]) -> Path:
    """What is opened of an artifact's files: the one with the graph, or the folder that they are in."""
    inner = {path.relative_to(folder).parts for path in paths}
    if all(len(parts) > 1 for parts in inner):
        return folder / next(iter(inner))[0]
    return next((path for path in paths if path.suffix in _MAIN), paths[0])


def _inside(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise SourceError(f"{folder / _REPORT} speaks of {name!r}, which is outside of its folder")
    return folder.joinpath(*parts)
