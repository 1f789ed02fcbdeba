"""Files that a download left in a model's place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import converter
from converter.errors import SourceError

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGE = "\n <!doctype HTML>\n<html><head><title>Sign in</title></head></html>"


@pytest.mark.parametrize("suffix", [".onnx", ".keras", ".h5", ".pth", ".safetensors", ".pt2"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (POINTER, "is a Git LFS pointer, not the file of 12,345 bytes that it stands for"),
        (PAGE, "is a web page: the download has saved a page, not the model"),
        ("", "is empty"),
    ],
    ids=["pointer", "page", "empty"],
)
def test_what_is_no_model_is_told_for_what_it_is(tmp_path: Path, suffix: str, text: str, words: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_text(text)
    with pytest.raises(SourceError, match=f"^{re.escape(str(path))} {words}"):
        converter.load(path)


def test_the_same_of_weights_and_of_artifacts(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text(POINTER)
    with pytest.raises(SourceError, match="Git LFS pointer"):
        converter.load("torchvision:resnet18", weights=str(path))
    path = path.rename(tmp_path / "trunk.onnx")
    with pytest.raises(SourceError, match="Git LFS pointer"):
        converter.verify(path)


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    import torch

    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "a.pth")
    with pytest.raises(SourceError, match="a dict in which 'epoch' is of int, expected a state_dict"):
        converter.load("torchvision:resnet18", weights=str(tmp_path / "a.pth"))
