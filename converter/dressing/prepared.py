"""What the graph makes of images, and that it is what was asked for.

ONNX Runtime's Resize on uint8 is at times a level off from Pillow's, whose sums are of integers, and a level
in one pixel of a hundred is far more than a model's own rounding. So the two are judged apart: the words in
the graph against the words in NumPy, and the model on what the words in the graph make of the images.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

from converter.imaging import Preprocess
from converter.model import Array, TensorSpec
from converter.runtime import Session

__all__ = ["Prepared"]

_OPSET = 18


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Words as a graph of their own.

    Attributes:
        words: the words.
        spec: the model's input.
        channels_last: where the source's framework has channels.
    """

    words: Preprocess
    spec: TensorSpec
    channels_last: bool | None

    def __call__(self, images: Array) -> Array:
        """What the graph makes of uint8 images of [batch, height, width, channels].

        Raises:
            ValidationError: ONNX Runtime refuses.
        """
        found: Array = self._session.run({self.spec.name: images})[_PREPARED]
        return found

    def wanted(self, images: Array) -> Array:
        """What NumPy makes of them."""
        return self.words.apply(images, self.spec, channels_last=self.channels_last)

    @cached_property
    def _session(self) -> Session:
        import onnx_ir as ir

        tensor = self.spec.onnx_type
        taken = ir.Value(name=self.spec.name, type=tensor, shape=ir.Shape(self.spec.shape))
        node = ir.Node("", "Identity", [taken])
        put = node.outputs[0]
        put.name, put.type, put.shape = _PREPARED, tensor, ir.Shape(self.spec.shape)
        graph = ir.Graph([taken], [put], nodes=[node], opset_imports={"": _OPSET}, name="preprocess")
        model = ir.Model(graph, ir_version=8)
        self.words.build(model, self.spec, channels_last=self.channels_last)
        return Session(ir.to_proto(model).SerializeToString())


_PREPARED = "prepared"
