"""A small Keras model and every artifact of it, written once by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = (
    "onnx,ort,openvino,keras,h5,savedmodel,checkpoint,tflite,tflite-fp16,tflite-int8,torch,pt2,safetensors"
)


def small_model() -> Any:
    import keras

    keras.utils.set_random_seed(3)
    image = keras.Input((12, 10, 3), name="image")
    x = keras.layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    features = keras.layers.Conv2D(5, 3, name="features")(x)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(features)
    return keras.Model(image, [features, keras.layers.Dense(4, name="scores")(pooled)], name="small")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.onnx`, `model.keras` …, and `native/model.onnx` in PyTorch's layout."""
    folder = tmp_path_factory.mktemp("compared")
    small_model().save(folder / "small.keras")
    rng = np.random.default_rng(1)
    np.savez(folder / "samples.npz", image=rng.normal(size=(8, 12, 10, 3)).astype("f4"))
    command = [sys.executable, "-m", "converter", "convert", str(folder / "small.keras"), "--targets", KINDS]
    done = subprocess.run(
        [*command, "--output", folder / "out", "--samples", folder / "samples.npz"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out"
