"""Cut ONNX files beside the tools that people cut them with: whole processes, seconds and peak memory.

    python benchmarks/onnx_cut.py [FILE…] [--runs N] [--folder DIR]

Files: vgg16 (553 MB in one file), swin_t (as PyTorch's exporter leaves it without optimizing), transformer
(8 GB of external data), nodes (100,000 nodes); all of them by default. Peers are handed the tensors' names;
every result is loaded by onnx afterwards, outside of the timing. `copy` is `cp` of as many bytes as are kept.
`python -c pass` and `import onnx` are printed for what starting costs.
`--scaling` measures files of 1,000 to 300,000 nodes and draws them into scaling.svg.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT, MEMORY = 600, 21_000_000_000

# The parent stays small: a child's peak memory begins with its parent's.
PEERS = {
    "graphsurgeon": """
import numpy, onnx, onnx_graphsurgeon as gs, sys
source, target, tensor, large = sys.argv[1:]
graph = gs.import_onnx(onnx.load(source))
graph.outputs = [graph.tensors()[tensor].to_variable(dtype=numpy.float32)]
graph.cleanup()
extra = dict(save_as_external_data=True, location="data") if large else {}
onnx.save(gs.export_onnx(graph), target, **extra)
""",
    "onnx.utils": """
import onnx, onnx.utils, sys
source, target, tensor, large = sys.argv[1:]
inputs = [value.name for value in onnx.load(source, load_external_data=False).graph.input]
onnx.utils.extract_model(source, target, inputs, [tensor], check_model=False)
""",
    "onnx-ir": """
import onnx_ir as ir, sys
source, target, tensor, large = sys.argv[1:]
model = ir.load(source)
extra = dict(external_data="data") if large else {}
part = ir.convenience.extract(model.graph, [value.name for value in model.graph.inputs], [tensor])
ir.save(ir.Model(part, ir_version=model.ir_version), target, **extra)
""",
    "polygraphy": """
import sys
from polygraphy.tools import main
source, target, tensor, large = sys.argv[1:]
extra = ["--save-external-data", "data"] if large else []
sys.argv = ["polygraphy", "surgeon", "extract", source, "--outputs", f"{tensor}:auto", "-o", target, *extra]
sys.exit(main())
""",
    "sne4onnx": """
import onnx, sne4onnx, sys
source, target, tensor, large = sys.argv[1:]
inputs = [value.name for value in onnx.load(source, load_external_data=False).graph.input]
sne4onnx.extraction(inputs, [tensor], source, output_onnx_file_path=target,
                    has_external_data=bool(large), non_verbose=True)
