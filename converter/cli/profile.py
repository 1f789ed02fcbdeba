"""`converter profile`: what each layer of an ONNX file costs, and how long it takes."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from converter.cli.console import Screen
from converter.cli.options import CustomOpsOption, SeedOption, TrustOption, limited
from converter.cli.pairs import sizes_of
from converter.cli.program import app, fail
from converter.errors import ConverterError, UsageError
from converter.supervision import channel

__all__ = ["profile"]


class By(StrEnum):
    """What the rows of a profile are."""

    layer = "layer"
    node = "node"


@app.command()
@limited
def profile(
    files: Annotated[
        list[Path], typer.Argument(help="FILE.onnx; with --compare, two of them.", show_default=False)
    ],
    compare: Annotated[
        bool, typer.Option("--compare", help="Set two files side by side, layer by layer.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to run: auto, cpu or cuda.")] = "auto",
    runs: Annotated[int, typer.Option(help="Runs that count, with and without the profiler.", min=1)] = 20,
    warmup: Annotated[int, typer.Option(help="Runs before these.", min=0)] = 3,
    threads: Annotated[
        int, typer.Option(help="Threads of one operator; 0: as many as ONNX Runtime takes.", min=0)
    ] = 0,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Sizes of an input: NAME=1x3x224x224 (repeatable).", show_default=False),
    ] = None,
    by: Annotated[By, typer.Option(help="A row for each layer, or for each node.")] = By.layer,
    seed: SeedOption = 0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw layers under the machine's roofs: .svg, .png.", show_default=False),
    ] = None,
    trust: TrustOption = False,
    custom_ops: CustomOpsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measure an ONNX file in ONNX Runtime, layer by layer, under the names of its source.

    Parameters, bytes, multiply-accumulate operations, the peak of activations, and how long each layer's
    kernels take: fused layers are named together, and what ONNX Runtime adds has a row of its own.
    """
    from converter.devices import provider_for
    from converter.profiling import Setting, compared, roofs
    from converter.profiling import profile as measure
    from converter.report.profile import (
        comparison_as_json,
        comparison_table,
        profile_as_json,
        profile_table,
    )
    from converter.report.roofline import check_plot, plot_roofline

    try:
        if len(files) != (2 if compare else 1):
            raise UsageError(
                f"{len(files)} files{' with --compare' if compare else ''}",
                hint="converter profile FILE.onnx, or converter profile --compare A.onnx B.onnx",
            )
        setting = Setting(provider_for(device), runs, warmup, threads, tuple(custom_ops or ()))
        sizes = sizes_of(shape or [])
        if plot is not None:
            check_plot(plot)
        channel.stage("measure")
        profiles = [measure(file, setting, sizes, by=by.value, seed=seed, trust=trust) for file in files]
        ceilings = None
        if plot is not None:
            ceilings = roofs(setting.provider, threads)
            plot_roofline(plot, profiles, ceilings)
        if as_json and compare:
            first, second = profiles
            document = comparison_as_json(first, second, compared(first, second), ceilings)
        elif as_json:
            document = profile_as_json(profiles[0], ceilings)
        elif compare:
            first, second = profiles
            comparison_table(Screen(), first, second, compared(first, second))
        else:
            profile_table(Screen(), profiles[0])
        if as_json:
            print(json.dumps(document, indent=2, ensure_ascii=False))
    except ConverterError as error:
        fail(error)
