"""ONNX files as sources."""

from converter.sources.onnx.source import OnnxSource, open_onnx_file

__all__ = ["OnnxSource", "open_onnx_file"]
