"""Pieces in less precision, beside what a careful user makes of the same float file by hand.

    python benchmarks/precision.py [MODEL…] [--pairs N] [--write]

Each model is in a process of its own. It is cut, finished and lowered as `converter convert --precision …`
does it; what comes out is held to the source framework's own outputs on samples that nothing was chosen on.
By hand: the official tools on the same float file and on the export as it is before it is finished, with the
same samples to calibrate on. onnxconverter-common, which the converter does not need, is put into build/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

README = HERE / "README.md"
TOOLS = HERE.parent / "build" / "onnxconverter-common"
PRODUCTS = "int4-weights, matrix products alone"
PRECISIONS = ("fp16", "bf16", "int8", "int8-dynamic", "int4-weights", PRODUCTS, "mixed")
INTEGERS = ("int8", "int8-dynamic", "int4-weights", PRODUCTS)
CONVOLUTIONS = tuple(kind for kind in PRECISIONS if kind != PRODUCTS)
WARM_UP = 3
SEED = 1000  # of samples to judge by, far from those that calibrate


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model, and how it is measured.

    Attributes:
        locator: the source.
        to: the layer to cut at; empty for the whole model.
        min_snr: what `mixed` is asked for, in dB.
        calibration: samples to calibrate on.
        held: samples to judge by.
        kinds: precisions that it is measured in.
    """

    locator: str
    to: str
    min_snr: float
    calibration: int = 24
    held: int = 24
    kinds: tuple[str, ...] = CONVOLUTIONS


SUBJECTS = {
    "vgg16": Subject("keras:vgg16", "block5_pool", 30, 15, 9),
    "resnet50": Subject("keras:resnet50", "conv4_block6_out", 30),
    "mobilenetv2": Subject("keras:mobilenetv2", "out_relu", 25),
    "efficientnetb0": Subject("keras:efficientnetb0", "block6a_expand_activation", 25),
    "vit_b_16": Subject("torchvision:vit_b_16", "encoder.layers.encoder_layer_2", 40, 15, 9, INTEGERS),
    "digits": Subject(str(HERE.parent / "fixtures" / "digits" / "digits.keras"), "", 40, 64, 360, PRECISIONS),
}

Feeds = list[dict[str, Any]]


# ---------------------------------------------------------------- the model, and what it is held to


@dataclasses.dataclass
class Trial:
    """A model's float file, samples, and the framework's answers.

    Attributes:
        piece: the finished piece.
        files: `finished`, and `plain` as it is before.
        calibration: batches to calibrate on.
        held: single samples to judge by.
        exact: the framework's outputs on these, by name.
        labels: the classes of held-out samples, where there are any.
        folder: for what is made.
    """

    piece: Any
    files: dict[str, Path]
    calibration: Feeds
    held: Feeds
    exact: Feeds
    labels: Any
    folder: Path

    def judged(self, path: Path, run_of: Callable[[Any], Any] = lambda run: run) -> dict[str, Any]:
        """Bytes, SNR over all held-out samples in dB, and accuracy of a file."""
        import numpy as np

        from converter.runtime import Session

        run = run_of(Session(path).run)
        signal, noise, right = 0.0, 0.0, 0
        for number, (sample, exact) in enumerate(zip(self.held, self.exact, strict=True)):
            for name, theirs in exact.items():
                ours, wanted = run(sample)[name].astype(np.float64), theirs.astype(np.float64)
                assert ours.shape == wanted.shape
                signal += float(np.square(wanted).sum())
                noise += float(np.square(ours - wanted).sum())
                right += 0 if self.labels is None else int(ours.argmax() == self.labels[number])
        if not math.isfinite(noise):
            return {"failure": "NaN or infinity comes out"}
        found = {"bytes": _size(path), "snr": 10 * math.log10(signal / noise) if noise else math.inf}
        return found if self.labels is None else {**found, "accuracy": right / len(self.held)}


