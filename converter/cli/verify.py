"""`converter verify`: an artifact held to what is claimed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from converter.cli.console import Screen
from converter.cli.options import (
    CustomOpsOption,
    CustomOption,
    DynamicOption,
    ExampleOption,
    NoCacheOption,
    limited,
)
from converter.cli.program import app, fail, heeding
from converter.errors import ConverterError, UsageError

__all__ = ["verify"]


@app.command()
@limited
def verify(
    artifact: Annotated[
        Path,
        typer.Argument(
            help="An .onnx file, whose certificate is inside of it; any other artifact beside its "
            "report.json; or the folder of a report, with all that is in it.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="The model that it was cut from: it is cut there again, and both are run on the same "
            "samples.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of that model: pretrained, random, or a file (default: as the certificate says).",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of its random weights (default: as the certificate says).", min=0, show_default=False
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="With --against: inputs to run both on, .npz with an array an input.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where ONNX files run: auto, cpu or cuda.")] = "auto",
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run artifacts, and open a source, that can run their author's code (SavedModel, .pt2, .py, "
            ".engine).",
        ),
    ] = False,
    custom_objects: CustomOption = None,
    custom_ops: CustomOpsOption = None,
    example: ExampleOption = None,
    dynamic: DynamicOption = None,
    no_cache: NoCacheOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say whether an artifact is what it was when it was proven; exit code 0 if so, 5 if not.

    Its bytes are held against the digests inside of it and in report.json. The samples that were recorded
    with it are drawn again and run, on this machine's runtime and device, and what comes out is held against
    what was noted then: the source is not needed. With --against the proof itself is made again.
    """
    from converter.comparing import Means
    from converter.devices import provider_for
    from converter.report import Terminal
    from converter.report.verified import verified_as_json, verified_table
    from converter.sources import Opening, is_file, resolve
    from converter.verifying import claims_of, expect_passed, seed_of
    from converter.verifying import verify as run

    libraries = tuple(custom_ops or ())
    terminal = Terminal(Screen(stderr=as_json, quiet=as_json))
    try:
        if against is None and (samples is not None or weights is not None or seed is not None):
            raise UsageError("--samples, --weights and --seed go with --against")
        means = Means(trust, custom_objects, libraries, provider_for(device))
        source = None
        claims = claims_of(artifact)
        if against is not None:
            noted = claims[0].weights
            drawn = seed_of(noted)
            weights = weights or ("pretrained" if drawn is None else "random")
            seed = (drawn or 0) if seed is None else seed
            axes = tuple(dynamic or ())
            trusted = trust and is_file(against)  # of a zoo there is nothing to trust
            how = Opening(
                weights, seed, trusted, custom_objects, example, axes, not no_cache, False, libraries
            )
            source = resolve(against, how)
        found = run(
            artifact, claims, means, progress=heeding(terminal.stage), against=source, samples=samples
        )
        if as_json:
            print(json.dumps(verified_as_json(found), indent=2, ensure_ascii=False))
        else:
            verified_table(Screen(), found)
        expect_passed(found)
    except ConverterError as error:
        fail(error)
