"""Verifying: the bytes, the versions, the recorded answers run again, and the source where it is at hand."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.comparing import Asked, Means, open_artifact, seen_as
from converter.dressing import Dress
from converter.errors import ConverterError, CutError, SourceError, UsageError, ValidationError
from converter.imaging import Postprocess, Preprocess
from converter.model import Source, TensorSpec
from converter.pipeline import cut_out
from converter.proving import Proof
from converter.recording import Match, Record
from converter.report import Timings, counted
from converter.request import Request
from converter.targets.artifact import Artifact
from converter.targets.brief import Run
from converter.validation import Comparison
from converter.verifying.claims import Claim

__all__ = ["Check", "Verification", "expect_passed", "seed_of", "verify"]

Progress = Callable[[str, str], None]
# Kinds of which nothing but their own claim says what they compute in; of others it is read off them.
_SILENT = ("ort", "coreml")


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        artifact: the file's name.
        what: `bytes`, `proof`, `versions`, `samples` or `source`.
        passed: None where it could not be looked at, or says nothing by itself.
        detail: what was found.
    """

    artifact: str
    what: str
    passed: bool | None
    detail: str


@dataclasses.dataclass(frozen=True, repr=False)
class Verification:
    """How artifacts came out.

    Attributes:
        path: what was asked about.
        claims: what is claimed of each artifact.
        checks: everything that was looked at.
        matches: (artifact's name, output on the recorded samples).
        comparisons: outputs against the source, where it was given.
    """

    path: Path
    claims: tuple[Claim, ...]
    checks: tuple[Check, ...]
    matches: tuple[tuple[str, Match], ...]
    comparisons: tuple[Comparison, ...]

    def __repr__(self) -> str:
        bad = f", {counted(len(self.failures), 'check')} failed" if self.failures else ""
        verdict = "verified" if self.passed else "NOT VERIFIED"
        return f"<Verification of {self.path}: {verdict}, {counted(len(self.checks), 'check')}{bad}>"

    @property
    def failures(self) -> tuple[Check, ...]:
        """What did not pass."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def passed(self) -> bool:
        """Whether bytes or values of every artifact were checked, and nothing failed."""
        looked = {check.artifact for check in self.checks if check.passed and check.what != "proof"}
        return not self.failures and all(claim.path.name in looked for claim in self.claims)


def verify(
    path: Path,
    claims: Sequence[Claim],
    means: Means,
    *,
    progress: Progress,
    against: Source | None = None,
    samples: Path | None = None,
) -> Verification:
    """Hold an artifact, or every artifact of a folder with a report, to what is claimed of it.

    Args:
        path: the artifact, or the folder.
        claims: what is claimed of it (`claims_of`).
        means: what opening artifacts may make use of, and where ONNX files run.
        progress: called with each stage as it begins.
        against: the model that it was cut from; it is cut there again, and run beside the artifact.
        samples: inputs of the model to compare on with that; None for seeded random ones.

    Raises:
        UsageError: no such thing, or a source that the artifact cannot be held against.
        SourceError: a report, certificate or artifact that cannot be read, or not without trust.
        ValidationError: nothing is claimed of it.
        TargetError: what runs it is missing.
    """
    # What is asked for by its name has to be opened; others are checked as far as they can be.
    single = len(claims) == 1 and claims[0].path.resolve() == path.resolve()
    checks: list[Check] = []
    matches: list[tuple[str, Match]] = []
    comparisons: list[Comparison] = []
    proof: Proof | None = None
    for claim in claims:
        progress("verify", claim.path.name)
        checks += [_bytes(claim), _proof(claim), _versions(claim)]
        artifact, why = _opened(claim, means, strict=single)
        found, check = _samples(claim, artifact, why)
        checks.append(check)
        matches += [(claim.path.name, match) for match in found]
        if against is not None and artifact is not None:
            try:
                if proof is None:  # artifacts of one report are of one cut
                    proof = _proven(claim, against, samples, progress)
                compared, check = _source(claim, artifact, proof)
            except CutError as error:
                compared, check = (
                    (),
                    Check(claim.path.name, "source", False, f"another model: {error.message}"),
                )
            checks.append(check)
            comparisons += compared
    checks += [Check("report.json", "bytes", None, claim.unread) for claim in claims if claim.unread]
    checks += _strangers(path, claims)
    return Verification(path, tuple(claims), tuple(checks), tuple(matches), tuple(comparisons))


# ---------------------------------------------------------------- checks


def _bytes(claim: Claim) -> Check:
    problems = claim.problems()
    if problems:
        return Check(claim.path.name, "bytes", False, "; ".join(problems))
    if not claim.digests and claim.seal is None:
        return Check(claim.path.name, "bytes", None, "there are no digests of it")
    places = ["its own digest"] if claim.seal is not None else []
    places += ["the report's"] if claim.digests else []
    return Check(claim.path.name, "bytes", True, f"as they were written, by {' and '.join(places)}")


def _strangers(path: Path, claims: Sequence[Claim]) -> list[Check]:
    """What lies in the folder of a report that nothing speaks of."""
    if not (path / "report.json").is_file():
        return []
    known = {"report.json", "report.html"}
    for claim in claims:
        known |= {file.relative_to(path).parts[0] for file in claim.digests}
        known |= {claim.path.name, *(() if claim.seal is None else claim.seal.files)}
    others = sorted({entry.name for entry in path.iterdir()} - known)
    return [Check(name, "bytes", None, "nothing speaks of it: it was not checked") for name in others]


def _proof(claim: Claim) -> Check:
    said = f"{claim.validation}; {claim.source}, weights {claim.weights}"
    if claim.validation.startswith("passed"):
        return Check(claim.path.name, "proof", True, said)
    if claim.validation.casefold().startswith("shapes only"):
        return Check(claim.path.name, "proof", None, said)
    return Check(claim.path.name, "proof", False, said)


def _versions(claim: Claim) -> Check:
    """Other versions explain other numbers; alone they are no fault."""
    other = []
    for name, version in claim.versions.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # what made an artifact need not be there to run it
        if here != version:
            other.append(f"{name} {version} then, {here} here")
    return Check(claim.path.name, "versions", None, "; ".join(other) or "the same, of what is installed here")


def _opened(claim: Claim, means: Means, *, strict: bool) -> tuple[Artifact | None, str]:
    """The artifact, or why it cannot be run."""
    try:
        return open_artifact(claim.path, means), ""
    except UsageError as error:
        return None, error.message  # weights alone
    except ConverterError as error:
        if strict:
            raise
        code = "--trust" in (error.hint or "")
        return None, "it can run its author's code: --trust runs it" if code else error.message


def _between(
    artifact: Artifact, claim: Claim, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Run:
    """An artifact as a function between these tensors."""
    names = {spec.name for spec in (*inputs, *outputs)}
    turns = {name: perm for name, perm in claim.turned.items() if name in names}
    return seen_as(artifact, inputs, outputs, Asked(turns=turns))


def _samples(claim: Claim, artifact: Artifact | None, why: str) -> tuple[list[Match], Check]:
    """The recorded samples, run again."""
    name, record = claim.path.name, claim.record
    if record is None or artifact is None:
        return [], Check(name, "samples", None, why or "none were recorded")
    feeds = record.feeds()
    outputs = [TensorSpec(name, answer.shape, answer.dtype) for name, answer in record.answers.items()]
    try:
        run = _between(artifact, claim, record.inputs, outputs)
        found = record.match(run(feeds))
    except ConverterError as error:
        return [], Check(name, "samples", False, error.message)
    bad = [match for match in found if not match.passed]
    if bad:
        return found, Check(name, "samples", False, "; ".join(map(_words, bad)))
    if not found:
        return [], Check(name, "samples", None, "no outputs were recorded")
    exact = sum(match.exact for match in found)
    several = counted(len(found), "output")
    if exact == len(found):
        return found, Check(name, "samples", True, f"{several}, bit for bit as recorded")
    worst = max(match.error for match in found)
    detail = f"{several}, {exact} bit for bit, largest difference {worst:.1e} of scale"
    return found, Check(name, "samples", True, detail)


def _words(match: Match) -> str:
    off = f"off by {match.error:.1e} of scale, {match.tolerance:.1e} passes"
    return f"{match.output}: {match.problem or off}"


# ---------------------------------------------------------------- the source


def _proven(claim: Claim, source: Source, samples: Path | None, progress: Progress) -> Proof:
    """The model that an artifact was cut from, cut anew at the same layers.

    Raises:
        UsageError: the model was changed before it was cut, or levels come in or out.
    """
    request = _request(claim, claim.record, samples)
    return Proof(source, cut_out(source, request, progress, Timings()), request, None, None)


def _source(claim: Claim, artifact: Artifact, proof: Proof) -> tuple[tuple[Comparison, ...], Check]:
    """The artifact against the model that it was cut from."""
    name = claim.path.name
    piece = next((piece for piece in proof.made.pieces if piece.role == claim.role), None)
    if piece is None:
        raise SourceError(f"{name} is a {claim.role}, which the recorded cut does not make")
    precision = artifact.precision
    if claim.kind in _SILENT and claim.record is not None:
        precision = claim.record.precision
    run = _between(artifact, claim, piece.inputs, piece.outputs)
    certificate = proof.hold(claim.kind, piece, run, precision)
    if certificate.passed:
        tolerance = max(comparison.tolerance for comparison in certificate.comparisons)
        passes = f"{tolerance:.1e} passes{f' of what computes in {precision}' if precision else ''}"
        return certificate.comparisons, Check(name, "source", True, f"{certificate}, {passes}")
    first = certificate.failures()[0]
    what = first.problem or f"scaled error {first.scaled_error:.1e}, {first.tolerance:.1e} passes"
    detail = f"{len(certificate.failures())} of {len(certificate.comparisons)} differ; {first.output}: {what}"
    return certificate.comparisons, Check(name, "source", False, detail)


def _request(claim: Claim, record: Record | None, samples: Path | None) -> Request:
    if claim.edited:
        raise UsageError(
            f"{claim.path.name} is of a model that was changed before it was cut, which no source tells",
            hint="give the changed model itself: what --targets keras or pt2 writes of it is a source, too",
        )
    quantized = record is not None and record.precision == "int8" and not claim.around.get("preprocess")
    if quantized and record is not None and any(spec.dtype in ("uint8", "int8") for spec in record.inputs):
        raise UsageError(f"{claim.path.name} takes quantized levels, which the source does not have")
    try:
        cut = {key: tuple(map(str, claim.cut.get(key, ()))) for key in ("to", "from", "split")}
        return Request(
            to=cut["to"],
            from_=cut["from"],
            split=cut["split"],
            frontier=True,
            samples=samples,
            seed=0 if record is None else record.seed,
            dress=_dress(claim.around),
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise SourceError(f"the recorded cut of {claim.path.name} cannot be read: {error!r}") from error


def _dress(around: Mapping[str, Any]) -> Dress:
    return Dress(
        around.get("layout", ""),
        around.get("batch"),
        {name: tuple(sizes) for name, sizes in around.get("shapes", {}).items()},
        {name: Preprocess.parse(words) for name, words in around.get("preprocess", {}).items()},
        {name: Postprocess.parse(words) for name, words in around.get("postprocess", {}).items()},
        dict(around.get("renames", {})),
    )


def seed_of(weights: str) -> int | None:
    """The seed of initial weights, by what is noted of them; None of others."""
    found = re.match(r"random\(seed=(\d+)\)", weights)
    return int(found[1]) if found else None


def expect_passed(verification: Verification) -> None:
    """Raise where something does not hold.

    Raises:
        ValidationError: what failed.
    """
    if verification.passed:
        return
    failed = verification.failures
    if not failed:
        raise ValidationError(f"{verification.path}: nothing could be checked of some artifact")
    each = "\n".join(f"  {check.artifact}: {check.what}: {check.detail}" for check in failed)
    raise ValidationError(f"{verification.path}: {counted(len(failed), 'check')} failed\n{each}")
