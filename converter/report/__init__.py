"""What people read: the report as a document and on the terminal."""

from converter.report.document import Document, Timings, layers_as_json, metadata
from converter.report.terminal import Terminal, cache_table, layer_table

__all__ = ["Document", "Terminal", "Timings", "cache_table", "layer_table", "layers_as_json", "metadata"]
