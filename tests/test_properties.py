"""Random layered graphs with skips, shared layers and layout changes, held to Keras itself."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import converter
from converter.pipeline import whole
from converter.surgery import frontier, legal_cuts
from fixtures.keras_models import keras, layers, randomized

CONVOLUTIONS = ("conv", "depthwise", "separable", "shared", "transposed")
SIMPLE = ("bn", "relu", "leaky", "scale", "pad", "pool", "permute", "softmax", "norm")
STEP = st.tuples(
    st.sampled_from((*CONVOLUTIONS, *SIMPLE, "add", "concat", "multiply")),
    st.integers(0, 5),
    st.integers(0, 5),
)


def build(steps: list[tuple[str, int, int]], two_outputs: bool) -> Any:
    """A Functional model; every step takes one or two earlier tensors."""
    image = keras.Input((8, 8, 4), name="image")
    made = [layers.Conv2D(4, 3, padding="same", name="stem")(image)]
    shared = layers.Conv2D(4, 1, name="shared")
    for number, (kind, first, second) in enumerate(steps):
        x, y = made[-1 - first % len(made)], made[-1 - second % len(made)]
        name = f"{kind}{number}"
        made.append(_step(kind, name, x, y, shared))
    outputs = [layers.GlobalAveragePooling2D(name="gap")(made[-1])]
    if two_outputs:
        outputs.append(layers.Flatten(name="side")(made[len(made) // 2]))
    random.seed(7)
    return randomized(keras.Model(image, outputs, name="random"), seed=len(steps))


def _step(kind: str, name: str, x: Any, y: Any, shared: Any) -> Any:
    channels = x.shape[-1]
    if kind == "shared":
        return shared(x) if channels == 4 else layers.Conv2D(4, 1, name=name)(x)
    if kind in ("add", "multiply"):
        merge = layers.Add if kind == "add" else layers.Multiply
        return merge(name=name)([x, y]) if x.shape == y.shape else layers.ReLU(name=name)(x)
    if kind == "concat":
        fits = x.shape[1:3] == y.shape[1:3] and channels + y.shape[-1] < 12
        return layers.Concatenate(name=name)([x, y]) if fits else layers.ReLU(name=name)(x)
    simple = {
        "conv": lambda: layers.Conv2D(3, 3, padding="same", activation="relu", name=name),
        "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same", name=name),
        "separable": lambda: layers.SeparableConv2D(4, 3, padding="same", name=name),
        "transposed": lambda: layers.Conv2DTranspose(3, 3, padding="same", name=name),
        "bn": lambda: layers.BatchNormalization(name=name),
        "relu": lambda: layers.ReLU(name=name),
        "leaky": lambda: layers.LeakyReLU(name=name),
        "scale": lambda: layers.Rescaling([1.0 + i for i in range(channels)], name=name),
        "pad": lambda: layers.ZeroPadding2D(((1, 0), (0, 1)), name=name),
        "pool": lambda: layers.MaxPooling2D(2, strides=1, padding="same", name=name),
        "permute": lambda: layers.Permute((2, 1, 3), name=name),
        "softmax": lambda: layers.Softmax(axis=-1 if len(name) % 2 else 1, name=name),
        "norm": lambda: layers.LayerNormalization(name=name),
    }
    return simple[kind]()(x)


RANDOM = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@RANDOM
@given(st.lists(STEP, min_size=2, max_size=10), st.booleans(), st.integers(0, 20))
def test_any_split_of_any_graph_computes_what_keras_computes(
    steps: list[tuple[str, int, int]], two_outputs: bool, where: int
) -> None:
    model = converter.load(build(steps, two_outputs))
    layer = model.layers[where % (len(model.layers) - 1)]
    try:
        cut = model.cut(split=layer.name)
    except converter.CutError as error:
        # The layer feeds no output, or is the output.
        assert "nothing" in str(error)
        return
    failures = [c for c in cut.validate().failures() if c.problem is None]
    assert not failures, (layer.name, failures)


def tensors_after(model: Any) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """For each layer call `name@k`: the tensors it reads and makes, straight from Keras's own graph."""
    reads: dict[str, set[int]] = {}
    makes: dict[str, set[int]] = {}
    count: dict[str, int] = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            name = node.operation.name
            key = f"{name}@{count.get(name, 0)}"
            count[name] = count.get(name, 0) + 1
            reads[key] = {id(tensor) for tensor in node.input_tensors}
            makes[key] = {id(tensor) for tensor in node.outputs}
    return reads, makes


def parts_the_graph(model: Any, call: str) -> bool:
    """Brute force: once the call's tensors are given, no output needs anything computed before them."""
    reads, makes = tensors_after(model)
    producer = {tensor: key for key, tensors in makes.items() for tensor in tensors}

    def needed(targets: set[int], given: set[int]) -> set[int]:
        seen: set[int] = set()
        stack = list(targets)
        while stack:
            tensor = stack.pop()
            if tensor in seen or tensor in given:
                continue
            seen.add(tensor)
            stack.extend(reads[producer[tensor]] if tensor in producer else ())
        return seen

    outputs = {id(tensor) for tensor in model.outputs}
    before = needed(makes[call], set())
    after = needed(outputs, makes[call])
    used = makes[call] & set().union(outputs, *(reads[producer[t]] for t in after if t in producer))
    return bool(used) and not (before & after)


@RANDOM
@given(st.lists(STEP, min_size=2, max_size=12), st.booleans())
def test_legal_cuts_are_those_that_part_keras_own_graph(
    steps: list[tuple[str, int, int]], two_outputs: bool
) -> None:
    model = build(steps, two_outputs)
    source = converter.load(model)._source
    layered = whole(source)
    legal = legal_cuts(layered, source.outputs)
    for layer in source.layers:
        call = layer.name if "@" in layer.name else f"{layer.name}@0"
        edge = frontier(layered, layer.boundaries, source.outputs)
        assert (layer.name in legal) == (edge.single and not edge.idle), layer.name
        assert (layer.name in legal) == parts_the_graph(model, call), layer.name


def test_samples_of_the_same_seed_are_the_same() -> None:
    model = converter.load(build([("conv", 0, 0)], False))
    first, second = (model.cut(to="stem").validate().comparisons for _ in range(2))
    assert [c.max_abs for c in first] == [c.max_abs for c in second]
    assert np.isfinite([c.max_abs for c in first]).all()
