"""`converter compare`: two artifacts held against one another, without their source."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from converter.cli.console import Screen
from converter.cli.options import CustomOpsOption, CustomOption, SeedOption, limited
from converter.cli.program import app, fail
from converter.errors import ConverterError, UsageError, ValidationError
from converter.supervision import channel

__all__ = ["compare"]

_KINDS = (
    ".onnx, .ort, .xml (OpenVINO), .keras, .h5, a SavedModel folder, .tflite, .pt2, .py (with load()), "
    ".engine (TensorRT), .mlpackage (Core ML)."
)


@app.command()
@limited
def compare(
    a: Annotated[Path, typer.Argument(help=f"The reference: {_KINDS}", show_default=False)],
    b: Annotated[Path, typer.Argument(help="What is held against it: any of these.", show_default=False)],
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Inputs to run both on, under A's names and in A's layout: FILE.npz, or FILE.npy of a lone "
            "input. Without: seeded random ones.",
            show_default=False,
        ),
    ] = None,
    seed: SeedOption = 0,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="A_NAME=B_NAME: these inputs are the same (repeatable)."),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", help="A_NAME=B_NAME: compare these outputs, and no others (repeatable)."),
    ] = None,
    turn: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME, an input or output of A, has its channels at the other end in B; NAME=no: not so; "
            "NAME=0,3,1,2: A's axes in B's order (repeatable)."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest error over A's largest value that passes; without: by dtype and precision.",
            show_default=False,
        ),
    ] = None,
    min_snr: Annotated[
        float | None, typer.Option(help="Least signal-to-noise ratio in dB that passes.", show_default=False)
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Open what can run its author's code: SavedModels and TensorFlow's operators in .tflite "
            "(which can write files), .pt2 (pickles), .py, .engine, Lambda layers and custom classes of "
            "Keras; and follow links from ONNX files' external data.",
        ),
    ] = False,
    custom_objects: CustomOption = None,
    custom_ops: CustomOpsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a report as JSON and nothing else.")] = False,
) -> None:
    """Say whether two artifacts compute the same, output by output; exit code 0 if they do, 5 if not.

    A is the reference. Any two kinds go together; neither the source nor the framework that they were made
    with is needed, only what runs them. Inputs and outputs are paired by name, else by the only way that
    shapes and dtypes fit, else by order; it is said how. Channels may be at either end.
    """
    from converter.comparing import Asked, Bounds, Means, compare_artifacts, open_artifact
    from converter.comparing.pairing import parse_turns
    from converter.report.compared import compared_as_json, compared_table

    try:
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise UsageError(f"--tolerance {tolerance}: expected a number of 0 or more")
        if min_snr is not None and not math.isfinite(min_snr):
            raise UsageError(f"--min-snr {min_snr}: expected a number of decibels")
        asked = Asked(_names("input", inputs), _names("output", outputs), parse_turns(turn or ()))
        means = Means(trust, custom_objects, tuple(custom_ops or ()))
        channel.stage("open")
        sides = open_artifact(a, means), open_artifact(b, means)
        channel.stage("measure")
        outcome = compare_artifacts(
            *sides,
            asked=asked,
            bounds=Bounds(tolerance, min_snr),
            samples=samples,
            seed=seed,
        )
        if as_json:
            print(json.dumps(compared_as_json(outcome), indent=2, ensure_ascii=False))
        else:
            compared_table(Screen(), outcome)
        if not outcome.agree:
            raise ValidationError(f"{a} and {b} {outcome}")
    except ConverterError as error:
        fail(error)


def _names(what: str, texts: list[str] | None) -> dict[str, str]:
    """`A_NAME=B_NAME` texts as A's name → B's."""
    pairs: dict[str, str] = {}
    for text in texts or []:
        name, equals, other = text.partition("=")
        if not equals or not name or not other:
            raise UsageError(f"--{what} {text!r}: expected A_NAME=B_NAME")
        if name in pairs:
            raise UsageError(f"--{what} {text!r}: A's {name!r} is paired twice")
        pairs[name] = other
    return pairs
