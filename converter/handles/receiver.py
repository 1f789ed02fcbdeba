"""What a receiver asks of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converter import verifying
from converter.comparing import Means
from converter.devices import provider_for
from converter.handles.model import Model, load
from converter.handles.names import silent
from converter.verifying import Verification

__all__ = ["verify"]


def verify(
    artifact: str | Path,
    *,
    against: Model | str | Path | Any = None,
    samples: str | Path | None = None,
    device: str = "auto",
    trust: bool = False,
    custom_objects: str | Path | None = None,
    custom_ops: Sequence[str | Path] = (),
) -> Verification:
    """Whether an artifact is what it was when it was proven.

    Args:
        artifact: an `.onnx` file with a certificate inside, another artifact beside its `report.json`, or the
            folder of a report.
        against: the model that it was cut from, or what `load` takes; it is cut there again, and both are run
            on the same samples.
        samples: with `against`: inputs to run both on.
        device: where ONNX files run: `auto`, `cpu` or `cuda`.
        trust: run artifacts that can run their author's code.
        custom_objects: a Python file with the custom classes of a Keras file; needs `trust`.
        custom_ops: libraries of operators for ONNX files.

    Raises:
        UsageError: no such file, or a model that it cannot be held against.
        SourceError: a report, certificate or artifact that cannot be read, or not without trust.
        ValidationError: nothing is claimed of it. What does not hold is told by the result.
    """
    custom = None if custom_objects is None else Path(custom_objects)
    means = Means(trust, custom, tuple(map(Path, custom_ops)), provider_for(device))
    return verifying.verify(
        Path(artifact),
        verifying.claims_of(Path(artifact)),
        means,
        progress=silent,
        against=None if against is None else _model(against)._source,
        samples=None if samples is None else Path(samples),
    )


def _model(source: Model | str | Path | Any) -> Model:
    return source if isinstance(source, Model) else load(source)
