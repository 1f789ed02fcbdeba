"""Models rebuilt in another framework: as fast as their originals? and beside onnx2torch.

    python benchmarks/handoff.py latency [GROUP:MODEL…] [--pairs N]
    python benchmarks/handoff.py peer [--keep]

`latency`: models with seeded random weights, batch 1, on the CPU; original and rebuilt model run in turn.
Each pair is in a process of its own, or in two where they are of two frameworks, whose threads get in one
another's way. PyTorch runs eagerly under `torch.no_grad()`, Keras in a `tf.function` of
`model(x, training=False)`.

`peer`: this converter and onnx2torch are handed the same .onnx files, onnx2torch in an environment of its own
(build/venv-onnx2torch, made here). What they make of a file is run on the same inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

TORCH = "resnet18 resnet50 mobilenet_v3_small vgg11 convnext_tiny swin_t vit_b_16 densenet121".split()
KERAS = "MobileNetV2 ResNet50 EfficientNetB0 DenseNet121 ConvNeXtTiny".split()
# What is turned into what → its models.
GROUPS: dict[str, tuple[Sequence[str], str]] = {
    "torch-torch": (TORCH, "PyTorch → PyTorch"),
    "keras-keras": (KERAS, "Keras → Keras"),
    "keras-torch": (KERAS[:3], "Keras → PyTorch"),
    "torch-keras": ([*TORCH[:3:2], TORCH[4]], "PyTorch → Keras"),
}
WARM_UP = 4

# ---------------------------------------------------------------- latency


def rebuilt(piece: Any, target: str, weights: Any = None, trainable: Any = None) -> tuple[Any, Any]:
    """A piece drawn plainly for a framework, and what that framework's package makes of it."""
    import dataclasses
    import importlib

    from converter.finish.opset import restate
    from converter.finish.plain import plain
    from converter.onnxfile import Excerpt

    if isinstance(piece.graph, Excerpt):
        piece = dataclasses.replace(piece)
        restate(piece, None)
    package = importlib.import_module(f"converter.rebuilding.{target}")
    known, last = package.table.__contains__, target == "keras"
    drawn = plain(piece, weights, trainable, known, channels_last=last)
    return drawn, package.rebuild(drawn)


def _torch_call(module: Any, feed: Any) -> Callable[[], Any]:
    import torch

    tensor = torch.tensor(feed)

    def call() -> Any:
        with torch.no_grad():
            return module(tensor).numpy()

    return call


def _keras_call(model: Any, feed: Any) -> Callable[[], Any]:
    import tensorflow as tf

    tensor = tf.constant(feed)
    function = tf.function(lambda x: model(x, training=False))
    return lambda: function(tensor).numpy()


def _both(group: str, name: str) -> tuple[dict[str, Callable[[], Any]], Callable[[], float]]:
    """Calls of the original and of the rebuilt model, and how far apart what they give is, of scale."""
    import numpy as np

    import converter

    came, goes = group.split("-")
    model = converter.load(
        f"{'torchvision' if came == 'torch' else 'keras'}:{name}", weights="random", cache=False
    )
    source: Any = model._source
    _, made = rebuilt(model.cut()._made.raw[0], goes, set(source.weights()), set(source.trainable()))
    spec = source.inputs[0]
    shape = [1, *(size if isinstance(size, int) else 224 for size in spec.shape[1:])]
    low, high = spec.value_range or (-1.0, 1.0)
    feed = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
    calls = {
        "original": (_torch_call if came == "torch" else _keras_call)(source.model, feed),
        "rebuilt": _torch_call(made.module, feed) if goes == "torch" else _keras_call(made, feed),
    }

    def error() -> float:
        expected, got = calls["original"](), calls["rebuilt"]()
        assert expected.std() > 0
        return float(np.abs(got - expected).max() / np.abs(expected).max())

    return calls, error


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _in_turn(time_of: Callable[[str], float], pairs: int) -> dict[str, float]:
    """Median milliseconds of both, and the median of the ratios of pairs."""
    times: dict[str, list[float]] = {"original": [], "rebuilt": []}
    for number in range(pairs + WARM_UP):
        for role in random.Random(number).sample(list(times), 2):
            seconds = time_of(role)
            if number >= WARM_UP:
                times[role].append(seconds)
    ratios = [b / a for a, b in zip(times["original"], times["rebuilt"], strict=True)]
    medians = {role: statistics.median(found) * 1e3 for role, found in times.items()}
    return {**medians, "ratio": statistics.median(ratios)}


