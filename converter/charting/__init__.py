"""What became of each layer of a source, for reports."""

from converter.charting.chart import chart
from converter.charting.edited import with_edits
from converter.charting.errors import with_comparisons, with_drift

__all__ = ["chart", "with_comparisons", "with_drift", "with_edits"]
