"""`converter fit`: a new head, fitted on what a frozen trunk makes of data."""

from __future__ import annotations

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
from converter.cli.program import app, explain
from converter.errors import ConverterError

__all__ = ["fit"]


@app.command()
@limited
@opening()
def fit(
    source: SourceArgument,
    data: Annotated[
        Path,
        typer.Option(
            help="A folder of class folders of images, or an .npz with x and y (labels).", show_default=False
        ),
    ],
    head: Annotated[
        str,
        typer.Option(
            help="The head to fit, in the words of convert --head: gap,dense(5,softmax).", show_default=False
        ),
    ],
    to: Annotated[
        str,
        typer.Option(help="The layer that the head goes onto (default: the output).", show_default=False),
    ] = "",
    preprocess: Annotated[
        str,
        typer.Option(
            help="What is done to pixels of 0..255: none, scale, imagenet, or keras:NAME (keras:vgg16)."
        ),
    ] = "none",
    holdout: Annotated[float, typer.Option(help="Share of the samples to judge by.")] = 0.2,
    l2: Annotated[
        float, typer.Option(help="Penalty of a head with one dense layer, which is fitted in closed form.")
    ] = 1.0,
    epochs: Annotated[
        int, typer.Option(help="At most so many passes of training, for heads with several layers.")
    ] = 50,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a smaller loss on samples kept apart.")
    ] = 5,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of training.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Samples at a time.")] = 32,
    channels: Annotated[
        str, typer.Option(help="Where the channels are of what the head takes: auto, first or last.")
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write to (default: build/MODEL-LAYER-head).", show_default=False),
    ] = None,
    targets: TargetsOption = "onnx",
    device: Annotated[str, typer.Option(help="Where to run and validate: auto, cpu or cuda.")] = "auto",
    opset: Annotated[int | None, typer.Option(help="ONNX opset of the files.", show_default=False)] = None,
    how: Any = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report and nothing else.")] = False,
) -> None:
    """Fit a new head on what a frozen trunk makes of labelled data, put it on, prove the whole, write it.

    The trunk runs in ONNX Runtime, once over the data; features are kept for the next run. A head with one
    dense layer is fitted in closed form (linear) or by scikit-learn (softmax), any other is trained in the
    source's framework.

    Exit codes: 2 usage, 3 source, 4 cut, 5 validation, 6 target.
    """
    from converter.fit import Fit
    from converter.fit import fit as run
    from converter.report import Terminal, Timings
    from converter.request import Request
    from converter.sources import resolve
    from converter.training import Training

    terminal = Terminal(Screen(stderr=as_json, quiet=as_json))
    timings = Timings()
    folder = output or Path("build")
    try:
        wanted = Fit(
            head=head,
            data=data,
            to=to,
            preprocess=preprocess,
            holdout=holdout,
            l2=l2,
            batch=batch,
            channels=channels,
            training=Training(epochs, patience, batch, learning_rate, how.seed),
        )
        request = Request(
            targets=parted(targets),
            opset=opset,
            device=device,
            seed=how.seed,
            trust=how.trust,
            custom_ops=how.custom_ops,
        )
        with timings.stage("open"):
            terminal.stage("open", source)
            model = resolve(source, how)
            terminal.stage("source", f"{model.info.locator}, weights {model.info.weights}")
        folder = output or Path("build") / f"{model.info.name}{f'-{to}' if to else ''}-head".replace("/", "_")
        document = run(model, wanted, request, folder, terminal.stage, timings)
        terminal.report(document, str(folder))
    except ConverterError as error:
        explain(error, terminal, str(folder), as_json=as_json)
    if as_json:
        print(document.as_json(), end="")
