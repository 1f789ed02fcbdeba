"""`converter rank`: how much each block changes, and what the model is without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from converter.cli.console import Screen
from converter.cli.options import (
    SourceArgument,
    limited,
    opening,
)
from converter.cli.program import app, fail
from converter.errors import ConverterError
from converter.supervision import channel

__all__ = ["rank"]


@app.command()
@limited
@opening()
def rank(
    source: SourceArgument,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Inputs to measure on: .npz with an array an input (default: a few seeded random ones, "
            "which say little).",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these blocks: names, globs, ranges (repeatable) (default: the outermost that can be "
            "dropped).",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw change and output error by depth: .svg, .png.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run: auto, cpu or cuda.")] = "auto",
    how: Any = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say how much each block changes its input, and what dropping it does to the output.

    For every block that takes and puts out tensors of one shape, measured in ONNX Runtime on samples: change
    (1 - cosine between its input and output), the output's error without it, and how often
    a classifier keeps its first choice. `converter convert --drop` leaves blocks out.
    """
    from converter.handles import Model
    from converter.report import plot_rank, rank_as_json, rank_table
    from converter.sources import resolve

    try:
        channel.stage("open")
        model = Model(resolve(source, how), seed=how.seed, trust=how.trust, custom_ops=how.custom_ops)
        channel.stage("measure")
        ranking = model.rank(samples=samples, layers=layers or (), device=device)
        if plot is not None:
            plot_rank(plot, model.info.locator, ranking)
        if as_json:
            print(json.dumps(rank_as_json(ranking), indent=2, ensure_ascii=False))
        else:
            rank_table(Screen(), ranking)
    except ConverterError as error:
        fail(error)
