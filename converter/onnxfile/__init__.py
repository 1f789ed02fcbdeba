"""ONNX files of any size: opened without reading weights, cut by names, written by copying bytes."""

from converter.onnxfile.bounds import inferred, memory_limit
from converter.onnxfile.excerpt import Excerpt
from converter.onnxfile.external import ExternalData, Span
from converter.onnxfile.file import OnnxFile
from converter.onnxfile.index import STANDARD
from converter.onnxfile.skeleton import referring, refuse_bombs, stub_model
from converter.onnxfile.tensors import BITS, SMALL, Weight, external_stub
from converter.onnxfile.writer import (
    ALIGNMENT,
    FROM_FILE,
    ONE_FILE_LIMIT,
    drop_own_notes,
    refuse_too_large,
    write_excerpt,
)

__all__ = [
    "ALIGNMENT",
    "BITS",
    "FROM_FILE",
    "ONE_FILE_LIMIT",
    "SMALL",
    "STANDARD",
    "Excerpt",
    "ExternalData",
    "OnnxFile",
    "Span",
    "Weight",
    "drop_own_notes",
    "external_stub",
    "inferred",
    "memory_limit",
    "referring",
    "refuse_bombs",
    "refuse_too_large",
    "stub_model",
    "write_excerpt",
]
