from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.profiling import Profile, Setting, profile
from fixtures.onnx_text import saved


@pytest.fixture
def profiled(tmp_path: Path) -> Callable[..., Profile]:
    """Profiles a graph in ONNX's textual syntax, with weights drawn from their shapes."""

    def run(text: str, weights: dict[str, Any] | None = None, **options: Any) -> Profile:
        rng = np.random.default_rng(0)
        drawn = {
            name: shape
            if isinstance(shape, (np.ndarray, np.generic, onnx.TensorProto))
            else rng.standard_normal(shape).astype(np.float32)
            for name, shape in (weights or {}).items()
        }
        opsets = options.pop("opsets", '"": 18')
        setting = options.pop("setting", Setting("CPUExecutionProvider", runs=3, warmup=1))
        return profile(saved(text, tmp_path, opsets, drawn), setting, options.pop("sizes", None), **options)

    return run
