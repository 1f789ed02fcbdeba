"""Every structure, cut at every layer: trunk, head, and both joined, against Keras itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import converter
from fixtures.keras_models import STRUCTURES

# The layers and calls of each structure in order: what a user may name.
LAYERS = {
    "sequential": "conv bn relu pool flat probs",
    "residual": "stem inner1 inner2 join gap out",
    "nested": "encoder/first encoder/second encoder flat out",
    "shared_layer": "shared@0 shared@1 mid out",
    "siamese": "encoder/code@0 encoder@0 encoder/code@1 encoder@1 both same",
    "dictionaries": "h g add total side",
    "text_lstm": "embed lstm1 lstm2 out",
    "masked_lstm": "embed not_equal lstm out",
    "gru": "gru1 gru2 out",
    "bidirectional": "both1/forward_l both1/backward_l both1 both2/forward_g both2/backward_g both2 out",
    "states": "lstm all steps rnn out",
    "attention": "attention/query attention/key attention/value attention/attention_output attention "
    "add norm mlp pool_attention gap",
    "subclassed": "conv act@0 dense act@1 tail/one tail/two tail",
    "volumes": "conv3d pool3d line conv1d up1d flat",
    "unet": "fine down coarse up smooth join mask",
    "time_distributed": "frames/conv@0 frames/conv@1 frames/conv@2 frames/conv@3 frames/conv@4 frames "
    "pooled/gap@0 pooled/gap@1 pooled/gap@2 pooled/gap@3 pooled/gap@4 pooled gru",
    "any_size": "conv bn prelu max out",
    "image_layers": "rescale resize pad depthwise groups crop leaky average permute flat drop out",
    "half_precision": "gru both conv bn max",
    "fixed_batch": "conv pairs",
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_layer_call_is_listed(structure: Callable[[str], Any], name: str) -> None:
    found = {layer.name for layer in converter.load(structure(name)).layers}
    # Attention's softmax and dropout are layers too, and whether they are called is Keras's business.
    expected = set(LAYERS[name].split())
    assert expected <= found
    assert {layer for layer in found - expected if not layer.startswith("attention/")} == set()


@pytest.mark.parametrize("name", STRUCTURES)
def test_whole_model_computes_what_keras_computes(structure: Callable[[str], Any], name: str) -> None:
    model = converter.load(structure(name))
    certificate = model.cut().validate()
    assert certificate.passed, certificate.failures()
    assert {c.output for c in certificate.comparisons} == {spec.name for spec in model.outputs}
    assert len({c.batch for c in certificate.comparisons}) == (1 if name == "fixed_batch" else 2)


@pytest.mark.parametrize("name", STRUCTURES)
def test_trunk_and_head_at_every_layer(structure: Callable[[str], Any], name: str) -> None:
    model = converter.load(structure(name))
    split, ends = [], []
    for layer in model.layers:
        try:
            cut = model.cut(split=layer.name)
        except converter.CutError as error:
            assert "nothing is computed after" in str(error)
            ends.append(layer.name)
            continue
        certificate = cut.validate()
        assert certificate.passed, (layer.name, certificate.failures())
        assert {c.piece for c in certificate.comparisons} == {"trunk", "head", "head∘trunk"}
        trunk, head = cut.pieces
        assert layer.boundaries[0].name in [spec.name for spec in trunk.outputs]
        fed = {spec.name for spec in (*trunk.outputs, *model.inputs)}
        assert {spec.name for spec in head.inputs} <= fed
        split.append(layer.name)
    # Only the layer that puts out the model's output, and what wraps it, has nothing after it.
    assert len(ends) <= 2
    assert len(split) + len(ends) == len(model.layers)


@pytest.mark.parametrize("name", STRUCTURES)
def test_trunk_alone_has_the_boundary_under_its_name(structure: Callable[[str], Any], name: str) -> None:
    model = converter.load(structure(name))
    last = model.layers[-1]
    cut = model.cut(to=last.name)
    assert cut.piece("trunk").outputs == tuple(b.spec for b in last.boundaries)
    assert cut.validate().passed


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_native_pieces(structure: Callable[[str], Any], name: str, tmp_path: Any) -> None:
    """The keras target at a layer in the middle: reloaded, compared, original names and weights."""
    import keras
    import numpy as np

    source = structure(name)
    model = converter.load(source)
    at = {"time_distributed": "frames", "bidirectional": "both1", "nested": "encoder/first"}
    middle = at.get(name, LAYERS[name].split()[max(0, len(LAYERS[name].split()) // 2 - 1)])
    document = model.cut(split=middle).save(tmp_path, targets=["onnx", "keras"])
    judged = {c.piece for c in document.proof.comparisons}
    assert {"trunk.keras", "head.keras", "head.keras∘trunk.keras"} <= judged
    originals = {variable.path.split("/", 1)[-1]: np.asarray(variable) for variable in source.weights}
    originals |= {v.path: np.asarray(v) for v in source.weights}
    for role in ("trunk", "head"):
        piece = keras.saving.load_model(tmp_path / f"{role}.keras", compile=False)
        assert all(layer.trainable for layer in piece.layers)
        for weight in piece.weights:
            known = [array for path, array in originals.items() if path.endswith(weight.path)]
            assert any(np.array_equal(weight, array) for array in known), weight.path


def test_source_model_is_left_as_it_was(structure: Callable[[str], Any], tmp_path: Any) -> None:
    model = structure("residual")
    before = {op.name: len(op._inbound_nodes) for op in model.operations}
    types = [type(layer) for layer in model.layers]
    converter.load(model).cut(split="inner1").save(tmp_path, targets=["keras"])
    assert {op.name: len(op._inbound_nodes) for op in model.operations} == before
    assert [type(layer) for layer in model.layers] == types
    assert not any("call" in vars(layer) for layer in model.layers)
    assert model.get_layer("inner1").output.shape == (None, 16, 16, 8)