""",
}

FILES = {
    # file: (maker, tensor to cut at, whether its weights lie beside it)
    "vgg16": ("vgg16", "pool5", False),
    "swin_t": ("swin_t", "", False),
    "transformer": ("transformer", "h24", True),
    "nodes": ("nodes", "t90000", False),
}

MAKERS = '''
import os, sys
import numpy as np, onnx
from onnx import TensorProto as T, helper as h, numpy_helper as n
what, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = np.random.default_rng(0)

def save(nodes, inputs, outputs, weights):
    graph = h.make_graph(nodes, what, inputs, outputs, weights)
    onnx.save(h.make_model(graph, ir_version=9, opset_imports=[h.make_opsetid("", 18)]), path)

def tensor(name, *shape):
    return h.make_tensor_value_info(name, T.FLOAT, shape)

def vgg16():
    """VGG16 with seeded weights, in the one file of 553 MB that everybody has."""
    nodes, weights, value, channels = [], [], "x", 3
    for block, (count, width) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for layer in range(count):
            name = f"b{block}c{layer}"
            kernel = rng.normal(size=(width, channels, 3, 3)).astype("f4") * (2 / channels / 9) ** 0.5
            weights += [n.from_array(kernel, f"{name}.w")]
            weights += [n.from_array(np.zeros(width, "f4"), f"{name}.b")]
            reads = [value, f"{name}.w", f"{name}.b"]
            nodes.append(h.make_node("Conv", reads, [name], name=name, pads=[1] * 4))
            nodes.append(h.make_node("Relu", [name], [f"{name}.relu"]))
            value, channels = f"{name}.relu", width
        nodes.append(h.make_node("MaxPool", [value], [f"pool{block}"], kernel_shape=[2, 2], strides=[2, 2]))
        value = f"pool{block}"
    nodes.append(h.make_node("Flatten", [value], ["flat"]))
    value = "flat"
    for name, rows, columns in (("fc1", 25088, 4096), ("fc2", 4096, 4096), ("fc3", 4096, 1000)):
        kernel = rng.normal(size=(rows, columns)).astype("f4") * (2 / rows) ** 0.5
        weights += [n.from_array(kernel, f"{name}.w"), n.from_array(np.zeros(columns, "f4"), f"{name}.b")]
        nodes += [h.make_node("Gemm", [value, f"{name}.w", f"{name}.b"], [name]),
                  h.make_node("Relu", [name], [f"{name}.relu"])]
        value = f"{name}.relu"
    save(nodes, [tensor("x", "batch", 3, 224, 224)], [tensor(value, "batch", 1000)], weights)

def swin_t():
    sys.path.insert(0, os.getcwd())
    from converter.sources.torch import backend
    torch, vision = backend.torch(), backend.torchvision()
    model = vision.models.swin_t().eval()
    torch.onnx.export(model, (torch.zeros(2, 3, 224, 224),), path, dynamo=True, optimize=False, verbose=False,
                      external_data=False, dynamic_shapes=({0: torch.export.Dim("batch")},))
    graph = onnx.load(path, load_external_data=False).graph
    within = [node for node in graph.node if any("'features.5.5'" in p.value for p in node.metadata_props)]
    print(within[-1].output[0])

def transformer():
    """Blocks of attention's and MLP's matrix products, each with 170 MB of weights, all in one data file."""
    width, nodes, weights, offset = 2048, [], [], 0
    with open(path + ".data", "wb") as data:
        for layer in range(48):
            start = f"h{layer}" if layer else "x"
            value = start
            parts = {"q": (1, 3), "o": (3, 1), "up": (1, 4), "down": (4, 1)}
            for part, (rows, columns) in parts.items():
                name, length = f"{layer}.{part}", rows * columns * width * width * 4
                data.write(rng.bytes(length))
                weight = T(name=name, dims=[rows * width, columns * width], data_type=1, data_location=1)
                place = dict(location=os.path.basename(path) + ".data", offset=offset, length=length)
                for key, text in place.items():
                    weight.external_data.add(key=key, value=str(text))
                offset += length
                weights.append(weight)
                nodes.append(h.make_node("MatMul", [value, name], [f"{name}.out"], name=name))
                value = f"{name}.out"
            nodes.append(h.make_node("Add", [value, start], [f"h{layer + 1}"]))
    shape = ("batch", "length", width)
    save(nodes, [tensor("x", *shape)], [tensor("h48", *shape)], weights)

def nodes():
    """A ladder of small operators, with a weight here and there."""
    made, weights = [], []
    for i in range(size):
        if i % 100 == 50:
            weights.append(n.from_array(rng.normal(size=4).astype("f4"), f"w{i}"))
            made.append(h.make_node("Mul", [f"t{i}", f"w{i}"], [f"t{i + 1}"], name=f"n{i}"))
        elif i % 2:
            made.append(h.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=f"n{i}"))
        else:
            made.append(h.make_node("Add", [f"t{i}", f"t{max(i - 3, 0)}"], [f"t{i + 1}"], name=f"n{i}"))
    save(made, [tensor("t0", "batch", 4)], [tensor(f"t{size}", "batch", 4)], weights)

globals()[what]()
'''


def measured(command: list[str], folder: Path | None = None) -> tuple[float, float]:
    """Seconds and peak megabytes of a process, or how it failed.

    Raises:
        RuntimeError: it failed, with its last words.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    with tempfile.TemporaryFile("w+") as words:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=words, stderr=words, preexec_fn=limit, cwd=folder)
        timer = _deadline(child)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        timer()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            words.seek(0)
            lines = [line for line in words.read().splitlines() if line.strip()] or ["killed"]
            raise RuntimeError(f"failed after {seconds:.0f} s: {lines[-1][:90]}")
        return seconds, usage.ru_maxrss / 1024


def _deadline(child: subprocess.Popen[str]) -> Callable[[], None]:
    import threading

    timer = threading.Timer(TIMEOUT, child.kill)
    timer.start()
    return timer.cancel


def ours(source: Path, folder: Path, tensor: str) -> list[str]:
    command = [str(Path(sys.executable).with_name("converter")), "convert", str(source), "--to", tensor]
    return [*command, "--no-validate", "--output", str(folder)]


def theirs(peer: str, source: Path, folder: Path, tensor: str, large: bool) -> list[str]:
    target = str(folder / "trunk.onnx")
    return [sys.executable, "-c", PEERS[peer], str(source), target, tensor, "1" if large else ""]


