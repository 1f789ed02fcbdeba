"""Fit a head on frozen features beside training it in the framework, with the frozen trunk in the loop.

    python benchmarks/fit.py [--runs N] [--samples N]

The same trunk (seeded weights), data (scikit-learn's digits, enlarged to images of 96 by 96), split and head.
Whole processes, imports included: `converter fit` of a trunk that was cut before (`trunk.onnx`), and of the
framework's own model with export and proof against the framework; the peer builds the model, freezes the
trunk, trains the head for 10 epochs by Adam, and judges the held-out samples. Features are computed anew in
each run, but for `again`: a second head on features that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent

DATA = """
import sys
import numpy as np
from sklearn.datasets import load_digits
path, count = sys.argv[1], int(sys.argv[2])
bunch = load_digits()
order = np.random.default_rng(0).permutation(len(bunch.target))[:count]
small = bunch.images[order].astype("f4") / 8 - 1
x = np.repeat(np.repeat(small, 12, 1), 12, 2)[..., None].repeat(3, -1)
np.savez(path + "/last.npz", x=x, y=bunch.target[order])
np.savez(path + "/first.npz", x=np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y=bunch.target[order])
"""

MODELS = '''
def mobilenet():
    """MobileNetV2 for images of 96 by 96, with weights that carry a signal, the same each time."""
    import sys
    sys.path.insert(0, sys.argv[-1])
    import keras
    from converter.sources.keras.initial import keep_signal
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((96, 96, 3), weights=None)
    keep_signal(model, 0)
    return model
'''

PEERS = {
    "keras": MODELS
    + """
import sys
import numpy as np, keras
from converter.fitting import split
with np.load(sys.argv[1]) as file:
    x, y = file["x"], file["y"]
training, held = split(y, tuple(map(str, range(10))), seed=0, share=0.2)
model = mobilenet()
trunk = keras.Model(model.input, model.get_layer("out_relu").output)
trunk.trainable = False
head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, activation="softmax")]
whole = keras.Sequential([trunk, *head])
whole.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
whole.fit(x[training], y[training], batch_size=32, epochs=10, verbose=0)
print(whole.evaluate(x[held], y[held], verbose=0)[1])
""",
    "torch": """
import sys
sys.path.insert(0, sys.argv[-1])
import numpy as np
from converter.sources.torch import backend
from converter.fitting import split
torch, vision = backend.torch(), backend.torchvision()
with np.load(sys.argv[1]) as file:
    x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
training, held = map(torch.from_numpy, split(y.numpy(), tuple(map(str, range(10))), seed=0, share=0.2))
torch.manual_seed(0)
model = vision.models.resnet18(weights=None)
for weight in model.parameters():
    weight.requires_grad_(False)
model.fc = torch.nn.Linear(512, 10)
optimizer = torch.optim.Adam(model.fc.parameters())
model.eval()
for epoch in range(10):
    for rows in training[torch.randperm(len(training))].split(32):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
with torch.no_grad():
    print((model(x[held]).argmax(1) == y[held]).float().mean().item())
""",
}

FACTORY = '''"""ResNet-18 with seeded weights."""
from converter.sources.torch import backend

def resnet18():
    torch, vision = backend.torch(), backend.torchvision()
    torch.manual_seed(0)
    return vision.models.resnet18(weights=None).eval()
'''


def run(command: list[str], cache: Path) -> tuple[float, str]:
    environment = {**os.environ, "CONVERTER_CACHE_DIR": str(cache), "PYTHONPATH": str(HERE.parent)}
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return time.perf_counter() - start, done.stdout


def commands(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Framework → (the model and the layer to cut at, the data) as arguments."""
    keras = [str(folder / "mobilenet.keras"), "--to", "out_relu"]
    torch = [f"{folder / 'factory.py'}:resnet18", "--example", "1x3x96x96", "--to", "layer4"]
    return {
        "keras": (keras, ["--data", str(folder / "last.npz")]),
        "torch": (torch, ["--data", str(folder / "first.npz")]),
    }


def prepare(folder: Path, samples: int) -> None:
    """The data, and the Keras model as a file."""
    subprocess.run([sys.executable, "-c", DATA, str(folder), str(samples)], check=True)
    (folder / "factory.py").write_text(FACTORY)
    save = f"{MODELS}\nimport sys\nmobilenet().save(sys.argv[1])"
    command = [sys.executable, "-c", save, str(folder / "mobilenet.keras"), str(HERE.parent)]
    subprocess.run(command, check=True, capture_output=True)


def measured(framework: str, folder: Path, runs: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each run, and held-out accuracy, by tool."""
    model, data = commands(folder)[framework]
    converter = str(Path(sys.executable).with_name("converter"))
    run([converter, "convert", *model, "--output", str(folder / framework)], folder / "cache")
    trunk = [str(folder / framework / "trunk.onnx")]
    end = [*data, "--json", "--output", str(folder / "out"), "--head"]
    head, other = "gap,dense(10,softmax)", "gap,dropout(.1),dense(10,softmax)"
    seconds: dict[str, list[float]] = {}
    accuracy: dict[str, float] = {}
    for number in range(runs):
        ours = {
            "converter fit trunk.onnx": ([*trunk, *end, head], f"a{number}"),
            "converter fit trunk.onnx, again": ([*trunk, *end, other], f"a{number}"),
            f"converter fit, the {framework} model": ([*model, *end, head], f"b{number}"),
        }
        for tool, (arguments, cache) in ours.items():
            taken, out = run([converter, "fit", *arguments], folder / cache)
            seconds.setdefault(tool, []).append(taken)
            accuracy[tool] = json.loads(out)["edits"]["fit"]["accuracy"]
        taken, out = run(
            [sys.executable, "-c", PEERS[framework], data[1], str(HERE.parent)], folder / "cache"
        )
        seconds.setdefault(framework, []).append(taken)
        accuracy[framework] = float(out.split()[-1])
    return seconds, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1797)
    options = parser.parse_args()
    print("| trunk and head | tool | seconds | times | held-out accuracy |")
    print("| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, options.samples)
        for framework in PEERS:
            seconds, accuracy = measured(framework, folder, options.runs)
            what = {"keras": "MobileNetV2, gap, dense", "torch": "ResNet-18, gap, dense"}[framework]
            for tool, own in seconds.items():
                pairs = zip(seconds[framework], own, strict=True)
                ratio = statistics.median(theirs / ours for theirs, ours in pairs)
                taken = statistics.median(own)
                print(f"| {what} | {tool} | {taken:.1f} | {ratio:.1f} | {accuracy[tool]:.1%} |", flush=True)


if __name__ == "__main__":
    main()
