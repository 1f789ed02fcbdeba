"""`converter layers`: what there is to name."""

from __future__ import annotations

import json
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

__all__ = ["layers"]


@app.command()
@limited
@opening("auto", custom_ops=False)
def layers(
    source: SourceArgument,
    how: Any = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List every layer: kind, output, parameters, and where a cut is legal.

    A trunk can end at any layer. A head that needs nothing but one layer's output can start where the
    last column says yes; elsewhere more tensors cross, which --frontier or --split take along.
    """
    from converter.pipeline import whole
    from converter.report import layer_table, layers_as_json
    from converter.sources import resolve
    from converter.surgery import legal_cuts

    try:
        channel.stage("open")
        model = resolve(source, how)
        legal = legal_cuts(whole(model), model.outputs)
        if as_json:
            print(json.dumps(layers_as_json(model.layers, legal), indent=2, ensure_ascii=False))
        else:
            layer_table(Screen(), model.layers, legal)
    except ConverterError as error:
        fail(error)
