"""Rules for signals: Fourier transforms and windows."""

from __future__ import annotations

from converter.rebuilding.torch.arithmetic import _type
from converter.rebuilding.torch.step import Result, Step, table
from converter.rebuilding.torch.text import call

__all__: list[str] = []


@table("DFT", 17)
def dft_by_attribute(step: Step) -> Result:
    return _transformed(step, step.attribute("axis", 1))


@table("DFT", 20)
def dft(step: Step) -> Result:
    return _transformed(step, step.fixed(2, "axis")[0] if step.has(2) else -2)


def _transformed(step: Step, axis: int) -> Result:
    rank = step.rank
    return call(
        step.helper("dft"),
        step.arg(0),
        axis % rank,
        length=step.number(1) if step.has(1) else None,
        inverse="True" if step.attribute("inverse", 0) else None,
        onesided="True" if step.attribute("onesided", 0) else None,
    )


@table("STFT", 17)
def stft(step: Step) -> Result:
    return call(
        step.helper("stft"),
        step.arg(0),
        step.number(1),
        window=step.optional(2),
        length=step.number(3) if step.has(3) else None,
        onesided=None if step.attribute("onesided", 1) else "False",
    )


@table("HannWindow HammingWindow BlackmanWindow", 17)
def window(step: Step) -> Result:
    name = {"HannWindow": "hann", "HammingWindow": "hamming", "BlackmanWindow": "blackman"}[step.node.op]
    kind = f"torch.{_type(step, step.attribute('output_datatype', 1))}"
    periodic = bool(step.attribute("periodic", 1))
    text = call(f"torch.{name}_window", step.number(0), periodic=str(periodic))
    if name == "hamming":  # ONNX's coefficients are 25/46 and 21/46
        text = call("torch.hamming_window", step.number(0), str(periodic), "25 / 46", "21 / 46")
    return f"{text}.to({kind})"