def measure(group: str, name: str, pairs: int) -> dict[str, Any]:
    """Both models in turn; runs in the child."""
    calls, error = _both(group, name)
    return {"error": error(), **_in_turn(lambda role: _timed(calls[role]), pairs)}


def _apart(group: str, name: str, role: str) -> None:
    """Answer with the seconds of a run each time; the first time with the difference."""
    from support import serve

    calls, error = _both(group, name)
    serve(lambda question: error() if question == "error" else _timed(calls[role]))


def measure_apart(group: str, name: str, pairs: int) -> dict[str, Any]:
    """Both models in turn, each in a process of its own, for two frameworks' threads disturb one another."""
    from support import Worker

    command = [sys.executable, str(HERE / "handoff.py"), "--child", "apart", group, name]
    workers = {role: Worker([*command, role], threads=None) for role in ("original", "rebuilt")}

    def time_of(role: str) -> float:
        time.sleep(0.02)  # threads of the other process may yet be waiting for work
        return float(workers[role].ask("time"))

    try:
        return {"error": workers["original"].ask("error"), **_in_turn(time_of, pairs)}
    except ChildProcessError as problem:
        return {"failure": str(problem)}
    finally:
        for worker in workers.values():
            worker.close()


def latency(asked: Sequence[str], pairs: int) -> None:
    """Print the table."""
    print("| way | model | original ms | rebuilt ms | rebuilt over original | largest difference, of scale |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for group, (names, title) in GROUPS.items():
        for name in names:
            if asked and not {group, f"{group}:{name}"} & set(asked):
                continue
            if len(set(group.split("-"))) > 1:
                found = measure_apart(group, name, pairs)
            else:
                found = _in_child("measure", group, name, str(pairs))
            if "failure" in found:
                print(f"| {title} | {name} | failed: {found['failure']} | | | |", flush=True)
                continue
            cells = [f"{found['original']:.1f}", f"{found['rebuilt']:.1f}", f"{found['ratio']:.3f}"]
            print(f"| {title} | {name} | {' | '.join(cells)} | {found['error']:.0e} |", flush=True)


def _in_child(*arguments: str) -> dict[str, Any]:
    """What a fresh process of this script says last; a failure is a result, too."""
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    command = [sys.executable, str(HERE / "handoff.py"), "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failure": (lines or ["died"])[-1][:160]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------- the files that both are handed

VENV = HERE.parent / "build" / "venv-onnx2torch"
PACKAGES = ("torch==2.13.0", "torchvision==0.28.0", "onnx2torch")
FOLDERS = ("light", "simple", "pytorch-operator", "pytorch-converted")
ZOO = (
    "torchvision:resnet18 torchvision:mobilenet_v3_small torchvision:densenet121 torchvision:efficientnet_b0 "
    "torchvision:shufflenet_v2_x0_5 torchvision:convnext_tiny torchvision:swin_t torchvision:vit_b_16 "
    "keras:MobileNetV2 keras:ResNet50 keras:EfficientNetB0 keras:DenseNet121"
).split()
ZOO_OPSETS = (18, 15)
# The newest opset that some converter of onnx2torch 1.5 is registered for, but for one (GridSample's is 21).
RESTATED = 17


def _write(
    folder: Path, group: str, name: str, models: Sequence[Any], feeds: Any, expected: Any, **more: Any
) -> dict[str, Any]:
    """Write the files of a case; says where they are."""
    import numpy as np
    import onnx

    stem = folder / f"{group}-{re.sub(r'[^a-zA-Z0-9_.]', '_', name)}"
    files = []
    for number, model in enumerate(models):
        files.append(str(stem) + (".constants.onnx" if number else ".onnx"))
        onnx.save(model, files[-1])
    arrays = {f"feed{i}": a for i, a in enumerate(feeds.values())}
    arrays |= {f"expected{i}": a for i, a in enumerate(expected.values())}
    np.savez(f"{stem}.npz", **arrays)
    return {
        "group": group,
        "name": name,
        "files": files,
        "arrays": f"{stem}.npz",
        "feeds": list(feeds),
        "expected": list(expected),
        "dtypes": {key: a.dtype.name for key, a in arrays.items()},
        **more,
    }


def _constant(model: Any, feeds: Mapping[str, Any]) -> Any:
    """The model with all inputs but the first as initializers."""
    import onnx

    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for info in list(changed.graph.input)[1:]:
        changed.graph.initializer.append(onnx.numpy_helper.from_array(feeds[info.name], info.name))
        changed.graph.input.remove(info)
    changed.ir_version = max(changed.ir_version, 4)  # below, an initializer is an input, too
    return changed


def _opset(model: Any) -> int:
    return int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))