def _size(path: Path) -> int:
    """Bytes of a file and of the data beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _single(batch: Mapping[str, Any], count: int) -> Feeds:
    return [{name: x[i : i + 1] for name, x in batch.items()} for i in range(count)]


def prepare(name: str, folder: Path) -> Trial:
    """Load and cut a model; write its float files."""
    import numpy as np
    import onnx_ir as ir

    import converter
    from converter.samples import draw

    subject = SUBJECTS[name]
    weights = "random" if name != "digits" else "pretrained"
    cut = converter.load(subject.locator, weights=weights, cache=False).cut(to=subject.to or ())
    source, made = cut._source, cut._made
    piece, (raw,) = made.pieces[0], made.raw
    files = {"finished": folder / "finished.onnx", "plain": folder / "plain.onnx"}
    ir.save(piece.graph.clone(), files["finished"])
    ir.save(raw.graph.clone(), files["plain"])
    labels = None
    if name == "digits":
        from fixtures.digits.data import digits

        data = digits()
        own, labels = made.inputs[0].name, data.test_labels
        calibration = [{own: data.train_images[: subject.calibration, ..., None]}]
        held = _single({own: data.test_images[..., None]}, subject.held)
    else:
        # Of one kind: batches of three, of which each sample is smoother than the one before.
        calibration, held = (
            [s for n in range(count // 3) for s in _single(draw(made.inputs, made.tables, first + n)[-1], 3)]
            for first, count in ((1, subject.calibration), (SEED, subject.held))
        )
    exact = []
    for sample in held:
        answers = source.run(sample, piece.ends)
        pairs = zip(piece.ends, piece.outputs, strict=True)
        exact.append({spec.name: np.asarray(answers[end.value]) for end, spec in pairs})
    return Trial(piece, files, calibration, held, exact, labels, folder)


# ---------------------------------------------------------------- ours


def ours(trial: Trial, subject: Subject, kind: str) -> tuple[dict[str, Any], Path]:
    """What the converter makes of the piece, and what became of it."""
    import onnx_ir as ir

    from converter.precision import Precision
    from converter.precision.lowering import lower

    kept = tuple(_convolutions(trial.piece)) if kind == PRODUCTS else ()
    kind = kind.split(",")[0]
    precision = Precision(kind, keep=kept, min_snr=subject.min_snr if kind == "mixed" else None)
    lowered = lower(trial.piece, precision, trial.calibration, "CPUExecutionProvider")
    path = trial.folder / "ours.onnx"
    graph: Any = lowered.piece.graph
    ir.save(graph, path)
    facts = lowered.facts
    noted = {key: facts[key] for key in ("calibration", "tried") if key in facts}
    kept = facts.get("kept", {})
    return {**trial.judged(path, lowered.in_floats), "kept": len(kept), **noted}, path


def _convolutions(piece: Any) -> dict[str, None]:
    """Layers with convolutions in them."""
    from converter.model import LAYER

    nodes = (node for node in piece.graph.graph if node.op_type == "Conv")
    return {node.metadata_props.get(LAYER, node.name): None for node in nodes}


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(trial: Trial, path: Path, pairs: int) -> dict[str, float]:
    """Latency of a file over that of the float file, and of the float file in ms: batch 1, in turn."""
    from converter.runtime import Session

    sessions = {"float": Session(trial.files["finished"]), "other": Session(path)}
    times: dict[str, list[float]] = {"float": [], "other": []}
    for number in range(pairs + WARM_UP):
        for role in random.Random(number).sample(list(sessions), 2):
            seconds = _timed(lambda session=sessions[role]: session.run(trial.held[0]))
            if number >= WARM_UP:
                times[role].append(seconds)
    paired = [b / a for a, b in zip(times["float"], times["other"], strict=True)]
    return {"ratio": statistics.median(paired), "float_ms": statistics.median(times["float"]) * 1e3}


# ---------------------------------------------------------------- by hand


class Reader:
    """Samples one by one, as calibrators read."""

    def __init__(self, batches: Feeds) -> None:
        rows = [s for b in batches for s in _single(b, len(next(iter(b.values()))))]
        self._samples = iter(rows)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._samples, None)


Hand = Iterator[tuple[str, Callable[[Path], None]]]


def hand_int8(trial: Trial, path: Path) -> Hand:
    """quantize_static with each calibration method's defaults."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = path.with_suffix(".pre.onnx")

    def make(target: Path, method: str) -> None:
        if not ready.exists():
            quant_pre_process(str(path), str(ready))
        quantize_static(
            str(ready),
            str(target),
            Reader(trial.calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )

    for method in ("MinMax", "Entropy", "Percentile"):
        yield method, lambda target, method=method: make(target, method)


def hand_dynamic(_: Trial, path: Path) -> Hand:
    """quantize_dynamic; ONNX Runtime's CPU has ConvInteger for uint8 weights by tensor alone."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for by_channel in (False, True):
        for kind in ("QInt8", "QUInt8"):

            def make(target: Path, by_channel: bool = by_channel, kind: str = kind) -> None:
                quantize_dynamic(str(path), str(target), per_channel=by_channel, weight_type=QuantType[kind])

            yield f"{kind} by {'channel' if by_channel else 'tensor'}", make


def hand_half(_: Trial, path: Path) -> Hand:
    """Both float16 converters, inputs and outputs in float32."""
    import onnx

    def common(target: Path) -> None:
        from onnxconverter_common import float16

        onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), target)

    def transformers(target: Path) -> None:
        from onnxruntime.transformers import float16

        onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), target)

    yield "onnxconverter-common", common
    yield "onnxruntime.transformers", transformers


def hand_int4(_: Trial, path: Path) -> Hand:
    """matmul_nbits_quantizer in blocks of 32, as ours are."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    def make(target: Path, config: Any) -> None:
        model = onnx.load(path)
        if not any(node.op_type == "MatMul" for node in model.graph.node):
            raise ValueError("no MatMul")
        quantizer = nbits.MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target))

    for symmetric in (False, True):
        config = nbits.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric)
        yield "symmetric" if symmetric else "asymmetric", lambda target, c=config: make(target, c)
    config = nbits.HQQWeightOnlyQuantConfig(block_size=32)
    yield "HQQ", lambda target: make(target, config)


