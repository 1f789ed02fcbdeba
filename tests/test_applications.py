"""Real architectures at small input sizes with seeded weights, each at several cuts."""

from __future__ import annotations

import random
from typing import Any

import pytest

import converter
from converter.pipeline import whole
from converter.sources.keras.applications import application_names, fresh_names, value_range
from converter.sources.keras.initial import keep_signal
from converter.surgery import legal_cuts

# Input side, a cut that BatchNorm fusion would swallow or that lies in a branch, and its frontier.
MODELS: dict[str, tuple[int, dict[str, Any], str, set[str]]] = {
    "VGG16": (48, {}, "block3_conv2", {"block3_conv2"}),
    "ResNet50": (64, {}, "conv3_block2_1_relu", {"conv3_block2_1_relu", "conv3_block1_out"}),
    "MobileNetV2": (64, {"alpha": 0.35}, "Conv1", {"Conv1"}),
    "MobileNetV3Small": (64, {}, "expanded_conv_1_depthwise_bn", {"expanded_conv_1_depthwise_bn"}),
    "DenseNet121": (64, {}, "conv3_block2_concat", {"conv3_block2_concat"}),
    "EfficientNetB0": (64, {}, "block2b_se_excite", {"block2b_se_excite", "block2a_project_bn"}),
    "InceptionV3": (80, {}, "mixed0", {"mixed0"}),
    "Xception": (72, {}, "block5_sepconv1_bn", {"block5_sepconv1_bn", "add_2"}),
    "NASNetMobile": (64, {}, "normal_concat_2", {"normal_concat_2", "normal_concat_1"}),
    "ConvNeXtTiny": (64, {}, "convnext_tiny_stage_1_block_1_gelu", set()),
}


def build(name: str) -> Any:
    import keras

    side, options, _, _ = MODELS[name]
    state = random.getstate()
    random.seed(0)
    with fresh_names():
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(side, side, 3), classes=20, **options
        )
    random.setstate(state)
    keep_signal(model, 0)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_application(name: str) -> None:
    model = converter.load(build(name))
    assert model.cut().validate().passed
    _, _, middle, crossing = MODELS[name]
    if not crossing:
        middle = next(layer.name for layer in model.layers if layer.name.endswith(middle[-5:]))
    split = model.cut(split=middle)
    assert split.validate().passed
    if crossing:
        assert set(split.frontier) == crossing
    source = model._source
    layered = whole(source)
    legal = [la.name for la in source.layers if la.name in legal_cuts(layered, source.outputs)]
    head = model.cut(from_=legal[len(legal) // 2])
    assert head.validate().passed
    assert len(head.pieces[0].inputs) == 1


def test_every_application_has_a_builder_and_a_range() -> None:
    names = application_names()
    assert len(names) >= 40
    assert {"vgg16", "resnet50", "mobilenetv2", "efficientnetv2l", "convnextxlarge"} <= set(names)
    assert value_range("resnet50v2") == (-1.0, 1.0)
    assert value_range("resnet50")[1] > 150
    for name in names:
        low, high = value_range(name)
        assert low <= 0 < high


def test_the_ranges_are_those_of_preprocess_input() -> None:
    import keras
    import numpy as np

    images = np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), 255.0)]).astype("float32")
    modules = {
        "vgg16": "vgg16",
        "resnet50v2": "resnet_v2",
        "mobilenetv2": "mobilenet_v2",
        "densenet121": "densenet",
        "efficientnetb0": "efficientnet",
        "nasnetlarge": "nasnet",
        "convnexttiny": "convnext",
        "mobilenetv3small": "mobilenet_v3",
        "xception": "xception",
    }
    for name, module in modules.items():
        made = np.asarray(getattr(keras.applications, module).preprocess_input(images.copy()))
        low, high = value_range(name)
        assert low == pytest.approx(made.min(), abs=1e-3), name
        assert high == pytest.approx(made.max(), abs=1e-3), name


def test_names_are_case_insensitive_and_do_not_depend_on_what_was_built_before() -> None:
    first = converter.load("keras:MobileNetV3Small", weights="random")
    second = converter.load("mobilenetv3small", weights="random")
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert first.inputs == second.inputs
    assert first.inputs[0].name == "input_layer"
    assert first.info == second.info


def test_seeded_weights_repeat_and_differ_by_seed() -> None:
    import numpy as np

    def kernel(seed: int) -> Any:
        model = converter.load("keras:mobilenetv3small", weights="random", seed=seed, cache=False)
        return np.asarray(model._source.model.get_layer("conv").kernel)

    assert np.array_equal(kernel(1), kernel(1))
    assert not np.array_equal(kernel(1), kernel(2))


def test_the_batch_is_told_from_other_sizes_at_full_resolution() -> None:
    """Large images must not overflow the shape arithmetic that tells the batch from the rest."""
    model = converter.load("keras:convnexttiny", weights="random")
    for layer in model.layers:
        assert layer.boundaries[0].spec.shape[0] == "batch", layer.name
    nodes = model.cut(to="convnext_tiny_stage_0_block_0_pointwise_conv_1").pieces[0].graph.graph
    assert not {"Shape", "Reshape", "Gather"} & {node.op_type for node in nodes}
