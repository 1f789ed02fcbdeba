"""Fitting a head: trunk → features → head → the whole, changed, proven and written."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converter.devices import provider_for
from converter.editing import Changes, channels_last_of
from converter.errors import CutError, UsageError
from converter.fitting import (
    Dataset,
    Preprocess,
    Score,
    expect_classes,
    feature_key,
    features,
    is_linear,
    open_data,
    predict,
    solve,
    split,
)
from converter.fitting.training import train
from converter.heads import Head
from converter.model import Array, Source, TensorSpec
from converter.pipeline import Progress, check_targets, convert, cut_out
from converter.report import Document, Timings
from converter.request import Request
from converter.runtime import Session
from converter.scratch import Scratch
from converter.sources.cache import Store
from converter.targets import TARGETS
from converter.training import Training

__all__ = ["Fit", "fit"]

_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Fit:
    """A head to fit, and what to fit it on.

    Attributes:
        head: the head's text, or a `Head`.
        data: a folder of class folders of images, or an `.npz` with `x` and `y`.
        to: the layer that the head goes onto; empty for the model's output.
        preprocess: `none`, `scale`, `imagenet`, or `keras:NAME`.
        holdout: the share of samples to judge by.
        l2: the penalty of linear heads.
        batch: samples to run through the trunk at a time.
        channels: where the channels are of what the head takes.
        training: how other heads are trained.
    """

    head: str | Head
    data: Path
    to: str = ""
    preprocess: str = "none"
    holdout: float = 0.2
    l2: float = 1.0
    batch: int = 32
    channels: str = "auto"
    training: Training = dataclasses.field(default_factory=Training)

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise UsageError(f"holdout {self.holdout:g}: expected a share between 0 and 1")
        if not self.l2 > 0 or self.batch < 1:
            raise UsageError("l2 is above 0, and batch 1 or more")


def fit(
    source: Source,
    wanted: Fit,
    request: Request,
    folder: Path,
    progress: Progress,
    timings: Timings,
) -> Document:
    """Fit a head on what a frozen trunk makes of data, put it on, prove the whole, and write it.

    Args:
        source: the model, or a trunk.
        wanted: what to fit.
        request: what to write, how to prove it; its `changes` are the fitted head.
        folder: where to write.
        progress: called with each stage as it begins.
        timings: seconds of each stage.

    Raises:
        UsageError: data or a head that do not fit.
        CutError, ValidationError, TargetError: as the stages say; nothing is written then.
    """
    check_targets(source, request)
    head = Head.parse(wanted.head) if isinstance(wanted.head, str) else wanted.head
    with Scratch() as scratch:
        end, spec, given, run, files = _trunk(source, wanted, request, scratch, progress, timings)
        preprocess = Preprocess.parse(wanted.preprocess)
        with timings.stage("data"):
            data = open_data(wanted.data, given, preprocess)
            progress("data", f"{len(data)} samples of {len(data.classes)} classes from {wanted.data}")
        with timings.stage("features"):
            found = _features(run, data, wanted, files, progress)
        with timings.stage("fit"):
            channels = Changes(head=head, to=(end,), channels=wanted.channels).channels_last
            shape = (spec.shape[0], *found.shape[1:])
            head = head.onto(
                shape, channels_last=channels, usual=channels_last_of(source), seed=wanted.training.seed
            )
            fitted, facts = _fitted(head, source.info.kind, found, data, wanted, progress)
        samples = _samples(data, given, scratch, wanted.data)
        facts["data"] = wanted.data.name
        changes = Changes(to=(end,), head=fitted, channels=wanted.channels, fitted=facts)
        request = dataclasses.replace(request, changes=changes, samples=request.samples or samples)
        return convert(source, request, folder, progress, timings)


def _trunk(
    source: Source,
    wanted: Fit,
    request: Request,
    scratch: Path,
    progress: Progress,
    timings: Timings,
) -> tuple[str, TensorSpec, TensorSpec, Callable[[Array], Array], list[Path]]:
    """The layer that the head goes onto, what it puts out, the model's input, the trunk, and its files."""
    to = (wanted.to,) if wanted.to else ()
    trunk = dataclasses.replace(request, to=to, changes=Changes(), targets=("onnx",), opset=None)
    made = cut_out(source, trunk, progress, timings)
    (piece,) = made.pieces
    if len(piece.inputs) != 1 or len(piece.outputs) != 1:
        raise UsageError(
            f"fitting takes a trunk of one input and one output, got {piece}", hint="--to names one layer"
        )
    if not wanted.to and piece.ends[0].place is None and source.info.kind != "onnx":
        raise CutError("a head goes onto a layer of the model", hint="--to LAYER says which")
    path = scratch / "trunk.onnx"
    with timings.stage("write"):
        files = TARGETS["onnx"].write(piece, path, {})
    session = Session(path, provider_for(request.device), custom_ops=request.custom_ops)
    given, spec = piece.inputs[0], piece.outputs[0]

    fixed = given.shape[0] if isinstance(given.shape[0], int) else 0

    def run(batch: Array) -> Array:
        missing = -len(batch) % fixed if fixed else 0  # a trunk of a fixed batch gets the last one filled up
        whole = np.concatenate([batch, *[batch[-1:]] * missing]) if missing else batch
        parts = [whole[i : i + (fixed or len(whole))] for i in range(0, len(whole), fixed or len(whole))]
        made = [np.asarray(session.run({given.name: part})[spec.name]) for part in parts]
        return np.concatenate(made)[: len(batch)]

    return wanted.to or piece.ends[0].name, spec, given, run, files


