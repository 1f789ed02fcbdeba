"""The facts of a conversion, and report.json, whose schema stands in docs/report.schema.json."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from converter.model import Layer, Piece, SourceInfo, TensorSpec
from converter.report.chart import Chart
from converter.report.sizes import counted
from converter.supervision import channel

__all__ = ["Document", "Timings", "finite", "layers_as_json", "metadata", "plan_as_json", "role_of"]


class Timings:
    """Seconds of wall-clock time a stage; a stage may be entered again and adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block, and say that the stage begins to whoever watches over the run."""
        channel.stage(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Proof(Protocol):
    """What a report needs to know of a certificate."""

    @property
    def provider(self) -> str: ...

    @property
    def samples(self) -> str: ...

    @property
    def passed(self) -> bool: ...

    @property
    def of(self) -> str: ...

    @property
    def comparisons(self) -> Sequence[Any]: ...

    @property
    def placement(self) -> Mapping[str, Any]: ...

    @property
    def device(self) -> Mapping[str, Any]: ...


@dataclasses.dataclass(repr=False)
class Document:
    """The facts of one conversion.

    Attributes:
        source: where the model came from.
        cut: what was asked for: `to`, `from`, `split`, and `frontier`: the tensors that cross.
        pieces: what was cut out.
        proof: the certificate, or None when validation was switched off.
        targets: a dict a file: kind, path, bytes, sha256.
        timings: seconds a stage.
        versions: of this package and of what it used.
        edits: what was changed in the model, and which weights are the original's; None where nothing was.
        failures: kind of artifact that could not be made → why, and a hint.
        precision: what was done to each piece of less precision.
        around: layout, sizes, words and names around the pieces.
        samples: role of a piece → seeded samples, and what it answers on them.
        chart: what became of each layer of the source; None where that is not known.
        drift: every layer compared (`drift_as_json`), or a `problem`; None where that was not asked for.
    """

    source: SourceInfo
    cut: Mapping[str, Any]
    pieces: Sequence[Piece]
    proof: _Proof | None
    targets: list[dict[str, Any]]
    timings: Mapping[str, float]
    versions: Mapping[str, str]
    edits: Mapping[str, Any] | None = None
    failures: Mapping[str, tuple[str, str | None]] = dataclasses.field(default_factory=dict)
    precision: Sequence[Mapping[str, Any]] = ()
    around: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    chart: Chart | None = None
    drift: Mapping[str, Any] | None = None

    @property
    def status(self) -> str:
        """`passed`, `SHAPES ONLY`, `failed` or `UNVALIDATED`."""
        if self.proof is None:
            return "UNVALIDATED"
        if self.proof.passed and self.proof.of == "shapes":
            return "SHAPES ONLY"
        return "passed" if self.proof.passed else "failed"

    def __repr__(self) -> str:
        pieces = " and ".join(piece.role for piece in self.pieces)
        return (
            f"<Document {self.status}: {pieces} of {self.source.name}, {counted(len(self.targets), 'file')}>"
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values; infinities and NaN become strings."""
        validation: dict[str, Any] = {"status": self.status}
        if self.proof is not None:
            validation |= {
                "provider": self.proof.provider,
                "passed": self.proof.passed,
                "samples": self.proof.samples,
                "comparisons": [dataclasses.asdict(c) for c in self.proof.comparisons],
            }
            validation |= {"device": dict(self.proof.device)} if self.proof.device else {}
            validation |= {"placement": dict(self.proof.placement)} if self.proof.placement else {}
        document = {
            "source": dataclasses.asdict(self.source),
            "cut": dict(self.cut),
            "pieces": [self._piece(piece) for piece in self.pieces],
            "validation": validation,
            "targets": self.targets,
            "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
            "versions": dict(self.versions),
        }
        if self.edits is not None:
            document["edits"] = dict(self.edits)
        if self.around:
            document["around"] = dict(self.around)
        if self.precision:
            document["precision"] = [dict(facts) for facts in self.precision]
        if self.failures:
            document["failures"] = [
                {"kind": kind, "problem": problem, "hint": hint}
                for kind, (problem, hint) in self.failures.items()
            ]
        if self.chart is not None:
            document["layers"] = self.chart.as_dict()
        if self.drift is not None:
            document["drift"] = dict(self.drift)
        plain: dict[str, Any] = finite(document)
        return plain

    def as_json(self) -> str:
        """The report as text."""
        return _encodable(json.dumps(self.as_dict(), indent=2, ensure_ascii=False)) + "\n"

    def as_html(self) -> str:
        """The report as one page, which loads nothing: it can be kept beside the artifacts, or mailed."""
        from converter.report.html import page

        return page(self)

    def _piece(self, piece: Piece) -> dict[str, Any]:
        written = [t["bytes"] for t in self.targets if t["piece"] == piece.role and t["kind"] == "onnx"]
        return {
            "name": piece.role,
            "inputs": [_spec(spec) for spec in piece.inputs],
            "outputs": [_spec(spec) for spec in piece.outputs],
            "nodes": piece.nodes,
            "parameters": piece.parameters,
            "bytes": sum(written) if written else None,
            **({"samples": self.samples[piece.role]} if piece.role in self.samples else {}),
        }


