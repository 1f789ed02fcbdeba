"""Which blocks are offered, under which names, and that all of these can be dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.editing import Changes, edit
from converter.errors import CutError
from converter.model import LayeredModel, Source
from converter.pipeline import whole
from converter.ranking import Candidate, candidates, rank
from converter.ranking.groups import groups
from converter.samples import draw, vocabularies
from converter.sources import Opening, resolve
from converter.sources.onnx import open_onnx_file
from converter.surgery import select_layers
from fixtures.onnx_text import saved


def names(found: tuple[Candidate, ...]) -> list[str]:
    return [candidate.name for candidate in found]


def torch_source(model: Any, *shape: int) -> Source:
    import torch

    return resolve(model.eval(), Opening(example=torch.zeros(1, *shape)))


@pytest.fixture(scope="module")
def resnet18() -> LayeredModel:
    import torch

    from converter.sources.torch import backend

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = backend.torchvision().models.resnet18(weights=None)
    return whole(torch_source(model, 3, 64, 64))


# ---------------------------------------------------------------- which


def test_blocks_of_a_residual_network(resnet18: LayeredModel) -> None:
    # The first blocks of the later stages change the shape; of those only a convolution keeps it.
    # A stage of two like blocks (layer1) is a stack: its blocks are offered.
    assert names(candidates(resnet18)) == [
        "layer1.0",
        "layer1.1",
        "layer2.0.conv2",
        "layer2.1",
        "layer3.0.conv2",
        "layer3.1",
        "layer4.0.conv2",
        "layer4.1",
    ]


def test_parameters_and_depth(resnet18: LayeredModel) -> None:
    found = {candidate.name: candidate for candidate in candidates(resnet18)}
    layers = {layer.name: layer for layer in resnet18.layers}
    assert found["layer3.1"].parameters == layers["layer3.1"].parameters == 1_180_672
    assert found["layer3.1"].kind == "BasicBlock"
    depths = [candidate.depth for candidate in candidates(resnet18)]
    assert depths == sorted(depths)
    assert depths[0] > 0
    assert depths[-1] < 1


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["layer1"], ["layer1"]),
        (["layer1", "layer1.0", "layer1.0.bn1"], ["layer1", "layer1.0", "layer1.0.bn1"]),
        (["layer2.*"], ["layer2.1"]),
        (["layer2.0.*"], ["layer2.0.bn1", "layer2.0.relu", "layer2.0.conv2", "layer2.0.bn2"]),
        (["layer3.1", "layer1.1"], ["layer1.1", "layer3.1"]),
    ],
)
def test_patterns(resnet18: LayeredModel, patterns: list[str], expected: list[str]) -> None:
    assert names(candidates(resnet18, patterns)) == expected


def test_a_module_that_is_called_twice_is_one_block_of_two_bridges(resnet18: LayeredModel) -> None:
    (relu,) = candidates(resnet18, ["layer1.1.relu"])
    assert relu.name == "layer1.1.relu"
    assert relu.bridges[0] == ("boundary:layer1.1.bn1@0:", "boundary:layer1.1.relu@0:")
    assert relu.bridges[1][1] == "boundary:layer1.1.relu@1:"
    assert len(relu.bridges) == 2


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["layer2"],
            r"layer2 cannot be dropped: it takes layer1: .*64, 16, 16\] .*128, 8, 8\], which do not",
        ),
        (["layer1..3"], "layer2 cannot be dropped"),  # what is spelled out has to be possible
        (["nothing"], "no layer is called 'nothing'"),
        (["avg*"], "none of the 1 layers of avg. can be dropped; avgpool cannot be dropped"),
    ],
)
def test_what_cannot_be_dropped_is_said(resnet18: LayeredModel, patterns: list[str], message: str) -> None:
    with pytest.raises(CutError, match=message):
        candidates(resnet18, patterns)


def test_of_a_stack_the_blocks_are_offered() -> None:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x + self.mlp(x))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout()
            self.layers = nn.Sequential(Block(), Block(), Block())
            self.norm = nn.LayerNorm(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.layers(self.drop(x)))

    model = nn.Sequential(nn.Linear(4, 8), Encoder(), nn.Linear(8, 3))
    layered = whole(torch_source(model, 5, 4))
    assert names(candidates(layered)) == ["1.layers.0", "1.layers.1", "1.layers.2"]
    assert names(candidates(layered, ["1"])) == ["1"]
    with pytest.raises(CutError, match=r"1\.drop computes nothing"):
        candidates(layered, ["1.drop"])


def test_a_container_of_one_large_block_is_no_stack() -> None:
    from torch import nn

    body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh())
    layered = whole(torch_source(nn.Sequential(nn.Linear(4, 8), body, nn.Linear(8, 3)), 4))
    assert names(candidates(layered)) == ["1"]
    assert names(candidates(layered, ["1.*"])) == ["1.0", "1.1", "1.2"]


# ---------------------------------------------------------------- groups


def test_groups_are_what_their_globs_select() -> None:
    from converter.model import Layer

    listed = (
        "conv1_conv conv10_x conv4_block1_1_conv conv4_block1_1_bn conv4_block10_1_bn conv4_block1_out "
        "block2a_expand block2a_add block2b_add block20a_add outer/conv4_block1_a outer/conv4_block1_b "
        "a.b_1 a.b_2 a__b a_x odd[1]_a odd[1]_b 7 8 shared_1"
    ).split()
    layers = [Layer(name, "", (), 0, 0, 0) for name in listed]
    found = groups(listed)
    assert {"conv4_block1_*", "block2[!0-9]*", "block2a_*", "outer/conv4_block1_*", "a.b_*", "a_*"} <= set(
        found
    )
    for glob, matched in found.items():
        assert {layer.name for layer in select_layers([glob], layers)} == set(matched)
        assert len(matched) > 1


@pytest.fixture(scope="module")
def resnet50() -> LayeredModel:
    return whole(resolve("keras:resnet50", Opening(weights="random")))


def test_groups_of_flat_names(resnet50: LayeredModel) -> None:
    found = {candidate.name: candidate for candidate in candidates(resnet50)}
    blocks = [
        f"conv{stage}_block{n}_*"
        for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3))
        for n in range(2, count + 1)
    ]
    assert [name for name in found if name in blocks] == blocks
    assert not [name for name in found if name.startswith("conv4_block3") and name != "conv4_block3_*"]
    block = found["conv4_block3_*"]
    assert block.bridges == (("boundary:conv4_block2_out@0:", "boundary:conv4_block3_out@0:"),)
    assert block.kind == "group"
    inside = [layer for layer in resnet50.layers if layer.name.startswith("conv4_block3_")]
    assert block.layers == tuple(layer.name for layer in inside)
    assert block.parameters == sum(layer.parameters for layer in inside) == 1_121_792


def test_patterns_of_groups(resnet50: LayeredModel) -> None:
    inner = "conv4_block3_2_conv"
    assert names(candidates(resnet50, ["conv4_block3_*"])) == ["conv4_block3_*"]
    assert names(candidates(resnet50, [inner])) == [inner]
    assert names(candidates(resnet50, ["conv4_block3_*", inner])) == ["conv4_block3_*", inner]
    found = names(candidates(resnet50, ["conv4_*"]))
    assert [name for name in found if not name.startswith("conv4_block1")] == [
        f"conv4_block{n}_*" for n in range(2, 7)
    ]


def test_a_branch_is_dropped_with_the_sum_behind_it() -> None:
    """Without the branch alone its input would be added to itself."""
    from converter.sources.keras import backend
    from converter.sources.keras.applications import fresh_names

    keras = backend.keras()
    layers = keras.layers
    x = given = keras.Input((6, 8), name="steps")
    x = layers.Dense(8, name="stem")(x)
    for number in (1, 2):
        y = layers.LayerNormalization(name=f"block{number}_norm")(x)
        y = layers.Dense(8, activation="gelu", name=f"block{number}_dense")(y)
        x = layers.Add(name=f"plus{number}")([x, y])
    y = layers.Dense(8, name="last")(x)
    with fresh_names():  # Keras counts the sums of a process
        x = x + y
    layered = whole(resolve(keras.Model(given, x), Opening()))
    found = candidates(layered)
    assert names(found) == ["stem", "block1_* + plus1", "block2_* + plus2", "last + add"]
    assert found[1].drop == ("block1_*", "plus1")
    assert found[1].layers == ("block1_norm", "block1_dense", "plus1")
    assert found[1].bridges == (("boundary:stem@0:", "boundary:plus1@0:"),)
    assert names(candidates(layered, ["last"])) == ["last"]
    assert names(candidates(layered, ["block1_*"])) == ["block1_*"]
    assert names(candidates(layered, ["block1_*", "plus*"])) == ["block1_* + plus1", "block1_*"]


# ---------------------------------------------------------------- files


def scoped(folder: Path) -> Path:
    """A file whose nodes are named after their scopes; `net/b0` and `net/b1` are residual blocks."""
    make = onnx.helper.make_node
    nodes = [make("MatMul", ["x", "w"], ["s"], name="net/stem/MatMul")]
    given = "s"
    for block in ("b0", "b1"):
        nodes += [
            make("MatMul", [given, "v"], [f"{block}m"], name=f"net/{block}/fc/MatMul"),
            make("Relu", [f"{block}m"], [f"{block}r"], name=f"net/{block}/act/Relu"),
            make("Add", [f"{block}r", given], [f"{block}o"], name=f"net/{block}/Add"),
        ]
        given = f"{block}o"
    nodes += [
        make("Identity", [given], ["i"], name="net/pass"),
        make("MatMul", ["i", "u"], ["y"], name="net/out"),
    ]
    rng = np.random.default_rng(0)
    weights = {"w": (3, 4), "v": (4, 4), "u": (4, 2)}
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 3])],
        [onnx.helper.make_tensor_value_info("y", 1, ["N", 2])],
        [onnx.numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()],
    )
    path = folder / "scoped.onnx"
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


def test_scopes_of_a_file(tmp_path: Path) -> None:
    layered = whole(open_onnx_file(scoped(tmp_path)))
    found = candidates(layered)
    assert names(found) == ["net/b0", "net/b1"]
    assert found[0].bridges == (("s", "b0o"),)
    assert found[0].parameters == 16
    # A scope and its only node compute the same: the scope's name is the outermost.
    assert names(candidates(layered, ["net/b0/*", "net/b0/*/*"])) == ["net/b0/fc", "net/b0/act"]
    with pytest.raises(CutError, match="net/pass computes nothing"):
        candidates(layered, ["net/pass"])


def test_weights_of_calls_are_counted_once_and_of_nodes_of_one_name_each(
    structure: Callable[[str], Any], tmp_path: Path
) -> None:
    (shared,) = candidates(whole(resolve(structure("shared_layer"), Opening())))
    assert (shared.name, shared.parameters) == ("shared", 6 * 6 + 6)
    make = onnx.helper.make_node
    nodes = [make("MatMul", ["x", "w"], ["a"], name="fc"), make("Tanh", ["a"], ["b"], name="act")]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [*nodes, make("MatMul", ["b", "v"], ["y"], name="fc")],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, ["N", 3])],
            [onnx.helper.make_tensor_value_info("y", 1, ["N", 3])],
            [onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), name) for name in "wv"],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=8,
    )
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    (both,) = candidates(whole(open_onnx_file(tmp_path / "net.onnx")))
    assert (both.name, both.parameters) == ("fc", 18)
    assert both.bridges == (("x", "a"), ("b", "y"))


def test_nothing_to_drop_is_said(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (float[N, 2] y) { a = MatMul(x, w) b = Identity(a) y = MatMul(b, v) }"
    weights = {"w": np.ones((4, 3), np.float32), "v": np.ones((3, 2), np.float32)}
    layered = whole(open_onnx_file(saved(body, tmp_path, weights=weights)))
    with pytest.raises(CutError, match="no layer of this model can be dropped") as caught:
        candidates(layered)
    assert caught.value.hint is not None
    assert "converter layers" in caught.value.hint


def test_branches_that_no_output_needs_are_not_read(tmp_path: Path) -> None:
    body = """g (float[N, 4] x) => (float[N, 4] y)
        { a = MatMul(x, w) b = Tanh(a) c = MatMul(b, w) y = Neg(c) unused = Exp(b) }"""
    layered = whole(open_onnx_file(saved(body, tmp_path, weights={"w": np.eye(4, dtype=np.float32)})))
    assert names(candidates(layered)) == ["a", "c"]
    assert names(candidates(layered, ["[by]"])) == ["b", "y"]


def test_integers_are_no_blocks(tmp_path: Path) -> None:
    body = "g (int64[N, 4] x) => (float[N, 4] y) { a = Neg(x) y = Cast<to=1>(a) }"
    layered = whole(open_onnx_file(saved(body, tmp_path)))
    with pytest.raises(CutError, match="no floating-point numbers"):
        candidates(layered, ["a"])


# ---------------------------------------------------------------- against dropping them


def keras_source(name: str, structure: Callable[[str], Any]) -> Source:
    return resolve(structure(name), Opening())


@pytest.mark.parametrize(
    ("kind", "name", "least"),
    [
        ("torch", "residual", 7),
        ("torch", "shared", 2),
        ("torch", "text", 3),
        ("torch", "unet", 4),
        ("keras", "residual", 2),
        ("keras", "subclassed", 3),
        ("keras", "attention", 3),
        ("keras", "half_precision", 1),
        ("onnx", "scoped", 6),
    ],
)
def test_every_block_can_be_dropped_and_does_what_was_measured(
    kind: str, name: str, least: int, structure: Callable[[str], Any], tmp_path: Path
) -> None:
    """Of what can be dropped by name the error is the one of the changed model itself, in its framework."""
    if kind == "torch":
        from fixtures.torch_models import build

        model, example = build(name)
        source = resolve(model, Opening(example=example))
    elif kind == "keras":
        source = resolve(structure(name), Opening())
    else:
        source = open_onnx_file(scoped(tmp_path))
    layered = whole(source)
    reading_inputs = {"attention", "attention + add", "tail/one"}  # which Keras's editor refuses
    every = [layer.base for layer in layered.layers]
    found = [c for base in dict.fromkeys(every) if (c := _only(layered, base)) is not None]
    found += [c for c in candidates(layered) if c.name not in names(tuple(found))]
    found = [c for c in found if c.name not in reading_inputs]
    assert len(found) >= least
    feeds = draw(layered.inputs, vocabularies(layered.graph), 0)[1]
    ranking = rank(source, layered, feeds, found)
    expected = source.run(feeds, source.outputs)
    (end,) = source.outputs
    reference = expected[end.value].astype(np.float64)
    for block in ranking.blocks:
        changed = edit(source, Changes(drop=block.drop), seed=0).source
        changed.expect(())
        got = changed.run(feeds, changed.outputs)[changed.outputs[0].value]
        error = np.abs(got - reference).max() / np.abs(reference).max()
        tolerance = 2e-2 if name == "half_precision" else 1e-4
        assert block.output_error == pytest.approx(error, abs=tolerance, rel=tolerance), block.name
        assert block.problem is None
        source.expect(())


def _only(layered: LayeredModel, name: str) -> Candidate | None:
    try:
        return candidates(layered, [name])[0]
    except CutError:
        return None
