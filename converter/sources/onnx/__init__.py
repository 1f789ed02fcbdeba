"""ONNX files as sources."""

from converter.sources.onnx.source import open_onnx_file

__all__ = ["open_onnx_file"]
