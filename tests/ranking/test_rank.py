"""What is measured of blocks, against the frameworks themselves and against NumPy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.errors import UsageError, ValidationError
from converter.model import LayeredModel, Source
from converter.pipeline import whole
from converter.ranking import Influence, Ranking, candidates, rank
from converter.ranking.measures import Change
from converter.ranking.stored import Stored
from converter.sources import Opening, resolve
from converter.sources.onnx import open_onnx_file
from fixtures.onnx_text import model, saved

module = sys.modules[rank.__module__]

Array = np.ndarray[Any, Any]


def change_of(pairs: Sequence[tuple[Array, Array]], *, by_position: bool = False) -> float:
    """1 − cosine, mean over rows: of whole samples, or of each position of each."""
    values = []
    for given, out in pairs:
        for a, b in zip(given.astype(np.float64), out.astype(np.float64), strict=True):
            for u, v in zip(a, b, strict=True) if by_position else [(a, b)]:
                values.append(1 - (u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum()))
    return float(np.mean(values))


def scaled_error(got: Array, reference: Array) -> float:
    return float(np.abs(got.astype(np.float64) - reference).max() / np.abs(reference).max())


def agreement(got: Array, reference: Array) -> float:
    return float((got.argmax(-1) == reference.argmax(-1)).mean())


def ranked(
    source: Source, samples: Mapping[str, Array], *patterns: str
) -> tuple[Ranking, dict[str, Influence]]:
    layered = whole(source)
    ranking = rank(source, layered, samples, candidates(layered, patterns))
    return ranking, {block.name: block for block in ranking.blocks}


def ranked_file(
    body: str, folder: Path, x: Array, weights: Mapping[str, Array] | None = None, *patterns: str
) -> tuple[Ranking, dict[str, Influence]]:
    source = open_onnx_file(saved(body, folder, weights=weights))
    return ranked(source, {source.inputs[0].name: x}, *patterns)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---------------------------------------------------------------- against the frameworks


def native_torch(network: Any, names: Sequence[str], x: Array) -> dict[str, tuple[Any, Array]]:
    """Name of a module → (its inputs and outputs by forward hooks, the model's output without it)."""
    import torch

    found: dict[str, tuple[Any, Array]] = {}
    with torch.no_grad():
        for name in names:
            seen: list[tuple[Array, Array]] = []

            def look(_m: Any, given: Any, out: Any, seen: list[tuple[Array, Array]] = seen) -> None:
                seen.append((given[0].numpy().copy(), out.numpy().copy()))

            handle = network.get_submodule(name).register_forward_hook(look)
            network(torch.from_numpy(x))
            handle.remove()
            handle = network.get_submodule(name).register_forward_hook(lambda _m, given, _out: given[0])
            found[name] = (seen, network(torch.from_numpy(x)).numpy())
            handle.remove()
    return found


def test_torch_against_forward_hooks() -> None:
    import torch

    from converter.sources.torch import backend

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backend.torchvision().models.resnet18(weights=None, num_classes=10).eval()
    x = normal(6, 3, 64, 64)
    ranking, blocks = ranked(resolve(network, Opening(example=torch.zeros(1, 3, 64, 64))), {"x": x})
    with torch.no_grad():
        whole_output = network(torch.from_numpy(x)).numpy()
    native = native_torch(network, list(blocks), x)
    assert ranking.samples == 6
    assert ranking.outputs == ("output",)
    assert len(blocks) == 8
    assert ranking.notes == ()
    shares = set()
    for name, (pairs, output) in native.items():
        assert blocks[name].change == pytest.approx(change_of(pairs), abs=1e-4), name
        assert blocks[name].output_error == pytest.approx(scaled_error(output, whole_output), abs=1e-4), name
        assert blocks[name].agreement == agreement(output, whole_output), name
        assert blocks[name].problem is None
        shares.add(blocks[name].agreement)
    assert len(shares) > 1
    errors = {name: scaled_error(output, whole_output) for name, (_, output) in native.items()}
    assert [block.name for block in ranking.least] == sorted(errors, key=lambda name: errors[name])
    assert [block.name for block in ranking.blocks] == [n for n, _ in network.named_modules() if n in blocks]


def test_positions_of_a_sequence_count_alike() -> None:
    """Tensors of rank 3 are taken token by token, as in the measure's publication."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(2)]
        network = nn.Sequential(nn.Linear(4, 6), *blocks, nn.Linear(6, 3)).eval()
    x = normal(3, 5, 4) * np.array([1000, 1, 1, 1, 1], np.float32)[:, None]
    ranking, found = ranked(resolve(network, Opening(example=torch.zeros(1, 5, 4))), {"input": x}, "1", "2")
    for name, (pairs, _) in native_torch(network, ["1", "2"], x).items():
        assert found[name].change == pytest.approx(change_of(pairs, by_position=True), abs=1e-4)
        assert abs(change_of(pairs, by_position=True) - change_of(pairs)) > 1e-2
        assert found[name].agreement is None
    assert ranking.source.kind == "torch"


def test_keras_against_layers_called_by_hand() -> None:
    from converter.sources.keras import backend
    from fixtures.keras_models import randomized

    keras = backend.keras()
    layers = keras.layers

    def build() -> Any:
        image = keras.Input((12, 12, 3), name="image")
        x = layers.Conv2D(6, 3, name="stem")(image)
        for n in range(3):
            y = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"block{n}_conv")(x)
            y = layers.BatchNormalization(name=f"block{n}_bn")(y)
            x = layers.Add(name=f"block{n}_add")([x, y])
        x = layers.GlobalAveragePooling2D(name="gap")(x)
        return keras.Model(image, layers.Dense(4, name="out")(x))

    network = randomized(build())
    get = network.get_layer

    def forward(image: Array, skipped: int | None = None) -> tuple[list[tuple[Array, Array]], Array]:
        x, seen = get("stem")(image), []
        for n in range(3):
            before = x
            y = get(f"block{n}_bn")(get(f"block{n}_conv")(x), training=False)
            x = before if n == skipped else x + y
            seen.append((np.asarray(before), np.asarray(x)))
        return seen, np.asarray(get("out")(get("gap")(x)))

    image = normal(5, 12, 12, 3)
    ranking, blocks = ranked(resolve(network, Opening()), {"image": image})
    assert list(blocks) == ["block0_*", "block1_*", "block2_*"]
    seen, expected = forward(image)
    for n, block in enumerate(ranking.blocks):
        output = forward(image, n)[1]
        assert block.change == pytest.approx(change_of([seen[n]]), abs=1e-4)
        assert block.output_error == pytest.approx(scaled_error(output, expected), abs=1e-4)
        assert block.agreement == agreement(output, expected)
        assert block.drop == (f"block{n}_*",)


def test_a_file_against_numpy(tmp_path: Path) -> None:
    body = """g (float[N, 4] x) => (float[N, 3] y)
        { s = MatMul(x, w) a = MatMul(s, u) b = Tanh(a) c = MatMul(b, v) y = MatMul(c, z) }"""
    w, u, v, z = (normal(*shape, seed=k) for k, shape in enumerate([(4, 5), (5, 5), (5, 5), (5, 3)], 1))
    x = normal(7, 4)
    ranking, blocks = ranked_file(body, tmp_path, x, {"w": w, "u": u, "v": v, "z": z})
    s = x @ w
    b = np.tanh(s @ u)
    expected = b @ v @ z
    assert list(blocks) == ["a", "c"]
    for name, pair, output in (("a", (s, s @ u), np.tanh(s) @ v @ z), ("c", (b, b @ v), b @ z)):
        assert blocks[name].change == pytest.approx(change_of([pair]), abs=1e-5)
        assert blocks[name].output_error == pytest.approx(scaled_error(output, expected), abs=1e-5)
        assert blocks[name].agreement == agreement(output, expected)
    assert ranking.source.locator == str(tmp_path / "net.onnx")


def test_a_layer_that_is_called_twice_is_left_out_twice(structure: Callable[[str], Any]) -> None:
    network = structure("shared_layer")
    x = normal(4, 6)
    _, blocks = ranked(resolve(network, Opening()), {"features": x})
    shared, mid, out = (network.get_layer(name) for name in ("shared", "mid", "out"))
    once = np.asarray(shared(x))
    expected, without = np.asarray(out(mid(shared(once)))), np.asarray(out(mid(x)))
    assert blocks["shared"].change == pytest.approx(change_of([(x, np.asarray(shared(once)))]), abs=1e-4)
    assert blocks["shared"].output_error == pytest.approx(scaled_error(without, expected), abs=1e-4)


def test_two_calls_apart_are_averaged(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.out = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.dense(torch.sin(self.dense(x)) + 1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Twice().eval()
    x = normal(6, 5)
    _, blocks = ranked(resolve(network, Opening(example=torch.zeros(1, 5))), {"x": x})
    ((pairs, output),) = native_torch(network, ["dense"], x).values()
    assert len(pairs) == 2
    assert blocks["dense"].change == pytest.approx(change_of(pairs), abs=1e-4)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    assert blocks["dense"].output_error == pytest.approx(scaled_error(output, expected), abs=1e-4)


# ---------------------------------------------------------------- how


@pytest.mark.parametrize("most", [1, 2, 5])
def test_batches_change_nothing(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "g (float[N, 4, 6] x) => (float[N, 4, 6] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }"
    x, w = normal(5, 4, 6), normal(6, 6, seed=1)
    _, expected = ranked_file(body, tmp_path, x, {"w": w})
    seen: list[int] = []
    run = module.Session.run

    def counted(self: Any, feeds: Any, outputs: Any = ()) -> Any:
        seen.append(len(feeds["x"]))
        return run(self, feeds, outputs)

    monkeypatch.setattr(module, "_MOST", most)
    monkeypatch.setattr(module.Session, "run", counted)
    _, blocks = ranked_file(body, tmp_path, x, {"w": w})
    batches = [most] * (5 // most) + ([5 % most] if 5 % most else [])
    assert seen == [1] + batches * 3  # a look at the first, then the whole model, then without each of two
    for name, block in expected.items():
        assert blocks[name].change == pytest.approx(block.change, rel=1e-5)
        assert blocks[name].output_error == pytest.approx(block.output_error, rel=1e-4)


def test_memory_decides_how_many_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "g (float[N, 100] x) => (float[N, 100] y) { a = Tanh(x) y = Neg(a) }"
    sizes: list[int] = []
    part = module._part
    monkeypatch.setattr(module, "_part", lambda s, start, size: sizes.append(size) or part(s, start, size))
    monkeypatch.setattr(module, "_AT_ONCE", 3 * 2 * 400)  # a and y of three samples
    ranked_file(body, tmp_path, normal(7, 100))
    assert sizes == [1, 3, 3, 3]


@pytest.mark.parametrize("framework", ["keras", "onnx"])
def test_weights_are_written_once_or_not_at_all(
    framework: str, structure: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    if framework == "keras":
        source, samples = resolve(structure("residual"), Opening()), {"image": normal(2, 16, 16, 3)}
    else:
        body = "g (float[N, 50] x) => (float[N, 50] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }"
        source = open_onnx_file(saved(body, tmp_path, weights={"w": normal(50, 50)}))
        samples = {"x": normal(3, 50)}
    layered = whole(source)
    before = _text(layered)
    found: list[dict[str, int]] = []

    def look(_stage: str, _detail: str) -> None:
        files = (path for path in (tmp_path / "scratch").rglob("*") if path.is_file())
        found.append({path.name: path.stat().st_mtime_ns for path in files})

    ranking = rank(source, layered, samples, candidates(layered), progress=look)
    assert len(found) == 1 + len(ranking.blocks) >= 3
    assert all(files == found[0] for files in found)
    assert set(found[0]) == ({"model.onnx", "model.onnx.data"} if framework == "keras" else set())
    assert list((tmp_path / "scratch").iterdir()) == []
    assert _text(layered) == before


def _text(layered: LayeredModel) -> str:
    import onnx_ir as ir

    graph = layered.graph
    return (
        str(list(graph.nodes()))
        if not isinstance(graph, ir.Model)
        else str([*graph.graph, *graph.graph.outputs])
    )


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    body = "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }"
    x, w = normal(4, 3, 4), normal(4, 4, seed=1)
    ranking, blocks = ranked_file(body, tmp_path, x, {"w": w})
    expected = np.tanh(x @ w) @ w
    assert ranking.samples == 4
    assert blocks["a"].output_error == pytest.approx(scaled_error(np.tanh(x) @ w, expected), abs=1e-5)
    with pytest.raises(UsageError, match="takes 2 samples at a time, got 5"):
        ranked_file(body, tmp_path, normal(5, 3, 4), {"w": w})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "no samples for the inputs x, got none"),
        ({"x": np.zeros((0, 4), np.float32)}, "arrays are empty"),
    ],
)
def test_samples_are_asked_for(samples: dict[str, Array], message: str, tmp_path: Path) -> None:
    source = open_onnx_file(saved("g (float[N, 4] x) => (float[N, 4] y) { y = Tanh(x) }", tmp_path))
    layered = whole(source)
    with pytest.raises(UsageError, match=message):
        rank(source, layered, samples, candidates(layered))


def test_bodies_read_past_a_block(tmp_path: Path) -> None:
    """What the branches of an If read from outside is what went into the block."""
    body = """g (float[N, 3] x, bool k) => (float[N, 3] y)
        { a = Sin(x) b = Cos(x) i = If <
            then_branch = t () => (float[N, 3] p) { p = Add(a, b) },
            else_branch = e () => (float[N, 3] q) { q = Neg(a) }
          >(k) y = Neg(i) }"""
    source = open_onnx_file(saved(body, tmp_path))
    layered, x = whole(source), normal(4, 3)
    found = candidates(layered, ["a"])
    for condition, expected, without in ((True, np.sin(x) + np.cos(x), x + np.cos(x)), (False, np.sin(x), x)):
        (block,) = rank(source, layered, {"x": x, "k": np.array(condition)}, found).blocks
        assert block.problem is None
        assert block.output_error == pytest.approx(scaled_error(without, expected), abs=1e-5)


def test_what_is_left_out_is_gone_but_for_what_others_need(tmp_path: Path) -> None:
    body = """g (float[N, 4] x, bool k) => (float[N, 4] y)
        { late = Cos(x) a = MatMul(x, w) b = Tanh(a) i = If <
            then_branch = t () => (float[N, 4] p) { p = Add(b, late) },
            else_branch = e () => (float[N, 4] q) { q = Neg(b) }
          >(k) y = Neg(i) }"""
    layered = whole(open_onnx_file(saved(body, tmp_path, weights={"w": normal(4, 4)})))
    stored = Stored(layered, tmp_path)
    without = onnx.ModelProto.FromString(stored.without([("a", "b")]))
    assert [node.op_type for node in without.graph.node] == ["Cos", "MatMul", "If", "Neg"]
    without = onnx.ModelProto.FromString(stored.without([("x", "a"), ("i", "y")]))
    assert [node.op_type for node in without.graph.node] == ["Cos", "Tanh", "If", "Identity"]
    assert [node.op_type for node in onnx.ModelProto.FromString(stored.tapped(["a"])).graph.node][
        1
    ] == "MatMul"


def test_sparse_weights_stay(tmp_path: Path) -> None:
    proto = model("g (float[N, 3] x) => (float[N, 3] y) { a = Tanh(x) y = MatMul(a, w) }")
    values = onnx.numpy_helper.from_array(np.float32([1, 2, -3]), "w")
    indices = onnx.numpy_helper.from_array(np.array([1, 3, 8]), "w_indices")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [3, 3]))
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    x, w = normal(4, 3), np.float32([[0, 1, 0], [2, 0, 0], [0, 0, -3]])
    _, blocks = ranked(open_onnx_file(tmp_path / "net.onnx"), {"x": x}, "a")
    assert blocks["a"].output_error == pytest.approx(scaled_error(x @ w, np.tanh(x) @ w), abs=1e-5)


# ---------------------------------------------------------------- what cannot be ranked


def test_a_block_without_which_nan_comes_out(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (float[N, 4] y) { a = Abs(x) b = Log(a) y = Tanh(b) }"
    ranking, blocks = ranked_file(body, tmp_path, normal(5, 4))
    assert blocks["a"].problem == "without it the model puts out NaN or infinity"
    assert blocks["a"].output_error is None
    assert blocks["a"].agreement is None
    assert blocks["a"].change is not None
    assert blocks["b"].problem is None
    assert {block.name for block in ranking.least} == {"b", "y"}


def test_nan_at_a_block_is_said(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (bool[N, 4] y) { a = Log(x) b = Sin(a) y = IsNaN(b) }"
    ranking, blocks = ranked_file(body, tmp_path, normal(5, 4))
    assert blocks["b"].problem == "NaN or infinity goes into it or comes out"
    assert blocks["b"].change is None
    assert ranking.least == ()


def test_a_model_that_puts_out_nan_is_refused(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (float[N, 4] y) { a = Tanh(x) y = Log(a) }"
    with pytest.raises(ValidationError, match="itself puts out NaN at y"):
        ranked_file(body, tmp_path, normal(5, 4))


def test_a_constant_output_is_refused(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (float[N, 4] y) { a = Tanh(x) b = Mul(a, z) y = Cos(b) }"
    with pytest.raises(ValidationError, match="the output y is the same for every sample"):
        ranked_file(body, tmp_path, normal(5, 4), {"z": np.zeros(1, np.float32)})


def test_a_block_without_which_the_output_is_constant(tmp_path: Path) -> None:
    """The block tells samples apart: what goes into it is large, and saturates what comes after."""
    body = "g (float[N, 4] x) => (float[N, 4] y) { b = Add(x, c) a = MatMul(b, w) y = Tanh(a) }"
    weights = {"c": np.full(4, 100, np.float32), "w": (normal(4, 4) - 0.1) / 100}
    ranking, blocks = ranked_file(body, tmp_path, normal(5, 4) * 9, weights, "a", "y")
    assert blocks["a"].problem == "without it the model puts out the same for every sample"
    assert [block.name for block in ranking.least] == ["y"]


def test_a_block_without_which_the_output_has_another_shape(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (int64[2, M] y) { a = Relu(x) y = NonZero(a) }"
    _, blocks = ranked_file(body, tmp_path, normal(5, 4), None, "a")
    assert blocks["a"].problem is not None
    assert blocks["a"].problem.startswith("without it the model puts out (2, 20) for (2, ")


def test_a_block_without_which_the_model_does_not_run(tmp_path: Path) -> None:
    body = """g (float[N, 4] x) => (float[N, 4] y)
        { a = Abs(x) i = Cast<to=7>(a) j = Min(i, three) y = GatherElements<axis=1>(x, j) }"""
    _, blocks = ranked_file(body, tmp_path, normal(5, 4) * 50, {"three": np.array(3)}, "a")
    assert blocks["a"].problem is not None
    assert blocks["a"].problem.startswith("without it the model does not run: ONNX Runtime fails inside")


def test_constant_outputs_beside_others_are_left_out(tmp_path: Path) -> None:
    body = """g (float[N, 4] x) => (float[4] k, float[N, 4] y, int64[N] c)
        { a = Tanh(x) y = Neg(a) k = Cos(zeros) c = ArgMax<axis=1, keepdims=0>(a) }"""
    ranking, blocks = ranked_file(body, tmp_path, normal(9, 4), {"zeros": np.zeros(4, np.float32)})
    assert ranking.outputs == ("y", "c")
    assert ranking.notes == ("the output k is the same for every sample and was left out",)
    # Without Neg the largest becomes the smallest: c is the same, y is as far away as can be.
    assert blocks["y"].output_error == pytest.approx(2, abs=1e-5)
    assert blocks["a"].agreement == 1


def test_integers_are_counted(tmp_path: Path) -> None:
    body = "g (float[N, 6] x) => (int64[N] c) { a = MatMul(x, w) c = ArgMax<axis=1, keepdims=0>(a) }"
    x, w = normal(20, 6), normal(6, 6, seed=1)
    _, blocks = ranked_file(body, tmp_path, x, {"w": w})
    expected = float(((x @ w).argmax(1) != x.argmax(1)).mean())
    assert 0 < expected < 1
    assert blocks["a"].output_error == pytest.approx(expected)
    assert blocks["a"].agreement is None


def test_an_order_of_rounding_errors_is_said(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (float[N, 4] y) { a = Mul(x, tiny) b = Add(a, x) y = Mul(b, one) }"
    weights = {"tiny": np.float32([1e-9]), "one": np.float32([1])}
    ranking, _ = ranked_file(body, tmp_path, normal(5, 4), weights, "y")
    assert ranking.notes == (
        "without any one block the output is the same up to rounding: the order says nothing",
    )


def test_random_numbers_are_said(tmp_path: Path) -> None:
    body = "g (float[N, 4] x) => (float[N, 4] y) { r = RandomNormalLike(x) a = Add(x, r) y = Tanh(a) }"
    ranking, _ = ranked_file(body, tmp_path, normal(5, 4), None, "y")
    assert ranking.notes == ("the model draws random numbers: the figures differ from run to run",)


# ---------------------------------------------------------------- the measure


def test_change_of_vectors() -> None:
    def value(given: Any, out: Any) -> float | None:
        change = Change()
        change.add(np.asarray(given, np.float32), np.asarray(out, np.float32))
        return change.value

    assert value([[1, 2]], [[2, 4]]) == pytest.approx(0, abs=1e-12)
    assert value([[1, 2]], [[-1, -2]]) == pytest.approx(2)
    assert value([[1, 0], [1, 0]], [[0, 1], [3, 0]]) == pytest.approx(0.5)
    assert value([[0, 0]], [[0, 0]]) == 0
    assert value([[0, 0]], [[0, 1]]) == 1
    assert value([[np.inf, 0]], [[0, 1]]) is None
    assert value([[[9, 0], [1, 0]]], [[[9, 0], [0, 1]]]) == pytest.approx(0.5)  # two positions
    assert value([[[[9, 0], [1, 0]]]], [[[[9, 0], [0, 1]]]]) == pytest.approx(1 - 81 / 82)  # an image
    assert Change().value is None