def _encodable(text: str) -> str:
    """The text with what UTF-8 has no bytes for spelled out: names of files may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _short(precision: Mapping[str, Any]) -> str:
    """What the reader of a file has to know: measured figures stand in the report."""
    facts = {key: precision[key] for key in ("precision", "io", "calibration", "scales") if key in precision}
    return json.dumps({**facts, "kept": sorted(precision["kept"])}, ensure_ascii=False)


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def finite(value: Any) -> Any:
    """JSON-ready values: infinities and NaN, which JSON has no words for, become strings."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def role_of(compared: str) -> str:
    """The role in what a comparison calls a piece: `head.py∘trunk.py` is of what comes out of the head."""
    return compared.partition("∘")[0].partition(".")[0]


def layers_as_json(layers: Sequence[Layer], legal: Collection[str]) -> list[dict[str, Any]]:
    """The layer list as JSON-ready values."""
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "outputs": [_spec(boundary.spec) for boundary in layer.boundaries],
            "parameters": layer.parameters,
            "trainable": layer.trainable,
            "depth": layer.depth,
            "trunk": True,
            "head": layer.name in legal,
        }
        for layer in layers
    ]


def plan_as_json(plan: Any, rows: Sequence[tuple[Any, float | None]]) -> dict[str, Any]:
    """A plan as JSON-ready values; bytes, MACs and seconds are those of one sample."""
    cuts = []
    for cut, seconds in rows:
        entry = dataclasses.asdict(cut) | {"crossing": [_spec(spec) for spec in cut.crossing]}
        cuts.append(entry if seconds is None else entry | {"predicted_seconds": seconds})
    return {
        "whole": dataclasses.asdict(plan.whole),
        "inputs": [_spec(spec) for spec in plan.inputs],
        "assumed": dict(plan.assumed),
        "uncounted": list(plan.uncounted),
        "cuts": cuts,
    }


def metadata(
    info: SourceInfo,
    cut: Mapping[str, Any],
    piece: Piece,
    proof: str,
    versions: Mapping[str, str],
    edits: Mapping[str, Any] | None = None,
    precision: Mapping[str, Any] | None = None,
    around: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The report's facts, short, for the metadata of an ONNX file.

    Measured errors are left out: they differ in the last digits from run to run, and the same
    model, cut and seed shall give the same bytes. A file whose validation fails is never written.
    """
    changed = {} if edits is None else {k: v for k, v in edits.items() if k not in ("weights", "fit") and v}
    facts = {
        "converter.source": f"{info.kind}:{info.name}",
        "converter.weights": info.weights if info.trained else f"{info.weights} UNTRAINED",
        "converter.cut": json.dumps(cut, ensure_ascii=False),
        **({"converter.edits": json.dumps(changed, ensure_ascii=False)} if changed else {}),
        **({"converter.around": json.dumps(around, ensure_ascii=False)} if around else {}),
        **({} if precision is None else {"converter.precision": _short(precision)}),
        # A key of its own for each role: onnx.compose joins no models that differ under one key.
        f"converter.{piece.role}": ", ".join(map(str, piece.inputs)),
        "converter.validation": proof,
        "converter.versions": json.dumps(versions),
    }
    return {key: _encodable(text) for key, text in facts.items()}
