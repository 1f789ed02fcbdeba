"""Weights that several operators read, or that are outputs as well: judged by the float model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converter
from converter.errors import TargetError


def count(written: Any, operator: str) -> int:
    return sum(node.op_type == operator for node in written.model().graph.node)


def figures(written: Any) -> dict[str, float]:
    """The least SNR of each output."""
    found: dict[str, float] = {}
    for c in written.document.proof.comparisons:
        found[c.output] = min(c.snr_db, found.get(c.output, np.inf))
    return found


SHARED = {
    "two products": "(float[N,48] x) => (float[N,4] y) "
    "{ a = Gemm<transB=1>(x,w,b) r = Tanh(a) c = Gemm<transB=1>(r,w) y = MatMul(c,v) }",
    "a product and its transposed": "(float[N,48] x) => (float[N,4] y) "
    "{ a = Gemm<transB=1>(x,w,b) r = Tanh(a) c = MatMul(r,w) y = MatMul(c,v) }",
    "a table and a product": "(float[N,48] x, int64[N] i) => (float[N,4] y) "
    "{ k = Gather(t,i) l = Add(x,k) a = Gemm<transB=1>(l,t) r = Tanh(a) y = MatMul(r,u) }",
}


@pytest.mark.parametrize("kind", ["int8", "int8-dynamic"])
@pytest.mark.parametrize("graph", SHARED.values(), ids=SHARED)
def test_weights_that_several_operators_read(
    lowered: Any, normal: Any, tmp_path: Path, kind: str, graph: str
) -> None:
    """ONNX Runtime's tools quantize them as the first one wants them, or turn them for each in place."""
    rng = np.random.default_rng(1)
    x, i = rng.uniform(-1, 1, (600, 48)).astype(np.float32), rng.integers(0, 48, 600)
    np.savez(tmp_path / "x.npz", **({"x": x, "i": i} if "int64" in graph else {"x": x}))
    sizes = {"w": (48, 48), "b": (48,), "v": (48, 4), "t": (60, 48), "u": (60, 4)}
    arrays = {name: normal(*size) / 7 for name, size in sizes.items() if re.search(rf"[(,]{name}[,)]", graph)}
    written = lowered(f"g {graph}", kind, weights=arrays, samples=tmp_path / "x.npz")
    assert figures(written)["y"] > 30


@pytest.mark.parametrize("kind", ["int8", "int8-dynamic", "fp16"])
@pytest.mark.parametrize("io", ["float", "fp16"])
def test_weights_that_are_put_out_as_well(lowered: Any, normal: Any, kind: str, io: str) -> None:
    text = "g (float[N,48] x) => (float[N,32] y, float[32,48] w) { y = Gemm<transB=1>(x,w) }"
    if io == "fp16" and kind != "fp16":
        pytest.skip("--io fp16 goes with fp16")
    assert min(figures(lowered(text, kind, weights={"w": normal(32, 48)}, io=io)).values()) > 28


@pytest.mark.parametrize("keep", [("0",), ("2",), ("0", "2")])
def test_linear_layers_stay_in_float_where_that_is_asked_for(lowered: Any, keep: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16)).eval()
    model = converter.load(net, example=torch.rand(2, 32))
    if len(keep) == 2:
        with pytest.raises(TargetError, match="nothing of the model"):
            lowered(model, "int8-dynamic", keep=keep)
        return
    written = lowered(model, "int8-dynamic", keep=keep)
    (product,) = [node.name for node in written.model().graph.node if node.op_type == "MatMulInteger"]
    assert not product.startswith(keep[0])
    assert count(written, "MatMul") == 1


def test_an_lstm_that_is_called_twice(lowered: Any) -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(16, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(self.lstm(x)[0])[0]

    torch.manual_seed(0)
    written = lowered(converter.load(Twice().eval(), example=torch.rand(2, 8, 16)), "int8-dynamic")
    assert count(written, "DynamicQuantizeLSTM") == 2
    assert min(figures(written).values()) > 30