HANDS: dict[str, Callable[[Trial, Path], Hand]] = {
    "fp16": hand_half,
    "int8": hand_int8,
    "int8-dynamic": hand_dynamic,
    PRODUCTS: hand_int4,
}


def by_hand(trial: Trial, kind: str) -> dict[str, dict[str, Any]]:
    """Way → what became of it."""
    found: dict[str, dict[str, Any]] = {}
    for base, path in trial.files.items():
        for way, make in HANDS[kind](trial, path):
            target = trial.folder / "hand.onnx"
            for old in trial.folder.glob("hand.onnx*"):
                old.unlink()
            try:
                make(target)
                made = trial.judged(target)
                same = _size(target) > 0.95 * _size(path)  # a tool that finds nothing says nothing
                found[f"{way}, {base}"] = {"failure": "no smaller than in float"} if same else made
            except Exception as error:  # tools raise whatever they happen to meet: that is a result
                what = f"{type(error).__name__}: {' '.join(str(error).split())}"
                found[f"{way}, {base}"] = {"failure": what[:200]}
            print(f"  {kind} by hand, {way}, {base}: {found[f'{way}, {base}']}", file=sys.stderr, flush=True)
    return found


# ---------------------------------------------------------------- one model


def measure(name: str, pairs: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """All of a model's rows; runs in the child."""
    subject = SUBJECTS[name]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=HERE.parent / "build", prefix="precision-") as scratch:
        trial = prepare(name, Path(scratch))
        path = trial.files["finished"]
        rows.append({"precision": "float", **trial.judged(path)})
        print(name, rows[0], file=sys.stderr, flush=True)
        for kind in (kind for kind in subject.kinds if kind in kinds):
            row: dict[str, Any] = {"precision": kind}
            try:
                found, path = ours(trial, subject, kind)
                row |= {**found, **ratio(trial, path, pairs)}
            except Exception as error:  # a precision that a model cannot have is a result
                row["failure"] = f"{type(error).__name__}: {error}"
            print(name, row, file=sys.stderr, flush=True)
            row["hand"] = by_hand(trial, kind) if kind in HANDS else {}
            rows.append(row)
    return rows