def _restated(model: Any) -> Any:
    """The model in an older opset, by onnx's own converter; None where that cannot."""
    import onnx

    try:
        return onnx.version_converter.convert_version(model, RESTATED)
    except Exception:  # whatever it says: there is no such file to hand to anyone
        return None


def node_files(folder: Path) -> Iterator[dict[str, Any]]:
    """The onnx package's cases of single operators, newer ones also in an older opset."""
    from fixtures.node_cases import node_cases
    from fixtures.onnx_corpus import run

    for case in node_cases():
        if not case.float_inference:
            continue
        new = _opset(case.model) > RESTATED
        group = f"node, opset {RESTATED + 1} and up" if new else f"node, opset {RESTATED} and below"
        models = [case.model, *([_constant(case.model, case.feeds)] if len(case.feeds) > 1 else [])]
        yield _write(folder, group, case.name, models, case.feeds, case.expected)
        older = _restated(case.model) if new else None
        if older is None:
            continue
        try:
            same = agreement(list(run(older.SerializeToString(), case.feeds).values()), case.expected)
        except Exception:  # ONNX Runtime refuses what onnx made
            continue
        if same is None:
            models = [older, *([_constant(older, case.feeds)] if len(case.feeds) > 1 else [])]
            group = f"node, restated in opset {RESTATED}"
            yield _write(folder, group, case.name, models, case.feeds, case.expected)


def folder_files(folder: Path) -> Iterator[dict[str, Any]]:
    """The models in the onnx package's folders; expected is what ONNX Runtime says."""
    import numpy as np

    from fixtures.onnx_corpus import cases, run

    for group in FOLDERS:
        for case in cases(group):
            model = case.model
            try:
                expected = {} if case.by_chance else run(model.SerializeToString(), case.feeds)
            except Exception:  # nothing to compare with
                continue
            arrays = [*case.feeds.values(), *expected.values()]
            floats = all(isinstance(a, np.ndarray) for a in arrays) and any(
                a.dtype in (np.float32, np.float64) for a in arrays
            )
            if expected and floats:
                yield _write(folder, group, case.name, [model], case.feeds, expected)


