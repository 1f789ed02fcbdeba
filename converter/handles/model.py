"""A loaded model: what it is, what can be made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter import pipeline
from converter.devices import provider_for
from converter.dressing import Dress
from converter.drifting import Drift, drift
from converter.editing import Changes, Edited, edit
from converter.errors import TargetError, UsageError
from converter.fit import Fit, fit
from converter.handles.cut import Cut
from converter.handles.names import Names, Words, by_name, names_of, silent
from converter.imaging import Postprocess, Preprocess
from converter.model import Array, Layer, LayeredModel, Source, SourceInfo, TensorSpec
from converter.precision import Precision
from converter.ranking import Ranking, candidates, rank
from converter.report import Document, Timings
from converter.request import Request
from converter.samples import draw, read_samples, vocabularies
from converter.sources import Opening, resolve
from converter.training import Training

__all__ = ["Model", "load"]


def load(
    source: str | Path | Any,
    *,
    weights: str = "pretrained",
    seed: int = 0,
    trust: bool = False,
    custom_objects: str | Path | None = None,
    example: Any = None,
    dynamic: Sequence[str] = (),
    cache: bool = True,
    custom_ops: Sequence[str | Path] = (),
) -> Model:
    """Open a model to look at and to cut.

    Args:
        source: `keras:NAME`, `torchvision:NAME`, `timm:NAME`, `transformers:FOLDER`, a bare name, a `.keras`,
            `.h5`, `.onnx` or `.pth` file, `file.py:factory`, or a live `keras.Model` or `torch.nn.Module`.
        weights: `pretrained`, `auto` (pretrained, else random), `random`, or a weights file.
        seed: seed of random weights and of the samples that pieces are validated on.
        trust: let the file run its author's code.
        custom_objects: a Python file with the custom classes of a model file; needs `trust`.
        example: inputs of a `torch.nn.Module`, axis 0 being the batch: a tensor, a tuple (by position) or a
            dict (by name); only sizes and dtypes count.
        dynamic: axes of its inputs to leave symbolic besides the batch: `sequence`, `image`, or
            `INPUT:AXIS=NAME`.
        cache: keep what is exported for later runs, and use what was kept; live models are never cached.
        custom_ops: libraries of operators that ONNX Runtime loads for an ONNX file; they run their code.

    Raises:
        SourceError: no such model, or it cannot be read or trusted.
    """
    custom = None if custom_objects is None else Path(custom_objects)
    libraries = tuple(map(Path, custom_ops))
    how = Opening(weights, seed, trust, custom, example, tuple(dynamic), cache, custom_ops=libraries)
    return Model(resolve(source, how), seed=seed, trust=trust, custom_ops=libraries)


class Model:
    """A source model."""

    def __init__(
        self,
        source: Source,
        *,
        seed: int = 0,
        trust: bool = False,
        custom_ops: tuple[Path, ...] = (),
        edited: Edited | None = None,
    ) -> None:
        self._source = source
        self._seed = seed
        self._trust = trust
        self._custom_ops = custom_ops
        self._edited = edited

    @property
    def info(self) -> SourceInfo:
        """Where the model comes from, and what its weights are."""
        return self._source.info

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self._source.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs."""
        self._source.expect(())
        return tuple(boundary.spec for boundary in self._source.outputs)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer call, in the order of execution."""
        self._source.expect(())
        return self._source.layers

    def cut(
        self,
        *,
        to: Names = (),
        from_: Names = (),
        split: Names = (),
        frontier: bool = False,
        opset: int | None = None,
        surgery: Callable[[Any], Any] | None = None,
        surgery_preserves: bool = False,
        layout: str = "",
        batch: int | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        preprocess: Words = "",
        postprocess: Words = "",
        rename: Mapping[str, str] | None = None,
        precision: str | Precision | None = None,
        min_snr: float | None = None,
    ) -> Cut:
        """Cut the model; without any layer, the whole of it.

        Args:
            to: layers that end the piece: a trunk.
            from_: layers after which the piece starts: a head, or with `to` a segment.
            split: layers to part the model at, into a trunk and a head that fit together.
            frontier: with `from_`, accept what else crosses as further inputs.
            opset: ONNX opset of the pieces; None for 18, or for that of the ONNX file.
            surgery: your own rewrite of each piece: a function of an `onnx_graphsurgeon.Graph`.
            surgery_preserves: the rewrite claims to preserve values: they are compared; else only shapes are.
            layout: `nchw` or `nhwc` for inputs and outputs of 4 axes; the source's own where empty.
            batch: fix the size of the batch.
            shapes: fix the sizes of inputs, by name.
            preprocess: take uint8 images and prepare them in the graph: words, or words by name of input.
            postprocess: work on scores in the graph: words, or words by name of output.
            rename: input or output → its new name.
            precision: what the artifacts of ONNX compute in: `fp16`, `int8`, …, or a `Precision`.
            min_snr: what every output has to reach, in dB.

        Raises:
            CutError: no such layer, or the cut is not legal.
            UsageError: sizes, words or names that do not fit the piece.
        """
        dress = Dress(
            layout,
            batch,
            {name: tuple(sizes) for name, sizes in (shapes or {}).items()},
            {name: Preprocess.parse(words) for name, words in by_name(preprocess).items()},
            {name: Postprocess.parse(words) for name, words in by_name(postprocess).items()},
            dict(rename or {}),
        )
        if isinstance(precision, str):
            precision = Precision(precision, min_snr=min_snr)
        request = Request(
            to=names_of(to),
            from_=names_of(from_),
            split=names_of(split),
            frontier=frontier,
            opset=opset,
            seed=self._seed,
            trust=self._trust,
            custom_ops=self._custom_ops,
            surgery=surgery,
            surgery_preserves=surgery_preserves,
            dress=dress,
            precision=precision,
            min_snr=min_snr,
        )
        return Cut(self._source, request, None if self._edited is None else self._edited.now())

    def edit(
        self,
        *,
        to: Names = (),
        head: Any = None,
        replace: Mapping[str, Any] | None = None,
        drop: Names = (),
        freeze: Names = (),
        train: Names = (),
        channels: str = "auto",
    ) -> Model:
        """A changed copy of the model.

        Args:
            to: the layer that `head` goes onto; the model ends there.
            head: `flatten,dense(128,relu),dense(5,softmax)`, a file, or a layer or module of the framework.
            replace: layer → what takes its place, in the same words.
            drop: layers to leave out: names, globs, ranges such as `encoder.layers.7..9`.
            freeze: layers or weights to take out of training: names, globs, `first:N`.
            train: layers or weights to train all the same; without `freeze` all others are frozen.
            channels: where the channels are of what new layers take: `auto`, `first` or `last`.

        Raises:
            CutError: no such layers, or layers that do not fit together afterwards.
            UsageError: a head that is none, or does not take what it would be given.
            TargetError: the framework cannot take the model apart.
        """
        changes = Changes(
            to=names_of(to),
            head=head,
            replace=dict(replace or {}),
            drop=names_of(drop),
            freeze=names_of(freeze),
            train=names_of(train),
            channels=channels,
        )
        if not changes:
            raise UsageError("nothing to change: expected head, replace, drop, freeze or train")
        edited = edit(self._source, changes, seed=self._seed, trust=self._trust)
        return Model(
            edited.source,
            seed=self._seed,
            trust=self._trust,
            custom_ops=self._custom_ops,
            edited=edited,
        )

    def fit(
        self,
        data: str | Path,
        head: Any,
        folder: str | Path,
        *,
        to: str = "",
        preprocess: str = "none",
        targets: Names = ("onnx",),
        holdout: float = 0.2,
        l2: float = 1.0,
        training: Training | None = None,
        channels: str = "auto",
        device: str = "auto",
    ) -> Document:
        """Fit a head on what the model makes of labelled data, put it on, prove the whole, and write it.

        Args:
            data: a folder of class folders of images, or an `.npz` with `x` and `y`.
            head: `gap,dense(5,softmax)`.
            folder: where to write.
            to: the layer that the head goes onto; empty for the model's output.
            preprocess: what is done to pixels of 0..255: `none`, `scale`, `imagenet`, `keras:NAME`.
            targets: kinds of artifacts.
            holdout: the share of samples to judge by.
            l2: the penalty of a head with one dense layer, which is fitted in closed form.
            training: how heads of several layers are trained.
            channels: where the channels are of what the head takes: `auto`, `first` or `last`.
            device: where to run and validate: `auto`, `cpu` or `cuda`.

        Raises:
            UsageError: data or a head that do not fit.
            ValidationError: the whole does not compute what the framework computes; nothing is written.
        """
        training = training or Training(seed=self._seed)
        wanted = Fit(head, Path(data), to, preprocess, holdout, l2, channels=channels, training=training)
        request = Request(
            targets=names_of(targets),
            device=device,
            seed=self._seed,
            trust=self._trust,
            custom_ops=self._custom_ops,
        )
        return fit(self._source, wanted, request, Path(folder), silent, Timings())

    def rank(self, *, samples: str | Path | None = None, layers: Names = (), device: str = "auto") -> Ranking:
        """How much each block changes its input, and what the model is without it.

        Args:
            samples: `.npz` with inputs to measure on; a few seeded random ones, which say little, where None.
            layers: only these blocks: names, globs, ranges; the outermost that can be dropped by default.
            device: where to run: `auto`, `cpu` or `cuda`.

        Raises:
            CutError: nothing can be dropped, or no such layers.
            ValidationError: the model's own output is NaN or constant.
        """
        layered = pipeline.whole(self._source)
        found = candidates(layered, names_of(layers))
        inputs = self._batch(layered, samples)
        provider = provider_for(device)
        return rank(self._source, layered, inputs, found, provider=provider, custom_ops=self._custom_ops)

    def drift(
        self,
        *,
        samples: str | Path | None = None,
        device: str = "auto",
        tolerance: float | None = None,
        noise_floor: bool = False,
        finished: bool = False,
    ) -> Drift:
        """Every layer boundary compared, the framework against ONNX Runtime: which layer departs first.

        Args:
            samples: `.npz` with inputs to run on; seeded random ones where None.
            device: where ONNX Runtime runs: `auto`, `cpu` or `cuda`.
            tolerance: largest error of scale that passes, of floating-point tensors; the dtypes' own if None.
            noise_floor: run the framework in float64, too, and set limits by its own distance from that.
            finished: compare the outputs of the finished graph as well.

        Raises:
            UsageError: a tolerance that is none, or both limits; an ONNX file, which has no float64.
            SourceError: the model does not run, or not in float64.
            ValidationError: ONNX Runtime does not run the graph.
        """
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise UsageError(f"tolerance {tolerance:g}: expected a number of 0 or more")
        if tolerance is not None and noise_floor:
            raise UsageError("a tolerance and the noise floor exclude each other: the floor sets what passes")
        provider = provider_for(device)
        if noise_floor and self.info.kind == "onnx":
            self._source.run64({}, ())  # says why not
        layered = pipeline.whole(self._source)
        return drift(
            self._source,
            layered,
            self._batch(layered, samples),
            provider=provider,
            custom_ops=self._custom_ops,
            tolerance=tolerance,
            noise_floor=noise_floor,
            finished=finished,
        )

    def _batch(self, layered: LayeredModel, samples: str | Path | None) -> dict[str, Array]:
        """Inputs of the whole model: the user's own, or seeded ones."""
        if samples is None:
            return draw(layered.inputs, vocabularies(layered.graph), self._seed)[-1]
        last = self.info.channels_last
        return read_samples(Path(samples), layered.inputs, channels_last=last)[-1]

    def native(self) -> Any:
        """The model as one of its framework: a `keras.Model` or a `torch.nn.Module`, the very one, no copy.

        Raises:
            TargetError: it is an ONNX file, which has no other framework.
        """
        model = getattr(self._source, "model", None)
        if model is None:
            raise TargetError(f"{self.info.locator} is a model of ONNX, and no object of a framework")
        return model

    def __repr__(self) -> str:
        ends = [", ".join(map(str, specs)) for specs in (self.inputs, self.outputs)]
        return (
            f"<{self.info.locator}, weights {self.info.weights}: "
            f"({ends[0]}) -> ({ends[1]}), {len(self.layers)} layer calls>"
        )
