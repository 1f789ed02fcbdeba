"""`converter convert`: cut, change, prove, write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from converter.cli.console import Screen
from converter.cli.options import (
    SourceArgument,
    TargetsOption,
    limited,
    opening,
    parted,
)
from converter.cli.pairs import names_of, sizes_of, words_of
from converter.cli.program import app, explain, heeding
from converter.errors import ConverterError, UsageError

__all__ = ["convert", "folder_name"]


@app.command()
@limited
@opening(whole=True)
def convert(
    source: SourceArgument,
    to: Annotated[
        list[str] | None, typer.Option(help="Keep the trunk up to this layer (repeatable, globs).")
    ] = None,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", help="Keep the head after this layer; with --to, the segment between."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Write both trunk and head of a cut at this layer.")
    ] = None,
    frontier: Annotated[
        bool, typer.Option("--frontier", help="With --from: accept whatever else crosses as inputs.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(
            help="Put new layers onto --to: flatten,dense(128,relu),dense(5,softmax). Words: flatten, gap, "
            "gmp, dense(units[,activation]), conv1x1(channels[,activation]), dropout(rate), batchnorm, relu, "
            "gelu, sigmoid, tanh, softmax. Or a FILE: .onnx, .keras, file.py:FACTORY.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            help="Put other layers in a layer's place: predictions=dense(5,softmax) (repeatable).",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave layers out and join the ends: names, globs, ranges such as encoder.layers.7..9 "
            "(repeatable).",
            show_default=False,
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Take layers or weights out of training in native artifacts: names, globs, ranges, first:N "
            "(repeatable).",
            show_default=False,
        ),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            help="Train these all the same; without --freeze all others are frozen (repeatable).",
            show_default=False,
        ),
    ] = None,
    channels: Annotated[
        str, typer.Option(help="Where the channels are of what new layers take: auto, first or last.")
    ] = "auto",
    surgery: Annotated[
        str | None,
        typer.Option(
            help="Your own rewrite of the piece: file.py:FUNCTION of an onnx_graphsurgeon.Graph; the result "
            "is checked by shape.",
            show_default=False,
        ),
    ] = None,
    surgery_preserves: Annotated[
        bool, typer.Option("--surgery-preserves", help="The rewrite claims to preserve values: prove it.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write to (default: build/MODEL-CUT).", show_default=False),
    ] = None,
    targets: TargetsOption = "onnx",
    layout: Annotated[
        str,
        typer.Option(
            help="Of inputs and outputs of 4 axes: source as the source has them; nchw or nhwc; native, of "
            "models rebuilt in another framework, as that framework's layers have them."
        ),
    ] = "source",
    batch: Annotated[
        int | None, typer.Option(help="Fix the size of the batch, and fold what follows.", show_default=False)
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Fix the sizes of an input: NAME=1x224x224x3 (repeatable).", show_default=False),
    ] = None,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            help="Take uint8 images of batch, height, width, RGB, and prepare them in the graph: "
            "'resize(256),crop(224),scale(1/255),normalize(imagenet)', keras:MODEL, torchvision:MODEL; "
            "[NAME=]WORDS (repeatable).",
            show_default=False,
        ),
    ] = None,
    postprocess: Annotated[
        list[str] | None,
        typer.Option(
            help="Work on scores in the graph: softmax, sigmoid, l2norm, then argmax or top5; [NAME=]WORDS.",
            show_default=False,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="Give an input or output another name: OLD=NEW (repeatable).", show_default=False),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="What ONNX artifacts compute in: fp16, bf16, int8 (ranges measured on samples), "
            "int8-dynamic, int4-weights, or mixed: int8, but for layers that --min-snr wants in float.",
            show_default=False,
        ),
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            help="Every output has to reach this SNR, in dB, else nothing is written.", show_default=False
        ),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            help="How int8 finds ranges: minmax, entropy, percentile, mse, or auto: whichever comes out best."
        ),
    ] = "auto",
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers that --precision leaves in float: names, globs (repeatable).", show_default=False
        ),
    ] = None,
    io: Annotated[
        str, typer.Option("--io", help="Dtype of inputs and outputs with --precision: float, int8 or fp16.")
    ] = "float",
    device: Annotated[str, typer.Option(help="Where to validate: auto, cpu or cuda.")] = "auto",
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX opset of the files (default: 18; of an ONNX file, its own).", show_default=False
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Validate on these inputs, and measure ranges on every other one: .npz with an array an "
            "input, or a folder of images.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="What is done to --samples that are images, where --preprocess does not do it: WORDS "
            "(default: what the zoo's model was trained with).",
            show_default=False,
        ),
    ] = None,
    external_data: Annotated[
        str,
        typer.Option(help="Weights of .onnx files in a file beside: auto (above 1.5 GB), always or never."),
    ] = "auto",
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Refer to the external data of an ONNX source; --output must be its folder or one above.",
        ),
    ] = False,
    largest_batch: Annotated[
        bool,
        typer.Option("--largest-batch", help="Prove on as many samples at once as fit into memory, too."),
    ] = False,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift", help="Compare every layer of the whole model besides; the report draws the errors."
        ),
    ] = False,
    noise_floor: Annotated[
        bool,
        typer.Option("--noise-floor", help="With --drift: against the framework in float64 as well."),
    ] = False,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Write without proof, marked UNVALIDATED.")
    ] = False,
    how: Any = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report and nothing else.")] = False,
) -> None:
    """Cut a model at named layers, prove the piece, write it.

    Without a cut the whole model is converted. With --head, --replace or --drop the model is changed first.

    Exit codes: 2 usage, 3 source, 4 cut, 5 validation, 6 target.
    """
    from converter.dressing import AXES, Dress
    from converter.editing import Changes
    from converter.imaging import Postprocess, Preprocess
    from converter.pipeline import convert as run
    from converter.report import Terminal, Timings
    from converter.request import Request
    from converter.sources import resolve
    from converter.sources.functions import function_of

    terminal = Terminal(Screen(stderr=as_json, quiet=as_json))
    timings = Timings()
    folder = output or Path("build")
    try:
        ends = tuple(to or ())
        changes = Changes(
            to=ends if head else (),
            head=head,
            replace=Changes.replacements(replace or []),
            drop=tuple(drop or ()),
            freeze=tuple(freeze or ()),
            train=tuple(train or ()),
            channels=channels,
        )
        request = Request(
            to=() if head else ends,
            from_=tuple(from_ or ()),
            split=tuple(split or ()),
            frontier=frontier,
            targets=parted(targets),
            opset=opset,
            device=device,
            samples=samples,
            seed=how.seed,
            validate=not no_validate,
            trust=how.trust,
            external_data=external_data,
            link=link,
            custom_ops=how.custom_ops,
            changes=changes,
            surgery=None if surgery is None else function_of(surgery),
            surgery_preserves=surgery_preserves,
            layout="source" if layout in AXES else layout,
            dress=Dress(
                layout if layout in AXES else "",
                batch,
                sizes_of(shape or []),
                {n: Preprocess.parse(words) for n, words in words_of(preprocess or []).items()},
                {n: Postprocess.parse(words) for n, words in words_of(postprocess or []).items()},
                names_of(rename or []),
            ),
            images=None if images is None else Preprocess.parse(images),
            precision=_precision(precision, calibration, keep_float or [], io, min_snr),
            min_snr=min_snr,
            largest_batch=largest_batch,
            drift=drift,
            noise_floor=noise_floor,
        )
        with timings.stage("open"):
            terminal.stage("open", source)
            model = resolve(source, how)
            terminal.stage("source", f"{model.info.locator}, weights {model.info.weights}")
        folder = output or Path("build") / folder_name(model.info.name, request)
        document = run(model, request, folder, heeding(terminal.stage), timings)
        terminal.report(document, str(folder))
    except ConverterError as error:
        explain(error, terminal, str(folder), as_json=as_json)
    if as_json:
        print(document.as_json(), end="")


def _precision(kind: str | None, method: str, keep: Sequence[str], io: str, min_snr: float | None) -> Any:
    """The precision that is asked for.

    Raises:
        UsageError: there is none, or options that want one.
    """
    from converter.precision import Precision

    if kind is not None:
        return Precision(kind, method, tuple(keep), io, min_snr)
    if method != "auto" or keep or io != "float":
        raise UsageError("--calibration, --keep-float and --io go with --precision")
    return None


def folder_name(name: str, request: Any) -> str:
    """What the folder is called that a request's files go to."""
    changes = request.changes
    parts = [getattr(request, key) for key in ("from_", "to", "split")]
    parts += [
        changes.to,
        ("head",) if changes.head else (),
        changes.replace,
        [f"no-{d}" for d in changes.drop],
    ]
    if request.precision is not None:
        parts.append((request.precision.kind,))
    cut = "-".join(part for names in parts for part in names)
    text = f"{name}-{cut}" if cut else name
    return "".join(c if c.isalnum() or c in "._-@" else "_" for c in text)[:100]
