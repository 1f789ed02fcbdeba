"""What a user asks for in precision."""

from __future__ import annotations

import dataclasses
import math

from converter.errors import UsageError

__all__ = ["INT4_OPSET", "IO", "METHODS", "PRECISIONS", "Precision"]

# Precision → what the table of tolerances calls it.
PRECISIONS = {
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
    "int8-dynamic": "int8",
    "int4-weights": "int4",
    "mixed": "int8",
}
# How ranges of activations are found: `auto` tries all and keeps what is nearest to the float model.
METHODS = ("auto", "minmax", "entropy", "percentile", "mse")
# Dtype of inputs and outputs → the precisions that can have it.
IO = {"float": frozenset(PRECISIONS), "fp16": frozenset(["fp16"]), "int8": frozenset(["int8", "mixed"])}
INT4_OPSET = 21  # the first with types of 4 bits, and with blocks
_CALIBRATED = frozenset(["int8", "mixed"])


@dataclasses.dataclass(frozen=True)
class Precision:
    """In what a piece of ONNX computes.

    Attributes:
        kind: one of `PRECISIONS`.
        method: of `int8` and `mixed`: one of `METHODS`.
        keep: layers that stay in float: names and globs.
        io: dtype of inputs and outputs: `float` as the source has them, `int8`, or `fp16`.
        min_snr: what the outputs shall reach, in dB; `mixed` looks for it.
    """

    kind: str
    method: str = "auto"
    keep: tuple[str, ...] = ()
    io: str = "float"
    min_snr: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in PRECISIONS:
            raise UsageError(f"precision {self.kind!r}: expected {', '.join(PRECISIONS)}")
        if self.method not in METHODS:
            raise UsageError(f"calibration {self.method!r}: expected {', '.join(METHODS)}")
        if self.method != "auto" and not self.calibrated:
            raise UsageError(
                f"calibration {self.method} is for int8 and mixed: {self.kind} measures no ranges"
            )
        if self.io not in IO:
            raise UsageError(f"io {self.io!r}: expected {', '.join(IO)}")
        if self.kind not in IO[self.io]:
            raise UsageError(f"io {self.io} does not go with precision {self.kind}", hint="--io float")
        if self.min_snr is not None and not 0 < self.min_snr < math.inf:
            raise UsageError(f"an SNR of {self.min_snr:g} dB: expected more than 0", hint="--min-snr 30")
        if self.kind == "mixed" and self.min_snr is None:
            raise UsageError(
                "precision mixed keeps as many layers in float as it takes to reach a quality: which one?",
                hint="--min-snr 30, in dB",
            )

    @property
    def calibrated(self) -> bool:
        """Whether ranges of activations are measured."""
        return self.kind in _CALIBRATED

    @property
    def measures(self) -> bool:
        """Whether anything is measured on samples, none of which may be validated on then."""
        return self.calibrated or self.kind == "fp16"

    @property
    def computes_in(self) -> str:
        """What the table of tolerances calls it."""
        return PRECISIONS[self.kind]