def make(what: str, folder: Path, size: int = 100_000) -> tuple[Path, str]:
    """Make a file; its path and the tensor that the maker names."""
    path = folder / f"{what}.onnx"
    command = [sys.executable, "-c", MAKERS, what, str(path), str(size)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent).stdout
    return path, (out.split() or [""])[-1]


def kept(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.name != "report.json")


def check(folder: Path) -> int:
    """Nodes of what was written, which must load; in a process of its own."""
    code = (
        "import onnx, sys; m = onnx.load(sys.argv[1], load_external_data=False); "
        "print(len(m.graph.node), [o.name for o in m.graph.output])"
    )
    command = [sys.executable, "-c", code, str(folder / "trunk.onnx")]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])


def compare(what: str, folder: Path, runs: int) -> None:
    maker, tensor, large = FILES[what]
    source, said = make(maker, folder)
    tensor = tensor or said
    tools = {"converter": ours, **dict.fromkeys(PEERS)}
    found: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools}
    sizes: dict[str, str] = {}
    failed: dict[str, str] = {}
    copied: list[float] = []
    for _ in range(runs):
        for tool in tools:
            if tool in failed or (found[tool] and found[tool][0][0] > 60):
                continue
            with tempfile.TemporaryDirectory(dir=folder) as out:
                target = Path(out)
                command = (
                    ours(source, target, tensor)
                    if tool == "converter"
                    else theirs(tool, source, target, tensor, large)
                )
                try:
                    found[tool].append(measured(command, target))
                    sizes[tool] = f"{check(target)} | {kept(target) / 1e6:.1f}"
                except (RuntimeError, subprocess.CalledProcessError) as error:
                    failed[tool] = str(error)
                    continue
                if tool == "converter":
                    copied.append(_copy(target, kept(target)))
    own = statistics.median(seconds for seconds, _ in found["converter"])
    for tool in tools:
        if tool in failed:
            print(f"| {what} | {tool} | {failed[tool]} | | | | |", flush=True)
            continue
        seconds = statistics.median(seconds for seconds, _ in found[tool])
        peak = statistics.median(peak for _, peak in found[tool])
        print(
            f"| {what} | {tool} | {seconds:.2f} | {seconds / own:.1f} | {peak:.0f} | {sizes[tool]} |",
            flush=True,
        )
    copy = statistics.median(copied)
    print(f"| {what} | copy | {copy:.2f} | {copy / own:.1f} | | | |", flush=True)
    for file in folder.glob(f"{what}*"):
        file.unlink()


def _copy(folder: Path, size: int) -> float:
    """Seconds of `cp` and of flushing, for so many bytes."""
    largest = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    target = folder / "copy"
    start = time.perf_counter()
    shutil.copy(largest, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    return seconds * size / max(largest.stat().st_size, 1)


def scaling(folder: Path, runs: int) -> None:
    """Seconds by number of nodes, as a table and a plot."""
    sizes = (1_000, 10_000, 30_000, 100_000, 300_000)
    points = []
    for size in sizes:
        source, _ = make("nodes", folder, size)
        found = [measured(ours(source, folder / "out", f"t{size * 9 // 10}")) for _ in range(runs)]
        seconds = statistics.median(seconds for seconds, _ in found)
        peak = statistics.median(peak for _, peak in found)
        points.append((size, seconds))
        print(f"| {size:,} nodes | {seconds:.2f} | {peak:.0f} | {seconds / size * 1e6:.1f} |", flush=True)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([size for size, _ in points], [seconds for _, seconds in points], "o-")
    axes.set_xlabel("nodes")
    axes.set_ylabel("seconds, whole process")
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    figure.savefig(HERE / "scaling.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to make the files; they take up to 20 GB")
    parser.add_argument("--scaling", action="store_true", help="seconds by number of nodes instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        if options.scaling:
            print("| file | s | peak MB | µs a node |\n| --- | ---: | ---: | ---: |")
            scaling(Path(scratch), options.runs)
            return
        for label, code in (("python -c pass", "pass"), ("import onnx", "import onnx")):
            seconds = statistics.median(measured([sys.executable, "-c", code])[0] for _ in range(5))
            print(f"{label}: {seconds:.2f} s")
        print("\n| file | tool | s | × ours | peak MB | nodes | MB written |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for what in options.files or FILES:
            compare(what, Path(scratch), options.runs)


if __name__ == "__main__":
    main()
