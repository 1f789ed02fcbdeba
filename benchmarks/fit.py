"""Fit a head on frozen features beside training it in the framework, with the frozen trunk in the loop.

    python benchmarks/fit.py [--runs N] [--samples N]

The same trunk (seeded weights), data (scikit-learn's digits, enlarged to images of 96 by 96), split and head.
Whole processes, imports included: `converter fit` from the model's name to a proven `.onnx`; the peer builds the
model, freezes the trunk, trains the head for 10 epochs by Adam, and judges the held-out samples. Features are
computed anew in each run; `again` is a second head on features that are there.
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


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Framework → our command without the head, and the head."""
    ours = [str(Path(sys.executable).with_name("converter")), "fit"]
    end = ["--json", "--output", str(folder / "out"), "--head"]
    keras = [
        *ours,
        str(folder / "mobilenet.keras"),
        "--to",
        "out_relu",
        "--data",
        str(folder / "last.npz"),
        *end,
    ]
    torch = [*ours, f"{folder / 'factory.py'}:resnet18", "--example", "1x3x96x96", "--to", "layer4"]
    torch += ["--data", str(folder / "first.npz"), *end]
    return {"keras": (keras, "gap,dense(10,softmax)"), "torch": (torch, "gap,dense(10,softmax)")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    print("| trunk and head | tool | seconds | times | held-out accuracy |")
    print("| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, "-c", DATA, scratch, str(options.samples)], check=True)
        (folder / "factory.py").write_text(FACTORY)
        save = f"{MODELS}\nimport sys\nmobilenet().save(sys.argv[1])"
        subprocess.run(
            [sys.executable, "-c", save, str(folder / "mobilenet.keras"), str(HERE.parent)],
            check=True,
            capture_output=True,
        )
        for framework, (command, head) in commands(folder).items():
            seconds: dict[str, list[float]] = {"fit": [], "again": [], framework: []}
            accuracy: dict[str, float] = {}
            for number in range(options.runs):
                cache = folder / f"cache{framework}{number}"
                for tool, text in (("fit", head), ("again", head.replace("gap", "gap,dropout(0)"))):
                    taken, out = run([*command, text], cache)
                    seconds[tool].append(taken)
                    accuracy[tool] = json.loads(out)["edits"]["fit"]["accuracy"]
                data = folder / ("last.npz" if framework == "keras" else "first.npz")
                taken, out = run([sys.executable, "-c", PEERS[framework], str(data), str(HERE.parent)], cache)
                seconds[framework].append(taken)
                accuracy[framework] = float(out.split()[-1])
            what = {"keras": "MobileNetV2, gap, dense", "torch": "ResNet-18, gap, dense"}[framework]
            names = {"fit": "converter fit", "again": "converter fit, features there", framework: framework}
            for tool, name in names.items():
                ratio = statistics.median(
                    theirs / own for theirs, own in zip(seconds[framework], seconds[tool], strict=True)
                )
                print(
                    f"| {what} | {name} | {statistics.median(seconds[tool]):.1f} | {ratio:.1f} | "
                    f"{accuracy[tool]:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
