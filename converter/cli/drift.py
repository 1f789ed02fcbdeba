"""`converter drift`: where an export departs from the framework, layer by layer."""

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
from converter.errors import ConverterError, ValidationError
from converter.supervision import channel

__all__ = ["drift"]


@app.command()
@limited
@opening()
def drift(
    source: SourceArgument,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Inputs to run: .npz with an array an input (default: seeded random ones).",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest error of scale that passes, of floating-point tensors (default: 2^-14 for "
            "float32, and no jump by 10x within it).",
            show_default=False,
        ),
    ] = None,
    noise_floor: Annotated[
        bool,
        typer.Option(
            "--noise-floor",
            help="Run the framework in float64, too: a layer passes while ONNX Runtime is at most 8x as far "
            "from that as the framework is.",
        ),
    ] = False,
    finished: Annotated[
        bool,
        typer.Option("--finished", help="Compare the outputs of the finished graph as well."),
    ] = False,
    top: Annotated[
        int, typer.Option(help="Print the rows with the largest errors, so many; 0: all.", min=0)
    ] = 20,
    plot: Annotated[
        Path | None, typer.Option(help="Draw error by depth: .svg, .png.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where ONNX Runtime runs: auto, cpu or cuda.")] = "auto",
    how: Any = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say at which layer an export departs from the framework, and whether by itself.

    Every layer boundary is compared at once, the framework against ONNX Runtime: computed from the
    model's inputs, and by the layer alone on the framework's own tensors. Exit code 5 when a layer departs.
    """
    from converter.handles import Model
    from converter.report.drift import drift_as_json, drift_table, plot_drift
    from converter.report.roofline import check_plot
    from converter.sources import resolve

    try:
        if plot is not None:
            check_plot(plot)
        channel.stage("open")
        model = Model(resolve(source, how), seed=how.seed, trust=how.trust, custom_ops=how.custom_ops)
        channel.stage("measure")
        found = model.drift(
            samples=samples, device=device, tolerance=tolerance, noise_floor=noise_floor, finished=finished
        )
        if plot is not None:
            plot_drift(plot, found)
        if as_json:
            print(json.dumps(drift_as_json(found), indent=2, ensure_ascii=False))
        else:
            drift_table(Screen(), found, top)
    except ConverterError as error:
        fail(error)
    if not found.passed:
        raise typer.Exit(ValidationError.exit_code)
