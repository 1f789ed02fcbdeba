"""Images on their way into a model, scores on their way out: in words, in NumPy, and as nodes of a graph.

`Preprocess` turns uint8 images of (batch, height, width, channels) into what a model takes, `Postprocess`
turns what a classifier puts out into classes and probabilities. Each computes the same twice: `apply` in
NumPy, which is what the graph is held to, and `build` as nodes put into an `onnx_ir.Model`.
"""

from converter.imaging.files import read_images
from converter.imaging.layout import Layout
from converter.imaging.postprocess import Postprocess
from converter.imaging.preprocess import Preprocess

__all__ = ["Layout", "Postprocess", "Preprocess", "read_images"]