def _in_child(name: str, pairs: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """What a fresh process of this script says last."""
    path = f"{TOOLS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", PYTHONPATH=path)
    command = [sys.executable, str(HERE / "precision.py"), "--child", name, "--pairs", str(pairs)]
    command += ["--only", *kinds]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{name}: its process ended with {done.returncode}")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------- tables


def _decibels(found: Mapping[str, Any]) -> str:
    return f"{found['snr']:.1f}" if "snr" in found else found["failure"][:60].replace("|", r"\|")


def _hands(row: Mapping[str, Any]) -> tuple[str, str]:
    """The best and the worst of what was made by hand, each with its way."""
    hand = row.get("hand", {})
    made = sorted((key for key in hand if "snr" in hand[key]), key=lambda key: hand[key]["snr"])
    if not made:
        reasons = {found["failure"] for found in hand.values()}
        return ("", "") if not reasons else (min(reasons)[:60].replace("|", r"\|"), "")
    best, worst = (f"{_decibels(hand[key])} ({key})" for key in (made[-1], made[0]))
    broken = len(hand) - len(made)
    return best, worst + (f"; {broken} of {len(hand)} do not run" if broken else "")


def trunk_lines(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    subject = SUBJECTS[name]
    title = f"{subject.locator} to `{subject.to}`"
    lines = []
    for row in rows:
        if "failure" in row:
            lines.append(f"| {title} | {row['precision']} | | | {_decibels(row)} | | {_hands(row)[0]} | |")
            continue
        asked = f" {subject.min_snr:g} dB" if row["precision"] == "mixed" else ""
        latency = f"{row['ratio']:.2f}" if "ratio" in row else "1"
        cells = [title, row["precision"] + asked, f"{row['bytes'] / 1e6:.1f}", latency, _decibels(row)]
        cells += [str(row.get("kept", "")), *_hands(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def digit_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        if "failure" in row:
            lines.append(f"| {row['precision']} | | {_decibels(row)} | | |")
            continue
        hands = [found for found in row.get("hand", {}).values() if "snr" in found]
        shares = sorted({found["accuracy"] for found in hands})
        theirs = " to ".join(f"{share:.1%}" for share in shares[:: max(len(shares) - 1, 1)])
        cells = [f"{row['bytes'] / 1e3:.1f}", _decibels(row), f"{row['accuracy']:.1%}", theirs, *_hands(row)]
        lines.append(f"| {row['precision']} | {' | '.join(cells)} |")
    return lines


def tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Both tables, of what was measured."""
    trunks = {name: rows for name, rows in found.items() if name != "digits"}
    if trunks:
        yield (
            "| trunk, UNTRAINED | precision | MB | latency over float | SNR dB | layers in float "
            "| by hand, best dB | by hand, worst dB |"
        )
        yield "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |"
        for name, rows in trunks.items():
            yield from trunk_lines(name, rows)
    if "digits" in found:
        yield ""
        yield (
            "| digits, trained | kB | SNR dB | accuracy | by hand, accuracy "
            "| by hand, best dB | by hand, worst dB |"
        )
        yield "| --- | ---: | ---: | ---: | ---: | --- | --- |"
        yield from digit_lines(found["digits"])


def environment() -> None:
    """onnxconverter-common, put where it is missing."""
    if not (TOOLS / "onnxconverter_common").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(TOOLS), "onnxconverter-common==1.16.0"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", help=", ".join(SUBJECTS))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--write", action="store_true", help="write the tables into benchmarks/README.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="a folder for what was measured, as JSON")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.pairs, options.only)))
        return
    unknown = set(options.models) - set(SUBJECTS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}: expected {', '.join(SUBJECTS)}")
    environment()
    found = {name: _in_child(name, options.pairs, options.only) for name in options.models or SUBJECTS}
    for name, rows in found.items() if options.keep else ():
        (options.keep / f"{name}.json").write_text(json.dumps(rows, indent=1))
    text = "\n".join(tables(found))
    print(text)
    if options.write:
        marked = re.compile(r"(<!-- precision\.py -->\n).*?(<!-- end -->)", re.DOTALL)
        readme = README.read_text(encoding="utf-8")
        README.write_text(marked.sub(lambda m: f"{m[1]}{text}\n{m[2]}", readme), encoding="utf-8")


if __name__ == "__main__":
    main()
