"""`converter plan`: where a model may be cut, and what each cut costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from converter.cli.console import Screen
from converter.cli.options import (
    SourceArgument,
    limited,
    opening,
)
from converter.cli.pairs import sizes_of
from converter.cli.program import app, fail
from converter.errors import ConverterError, UsageError
from converter.supervision import channel

__all__ = ["plan"]


@app.command()
@limited
@opening("auto", custom_ops=False)
def plan(
    source: SourceArgument,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Sizes of an input to reckon with: NAME=1x3x224x224 (repeatable).", show_default=False
        ),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Only cuts where one layer's tensor is all that crosses.")
    ] = False,
    device_macs: Annotated[
        float | None,
        typer.Option(
            help="Rank cuts for two machines: MACs a second where the trunk runs.", show_default=False
        ),
    ] = None,
    server_macs: Annotated[
        float | None, typer.Option(help="MACs a second where the head runs.", show_default=False)
    ] = None,
    link_mbps: Annotated[
        float | None, typer.Option(help="Megabits a second between the two.", show_default=False)
    ] = None,
    link_ms: Annotated[float, typer.Option(help="Milliseconds that any transfer takes besides.")] = 0.0,
    max_params: Annotated[
        int | None, typer.Option(help="Only trunks of at most so many parameters.", show_default=False)
    ] = None,
    max_macs: Annotated[
        float | None, typer.Option(help="Only trunks of at most so many MACs.", show_default=False)
    ] = None,
    feature_dim: Annotated[
        int | None,
        typer.Option(help="Only single tensors of so many elements a sample.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw depth against bytes and MACs: .svg, .png.", show_default=False),
    ] = None,
    how: Any = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say where a model may be cut, and what each cut costs on either side.

    Every cut in order of depth: what crosses for one sample; parameters, multiply-accumulate operations and
    the peak of activations of trunk and head. With --device-macs, --server-macs and --link-mbps, the quickest
    for two machines first.
    """
    from converter.pipeline import whole
    from converter.planning import Link, by_latency, fitting
    from converter.planning import plan as reckon
    from converter.report import plan_as_json, plan_table, plot_plan
    from converter.sources import resolve

    rates = (device_macs, server_macs, link_mbps)
    try:
        if None in rates and any(rate is not None for rate in rates):
            raise UsageError("--device-macs, --server-macs and --link-mbps go together")
        limits = (*rates, max_macs)
        if any(limit is not None and not (0 < limit < math.inf) for limit in limits):
            raise UsageError("rates and limits are numbers above 0")
        channel.stage("open")
        model = resolve(source, how)
        made = reckon(whole(model), sizes_of(shape or []), every=not single)
        cuts = fitting(
            made.cuts,
            max_params=max_params,
            max_macs=None if max_macs is None else int(max_macs),
            feature_dim=feature_dim,
        )
        rows: list[tuple[Any, float | None]] = [(cut, None) for cut in cuts]
        if device_macs and server_macs and link_mbps:
            rows = list(by_latency(cuts, Link(device_macs, server_macs, link_mbps, link_ms / 1e3)))
        if plot is not None:
            plot_plan(plot, model.info.locator, cuts)
        if as_json:
            print(json.dumps(plan_as_json(made, rows), indent=2, ensure_ascii=False))
        else:
            plan_table(Screen(), made, rows)
    except ConverterError as error:
        fail(error)
