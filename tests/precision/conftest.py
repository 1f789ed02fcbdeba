"""What the tests of precision share: a source converted as `converter convert` does, and what was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import converter
from converter import pipeline
from converter.precision import Precision
from converter.report import Document, Timings
from converter.request import Request
from fixtures.onnx_text import saved


@dataclasses.dataclass
class Written:
    """One conversion: its report, and the folder that it wrote."""

    document: Document
    folder: Path

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.document.precision[0]

    @property
    def kept(self) -> dict[str, str]:
        return dict(self.facts["kept"])

    def model(self, role: str = "model") -> onnx.ModelProto:
        proto = onnx.load(self.folder / f"{role}.onnx")
        onnx.checker.check_model(proto, full_check=True)
        return proto

    def run(self, feeds: Mapping[str, Any], role: str = "model") -> dict[str, Any]:
        path = self.folder / f"{role}.onnx"
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))


@pytest.fixture
def lowered(tmp_path: Path) -> Callable[..., Written]:
    """Convert a source (a path, a live model, or an ONNX text with `weights`) in less precision."""

    def convert(
        source: Any, kind: str, /, *, weights: Any = None, opsets: str = '"": 18', **asked: Any
    ) -> Written:
        names = {field.name for field in dataclasses.fields(Precision)} - {"min_snr"}
        own = {name: asked.pop(name) for name in [*asked] if name in names}
        precision = Precision(kind, **own, min_snr=asked.get("min_snr"))
        if isinstance(source, str) and "=>" in source:
            source = saved(source, tmp_path, opsets, weights)
        model = source if isinstance(source, converter.Model) else converter.load(source)
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        request = Request(precision=precision, **asked)
        document = pipeline.convert(model._source, request, folder, lambda *_: None, Timings())
        return Written(document, folder)

    return convert


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    """Seeded normal float32 numbers of a shape."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.normal(size=shape).astype(np.float32)