def _features(
    run: Callable[[Array], Array], data: Dataset, wanted: Fit, files: list[Path], progress: Progress
) -> Array:
    store = Store()
    steps = {round(len(data) * share / 10) for share in range(1, 11)}

    def tell(done: int, total: int) -> None:
        if any(done - wanted.batch < step <= done for step in steps):
            progress("features", f"{done} of {total}")

    return features(
        run,
        data,
        batch=wanted.batch,
        folder=store.folder / "features",
        key=feature_key(files, data),
        limit=store.limit,
        progress=tell,
    )


def _fitted(
    head: Head, kind: str, found: Array, data: Dataset, wanted: Fit, progress: Progress
) -> tuple[Head, dict[str, Any]]:
    """The fitted head, and how well it tells the held-out samples apart."""
    expect_classes(head, found.shape, data.classes)
    training, held = split(data.labels, data.classes, seed=wanted.training.seed, share=wanted.holdout)
    classes = len(data.classes)
    epochs = None
    if is_linear(head):
        solver = "ridge" if head.units[-1].activation == "linear" else "logistic"
        progress("fit", f"{head} on {len(training)} samples: {solver} regression")
        fitted = solve(head, found, data.labels, classes, wanted.l2, rows=training)
    else:
        solver = "adam"
        progress("fit", f"{head} on {len(training)} samples")
        fitted, epochs = train(
            head,
            kind,
            found,
            data.labels,
            training,
            wanted.training,
            lambda epoch, loss: progress("fit", f"epoch {epoch}: loss {loss:.4f} on what was kept apart"),
        )
    score = Score.of(predict(fitted, found, held), data.labels[held], classes)
    facts: dict[str, Any] = {
        "solver": solver,
        "epochs": epochs,
        "preprocess": wanted.preprocess,
        "classes": list(data.classes),
        "fitted_on": len(training),
        "held_out": len(held),
        "accuracy": score.accuracy,
        "recall": score.recall.tolist(),
        "confusion": score.confusion.tolist(),
    }
    return fitted, facts


def _samples(data: Dataset, given: TensorSpec, scratch: Path, origin: Path) -> Path:
    """A few of the data's own samples, the first of each class, to prove the whole on."""
    rows = sorted(map(int, np.unique(data.labels, return_index=True)[1]))[:_SAMPLES]
    first = data.take(range(given.shape[0]) if isinstance(given.shape[0], int) else rows)
    path = scratch / f"{origin.stem}.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open(f"{given.name}.npy", "w") as file:
        np.lib.format.write_array(file, first, allow_pickle=False)
    return path