def export(locator: str, opset: str, folder: str) -> dict[str, Any]:
    """A model of the zoos as an .onnx file with inputs and outputs; runs in the child."""
    import numpy as np
    import onnx

    import converter
    from fixtures.onnx_corpus import run

    model = converter.load(locator, weights="random", cache=False)
    source: Any = model._source
    made = Path(folder) / "made"
    model.cut(opset=int(opset)).save(made, validate=False, external_data="never")
    spec = source.inputs[0]
    low, high = spec.value_range or (-1.0, 1.0)
    shape = [2, *(size if isinstance(size, int) else 224 for size in spec.shape[1:])]
    proto = onnx.load(made / "model.onnx")
    feed = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
    feeds = {proto.graph.input[0].name: feed}
    layers = sorted({re.split(r"[./](?=[^./]*$)", name)[0] for name in source.weights()})
    floats = (t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    size = sum(int(np.prod(t.dims)) for t in floats if int(np.prod(t.dims)) > 1)
    expected = run(made / "model.onnx", feeds)
    name = f"{locator} {opset}"
    return _write(Path(folder), "zoo", name, [proto], feeds, expected, layers=layers, weights=size)


# ---------------------------------------------------------------- what each makes of a file


def agreement(got: Sequence[Any], expected: Mapping[str, Any]) -> str | None:
    """What is wrong with outputs; None where they agree to 2^-14 of scale (2^-8 in half precision)."""
    import numpy as np

    for array, (name, wanted) in zip(got, expected.items(), strict=True):
        array = np.asarray(array)
        if array.shape != wanted.shape or array.dtype != wanted.dtype:
            return f"{name}: {array.dtype}{list(array.shape)} for {wanted.dtype}{list(wanted.shape)}"
        if wanted.dtype.kind in "biuOU":
            if not np.array_equal(array, wanted):
                return f"{name}: other values"
            continue
        tolerance = 2.0**-8 if wanted.dtype.itemsize < 4 else 2.0**-14
        kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
        x, y = array.astype(kind), wanted.astype(kind)
        odd = ~np.isfinite(y)
        if not np.array_equal(x[odd], y[odd], equal_nan=True) or not np.isfinite(x[~odd]).all():
            return f"{name}: NaN or infinity elsewhere"
        error, scale = np.abs(x[~odd] - y[~odd]).max(initial=0), np.abs(y[~odd]).max(initial=0)
        if not error <= tolerance * max(scale, 1e-30):
            return f"{name}: other values, by {error / max(scale, 1e-30):.0e} of scale"
    return None


def _arrays(case: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Feeds and expected outputs by name."""
    import ml_dtypes
    import numpy as np

    def read(key: str) -> Any:
        name = case["dtypes"][key]
        array = stored[key]
        return array if array.dtype.kind != "V" else array.view(getattr(ml_dtypes, name))

    with np.load(case["arrays"]) as stored:
        feeds = {name: read(f"feed{i}") for i, name in enumerate(case["feeds"])}
        return feeds, {name: read(f"expected{i}") for i, name in enumerate(case["expected"])}


def by_us(file: str) -> tuple[Any, Callable[[Mapping[str, Any]], list[Any]]]:
    """The converter's PyTorch module of a file, and a function that runs it."""
    import converter

    drawn, made = rebuilt(converter.load(file, cache=False).cut()._made.raw[0], "torch")
    module = made.module
    return module, lambda feeds: list(made.run({s.name: feeds[s.name] for s in drawn.inputs}).values())


def by_peer(file: str) -> tuple[Any, Callable[[Mapping[str, Any]], list[Any]]]:
    """The same of onnx2torch."""
    import torch

    _schemas(torch)
    import onnx
    import onnx2torch

    model = onnx.load(file)
    held = {tensor.name for tensor in model.graph.initializer}
    names = [info.name for info in model.graph.input if info.name not in held]
    module = onnx2torch.convert(model).eval()

    def run(feeds: Mapping[str, Any]) -> list[Any]:
        with torch.no_grad():
            results = module(*(torch.tensor(feeds[name]) for name in names))
        return [r.numpy() for r in (results if isinstance(results, (list, tuple)) else [results])]

    return module, run


_LIBRARY: list[Any] = []


def _schemas(torch: Any) -> None:
    """What torchvision's compiled part would declare, which cannot load beside the CPU build of PyTorch."""
    if not _LIBRARY:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.append(library)


TOOLS = {"converter": by_us, "onnx2torch": by_peer}


def judge(tool: str, case: Mapping[str, Any]) -> dict[str, Any]:
    """Hand a case to a tool; with constants for inputs where it does not take or run it as it stands."""
    import torch

    torch.set_num_threads(1)
    feeds, expected = _arrays(case)
    found: dict[str, Any] = {}
    for file in case["files"]:
        stage = "refused"
        try:
            module, run = TOOLS[tool](file)
            stage = "does not run"
            got = run(feeds)
        except Exception as error:
            found = {"outcome": stage, "why": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
            continue
        problem = agreement(got, expected)
        found = {"outcome": "other values" if problem else "agrees", "why": problem or ""}
        if "layers" in case:
            found |= _names(module, case)
        break
    return found


def _names(module: Any, case: Mapping[str, Any]) -> dict[str, Any]:
    """How much of a file's weights is in a module, how much of that learns, and under which names."""
    keys = [(key, t) for key, t in module.state_dict().items() if t.is_floating_point() and t.numel() > 1]
    layers = [re.sub(r"[/.]+", ".", layer) for layer in case["layers"]]
    told = [
        key
        for key, _ in keys
        if any(f"{re.sub(r'[/.]+', '.', key)}.".startswith(f"{layer}.") for layer in layers)
    ]
    learns = sum(p.numel() for p in module.parameters() if p.requires_grad and p.numel() > 1)
    return {
        "kept": sum(t.numel() for _, t in keys) / case["weights"],
        "learns": learns / case["weights"],
        "told": len(told),
        "keys": len(keys),
        "example": next((key for key, _ in keys[len(keys) // 2 :]), ""),
    }


# ---------------------------------------------------------------- side by side


def environment() -> Path:
    """onnx2torch's own Python, made where it is missing."""
    python = VENV / "bin" / "python"
    ready = VENV / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        ready.touch()
    return python


def _zoo_files(folder: Path) -> Iterator[dict[str, Any]]:
    for locator in ZOO:
        for opset in ZOO_OPSETS:
            case = _in_child("export", locator, str(opset), str(folder))
            if "failure" in case:
                print(f"{locator} in opset {opset}: {case['failure']}", file=sys.stderr)
            else:
                yield case


def peer(keep: bool) -> None:
    """Print both tables."""
    from support import in_processes

    pythons = {"converter": sys.executable, "onnx2torch": str(environment())}
    root = HERE.parent / "build"
    with tempfile.TemporaryDirectory(dir=root, prefix="handoff-") as name:
        folder = Path(name)
        cases = [*node_files(folder), *folder_files(folder), *_zoo_files(folder)]
        found = {
            tool: in_processes([python, str(HERE / "handoff.py"), "--serve", tool], cases, 2)
            for tool, python in pythons.items()
        }
        for tool, answers in found.items():  # a child that died says so in a string
            found[tool] = [a if isinstance(a, dict) else {"outcome": "refused", "why": a} for a in answers]
        if keep:
            kept = root / "handoff.json"
            kept.write_text(json.dumps([cases, found], indent=1))
            print(f"outcomes are in {kept}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    print("\n".join([*_totals(cases, found), "", *_zoo_table(cases, found)]))


def _totals(cases: Sequence[Any], found: Mapping[str, Sequence[Any]]) -> list[str]:
    lines = [
        "| files | tool | converted | agree | other values | do not run | refused |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for group in dict.fromkeys(case["group"] for case in cases):
        for tool, answers in found.items():
            own = [a["outcome"] for a, c in zip(answers, cases, strict=True) if c["group"] == group]
            count = Counter(own)
            cells = [len(own) - count["refused"], count["agrees"], count["other values"]]
            cells += [count["does not run"], count["refused"]]
            lines.append(f"| {group} ({len(own)}) | {tool} | {' | '.join(map(str, cells))} |")
    return lines


def _zoo_table(cases: Sequence[Any], found: Mapping[str, Sequence[Any]]) -> list[str]:
    lines = [
        "| model, opset | tool | outcome | weights kept | that learn | keys that begin with the layer's name "
        "| a key |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for number, case in enumerate(cases):
        if case["group"] != "zoo":
            continue
        for tool, answers in found.items():
            answer = answers[number]
            title = f"| {case['name'].replace(' ', ', ')} | {tool} |"
            if "kept" not in answer:
                why = re.sub(r"^NotImplementedError: ", "", answer["why"])[:110].replace("|", r"\|")
                lines.append(f"{title} {answer['outcome']}: {why} | | | | |")
                continue
            outcome = f"{answer['outcome']}{': ' if answer['why'] else ''}{answer['why']}"
            shares = [f"{100 * answer[key]:.1f}%" for key in ("kept", "learns")]
            names = f"{answer['told']} of {answer['keys']}"
            lines.append(f"{title} {outcome} | {' | '.join(shares)} | {names} | `{answer['example']}` |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("latency", "peer"))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--keep", action="store_true", help="outcomes of every file into build/handoff.json")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        from support import serve

        serve(lambda case: judge(options.serve, case))
    elif options.child and options.child[0] == "measure":
        print(json.dumps(measure(*options.child[1:3], int(options.child[3]))))
    elif options.child and options.child[0] == "apart":
        _apart(*options.child[1:])
    elif options.child:
        print(json.dumps(export(*options.child[1:])))
    elif options.part == "latency":
        latency(options.models, options.pairs)
    elif options.part == "peer":
        peer(options.keep)
    else:
        parser.error("latency or peer?")


if __name__ == "__main__":
    main()
