"""Layers that Keras spells out in small steps although one operator computes them.

In inference mode Keras 3 runs a BatchNormalization as a square root, a reciprocal, two products and two
sums, most of them on weights alone. As TensorFlow's fused operator it stays one node all the way: it
keeps its four weights by their names, tracing and translating take less time, and a BatchNorm that no
convolution absorbs costs one pass over the data instead of two. A Dense on more than two axes is a
tensordot, a dozen nodes of shape arithmetic; as a matrix product it is one. An Embedding maps negative
indices to the table's end by hand, which ONNX's Gather does by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.sources.keras import backend

__all__ = ["lowered"]


def lowered(layer: Any) -> Callable[..., Any] | None:
    """A function to call in the place of the layer's own `call` in inference mode, or None.

    Only exact Keras classes are lowered: a subclass may compute something else.
    """
    layers = backend.keras().layers
    if getattr(layer, "quantization_mode", None) is not None:
        return None
    if type(layer) is layers.BatchNormalization and _is_fused(layer):
        return lambda inputs, *_, **__: _batch_normalization(layer, inputs)
    if type(layer) is layers.Dense and not layer.lora_enabled:
        return lambda inputs, *_, **__: _dense(layer, inputs)
    if type(layer) is layers.Embedding and not layer.lora_enabled and _keeps_dtype(layer):
        return lambda inputs, *_, **__: _embedding(layer, inputs)
    return None


def _keeps_dtype(layer: Any) -> bool:
    return bool(layer.compute_dtype == layer.variable_dtype)


def _is_fused(layer: Any) -> bool:
    """Whether the fused operator covers it: images, channels last, single precision."""
    spec = layer.input_spec
    rank, last = getattr(spec, "ndim", None), layer.axis in (-1, 3)
    return bool(rank == 4 and last and _keeps_dtype(layer) and layer.compute_dtype == "float32")


def _batch_normalization(layer: Any, inputs: Any) -> Any:
    tf = backend.tensorflow()
    mean, variance = layer.moving_mean.value, layer.moving_variance.value
    return tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=layer.gamma.value if layer.scale else tf.ones_like(mean),
        offset=layer.beta.value if layer.center else tf.zeros_like(mean),
        mean=mean,
        variance=variance,
        epsilon=layer.epsilon,
        is_training=False,
    ).y


def _dense(layer: Any, inputs: Any) -> Any:
    keras = backend.keras()
    kernel = keras.ops.convert_to_tensor(layer.kernel)
    outputs = backend.tensorflow().matmul(inputs, kernel)
    if layer.bias is not None:
        outputs = keras.ops.add(outputs, layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def _embedding(layer: Any, inputs: Any) -> Any:
    tf, keras = backend.tensorflow(), backend.keras()
    indices = inputs if inputs.dtype in (tf.int32, tf.int64) else tf.cast(inputs, tf.int32)
    return tf.gather(keras.ops.convert_to_tensor(layer.embeddings), indices)
