"""What the tests of dressing share: a source converted as `converter convert` does, and what was written."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

import converter
from converter import pipeline
from converter.dressing import Dress
from converter.imaging import Postprocess, Preprocess
from converter.report import Document, Timings
from converter.request import Request


@dataclasses.dataclass
class Written:
    """One conversion: its report, and the folder that it wrote."""

    document: Document
    folder: Path

    def model(self, role: str = "model") -> onnx.ModelProto:
        proto = onnx.load(self.folder / f"{role}.onnx")
        onnx.checker.check_model(proto, full_check=True)
        return proto

    def kinds(self, role: str = "model") -> Counter[str]:
        return Counter(node.op_type for node in self.model(role).graph.node)

    def ends(self, role: str = "model") -> dict[str, list[Any]]:
        """Inputs and outputs by name: sizes, symbolic ones as strings."""
        graph = self.model(role).graph
        return {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }

    def run(self, feeds: Mapping[str, Any], role: str = "model") -> dict[str, Any]:
        session = ort.InferenceSession(self.folder / f"{role}.onnx", providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))


@pytest.fixture
def dressed(tmp_path: Path) -> Callable[..., Written]:
    """Convert a source (a path, or a loaded model) with a dress on; words are given as texts."""

    def convert(source: Any, /, **asked: Any) -> Written:
        names = {field.name for field in dataclasses.fields(Dress)}
        own = {name: asked.pop(name) for name in [*asked] if name in names}
        for name, words in (("preprocess", Preprocess), ("postprocess", Postprocess)):
            own[name] = {key: words.parse(text) for key, text in own.get(name, {}).items()}
        model = source if isinstance(source, converter.Model) else converter.load(source)
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        request = Request(dress=Dress(**own), **asked)
        document = pipeline.convert(model._source, request, folder, lambda *_: None, Timings())
        return Written(document, folder)

    return convert


@pytest.fixture(scope="session")
def keras_file(
    structure: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A model of fixtures/keras_models.py as a file."""
    folder = tmp_path_factory.mktemp("keras")

    def path(name: str) -> Path:
        found = folder / f"{name}.keras"
        if not found.exists():
            structure(name).save(found)
        return found

    return path


@pytest.fixture(scope="session")
def torch_model() -> Callable[[str], tuple[Any, converter.Model]]:
    """A module of fixtures/torch_models.py, and it loaded."""
    from fixtures.torch_models import build

    def make(name: str) -> tuple[Any, converter.Model]:
        net, example = build(name)
        return net, converter.load(net, example=example)

    return make
