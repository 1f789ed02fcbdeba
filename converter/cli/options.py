"""Arguments and options that several commands take."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from converter.cli.program import fail
from converter.errors import UsageError
from converter.supervision import limits, temporary

__all__ = [
    "CustomOpsOption",
    "CustomOption",
    "DynamicOption",
    "ExampleOption",
    "NoCacheOption",
    "SeedOption",
    "SourceArgument",
    "TargetsOption",
    "TrustOption",
    "WeightsOption",
    "WholeOption",
    "limited",
    "parted",
]

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="keras:NAME, torchvision:NAME, timm:NAME, transformers:FOLDER, a bare NAME (the first of these "
        "that has it), FILE.onnx, FILE.keras, FILE.h5, FILE.py:FACTORY, FILE.pth, FILE.pt2",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        help="pretrained; auto (pretrained, else random, marked UNTRAINED); random; or a weights file. "
        "A model file's own weights count as pretrained."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of random weights and of random samples.", min=0)]
ExampleOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Inputs of a PyTorch model: 1x3x224x224, ids=1x16:int64 (repeatable), or FILE.npz.",
        show_default=False,
    ),
]
DynamicOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Axes of a PyTorch model's inputs to leave symbolic besides the batch: image, sequence, or "
        "INPUT:AXIS=NAME (repeatable).",
        show_default=False,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Let the file run its author's code (Lambda, custom classes, pickles)."),
]
CustomOption = Annotated[
    Path | None,
    typer.Option(help="Python file with the model file's custom classes; needs --trust.", show_default=False),
]
CustomOpsOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Library of operators for ONNX Runtime to load (repeatable); it runs its code.",
        show_default=False,
    ),
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Export anew, and keep nothing for later runs.")
]
WholeOption = Annotated[
    bool,
    typer.Option("--cache-whole", help="Export the whole model, so that later cuts anywhere are quick."),
]
TargetsOption = Annotated[
    str,
    typer.Option(
        help="Artifacts to write, by commas: onnx, ort, openvino, tensorrt; keras, h5, savedmodel, "
        "checkpoint, tflite, tflite-fp16, tflite-int8; torch, pt2, state_dict, safetensors, coreml."
    ),
]


def parted(text: str) -> tuple[str, ...]:
    """The words of a list by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


# What `limited` gives to a command.
_LIMITS: dict[str, Any] = {
    "memory_limit": Annotated[
        str | None,
        typer.Option(
            help="End the run when it takes more memory: 8GB, 800MB, 1.5GiB (default: what this machine has "
            "left).",
            show_default=False,
        ),
    ],
    "timeout": Annotated[
        str | None,
        typer.Option(help="End the run when it takes longer: 90 (seconds), 10m, 2h.", show_default=False),
    ],
}


def limited(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that opens a source the options --memory-limit and --timeout."""
    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _LIMITS.items()
    ]

    @functools.wraps(command)
    def run(*, memory_limit: str | None, timeout: str | None, **others: Any) -> None:
        try:
            limits.keep(memory_limit, timeout)
            temporary.claim()
        except UsageError as error:
            fail(error)
        command(**others)

    parameters = [*signature.parameters.values(), *added]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
