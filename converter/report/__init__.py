"""What people read: the report as a document and on the terminal."""

from converter.report.document import Document, Timings, layers_as_json, metadata, plan_as_json
from converter.report.plot import plot_plan
from converter.report.rank import plot_rank, rank_as_json, rank_table
from converter.report.sizes import counted
from converter.report.terminal import Terminal, cache_table, layer_table, plan_table

__all__ = [
    "Document",
    "Terminal",
    "Timings",
    "cache_table",
    "counted",
    "layer_table",
    "layers_as_json",
    "metadata",
    "plan_as_json",
    "plan_table",
    "plot_plan",
    "plot_rank",
    "rank_as_json",
    "rank_table",
]
